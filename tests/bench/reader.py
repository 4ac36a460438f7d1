"""Goal 7: another process parses `sessions.json` in a loop while the watcher writes it under load.

How old the content is, is asked at the instant the file is opened. It is known twice: from
`written_at`, and from one session that always holds the time of its latest change.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import AsyncExitStack
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
import orjson

from gateway.daemon import spare_the_collector
from gateway.sessions.settings import StoreSettings
from gateway.watcher import ExpiryWatcher, RetentionLimits
from tests.bench.parsing import LONGEST, SNAPSHOTS
from tests.bench.report import Report, spread
from tests.bench.states import Opened, keys, opened, touch, write_state
from tests.bench.ticking import loaded

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from gateway.sessions.store import SessionStore

SECONDS: Final = {10_000: 20.0, 100_000: 30.0, 1_000_000: 75.0}
"""How long each size is read; a million is written about every thirty seconds."""
UPDATES_PER_S: Final = 500
MARKS_PER_S: Final = 50
SETTINGS: Final = StoreSettings(snapshot_budget_bytes_per_s=0)
DURATIONS: Final = 12


async def measure(folder: Path, seconds: dict[int, float] = SECONDS) -> Report:
    """Measure every size on a store of its own."""
    report = Report()
    for entries, duration_s in seconds.items():
        directory = folder / str(entries)
        write_state(directory, entries)
        async with opened(directory, SETTINGS) as state:
            spare_the_collector()
            await _measure(report, state, directory, duration_s)
    return report


async def _measure(report: Report, state: Opened, directory: Path, seconds: float) -> None:
    entries = len(state.store)
    marked, *picked = keys(entries, 20_000, seed=5)
    picked = [key for key in picked if key != marked]
    watcher = ExpiryWatcher(
        state.store, state.database, state.clock, RetentionLimits(0, 0), _nothing
    )
    durations_s: list[float] = []

    def mark(_: int) -> Awaitable[object]:
        now_ms = int(time.time() * 1000)
        return state.store.update(marked, lambda old: old.changed(turns=now_ms))

    # A session that was never marked would look as old as time.
    await mark(0)
    await state.store.snapshots.write()
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(group.cancel_scope.cancel)
        await group.start(watcher.run)
        group.start_soon(_note, state.store, durations_s)
        for work, per_s in (
            (lambda number: touch(state.store, picked[number % len(picked)]), UPDATES_PER_S),
            (mark, MARKS_PER_S),
        ):
            await stack.enter_async_context(loaded(work, per_s))
        # The first reading is of a store that is written at its pace already.
        await anyio.sleep(1)
        command = [directory / "sessions.json", marked, str(entries), str(seconds)]
        read = await anyio.to_thread.run_sync(partial(_read, list(map(str, command))))
    _report(report, entries, read, durations_s)


async def _note(store: SessionStore, durations_s: list[float]) -> None:
    """Note how long each snapshot took."""
    written = -1
    while True:
        snapshot = store.statistics().snapshot
        if snapshot.written != written:
            written = snapshot.written
            durations_s.append(snapshot.duration_ms / 1000)
        await anyio.sleep(0.02)


async def _nothing() -> int:
    return 0


def _read(arguments: list[str]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.parsing", *arguments],
        check=True,
        capture_output=True,
        timeout=LONGEST * float(arguments[-1]) + 120,
    )
    result: list[dict[str, Any]] = orjson.loads(done.stdout)
    return result


def _report(
    report: Report, entries: int, read: list[dict[str, Any]], durations_s: list[float]
) -> None:
    good = [one for one in read if not one["failed"]]
    written = {one["written_at"] for one in good}
    ages = [one["at"] - datetime.fromisoformat(one["written_at"]).timestamp() for one in good]
    marks = [one["at"] - one["mark_ms"] / 1000 for one in good]
    limit = SETTINGS.snapshot_interval_s + DURATIONS * max(durations_s)
    name = f"sessions.json of {entries:,}"
    report.at_most(f"{name}: failures in {len(read):,} readings", "count", len(read) - len(good), 0)
    report.at_least(f"{name}: snapshots read", "count", len(written), SNAPSHOTS)
    report.at_most(f"{name}: oldest", "s", max(ages), limit)
    report.at_most(f"{name}: oldest change not yet shown", "s", max(marks), limit)
    report.data[str(entries)] = {
        "reads": len(read),
        "snapshots_seen": len(written),
        "failures": [one["failed"] for one in read if one["failed"]],
        "age_s": spread(ages),
        "mark_age_s": spread(marks),
        "snapshot_s": spread(durations_s),
        "limit_s": round(limit, 3),
    }
