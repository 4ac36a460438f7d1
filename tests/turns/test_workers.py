"""Laws of the pool of tasks that run turns."""

from __future__ import annotations

from contextlib import asynccontextmanager
from random import Random
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
    with anyio.fail_after(30):
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


class Visits:
    """Work on an item that waits for somebody in its middle, and then for its end."""

    def __init__(self, most: int) -> None:
        self.workers: Workers[int] = Workers(self._work, most)
        self.steps: list[str] = []
        self.at_once = 0
        """Items that are worked on and wait for nobody."""
        self.scopes: dict[int, anyio.CancelScope] = {}
        self._gates: dict[str, anyio.Event] = {}

    async def _work(self, item: int) -> None:
        self._step(f"begin {item}", 1)
        with anyio.CancelScope() as self.scopes[item]:
            self.at_once -= 1
            async with self.workers.aside():
                await self._gate(f"back {item}").wait()
        self._step(f"back {item}", 1)
        await self._gate(f"end {item}").wait()
        self._step(f"end {item}", -1)

    def _step(self, step: str, change: int) -> None:
        self.steps.append(step)
        self.at_once += change

    def _gate(self, step: str) -> anyio.Event:
        return self._gates.setdefault(step, anyio.Event())

    async def let(self, *steps: str) -> list[str]:
        """Let items go on; return what they did then."""
        before = len(self.steps)
        for step in steps:
            self._gate(step).set()
        await anyio.wait_all_tasks_blocked()
        return self.steps[before:]


@asynccontextmanager
async def visiting(most: int) -> AsyncGenerator[Visits]:
    visits = Visits(most)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            visits.workers.start(group)
            yield visits
            group.cancel_scope.cancel()


async def test_an_item_that_waits_for_somebody_keeps_no_other_from_its_place() -> None:
    async with visiting(1) as visits:
        await _add(visits.workers, 0, 1, 2, 3)
        assert visits.steps == ["begin 0", "begin 1", "begin 2", "begin 3"]
        assert visits.workers.busy == 4

        # One at a time goes on, in the order in which they came back.
        assert await visits.let("back 2", "back 0", "back 1") == ["back 2"]
        assert await visits.let("end 2") == ["end 2", "back 0"]
        assert await visits.let("end 0") == ["end 0", "back 1"]
        assert await visits.let("end 1", "back 3", "end 3") == ["end 1", "back 3", "end 3"]
        assert (visits.workers.busy, visits.at_once) == (0, 0)


async def test_who_comes_back_goes_on_before_what_has_not_begun() -> None:
    async with visiting(1) as visits:
        await _add(visits.workers, 0, 1)
        await visits.let("back 1")
        await _add(visits.workers, 2)

        assert await visits.let("back 0") == []
        assert await visits.let("end 1") == ["end 1", "back 0"]
        assert await visits.let("end 0") == ["end 0", "begin 2"]


async def test_an_item_whose_wait_is_cancelled_goes_on_and_the_bound_holds_after_it() -> None:
    async with visiting(1) as visits:
        await _add(visits.workers, 0, 1, 2)
        await visits.let("back 0", "back 1", "back 2")
        assert visits.steps[-1] == "back 0"
        # Item 1 has come back and waits for a place.
        visits.scopes[1].cancel()
        assert await visits.let() == ["back 1"]
        assert visits.at_once == 2

        assert await visits.let("end 0") == ["end 0"]
        assert await visits.let("end 1") == ["end 1", "back 2"]
        await _add(visits.workers, 3, 4)
        assert await visits.let("end 2") == ["end 2", "begin 3", "begin 4"]
        visits.scopes[3].cancel()
        visits.scopes[4].cancel()
        assert await visits.let("end 3", "end 4") == ["back 3", "back 4", "end 3", "end 4"]


async def test_a_higher_bound_lets_go_on_what_has_come_back() -> None:
    async with visiting(1) as visits:
        await _add(visits.workers, 0, 1, 2)
        await visits.let("back 0", "back 1", "back 2")
        visits.workers.allow(2)
        assert await visits.let() == ["back 1"]
        visits.workers.allow(1)

        assert await visits.let("end 0") == ["end 0"]
        assert await visits.let("end 1") == ["end 1", "back 2"]


async def test_after_a_lower_bound_what_has_come_back_still_goes_on() -> None:
    async with visiting(2) as visits:
        await _add(visits.workers, 0, 1, 2)
        await visits.let("back 1", "back 2", "end 1", "end 2")
        # Two tasks are idle now, and one of them is one too many.
        visits.workers.allow(1)
        assert await visits.let("back 0") == ["back 0"]


@pytest.mark.parametrize("seed", range(20))
async def test_however_items_come_go_and_are_cancelled_each_ends_and_the_bound_returns(
    seed: int,
) -> None:
    random = Random(seed)
    most = random.randint(1, 3)
    async with visiting(most) as visits:
        for item in range(30):
            visits.workers.add(item)
            if random.random() < 0.3:
                await anyio.wait_all_tasks_blocked()
            one = random.randrange(item + 1)
            await visits.let(f"{random.choice(('back', 'end'))} {one}")
        assert visits.at_once <= most
        for item in random.sample(range(30), 10):
            if item in visits.scopes:
                visits.scopes[item].cancel()
        await visits.let(*(f"{step} {item}" for item in range(30) for step in ("back", "end")))
        assert (visits.workers.busy, visits.at_once, len(visits.steps)) == (0, 0, 90)

        await _add(visits.workers, *range(100, 100 + 2 * most))
        await visits.let(*(f"back {item}" for item in range(100, 100 + 2 * most)))
        assert visits.at_once == most


async def _wait(waiters: Waiters, woken: Callable[[], None]) -> None:
    await waiters.wait()
    woken()


async def test_a_waiter_that_left_is_not_woken_in_anothers_place() -> None:
    waiters, woken = Waiters(), list[str]()
    with anyio.fail_after(30):
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
