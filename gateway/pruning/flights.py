"""One run at a time: who asks for the same joins it, who asks for something else is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from gateway.errors import ConflictError
from gateway.pruning.engine import Request
from gateway.pruning.records import PruningResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@dataclass(slots=True)
class _Flight:
    """A run in progress."""

    request: Request
    done: anyio.Event = field(default_factory=anyio.Event)
    result: PruningResult | None = None
    error: Exception | None = None


class Flights:
    """The run in progress, if there is one."""

    def __init__(self) -> None:
        self.closed = False
        """Whether none may begin."""
        self._flight: _Flight | None = None

    @property
    def is_running(self) -> bool:
        """Whether there is one."""
        return self._flight is not None

    async def landed(self) -> None:
        """Wait until the run in progress is over."""
        if self._flight is not None:
            await self._flight.done.wait()

    async def fly(
        self, request: Request, perform: Callable[[Request], Awaitable[PruningResult]]
    ) -> PruningResult:
        """Return the result of a run, of one's own or of the one joined.

        Raises:
            ConflictError: another run is in progress, or none may begin.
            Exception: whatever ends the run, also to those who joined it.
        """
        while (flight := self._flight) is not None:
            if flight.request != request:
                raise ConflictError("another run is in progress; try again when it is over")
            await flight.done.wait()
            if flight.result is not None:
                return flight.result
            if flight.error is not None:
                raise flight.error
            # It was cancelled, which is no matter of those who joined it.
        if self.closed:
            raise ConflictError("the manager is being stopped")

        flight = self._flight = _Flight(request)
        try:
            flight.result = await perform(request)
        except Exception as error:
            flight.error = error
            raise
        finally:
            self._flight = None
            flight.done.set()
        return flight.result
