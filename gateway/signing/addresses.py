"""Addresses that signed bodies are posted to: the operator's, and nobody can read on the way."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator

from gateway.settings import check_guarded_url

EXAMPLE: Final = "https://example.org/hook"


def _guarded(url: str) -> str:
    return check_guarded_url(url, such_as=EXAMPLE, fault="would be sent in the clear")


PostAddress = Annotated[str, AfterValidator(_guarded)]
"""https, or http on this machine; without a user, a query and a fragment."""
