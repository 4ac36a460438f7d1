"""Laws of databases without check sums: what cuts off their one rewrite costs nothing."""

from __future__ import annotations

import errno
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

import pytest
from structlog.testing import capture_logs

from gateway.durable.connection import open_writer
from gateway.durable.pages import CHECK_SUM_BYTES, damaged_pages
from gateway.errors import StorageError, StorageFullError
from tests.crash.expectation import Expectation, Outcome
from tests.crash.exploring import Explorer, crash_states, recording
from tests.crash.faults import CHANGES, GROWING, Fault
from tests.crash.older import DATABASE, Rows, not_rewritten, prepare_older, rows_of
from tests.crash.recording import Record, read_folder
from tests.crash.recovering import recovered, write_out
from tests.support.state import open_state
from tests.torture.sampling import spread
from tests.torture.tracing import CHANGES as CALLS
from tests.torture.tracing import DATABASE as FILES
from tests.torture.tracing import needs_strace, tracer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SAMPLE: Final = 180
"""How many crash states of a rewrite are recovered in each test; there are about 2,000."""
KILLS: Final = 12
"""How many of the system calls of a rewrite are killed at in each test; there are more than 100."""
SEED: Final = 3
OPEN: Final = """
import pathlib, sys
from gateway.durable.connection import open_writer
open_writer(pathlib.Path(sys.argv[1])).close()
"""
NEVER: Final = 1 << 30
"""A call that does not come: all are counted and none fails."""
Call = tuple[str, int]
"""The name of a system call, and its number among those of that name, as strace counts them."""
RESERVED: Final = 20
"""Where the header of a database says how much of each page is kept free."""
_CALL: Final = re.compile(r"^\d+ +\d+\.\d+ (\w+)\(", re.MULTILINE)
both = pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])


@dataclass(frozen=True, slots=True)
class Older:
    """A state directory of version 2."""

    path: Path
    files: dict[str, bytes | None]
    held: Outcome
    """What a store on it holds."""
    rows: Rows

    def expected(self) -> Expectation:
        expectation = Expectation()
        expectation.settle(self.held)
        return expectation

    def explorer(self, work: Path) -> Explorer:
        """Return what recovers crash states and looks at the database that is left."""
        return Explorer(work, left=lambda path: not_rewritten(path, self.rows))


@dataclass(frozen=True, slots=True)
class Killed:
    """What became of processes that were to be killed."""

    kills: int
    reserved: int
    """Bytes of each page that the header of the database then kept free."""


async def older_in(folder: Path, *, killed: bool) -> Older:
    """Make one; its database has no check sums, and several pages."""
    path = folder / "state"
    held = await prepare_older(path, killed=killed)
    files = read_folder(path)
    assert damaged_pages(path / DATABASE) is None
    assert held.faults == ()
    write_out(files, folder / "copy")
    rows = rows_of(folder / "copy")
    assert rows == rows_of(folder / "today")
    assert all(rows.values())
    return Older(path, files, held, rows)


async def started(older: Older, fault: Fault | None = None) -> Record:
    """Start a store on it, stop it in order, and return what happened to the disk."""
    with recording(older.path, fault) as disk, capture_logs():
        async with open_state(older.path, disk=disk):
            pass
    return disk.record


@both
async def test_whenever_the_power_goes_the_next_start_has_every_row_and_check_sum(
    folder: Path, torture_count: Callable[[str, int], None], *, killed: bool
) -> None:
    older = await older_in(folder, killed=killed)
    states = crash_states(await started(older), thorough=True)
    explorer = older.explorer(folder / "work")

    chosen = [states[number - 1] for number in spread(len(states), SAMPLE, SEED)]
    assert await explorer.judge(chosen, older.expected()) == []

    assert not_rewritten(older.path, older.rows) == []
    assert len(explorer.outcomes) == SAMPLE
    torture_count("crash states of rewrites, a sample", SAMPLE)
    torture_count("crash states of rewrites that there are", len(states))


@both
async def test_a_rewrite_that_is_begun_anew_may_be_cut_as_well(
    folder: Path, torture_count: Callable[[str, int], None], *, killed: bool
) -> None:
    states = await _cut_twice(await older_in(folder, killed=killed), folder, 3)

    torture_count("crash states of rewrites begun anew", states)
    assert states > 90


@pytest.mark.torture
@both
async def test_every_crash_state_of_a_rewrite_is_recovered(
    folder: Path, torture_count: Callable[[str, int], None], *, killed: bool
) -> None:
    older = await older_in(folder, killed=killed)
    states = crash_states(await started(older), thorough=True)

    assert await older.explorer(folder / "work").judge(states, older.expected()) == []

    torture_count("crash states of rewrites", len(states))


@pytest.mark.torture
@both
async def test_rewrites_that_are_begun_anew_may_be_cut_anywhere(
    folder: Path, torture_count: Callable[[str, int], None], *, killed: bool
) -> None:
    states = await _cut_twice(await older_in(folder, killed=killed), folder, 60)

    torture_count("crash states of rewrites begun anew", states)


