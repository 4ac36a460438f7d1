"""A check counts only if it finds its bug: each kind is planted, and found."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gateway.sessions.store import SessionStore
from tests.crash.exploring import Explorer
from tests.crash.faults import SYNCS, Fault
from tests.crash.planted import AnswersEarly, EmptyOnError, TrimsFirst
from tests.crash.workloads import run

if TYPE_CHECKING:
    from pathlib import Path

OPEN_WAL = """
import pathlib, sys
from gateway.durable.connection import open_writer
connection = open_writer(pathlib.Path(sys.argv[1]))
connection.execute("INSERT INTO store_state VALUES ('x', 1)")
"""


async def _found(
    folder: Path, name: str, fault: Fault | None = None, kind: type[SessionStore] = SessionStore
) -> list[str]:
    """Return what is found on a workload that runs on something broken."""
    done = await run(name, folder / "run", fault, kind)
    explorer = Explorer(folder / "work", damaged=done.damaged)
    return await explorer.explore(done.record, done.expected())


@pytest.mark.parametrize(
    ("lie", "name", "sign"),
    [
        pytest.param("sync", "changes", "unreadable", id="no-file-sync"),
        pytest.param("sync_directory", "first-start", "missing", id="no-directory-sync"),
        pytest.param("db_sync", "changes", "does not start", id="no-sync-of-the-database"),
        pytest.param("db_names", "changes", "lost", id="no-directory-sync-of-the-database"),
    ],
)
async def test_a_sync_that_is_left_out_is_found(
    folder: Path, lie: str, name: str, sign: str
) -> None:
    found = await _found(folder, name, Fault(lies=frozenset({lie})))

    assert sign in str(found)


@pytest.mark.parametrize(
    ("kind", "sign"),
    [
        pytest.param(TrimsFirst, "older", id="log-trimmed-before-the-rename"),
        pytest.param(AnswersEarly, "acknowledged", id="acknowledged-before-the-commit"),
    ],
)
async def test_a_step_out_of_order_is_found(
    folder: Path, kind: type[SessionStore], sign: str
) -> None:
    assert sign in str(await _found(folder, "changes", kind=kind))


async def test_unreadable_taken_for_empty_is_found(folder: Path) -> None:
    # The WAL is read first, which the store has no part in; then the snapshots.
    faults = [Fault(at, errno.EIO, frozenset({"read"}), lasting=True) for at in range(1, 4)]
    found = [await _found(folder, "changes", fault, EmptyOnError) for fault in faults]

    assert "lost" in str(found)


@pytest.mark.parametrize("call", sorted(SYNCS - {"sync_directory"}))
async def test_a_sync_tried_again_after_it_failed_is_found(folder: Path, call: str) -> None:
    calls = Fault(calls=frozenset({call}))
    await run("changes", folder / "run", calls)

    found = []
    for at in range(1, calls.seen + 1):
        fault = Fault(at, errno.EIO, frozenset({call}), retried=True)
        found += await _found(folder, "changes", fault)
        if found:
            break

    assert any(sign in str(found) for sign in ("acknowledged", "unreadable", "does not start"))


@pytest.mark.skipif(shutil.which("strace") is None, reason="NOT SHOWN: there is no strace here")
def test_sqlite_syncs_the_directory_of_a_new_wal_as_the_recording_assumes(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    calls = "trace=openat,fsync,fdatasync,pwrite64"
    strace = ["strace", "-f", "-y", "-e", calls, "-o", str(tmp_path / "trace")]
    subprocess.run([*strace, sys.executable, "-c", OPEN_WAL, str(path)], check=True)

    syncs = [
        line.partition("<")[2].partition(">")[0]
        for line in (tmp_path / "trace").read_text().splitlines()
        if "sync(" in line
    ]
    first = syncs.index(f"{path}-wal")
    assert syncs[first + 1] == str(tmp_path)
    assert syncs.count(str(tmp_path)) >= 2
