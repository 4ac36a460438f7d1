"""Rules of the agents' tables in the configuration: their windows and their endpoints. Pure.

Each rule raises `ValueError` with what is wrong and what is accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway.agents.windows import reserve_of, window_of

if TYPE_CHECKING:
    from gateway.settings import SecretSource, Settings


class Window(Protocol):
    """A table with a window."""

    @property
    def context_window_tokens(self) -> int: ...  # noqa: D102 - a field
    @property
    def reserve_tokens(self) -> int: ...  # noqa: D102 - a field


class Endpoint(Window, Protocol):
    """A table of a model at an endpoint."""

    @property
    def api_key(self) -> SecretSource | None: ...  # noqa: D102 - a field
    @property
    def loopback(self) -> bool: ...  # noqa: D102 - a field
    @property
    def max_output_tokens(self) -> int: ...  # noqa: D102 - a field


def with_window(cls: type[Settings], values: object) -> object:
    """Return a table with the window of its model, where it does not give one."""
    if not isinstance(values, dict) or "context_window_tokens" in values:
        return values

    model, usual = values.get("model"), cls.model_fields["context_window_tokens"].default
    if not isinstance(model, str):
        return values

    return {**values, "context_window_tokens": window_of(model, usual)}


def with_reserve(cls: type[Settings], values: object) -> object:
    """Return a table with a reserve that fits its window, and a longest answer that fits that.

    What it gives itself stays; what has a wrong type is another check's affair.
    """
    if not isinstance(values, dict):
        return values

    usual = {name: field.default for name, field in cls.model_fields.items()}
    filled = dict(values)
    window = values.get("context_window_tokens", usual["context_window_tokens"])
    if type(window) is int and window > 0:
        filled.setdefault("reserve_tokens", reserve_of(window))
    reserve, longest = filled.get("reserve_tokens"), usual.get("max_output_tokens")
    if type(reserve) is int and reserve > 0 and longest:
        filled.setdefault("max_output_tokens", min(longest, reserve))
    return filled


def check_window(settings: Window) -> None:
    """Raise `ValueError` where the reserve leaves nothing of the window."""
    if settings.reserve_tokens >= settings.context_window_tokens:
        raise ValueError(
            f"reserve_tokens ({settings.reserve_tokens}) leaves nothing of context_window_tokens "
            f"({settings.context_window_tokens}); accepted is less than that"
        )


def check_endpoint(settings: Endpoint) -> None:
    """Raise `ValueError` where a key is missing or an answer may be too long."""
    if settings.api_key is None and not settings.loopback:
        raise ValueError(
            "api_key is missing; accepted is { file = ... }, { env = ... } or "
            "{ credential = ... }, and none only where base_url is a loopback address"
        )

    check_window(settings)
    if settings.max_output_tokens > settings.reserve_tokens:
        raise ValueError(
            f"max_output_tokens ({settings.max_output_tokens}) is above reserve_tokens "
            f"({settings.reserve_tokens}); accepted is at most that"
        )
