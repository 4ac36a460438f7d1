"""Taking `sessions.json` as the truth, where it and the database do not fit together.

An operator asks for it, nothing else ever does. What is given up, the session log and the snapshot
before, goes to quarantine; transcripts, inbox and outbox stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio.to_thread
import orjson

from gateway.durable.disk import exists, remove
from gateway.durable.files import storage_errors
from gateway.errors import DamagedDataError
from gateway.sessions.entry import EntryError, identity
from gateway.sessions.recovery import PREVIOUS, SNAPSHOT
from gateway.sessions.snapshot import Trusted, Unchecked, read_snapshot
from gateway.sessions.table import SHARDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from gateway.durable.batch import Transaction
    from gateway.durable.connection import Connection
    from gateway.durable.database import Database
    from gateway.durable.directory import StateDirectory


@dataclass(frozen=True, slots=True)
class Adopted:
    """What became the truth, and what was set aside."""

    entries: int
    """Entries in the file; the next start checks each of them if the file has no check sum."""
    checked: bool
    """Whether the file has a right check sum."""
    log_rows_set_aside: int
    previous_set_aside: bool


async def adopt(directory: StateDirectory, database: Database, now: datetime) -> Adopted:
    """Make the next start take `sessions.json` as it is.

    Durability: what is set aside is on disk before anything is given up.

    Raises:
        DamagedDataError: there is no such file, or it cannot be read either.
    """
    path, previous = directory.path / SNAPSHOT, directory.path / PREVIOUS
    found = await anyio.to_thread.run_sync(read_snapshot, path, directory.disk)
    if found is None:
        raise DamagedDataError(path, "not there; put the file to adopt in its place")

    rows = await database.read(_log_rows)
    if rows:
        lines = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
        reason = f"{SNAPSHOT} was adopted; these changes of the session log were given up"
        directory.set_aside("session_log.jsonl", lines, reason=reason, at=now)
    with storage_errors(previous):
        previous_there = exists(directory.disk, previous)
    if previous_there:
        reason = f"{SNAPSHOT} was adopted; this was the snapshot before"
        directory.set_aside_link(previous, reason=reason, at=now)
    lives = _sessions(found)
    ended = await database.read(
        lambda connection: connection.execute(
            "SELECT session_id, session_key FROM sessions WHERE ended_at IS NOT NULL"
        ).fetchall()
    )
    await database.write(lambda tx: _take(tx, [one for one in ended if one in lives]))
    with storage_errors(previous):
        remove(directory.disk, previous)
    return Adopted(
        entries=len(found.table if isinstance(found, Trusted) else found.sessions),
        checked=isinstance(found, Trusted),
        log_rows_set_aside=len(rows),
        previous_set_aside=previous_there,
    )


def _log_rows(connection: Connection) -> list[dict[str, object]]:
    rows = connection.execute(
        "SELECT sequence, session_key, member FROM session_log ORDER BY sequence"
    )
    return [
        {"sequence": sequence, "session_key": key, **_entry_of(str(key), member)}
        for sequence, key, member in rows
    ]


def _entry_of(key: str, member: object) -> dict[str, object]:
    """Return what a row says of an entry; bytes that are none, as an adopted store may hold."""
    if not isinstance(member, bytes):
        return {"entry": None}

    try:
        return {"entry": orjson.loads(b"{%b}" % member)[key]}
    except (orjson.JSONDecodeError, KeyError):
        return {"unreadable": member.decode(errors="backslashreplace")}


def _sessions(found: Trusted | Unchecked) -> set[tuple[object, ...]]:
    """Return session ids and keys of a file's entries, valid or not: the next start looks."""
    if isinstance(found, Trusted):
        members = (member for shard in range(SHARDS) for member in found.table.members(shard))
        return {(_session_id(member), member[1:].partition(b'"')[0].decode()) for member in members}

    return {
        (raw["session_id"], key)
        for key, raw in found.sessions.items()
        if isinstance(raw, dict) and isinstance(raw.get("session_id"), str)
    }


def _session_id(member: bytes) -> str | None:
    try:
        return identity(member)[0]
    except EntryError:
        return None


def _take(transaction: Transaction, reopened: Sequence[tuple[object, ...]]) -> None:
    """Let the next start read the file as an import, with higher numbers than any before.

    A session of the file that had ended since goes on.
    """
    for one in reopened:
        transaction.execute(
            "UPDATE sessions SET ended_at = NULL, end_reason = NULL, member = NULL "
            "WHERE session_id = ? AND session_key = ?",
            one,
        )
    transaction.execute(
        "INSERT INTO store_state (name, value) "
        "SELECT 'last', coalesce(max(sequence), 0) FROM session_log WHERE true "
        "ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)"
    )
    transaction.execute("DELETE FROM session_log")
    # What is known of messages and of an erasure holds all the same.
    transaction.execute(
        "DELETE FROM store_state "
        "WHERE name NOT IN ('last', 'last_message', 'last_entry', 'audit_cut', 'erasing')"
    )
    transaction.execute("INSERT INTO store_state (name, value) VALUES ('taken', 1)")
