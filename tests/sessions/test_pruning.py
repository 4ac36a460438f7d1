"""Laws of dropping old entries: exactly the right ones, with every reason told."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import FakeClock
from gateway.errors import StorageFullError
from gateway.processes.active import ActiveProcesses
from gateway.sessions.entry import encode_member
from gateway.sessions.pruning import cutoff_at
from gateway.sessions.recovery import SNAPSHOT
from gateway.sessions.table import EntryTable
from tests.support.disk import fill, small_disk
from tests.support.pruning import aged, names_of, pruned
from tests.support.state import (
    START,
    create_all,
    entry,
    key_of,
    open_state,
    resolve,
    shown,
    write_table,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.model import SessionId, SessionKey
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.pruning import PruneReport

DAY = timedelta(days=1)
INSTANT = timedelta(microseconds=1)


async def test_only_what_is_strictly_older_than_the_age_goes(tmp_path: Path) -> None:
    ages = {"exactly": 90 * DAY, "older": 90 * DAY + INSTANT, "younger": 90 * DAY - INSTANT}

    report, left = await pruned(tmp_path, [aged(n, age) for n, age in ages.items()], 90)

    assert left == {"exactly", "younger"}
    assert (report.scanned, report.pruned, report.kept_by_reason) == (1, 1, {})


@pytest.mark.parametrize(
    ("max_age_days", "left"),
    [
        pytest.param(0, {"old", "new"}, id="0 disables"),
        pytest.param(-1, {"old", "new"}, id="negative disables"),
        pytest.param(math.nan, {"old", "new"}, id="not a number disables"),
        pytest.param(0.5, {"new"}, id="half a day"),
        pytest.param(1.0001, {"old", "new"}, id="just above"),
        pytest.param(1e308, {"old", "new"}, id="too large for the calendar"),
        pytest.param(math.inf, {"old", "new"}, id="infinite"),
        pytest.param(800_000, {"old", "new"}, id="before the calendar"),
        pytest.param(10**400, {"old", "new"}, id="too large for a float"),
    ],
)
async def test_any_age_is_taken_for_what_it_says(
    tmp_path: Path, max_age_days: float, left: set[str]
) -> None:
    entries = [aged("old", DAY), aged("new", timedelta(hours=1))]

    assert (await pruned(tmp_path, entries, max_age_days))[1] == left


@given(st.floats() | st.integers())
def test_no_age_ever_crashes_a_prune_or_prunes_the_future(max_age_days: float) -> None:
    cutoff = cutoff_at(START, max_age_days)

    assert cutoff is None or (max_age_days > 0 and cutoff <= START)


async def test_a_stamp_in_the_future_counts_as_now(tmp_path: Path) -> None:
    entries = [aged("ahead", -400 * DAY), aged("old", 2 * DAY)]

    assert (await pruned(tmp_path, entries, 1))[1] == {"ahead"}


async def test_who_is_protected_stays_and_the_report_says_why(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        names = ["suspended", "busy", "active", "raising", "guard raising", "free", "young"]
        ages = {"young": timedelta(0)}
        await create_all(state.store, (aged(n, ages.get(n, 2 * DAY)) for n in names))
        await state.store.suspend(key_of("suspended"))

        def busy(key: SessionKey) -> bool:
            if key == key_of("guard raising"):
                raise RuntimeError
            return key == key_of("busy")

        def active(key: SessionKey) -> bool:
            if key == key_of("raising"):
                raise RuntimeError
            return key == key_of("active")

        state.store.is_busy, state.store.has_active_processes = busy, active
        report = await state.store.prune_old_entries(1)

        assert names_of(state.store) == set(names) - {"free"}
        assert (report.scanned, report.pruned) == (6, 1)
        assert report.kept_by_reason == {
            "active_process": 1,
            "busy": 1,
            "callback_error": 2,
            "suspended": 1,
        }
        assert state.store.statistics().last_prune == report


@pytest.mark.parametrize("knows", ["keys", "ids"])
async def test_a_callback_protects_by_session_key_and_never_by_session_id(
    tmp_path: Path, knows: str
) -> None:
    processes = ActiveProcesses(FakeClock(), 60.0)
    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, [aged("working", 2 * DAY), aged("free", 2 * DAY)])
        working = entry("working")
        known = working.session_key if knows == "keys" else working.session_id
        processes.begun(known, "p1", START)  # type: ignore[arg-type]
        state.store.has_active_processes = processes.has_active_for_session

        await state.store.prune_old_entries(1)

        assert names_of(state.store) == ({"working"} if knows == "keys" else set())


async def test_a_process_that_ended_protects_no_longer(tmp_path: Path) -> None:
    processes = ActiveProcesses(FakeClock(), 60.0)
    async with open_state(tmp_path / "state") as state:
        await state.store.create(aged("working", 2 * DAY))
        state.store.has_active_processes = processes.has_active_for_session
        processes.begun(key_of("working"), "p1", START)
        assert (await state.store.prune_old_entries(1)).pruned == 0
        processes.ended(key_of("working"), "p1")
        assert (await state.store.prune_old_entries(1)).pruned == 1


async def test_the_callback_is_asked_for_stale_entries_only_and_outside_any_lock(
    tmp_path: Path,
) -> None:
    asked: list[SessionKey] = []
    async with open_state(tmp_path / "state") as state:
        store, loop_thread = state.store, threading.get_ident()
        await create_all(store, (aged(f"old{n}", 2 * DAY) for n in range(3)))
        await create_all(store, (aged(f"new{n}", timedelta(hours=n)) for n in range(20)))
        await store.create(aged("suspended", 2 * DAY, suspended_at=START))

        def active(key: SessionKey) -> bool:
            asked.append(key)
            assert threading.get_ident() == loop_thread
            # A writer that were held by the prune could not answer here.
            written = threading.Event()
            state.database.submit(lambda _: written.set())
            return not written.wait(30)

        store.has_active_processes = active
        report = await store.prune_old_entries(1)

    assert sorted(asked) == [key_of(f"old{n}") for n in range(3)]
    assert (report.scanned, report.pruned) == (4, 3)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda one: replace(one, updated_at=START), id="used"),
        pytest.param(lambda one: replace(one, suspended_at=START), id="suspended"),
    ],
)
async def test_an_entry_touched_between_the_check_and_the_drop_stays(
    tmp_path: Path, change: Callable[[SessionEntry], SessionEntry]
) -> None:
    async with open_state(tmp_path / "state") as state:
        store = state.store
        await create_all(store, [aged("touched", 2 * DAY), aged("gone", 2 * DAY)])

        def active(key: SessionKey) -> bool:
            if key == key_of("touched"):
                state.database.submit(lambda tx: store.stage_update(tx, key, change))
            return False

        store.has_active_processes = active
        report = await store.prune_old_entries(1)

        assert names_of(store) == {"touched"}
        assert (report.scanned, report.pruned) == (2, 1)
        assert report.kept_by_reason == {"touched": 1}


async def test_a_poisoned_entry_stops_nothing(tmp_path: Path) -> None:
    path, table = tmp_path / "state", EntryTable()
    for name in "abc":
        table.put(key_of(name), encode_member(aged(name, 2 * DAY)))
    bad = b'"%b":{"updated_at":"2025-01-01T00:00:00Z"}' % key_of("bad").encode()
    table.put(key_of("bad"), bad)
    path.mkdir(mode=0o700)
    await write_table(path / SNAPSHOT, table)

    async with open_state(path) as state:
        report = await state.store.prune_old_entries(1, max_entries=1)

        assert (report.pruned, report.kept_by_reason) == (3, {"unreadable": 1})
        assert len(state.store) == 1


async def test_where_nothing_is_removed_nothing_is_written(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, [aged("a", DAY), aged("b", 9 * DAY, suspended_at=START)])
        await state.store.snapshots.write()
        before = (state.path / SNAPSHOT).stat()
        wal = state.database.statistics()

        report = await state.store.prune_old_entries(1)

        after = (state.path / SNAPSHOT).stat()
        assert report.pruned == 0
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        assert state.database.statistics() == wal


async def test_where_something_is_removed_the_file_shows_it_on_return(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, (aged(f"c{n}", 2 * DAY) for n in range(200)))
        await state.store.create(aged("young", timedelta(0)))
        await state.store.snapshots.write()

        report = await state.store.prune_old_entries(1)

        assert report.pruned == 200
        assert shown(state.path).keys() == {key_of("young")}
        assert names_of(state.store) == {"young"}


async def test_who_was_dropped_is_told_once_it_is_gone(tmp_path: Path) -> None:
    told: list[tuple[SessionKey, SessionId, int]] = []
    async with open_state(tmp_path / "state") as state:
        store = state.store
        await create_all(store, [aged("a", 2 * DAY), aged("b", DAY)])
        store.on_dropped = lambda key, session_id: told.append((key, session_id, len(store)))

        await store.prune_old_entries(1)

    assert told == [(key_of("a"), entry("a").session_id, 1)]


async def test_prunes_run_one_after_the_other(tmp_path: Path) -> None:
    reports: list[PruneReport] = []
    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, (aged(f"c{n}", 2 * DAY) for n in range(300)))

        async def prune() -> None:
            reports.append(await state.store.prune_old_entries(1))
            assert shown(state.path) == {}

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(prune)

    assert [one.pruned for one in reports] == [300, 0, 0, 0]


async def test_a_full_disk_drops_nothing_and_a_later_prune_does(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_mb=4) as disk:
        async with open_state(disk / "state") as state:
            await create_all(state.store, (aged(f"c{n}", 2 * DAY) for n in range(64)))
            fill(disk / "ballast")
            with pytest.raises(StorageFullError):
                await state.store.prune_old_entries(1)
            assert len(state.store) == 64

            (disk / "ballast").unlink()
            assert (await state.store.prune_old_entries(1)).pruned == 64


async def test_arrival_order_and_steps_of_the_clock_do_not_matter(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_state(tmp_path / "state", clock) as state:
        for name, step in (("now", 0), ("past", -100), ("future", 250)):
            clock.step_wall(timedelta(days=step))
            await resolve(state.store, name)
        clock.step_wall(timedelta(days=-100))  # 50 days after the start

        await state.store.prune_old_entries(90)
        assert names_of(state.store) == {"now", "future"}
        await state.store.prune_old_entries(49)
        assert names_of(state.store) == {"future"}
