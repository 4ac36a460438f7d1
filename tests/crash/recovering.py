"""Real recoveries of crash states: written out, started twice, and looked at."""

from __future__ import annotations

import shutil
from collections import Counter
from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from gateway.durable.connection import open_writer
from gateway.durable.directory import hold
from gateway.errors import DamagedDataError, GatewayError
from gateway.sessions.entry import encode_member
from gateway.sessions.recovery import PREVIOUS, SNAPSHOT, recover
from gateway.sessions.snapshot import read_snapshot
from tests.crash.expectation import Outcome
from tests.support.state import START, open_state

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from gateway.durable.connection import Connection
    from gateway.sessions.entry import SessionEntry
    from tests.support.state import State

_OWED = "SELECT turn_id FROM inbox"
_REPLIED = "SELECT turn_id FROM outbox"
_SAID = "SELECT turn_id, session_id, count(*) FROM messages GROUP BY turn_id, session_id"
_ENDED = "SELECT session_id FROM sessions WHERE ended_at IS NOT NULL"


def write_out(files: Mapping[str, bytes | None], path: Path) -> None:
    """Make a folder of these files and no others."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    for name, data in sorted(files.items()):
        target = path / name
        if data is None:
            target.mkdir(mode=0o700)
        else:
            target.touch(mode=0o600)
            target.write_bytes(data)


async def recovered(path: Path, damaged: bytes | None = None) -> Outcome:
    """Start a state directory, stop it, recover it once more, and tell what was there.

    Args:
        path: The state directory.
        damaged: What a snapshot may be before the start, though it cannot be read.
    """
    faults = _unreadable(path, damaged)
    with capture_logs():
        try:
            async with open_state(path) as state:
                first = await seen(state)
            faults += _unreadable(path)
            second = _recovered_again(path)
        except GatewayError as error:
            return Outcome({}, faults=(*faults, f"does not start: {error!r}"))

    if (second.entries, second.rows) != (first.entries, first.rows):
        faults.append("the second recovery differs from the first")
    if second.sequence < first.sequence:
        faults.append(f"sequence {second.sequence} after {first.sequence}")
    faults += [*first.faults, *second.faults]
    return Outcome(first.entries, first.sequence, first.rows, tuple(faults))


async def seen(state: State) -> Outcome:
    """Return what an open store holds, and where it does not agree with the database."""
    store = state.store
    entries = store.entries(limit=max(1, len(store)))
    rows, faults = await state.database.read(lambda connection: _compared(connection, entries))
    if len(entries) != len(store):
        faults.append(f"{len(store)} entries, {len(entries)} of them readable")
    return Outcome(_members(entries), store.statistics().sequence, rows, tuple(faults))


def _recovered_again(path: Path) -> Outcome:
    """Recover without a store around it, which is what a start does first."""
    with hold(path, started_at=START) as directory:
        connection = open_writer(path / "gateway.db")
        try:
            found = recover(connection, directory, START)
            keys = found.table.keys_after("", len(found.table))
            entries = [entry for key in keys if (entry := found.table.get(key)) is not None]
            rows, faults = _compared(connection, entries)
        finally:
            connection.close()
    return Outcome(_members(entries), found.sequence, rows, tuple(faults))


def _members(entries: Sequence[SessionEntry]) -> dict[str, bytes]:
    return {str(entry.session_key): encode_member(entry) for entry in entries}


def _compared(
    connection: Connection, entries: Sequence[SessionEntry]
) -> tuple[frozenset[str], list[str]]:
    """Return the turns in the database, and where entries do not agree with it."""
    owed = {str(row[0]) for row in connection.execute(_OWED)}
    replied = {str(row[0]) for row in connection.execute(_REPLIED)}
    said: Counter[str] = Counter()
    whole, faults = set(), []
    for turn, session, count in connection.execute(_SAID):
        said[str(session)] += 1
        if count == 2:
            whole.add(str(turn))
        else:
            faults.append(f"half a turn in the transcript: {turn}")
    if whole != replied or replied & owed:
        faults.append(f"said {sorted(whole)}, replied {sorted(replied)}, owed {sorted(owed)}")
    ended = {str(row[0]) for row in connection.execute(_ENDED)}
    for entry in entries:
        if entry.turns != said[entry.session_id]:
            faults.append(f"{entry.session_key}: {entry.turns} turns, said {said}")
        if entry.session_id in ended:
            faults.append(f"{entry.session_key}: {entry.session_id} has ended")
    accepted = {f"accepted:{turn}" for turn in replied | owed}
    return frozenset(accepted | {f"replied:{turn}" for turn in replied}), faults


def _unreadable(path: Path, damaged: bytes | None = None) -> list[str]:
    """Return a fault for each snapshot whose name is there and that cannot be read."""
    faults = []
    for name in (SNAPSHOT, PREVIOUS):
        try:
            read_snapshot(path / name)
        except DamagedDataError as damage:
            if damaged is None or (path / name).read_bytes() != damaged:
                faults.append(f"unreadable: {damage}")
    return faults
