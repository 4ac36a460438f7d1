"""Laws of the pool of tasks that run turns."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.turns.waiting import Waiters
from gateway.turns.workers import Workers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable


class Items:
    """Work that goes on until it is let go."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.most_at_once = 0
        self._gates: dict[int, anyio.Event] = {}
        self._running = 0

    async def work(self, item: int) -> None:
        self.begun.append(item)
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        await self._gate(item).wait()
        self._running -= 1

    def _gate(self, item: int) -> anyio.Event:
        return self._gates.setdefault(item, anyio.Event())

    async def end(self, *items: int) -> None:
        for item in items:
            self._gate(item).set()
        await anyio.wait_all_tasks_blocked()


@asynccontextmanager
async def working(most: int) -> AsyncGenerator[tuple[Workers[int], Items]]:
    items = Items()
    workers: Workers[int] = Workers(items.work, most)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            workers.start(group)
            yield workers, items
            group.cancel_scope.cancel()


async def _add(workers: Workers[int], *items: int) -> None:
    for item in items:
        workers.add(item)
    await anyio.wait_all_tasks_blocked()


async def test_no_more_run_at_once_than_allowed_and_each_runs_once_in_order() -> None:
    async with working(2) as (workers, items):
        await _add(workers, *range(6))
        assert (items.begun, workers.busy) == ([0, 1], 2)
        await items.end(*range(6))

        assert items.begun == list(range(6))
        assert (items.most_at_once, workers.busy) == (2, 0)


async def test_a_worker_that_waits_takes_what_comes_later() -> None:
    async with working(1) as (workers, items):
        for item in range(3):
            await _add(workers, item)
            await items.end(item)

        assert items.begun == [0, 1, 2]


@pytest.mark.parametrize(("change", "running"), [(3, 3), (1, 1)])
async def test_the_bound_may_change_while_they_run(change: int, running: int) -> None:
    async with working(2) as (workers, items):
        await _add(workers, 0, 1)
        workers.allow(change)
        await _add(workers, 2, 3)
        assert workers.busy == max(2, running)
        await items.end(0, 1)

        assert workers.busy == min(2, running)
        await items.end(2, 3)
        assert sorted(items.begun) == [0, 1, 2, 3]


async def test_after_the_bound_fell_and_rose_again_nothing_is_left_lying() -> None:
    async with working(3) as (workers, items):
        await _add(workers, 0, 1, 2)
        await items.end(0, 1, 2)
        workers.allow(1)
        await _add(workers, 3, 4)
        await items.end(3, 4)
        workers.allow(3)
        await _add(workers, 5, 6, 7)

        assert workers.busy == 3
        await items.end(5, 6, 7)
        assert sorted(items.begun) == list(range(8))


async def _wait(waiters: Waiters, woken: Callable[[], None]) -> None:
    await waiters.wait()
    woken()


async def test_a_waiter_that_left_is_not_woken_in_anothers_place() -> None:
    waiters, woken = Waiters(), list[str]()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(_wait, waiters, lambda: woken.append("stays"))
            await anyio.wait_all_tasks_blocked()
            async with anyio.create_task_group() as leaving:
                leaving.start_soon(_wait, waiters, lambda: woken.append("left"))
                await anyio.wait_all_tasks_blocked()
                leaving.cancel_scope.cancel()

            assert waiters.wake_one()
            await anyio.wait_all_tasks_blocked()
            assert not waiters.wake_one()
    assert woken == ["stays"]


async def test_a_higher_bound_lets_what_waits_begin() -> None:
    async with working(1) as (workers, items):
        await _add(workers, 0, 1, 2)
        workers.allow(3)
        await anyio.wait_all_tasks_blocked()

        assert workers.busy == 3
        await items.end(0, 1, 2)
