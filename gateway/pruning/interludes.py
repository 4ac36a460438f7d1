"""Turns for the other duties of whoever carries out a run: between changes, and beside summaries.

Pure but for what it is handed. A turn has no limit, for what is begun in it is to be finished; the
time it takes is no time of the run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import anyio

if TYPE_CHECKING:
    from gateway.pruning.outside import Times

T = TypeVar("T")

Between: TypeAlias = Callable[[], Awaitable[None]]
"""Does what is due meanwhile; what it raises ends the run, after the unit it is at."""
TURN_S: Final = 1.0
"""How long what is awaited may go on before others have their turn beside it."""


class Interludes:
    """The turns of others during one run."""

    def __init__(self, clock: Times, between: Between | None) -> None:
        """Begin with none taken; None: nobody wants any."""
        self.taken_s = 0.0
        """How long the run has stood still for them."""
        self._clock = clock
        self._between = between
        self._error: Exception | None = None

    async def take(self) -> None:
        """Let others do what is due.

        Raises:
            Exception: whatever they raise, also from a turn beside something.
        """
        if self._error is not None:
            raise self._error
        if self._between is None:
            return

        start = self._clock.monotonic()
        try:
            await self._between()
        finally:
            self.taken_s += self._clock.monotonic() - start

    async def beside(self, awaitable: Awaitable[T]) -> T:
        """Return what is awaited; every second others have a turn, which is waited for as well.

        Raises:
            Exception: whatever the awaited raises.
        """
        if self._between is None:
            return await awaitable

        results, errors, over = list[T](), list[Exception](), anyio.Event()
        end = self._clock.monotonic()
        async with anyio.create_task_group() as group:
            group.start_soon(self._again_and_again, self._between, over)
            try:
                results.append(await awaitable)
            except Exception as error:  # noqa: BLE001 - raised below, not as one of a group
                errors.append(error)
            finally:
                over.set()
                end = self._clock.monotonic()
        self.taken_s += self._clock.monotonic() - end
        if errors:
            raise errors[0]

        return results[0]

    async def _again_and_again(self, between: Between, over: anyio.Event) -> None:
        while not over.is_set() and self._error is None:
            with self._clock.move_on_after(TURN_S):
                await over.wait()
            if over.is_set():
                return

            try:
                await between()
            except Exception as error:  # noqa: BLE001 - no fault of the item at hand: raised by `take`
                self._error = error
