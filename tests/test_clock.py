"""Laws of the clocks."""

from __future__ import annotations

from datetime import UTC, timedelta

import anyio
import pytest

from gateway.clock import FakeClock, SystemClock


def test_the_system_clock_speaks_utc_and_only_grows() -> None:
    clock = SystemClock()

    before = clock.monotonic()
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() >= before


@pytest.mark.parametrize("duration_s", [0.0, -1.0])
async def test_a_wait_of_nothing_yields_once(duration_s: float) -> None:
    for clock in (SystemClock(), FakeClock()):
        with anyio.fail_after(5):
            await clock.sleep(duration_s)
        with clock.move_on_after(duration_s) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught


async def test_sleepers_wake_in_order_of_their_time_and_not_before() -> None:
    clock = FakeClock()
    start, woken = clock.monotonic(), []

    async def sleeper(duration_s: float) -> None:
        await clock.sleep(duration_s)
        woken.append((duration_s, clock.monotonic() - start))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for duration_s in (3.0, 1.0, 2.0):
                group.start_soon(sleeper, duration_s)
            await clock.advance(0.999)
            assert woken == []
            await clock.advance(1.5)
            assert woken == [(1.0, 1.0), (2.0, 2.0)]
            await clock.advance(10)

    assert woken[-1] == (3.0, 3.0)


async def test_one_advance_wakes_who_falls_asleep_again_on_the_way() -> None:
    clock = FakeClock()
    ticks = 0

    async def ticker() -> None:
        nonlocal ticks
        while True:
            await clock.sleep(1)
            ticks += 1

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(ticker)
            await clock.advance(10)
            group.cancel_scope.cancel()

    assert ticks == 10


async def test_a_deadline_falls_when_the_clock_has_passed_it() -> None:
    clock = FakeClock()
    late = []

    async def wait() -> None:
        with clock.move_on_after(5) as scope:
            await anyio.sleep_forever()
        late.append(scope.cancelled_caught)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await clock.advance(4.9)
            assert late == []
            await clock.advance(0.1)

    assert late == [True]


async def test_a_step_of_the_wall_clock_leaves_the_monotonic_one_alone() -> None:
    clock = FakeClock()
    wall, monotonic = clock.now(), clock.monotonic()

    clock.step_wall(timedelta(days=-3))

    assert (clock.now() - wall, clock.monotonic()) == (timedelta(days=-3), monotonic)
    with anyio.fail_after(5):
        await clock.advance(60)
    assert (clock.now() - wall, clock.monotonic()) == (
        timedelta(days=-3, minutes=1),
        monotonic + 60,
    )
