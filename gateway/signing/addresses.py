"""Addresses that signed bodies are posted to: the operator's, and nobody can read on the way."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator

from gateway.settings import check_url, is_loopback

EXAMPLE: Final = "https://example.org/hook"


def _guarded(url: str) -> str:
    check_url(url, such_as=EXAMPLE)
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError(
            "would be sent in the clear; accepted is https://, or http:// on this machine, such as "
            f"{EXAMPLE}"
        )

    return url


PostAddress = Annotated[str, AfterValidator(_guarded)]
"""https, or http on this machine; without a user, a query and a fragment."""
