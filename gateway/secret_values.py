"""Secrets of the configuration, as the parts get them that use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import ConfigurationError
from gateway.settings import SecretError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.settings import SecretSource


def secret_at(place: str, source: SecretSource, problem_of: Callable[[str], str]) -> str:
    """Return a secret of the configuration.

    Args:
        place: Its key, for the error.
        source: Where it stands.
        problem_of: Says why a value is none, without quoting it; empty: it may be one.

    Raises:
        ConfigurationError: it cannot be had, or is none.
    """
    try:
        secret = source.resolve()
    except SecretError as error:
        raise ConfigurationError([f"{place}: {error}"]) from error

    problem = problem_of(secret)
    if problem:
        raise ConfigurationError([f"{place}: {problem}"])

    return secret