async def _cut_twice(older: Older, folder: Path, size: int) -> int:
    """Cut the recovery of some crash states at its operations; return how many states."""
    states = crash_states(await started(older))
    explorer, inner = older.explorer(folder / "work"), older.explorer(folder / "inner")
    for number in spread(len(states), size, SEED):
        assert await explorer.explore_recovery(states[number - 1], inner) == []
    return len(inner.outcomes)


async def test_a_rewrite_that_is_not_synced_is_found(folder: Path) -> None:
    older = await older_in(folder, killed=False)
    states = crash_states(await started(older, Fault(lies=frozenset({"db_sync"}))))

    found = await older.explorer(folder / "work").judge(states, older.expected())

    assert found


@pytest.mark.parametrize(
    ("error", "calls", "told"),
    [
        pytest.param(errno.ENOSPC, GROWING, StorageFullError, id="no-space"),
        pytest.param(errno.EIO, CHANGES, StorageError, id="eio"),
    ],
)
async def test_a_rewrite_that_fails_is_refused_clearly_and_done_by_the_next_start(
    folder: Path,
    error: int,
    calls: frozenset[str],
    told: type[StorageError],
    torture_count: Callable[[str, int], None],
) -> None:
    older = await older_in(folder, killed=False)
    places = spread(opened(older, Fault(NEVER, calls=calls)), 12, SEED)

    for at in places:
        fault = Fault(at, error, calls, lasting=True)
        with pytest.raises(told):
            opened(older, fault)
        assert fault.fired
        left = older.expected().faults(await recovered(older.path))
        assert [*left, *not_rewritten(older.path, older.rows)] == [], f"call {at}"
    torture_count("failed calls of rewrites", len(places))


@needs_strace
@both
async def test_a_process_killed_amid_the_rewrite_leaves_every_row(
    folder: Path, torture_count: Callable[[str, int], None], *, killed: bool
) -> None:
    older = await older_in(folder, killed=killed)
    calls = calls_of(older, folder / "trace")
    chosen = [calls[number - 1] for number in spread(len(calls), KILLS, SEED)]

    killed_ones = [await kill_at(older, [call]) for call in chosen]

    assert sum(one.kills for one in killed_ones) == len(chosen)
    assert {one.reserved for one in killed_ones} == {0, CHECK_SUM_BYTES}
    torture_count("kills at a system call of a rewrite", len(chosen))


@needs_strace
async def test_a_rewrite_may_be_killed_again_and_again(
    folder: Path, torture_count: Callable[[str, int], None]
) -> None:
    older = await older_in(folder, killed=True)
    calls, numbers = calls_of(older, folder / "trace"), Random(SEED)
    kills = 0
    for _ in range(6):
        kills += (await kill_at(older, numbers.choices(calls, k=3))).kills

    assert kills >= 8  # what goes on from what another has left may have fewer calls
    torture_count("kills at a system call of a rewrite", kills)


@needs_strace
@pytest.mark.torture
@both
async def test_a_process_killed_at_any_call_of_the_rewrite_leaves_every_row(
    folder: Path, torture_count: Callable[[str, int], None], *, killed: bool
) -> None:
    older = await older_in(folder, killed=killed)
    calls = calls_of(older, folder / "trace")
    for call in calls:
        assert (await kill_at(older, [call])).kills == 1
    torture_count("kills at a system call of a rewrite", len(calls))


def opened(older: Older, fault: Fault) -> int:
    """Open the database alone, and return how many calls there were that could fail."""
    write_out(older.files, older.path)
    with recording(older.path, fault) as disk:
        writer = open_writer(older.path / DATABASE, disk)
        seen = fault.seen
        writer.close()
    return seen


def calls_of(older: Older, trace: Path) -> list[Call]:
    """Return the calls on its files that opening the database makes, all in one thread."""
    write_out(older.files, older.path)
    command = tracer(older.path, FILES, CALLS, "error=EIO:when=60000", str(trace))
    assert open_traced(older, command) == 0
    seen: Counter[str] = Counter()
    calls = []
    for name in _CALL.findall(trace.read_text()):
        seen[name] += 1
        calls.append((name, seen[name]))
    return calls


def open_traced(older: Older, strace: tuple[str, ...]) -> int:
    """Open the database in a process of its own, and return how that ended."""
    command = (*strace, sys.executable, "-c", OPEN, str(older.path / DATABASE))
    return subprocess.run(command, check=False, timeout=60).returncode


async def kill_at(older: Older, calls: Sequence[Call]) -> Killed:
    """Kill one process after another, each on what the one before has left; then start."""
    write_out(older.files, older.path)
    codes = []
    for name, number in calls:
        inject = f"signal=SIGKILL:when={number}"
        codes.append(open_traced(older, tracer(older.path, FILES, name, inject, "/dev/null")))
    assert set(codes) <= {0, -signal.SIGKILL}
    reserved = (older.path / DATABASE).read_bytes()[RESERVED]
    left = older.expected().faults(await recovered(older.path))
    assert [*left, *not_rewritten(older.path, older.rows)] == [], f"killed at {calls}"
    return Killed(codes.count(-signal.SIGKILL), reserved)
