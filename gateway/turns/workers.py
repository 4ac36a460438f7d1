"""Tasks that run what is ready: a bounded number, started when needed and kept for the next.

A task a turn would cost a turn a tenth of its time. Knows nothing of turns and lanes.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

from gateway.turns.waiting import Waiters

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from anyio.abc import TaskGroup

T = TypeVar("T")


class Workers(Generic[T]):
    """A pool of tasks of the caller's group."""

    def __init__(self, work: Callable[[T], Awaitable[None]], most: int) -> None:
        """Prepare for at most so many items at a time; `start` comes before `add`."""
        self._work = work
        self._group: TaskGroup | None = None
        self._ready: deque[T] = deque()
        self._returning: deque[anyio.Event] = deque()
        self._idle = Waiters()
        self._tasks = 0
        self.most = most
        """How many items may be worked on at once; those that wait for somebody are not counted."""
        self.busy = 0
        """How many items are worked on, those that wait for somebody among them."""

    def start(self, group: TaskGroup) -> None:
        """Run tasks in a group, until it is cancelled."""
        self._group = group

    def add(self, item: T) -> None:
        """Let an item be worked on, after those that were added before."""
        self._ready.append(item)
        self._call_one()

    def allow(self, most: int) -> None:
        """Let more or fewer items be worked on at once, from now on."""
        self.most = most
        for _ in range(len(self._ready) + len(self._returning)):
            self._start_one()

    @asynccontextmanager
    async def aside(self) -> AsyncGenerator[None]:
        """Give the place of the caller's item to another one while it waits for somebody.

        It takes a place again before it goes on, ahead of items that have not begun.

        Cancellation: it goes on at once, for a moment as one too many.
        """
        self._tasks -= 1
        if self._ready or self._returning:
            self._call_one()
        place = anyio.Event()
        try:
            yield
            self._returning.append(place)
            self._call_one()
            await place.wait()
        finally:
            if not place.is_set():
                self._tasks += 1
                with suppress(ValueError):
                    self._returning.remove(place)

    def _call_one(self) -> None:
        if not self._idle.wake_one():
            self._start_one()

    def _start_one(self) -> None:
        if self._tasks < self.most and self._group is not None:
            self._tasks += 1
            self._group.start_soon(self._run)

    async def _run(self) -> None:
        while self._tasks <= self.most:
            if self._returning:
                # This task's place is the other's from here on.
                self._returning.popleft().set()
                return

            if not self._ready:
                await self._idle.wait()
                continue
            item = self._ready.popleft()
            self.busy += 1
            try:
                await self._work(item)
            finally:
                self.busy -= 1
        self._tasks -= 1
        if self._ready or self._returning:
            # This one was woken, but is one too many.
            self._idle.wake_one()
