"""The only door to time: wall clock, monotonic clock, waiting and deadlines.

Everything timed takes a `Clock`, so that a test moves time by hand with `FakeClock` and never
waits. Instants are timezone-aware UTC datetimes; durations and monotonic readings are seconds.
"""

from __future__ import annotations

import heapq
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock(Protocol):
    """Tells the time and waits."""

    def now(self) -> datetime:
        """Return the wall-clock instant, timezone-aware UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that only grow, from an arbitrary start."""
        ...

    async def sleep(self, duration_s: float) -> None:
        """Wait for a duration; zero or less yields once."""
        ...

    def move_on_after(self, duration_s: float) -> anyio.CancelScope:
        """Return a scope that is cancelled once the duration has passed; use it with `with`."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Return the wall-clock instant, timezone-aware UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that only grow, from an arbitrary start."""
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        """Wait for a duration; zero or less yields once."""
        await anyio.sleep(max(0.0, duration_s))

    def move_on_after(self, duration_s: float) -> anyio.CancelScope:
        """Return a scope that is cancelled once the duration has passed."""
        return anyio.move_on_after(max(0.0, duration_s))


class FakeClock:
    """A clock that stands still until a test moves it.

    `advance` moves both clocks, `step_wall` only the wall clock, as an operator or NTP would.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        """Start both clocks: the wall clock at `start`, the monotonic one at 1,000 s."""
        self._now = start
        self._monotonic = 1000.0
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def now(self) -> datetime:
        """Return the wall-clock instant, timezone-aware UTC."""
        return self._now

    def monotonic(self) -> float:
        """Return the fake monotonic reading in seconds."""
        return self._monotonic

    async def sleep(self, duration_s: float) -> None:
        """Wait until `advance` has moved the clock by the duration."""
        if duration_s <= 0:
            await anyio.lowlevel.checkpoint()
            return

        event = anyio.Event()
        self._at(duration_s, event.set)
        await event.wait()

    def move_on_after(self, duration_s: float) -> anyio.CancelScope:
        """Return a scope that `advance` cancels once it has moved past the duration."""
        scope = anyio.CancelScope()
        if duration_s <= 0:
            scope.cancel()
        else:
            self._at(duration_s, scope.cancel)

        return scope

    def step_wall(self, delta: timedelta) -> None:
        """Move the wall clock alone, forwards or backwards."""
        self._now += delta

    async def advance(self, duration_s: float) -> None:
        """Move both clocks, waking who is due in order, and let the tasks settle.

        A task that waits for a thread counts as settled: what it does in the thread may not be
        done yet when this returns.
        """
        end = self._monotonic + duration_s
        await anyio.wait_all_tasks_blocked()
        while self._due and self._due[0][0] <= end:
            due_at, _, wake = heapq.heappop(self._due)
            self._move_to(due_at)
            wake()
            await anyio.wait_all_tasks_blocked()
        self._move_to(end)
        await anyio.wait_all_tasks_blocked()

    def _at(self, duration_s: float, wake: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self._monotonic + duration_s, next(self._order), wake))

    def _move_to(self, monotonic: float) -> None:
        self._now += timedelta(seconds=monotonic - self._monotonic)
        self._monotonic = monotonic
