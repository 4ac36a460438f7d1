"""Handlers of what a manager tells of. Whatever they raise is counted and harms nothing.

Pure. A handler may be a plain function or return something to await.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from gateway.errors import BadRequestError
from gateway.pruning.records import Event

Handler: TypeAlias = Callable[[Any], object]
"""Takes what the event comes with."""
Bounded: TypeAlias = Callable[[Awaitable[object]], Awaitable[object]]
"""Awaits something, for no longer than it may take."""


class Listeners:
    """Who listens to what."""

    def __init__(self, bounded: Bounded) -> None:
        """Await what handlers return in this way."""
        self.failures = 0
        """How often a handler raised."""
        self._bounded = bounded
        self._handlers: dict[Event, list[Handler]] = {event: [] for event in Event}

    def on(self, event: Event | str, handler: Handler) -> Callable[[], None]:
        """Call the handler at each such event; the function returned ends that.

        Raises:
            BadRequestError: there is no such event.
        """
        try:
            handlers = self._handlers[Event(event)]
        except ValueError:
            raise BadRequestError(
                f"there is no event {event!r}, accepted are {', '.join(Event)}"
            ) from None

        handlers.append(handler)

        def off() -> None:
            if handler in handlers:
                handlers.remove(handler)

        return off

    async def tell(self, event: Event, payload: object) -> None:
        """Call whoever listens, in the order they began to."""
        for handler in tuple(self._handlers[event]):
            try:
                answer = handler(payload)
                if inspect.isawaitable(answer):
                    await self._bounded(answer)
            except Exception:  # noqa: BLE001 - boundary around functions of others: counted
                self.failures += 1
