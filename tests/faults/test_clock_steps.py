"""Laws of a wall clock that jumps: timers fire, nothing goes too early, no time is negative."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.clock import FakeClock
from gateway.sessions.settings import SessionSettings
from gateway.watcher import CLOCK_STEP_S, PRUNE_INTERVAL_S
from tests.faults.damage import folder_in_memory
from tests.support.state import create_all, entry, key_of, open_state, resolve, shown
from tests.support.turns import running_turns
from tests.support.watching import Watched, watching

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.sessions.entry import SessionEntry

    Count = Callable[[str, int], None]

MAX_AGE = timedelta(days=90)
STARTS = (
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2038, 1, 19, 3, 14, 7, tzinfo=UTC),
    datetime(2106, 2, 7, 6, 28, 15, tzinfo=UTC),
)
JUMPS = st.sampled_from(
    [
        timedelta(0),
        timedelta(seconds=-1),
        timedelta(hours=-24),
        timedelta(hours=24),
        timedelta(seconds=CLOCK_STEP_S),
        timedelta(seconds=CLOCK_STEP_S + 1),
        timedelta(seconds=-CLOCK_STEP_S - 1),
        timedelta(days=89),
        timedelta(days=91),
        timedelta(days=-91),
    ]
)
HOURS = st.lists(st.tuples(JUMPS, st.sampled_from(["made", "used", "none"])), max_size=8)
"""What happens between two ticks of the watcher: a jump, and what users do after it."""


def _negative(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the durations among some fields that are below 0; a step of the clock may be."""
    return {
        name: value
        for name, value in fields.items()
        if name.endswith(("_s", "_ms"))
        and name != "step_s"
        and isinstance(value, int | float)
        and value < 0
    }


async def _live_through(path: Path, start: datetime, hours: list[tuple[timedelta, str]]) -> None:
    """Compare a running watcher, hour by hour, with what it must do."""
    clock, known, steps = FakeClock(start), dict[str, datetime](), 0
    async with watching(path, clock=clock) as watched:
        prunes = watched.watcher.statistics().prunes
        for number, (jump, act) in enumerate(hours):
            clock.step_wall(jump)
            written = watched.state.store.snapshots.statistics().written
            if act == "made" or (act == "used" and not known):
                known[f"c{number}"] = clock.now()
                await create_all(watched.state.store, [entry(f"c{number}", updated_at=clock.now())])
            elif act == "used":
                name = next(iter(known))
                known[name] = clock.now()
                await watched.state.store.update(key_of(name), _used(clock.now()))
            if act != "none":
                await _snapshot_follows(watched, written)
            await watched.pass_by(watched.watcher.statistics().next_prune_in_s)
            if abs(jump.total_seconds()) > CLOCK_STEP_S:
                steps += 1
            else:
                prunes += 1
                known = {n: at for n, at in known.items() if at >= clock.now() - MAX_AGE}
            await watched.until(lambda: watched.watcher.statistics().next_prune_in_s > 0)
            await watched.pruned(prunes)
            left = {one.source.chat_id for one in watched.state.store.entries()}
            assert left == known.keys()
            statistics = watched.watcher.statistics()
            assert statistics.clock_steps == steps
            assert statistics.next_prune_in_s == PRUNE_INTERVAL_S
            assert not _negative(asdict(statistics))
            assert not _negative(asdict(watched.state.store.snapshots.statistics()))
    async with open_state(path, clock) as state:
        assert {one.source.chat_id for one in state.store.entries()} == known.keys()


def _used(at: datetime) -> Callable[[SessionEntry], SessionEntry]:
    return lambda one: one.changed(updated_at=at)


async def _snapshot_follows(watched: Watched, written: int) -> None:
    """Check that a snapshot comes after its second, whatever the wall clock says."""
    await watched.pass_by(1)
    await watched.until(lambda: watched.state.store.snapshots.statistics().written > written)


