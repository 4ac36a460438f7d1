"""Laws of dropping what is too many, of dry runs, and of a prune under load."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.sessions.recovery import SNAPSHOT
from tests.support.pruning import aged, pruned
from tests.support.state import START, create_all, import_file, key_of, open_state, resolve, shown

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from pathlib import Path

    from gateway.sessions.store import SessionStore

DAY = timedelta(days=1)


async def test_of_too_many_the_oldest_unprotected_go_first(tmp_path: Path) -> None:
    minute = timedelta(minutes=1)
    entries = [aged(f"c{n:03}", n * minute) for n in range(150)]
    entries.append(aged("paused", 999 * minute, suspended_at=START))

    report, left = await pruned(tmp_path, entries, 0, max_entries=100)

    assert left == {f"c{n:03}" for n in range(99)} | {"paused"}
    assert (report.pruned, report.kept_by_reason) == (51, {"suspended": 1})


async def test_within_an_hour_and_a_second_the_oldest_go_first(tmp_path: Path) -> None:
    step = timedelta(milliseconds=300)
    entries = [aged(f"c{n:03}", DAY + n * step) for n in range(600)]

    report, left = await pruned(tmp_path, entries, 0, max_entries=250)

    assert left == {f"c{n:03}" for n in range(250)}
    assert report.pruned == 350


async def test_protected_entries_may_exceed_the_number(tmp_path: Path) -> None:
    entries = [aged(f"c{n}", DAY, suspended_at=START) for n in range(5)]

    report, left = await pruned(tmp_path, entries, 0, max_entries=2)

    assert len(left) == 5
    assert (report.pruned, report.kept_by_reason) == (0, {"suspended": 5})


@pytest.mark.parametrize("max_entries", [5, 6])
async def test_a_number_that_is_not_exceeded_drops_nothing_and_asks_nobody(
    tmp_path: Path, max_entries: int
) -> None:
    report, left = await pruned(
        tmp_path, [aged(f"c{n}", DAY) for n in range(5)], 0, max_entries=max_entries
    )

    assert (len(left), report.scanned) == (5, 0)


@pytest.mark.parametrize(
    ("max_age_days", "max_entries"), [(1, 0), (0, 7), (1, 7), (1, 15), (1, 100)]
)
async def test_a_dry_run_says_what_the_real_run_does_and_changes_nothing(
    tmp_path: Path, max_age_days: float, max_entries: int
) -> None:
    async with open_state(tmp_path / "state") as state:
        store = state.store
        hour = timedelta(hours=1)
        await create_all(store, (aged(f"c{n}", n * 3 * hour) for n in range(20)))
        for name in ("c3", "c12", "c19"):
            await store.suspend(key_of(name))
        store.is_busy = lambda key: key == key_of("c15")
        await store.snapshots.write()
        before = (state.database.statistics(), (state.path / SNAPSHOT).stat().st_ino)

        dry = await store.prune_old_entries(max_age_days, max_entries=max_entries, dry_run=True)
        assert before == (state.database.statistics(), (state.path / SNAPSHOT).stat().st_ino)
        assert (len(store), store.statistics().last_prune, dry.dry_run) == (20, None, True)

        real = await store.prune_old_entries(max_age_days, max_entries=max_entries)
        assert replace(real, dry_run=True) == dry
        assert len(store) == 20 - real.pruned
        # Every entry is counted once, whichever rules it falls under.
        assert real.scanned == real.pruned + sum(real.kept_by_reason.values())


@contextmanager
def _reading(store: SessionStore, numbers: Iterable[int]) -> Generator[list[object]]:
    """Read these entries in a thread all the while; yield what was wrong about them."""
    stop, wrong = threading.Event(), list[object]()

    def read() -> None:
        while not stop.wait(0.0005):
            for number in numbers:
                one = store.get(key_of(f"c{number}"))
                if one is None or one.source.chat_id != f"c{number}":
                    wrong.append((number, one))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield wrong
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
async def test_a_prune_of_twenty_thousand_among_readers_and_writers_drops_the_right_set(
    tmp_path: Path,
) -> None:
    keys = [key_of(f"c{number}") for number in range(20_000)]
    stays = {key for n, key in enumerate(keys) if n % 2 or n % 100 == 0}
    sessions = {}
    for number, key in enumerate(keys):
        one = aged(f"c{number}", DAY if number % 2 else 100 * DAY)
        sessions[key] = one if number % 100 else replace(one, suspended_at=START)
    path = import_file(tmp_path / "state", {"version": 1, "sessions": sessions})

    async with open_state(path) as state:
        store = state.store

        async def write() -> None:
            for number in range(1, 400, 2):
                await store.update(keys[number], lambda one: replace(one, turns=one.turns + 1))
                await resolve(store, f"new{number}")

        with anyio.fail_after(120), _reading(store, (0, 1, 100, 101, 19_999)) as wrong:
            async with anyio.create_task_group() as group:
                group.start_soon(write)
                report = await store.prune_old_entries(90)
        left = {one.session_key for one in store.entries(limit=100_000)}

    assert wrong == []
    assert (report.pruned, report.kept_by_reason) == (9_800, {"suspended": 200})
    assert left == stays | {key_of(f"new{number}") for number in range(1, 400, 2)}
    assert shown(path).keys() == left
