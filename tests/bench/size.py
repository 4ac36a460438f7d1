"""Goal 4: the memory of a million sessions, and how long a start takes.

Every number is of a fresh process: of `tests.bench.opening` for the store, of the daemon itself.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import anyio
import orjson

from tests.bench.report import Report, median
from tests.bench.servers import gateway
from tests.bench.states import keys, opened, touch, write_state

if TYPE_CHECKING:
    from pathlib import Path

ENTRIES: Final = 1_000_000
REPLAYED: Final = 100_000
SAMPLES: Final = 3
_TOGETHER: Final = 500


async def measure(folder: Path, entries: int = ENTRIES, replayed: int = REPLAYED) -> Report:
    """Start on a clean store several times, then on one with rows to replay."""
    clean, crashed = folder / "clean", folder / "crashed"
    write_state(clean, entries)
    # The first one had to import it.
    opening = [_opening("open", clean) for _ in range(SAMPLES + 1)][1:]
    daemon = [_daemon_s(clean) for _ in range(SAMPLES)]
    await _with_log(clean, crashed, entries, replayed)
    replaying = [_opening("replay", crashed) for _ in range(SAMPLES)]
    assert [sample["replayed"] for sample in replaying] == [replayed] * SAMPLES
    return _report(entries, opening, daemon, replaying)


async def _with_log(clean: Path, crashed: Path, entries: int, replayed: int) -> None:
    """Copy a store whose session log holds changes that no snapshot does."""
    picked = keys(entries, replayed, seed=1)
    async with opened(clean) as state:
        for start in range(0, replayed, _TOGETHER):
            async with anyio.create_task_group() as group:
                for key in picked[start : start + _TOGETHER]:
                    group.start_soon(touch, state.store, key)
        # Nothing writes now: this is what a crash here would leave.
        shutil.copytree(clean, crashed)


def _opening(verb: str, directory: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.opening", verb, str(directory)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    result: dict[str, float] = orjson.loads(done.stdout)
    return result


def _daemon_s(directory: Path) -> float:
    """Return the seconds from starting the program to its being ready."""
    started = time.perf_counter()
    with gateway(directory):
        return time.perf_counter() - started


def _report(
    entries: int,
    opening: list[dict[str, float]],
    daemon: list[float],
    replaying: list[dict[str, float]],
) -> Report:
    def of(name: str) -> float:
        return median([sample[name] for sample in opening])

    report, size = Report(), f"{entries:,} sessions"
    report.at_most(f"{size}: resident, with the index", "bytes each", of("bytes_each"), 1_100)
    report.show(f"{size}: JSON of one", "bytes", of("json_bytes_each"))
    report.show(f"{size}: peak at start", "x resident", of("peak_x"))
    report.at_most(f"{size}: daemon, start to ready", "s", median(daemon), 4.5)
    report.at_most(f"{size}: store, start", "s", of("open_s"), 4.5)
    rows = f"{round(replaying[0]['replayed']):,} log rows replayed"
    replay_s = median([sample["replay_s"] for sample in replaying])
    report.at_most(f"{size}: {rows}", "s", replay_s, 0.5)
    collecting = f"{size}: full garbage collection"
    report.at_most(f"{collecting}, just started", "ms", of("collect_at_start_ms"), 5)
    report.at_most(f"{collecting}, 20,000 in use since", "ms", of("collect_in_use_ms"), 5)
    report.data = {"opening": opening, "daemon_s": daemon, "replaying": replaying}
    return report