def _check(start: datetime, hours: list[tuple[timedelta, str]]) -> None:
    with folder_in_memory(Path(tempfile.gettempdir())) as folder, capture_logs() as logs:
        anyio.run(_live_through, folder / "state", start, hours)
    jumps = [jump.total_seconds() for jump, _ in hours]
    told = [line["step_s"] for line in logs if line["event"] == "clock.step"]
    assert told == [jump for jump in jumps if abs(jump) > CLOCK_STEP_S]
    for line in logs:
        assert not _negative(line), line


@settings(max_examples=8)
@given(st.sampled_from(STARTS[1:]), HOURS)
def test_whatever_the_clock_does_the_watcher_prunes_by_age_and_never_early(
    start: datetime, hours: list[tuple[timedelta, str]]
) -> None:
    _check(start, hours)


@pytest.mark.torture
def test_whatever_the_clock_does_many_times_over(torture_count: Count) -> None:
    ran = 0

    @settings(max_examples=150)
    @given(st.sampled_from(STARTS[1:]), HOURS)
    def live(start: datetime, hours: list[tuple[timedelta, str]]) -> None:
        nonlocal ran
        ran += 1
        _check(start, hours)

    live()
    torture_count("lives with a jumping clock", ran)


@pytest.mark.parametrize("start", STARTS, ids=lambda start: f"{start:%Y}")
async def test_every_year_from_1970_to_2106_is_stored_found_again_and_pruned(
    tmp_path: Path, start: datetime
) -> None:
    path, clock = tmp_path / "state", FakeClock(start)
    async with running_turns(path, clock=clock) as bench:
        await bench.say("hello")
        assert bench.entry().updated_at == start
    async with running_turns(path, clock=clock) as bench:
        assert bench.entry().updated_at == start
        assert await bench.said() == [("user", "hello"), ("assistant", "re: hello")]
        assert (await bench.say("again")).reset is None
        clock.step_wall(MAX_AGE)
        assert (await bench.state.store.prune_old_entries(90)).pruned == 0
        clock.step_wall(timedelta(microseconds=1))
        assert (await bench.state.store.prune_old_entries(90)).pruned == 1
    assert shown(path) == {}


@pytest.mark.parametrize(
    "count", [100, pytest.param(450, marks=pytest.mark.torture)], ids="{} times".format
)
async def test_a_clock_that_goes_back_a_second_again_and_again_resets_and_reorders_nothing(
    tmp_path: Path, count: int
) -> None:
    sessions = SessionSettings.model_validate(
        {"reset": {"mode": "both", "idle_minutes": 1, "at_hour": 0, "timezone": "UTC"}}
    )
    with capture_logs() as logs:
        async with running_turns(tmp_path / "state", sessions=sessions) as bench:
            bench.clock.step_wall(timedelta(hours=12))
            first = (await bench.say("0")).session_id
            for number in range(1, count):
                bench.clock.step_wall(timedelta(seconds=-1))
                reply = await bench.say(str(number))
                assert (reply.reset, reply.session_id) == (None, first)
            assert bench.entry().turns == count
            asked = [text for role, text in await bench.said() if role == "user"]
            assert asked == [str(number) for number in range(count)]
    for line in logs:
        assert not _negative(line), line


async def test_going_back_a_day_or_ahead_a_day_resets_only_what_is_idle_by_the_clock(
    tmp_path: Path,
) -> None:
    sessions = SessionSettings.model_validate({"reset": {"mode": "idle", "idle_minutes": 60}})
    async with running_turns(tmp_path / "state", sessions=sessions) as bench:
        await bench.say("hello")
        bench.clock.step_wall(timedelta(hours=-24))
        assert (await bench.say("a day back")).reset is None
        bench.clock.step_wall(timedelta(minutes=59))
        assert (await bench.say("within the hour")).reset is None
        bench.clock.step_wall(timedelta(hours=24))
        reset = (await bench.say("a day ahead")).reset
        assert reset is not None
        assert reset.reason == "idle"
        assert (await resolve(bench.state.store)).decision.reason is None
