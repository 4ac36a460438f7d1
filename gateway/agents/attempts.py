"""When the last attempt of a request went out: a provider's prompt cache counts from then.

The SDKs send a request again by themselves, perhaps minutes later. Their HTTP clients call `stamp`
with each attempt, in the task that asked.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.clock import Clock


class Attempts:
    """The attempts of one request."""

    def __init__(self, clock: Clock) -> None:
        """Begin a request in this task."""
        self.started_at = clock.now()
        self._clock = clock
        _CURRENT.set(self)

    def stamp(self) -> None:
        """Note that an attempt goes out now."""
        self.started_at = self._clock.now()


_CURRENT: Final[ContextVar[Attempts | None]] = ContextVar("attempts", default=None)


async def stamp(_request: object) -> None:
    """Note an attempt of this task's request; an event hook of an HTTP client."""
    attempts = _CURRENT.get()
    if attempts is not None:
        attempts.stamp()
