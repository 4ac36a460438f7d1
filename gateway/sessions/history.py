"""Every session id there ever was under a key, so that a reset or a prune can be undone.

SQL over the table `sessions`; the rows of ended sessions keep their last entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.model import SessionId
from gateway.sessions.entry import decode_member, encode_member

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from gateway.durable.batch import Transaction
    from gateway.durable.connection import Connection
    from gateway.model import SessionKey
    from gateway.sessions.entry import SessionEntry


_ENDED: Final = (
    "INSERT INTO sessions (session_id, session_key, started_at, ended_at, end_reason, member) "
    "VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (session_id) DO UPDATE "
    "SET ended_at = ?4, end_reason = ?5, member = ?6 WHERE session_key = ?2"
)


@dataclass(frozen=True, slots=True)
class Ended:
    """A session that ended, and why."""

    session_id: SessionId
    reason: str


def record_started(transaction: Transaction, entry: SessionEntry) -> None:
    """Note a session id under its key; one that comes back after an undo is open again."""
    transaction.execute(
        "INSERT INTO sessions (session_id, session_key, started_at) VALUES (?, ?, ?) "
        "ON CONFLICT (session_id) DO UPDATE SET ended_at = NULL, end_reason = NULL, member = NULL "
        "WHERE session_key = excluded.session_key",
        (entry.session_id, entry.session_key, stamp(entry.created_at)),
    )


def record_ended(
    transaction: Transaction, entry: SessionEntry, *, reason: str, at: datetime
) -> None:
    """Note that a session ended, and keep its entry."""
    row = (entry.session_id, entry.session_key, stamp(entry.created_at))
    transaction.execute(_ENDED, (*row, stamp(at), reason, encode_member(entry)))


def record_pruned(
    transaction: Transaction,
    key: SessionKey,
    session_id: SessionId,
    member: bytes,
    *,
    created_at: str,
    at: str,
) -> None:
    """Note that an entry, given as its bytes, was pruned, and keep it."""
    transaction.execute(_ENDED, (session_id, key, created_at, at, "pruned", member))


def last_ended(transaction: Transaction, key: SessionKey) -> Ended | None:
    """Return the session of a key that ended last."""
    row = transaction.execute(
        "SELECT session_id, end_reason FROM sessions "
        "WHERE session_key = ? AND ended_at IS NOT NULL ORDER BY ended_at DESC, position DESC "
        "LIMIT 1",
        (key,),
    ).fetchone()
    return None if row is None else Ended(SessionId(str(row[0])), str(row[1]))


def ended_entry(
    transaction: Transaction, key: SessionKey, session_id: SessionId
) -> SessionEntry | None:
    """Return the entry an ended session had when it ended."""
    row = transaction.execute(
        "SELECT member FROM sessions WHERE session_id = ? AND session_key = ? "
        "AND member IS NOT NULL",
        (session_id, key),
    ).fetchone()
    return None if row is None else decode_member(key, row[0])


def change_ended(
    transaction: Transaction,
    key: SessionKey,
    session_id: SessionId,
    change: Callable[[SessionEntry], SessionEntry],
) -> None:
    """Change the entry that an ended session had when it ended; none is no error."""
    before = ended_entry(transaction, key, session_id)
    if before is not None:
        transaction.execute(
            "UPDATE sessions SET member = ? WHERE session_id = ? AND session_key = ?",
            (encode_member(change(before)), session_id, key),
        )


def probe(transaction: Transaction) -> None:
    """Write something that means nothing."""
    transaction.execute(
        "INSERT INTO store_state (name, value) VALUES ('probes', 1) "
        "ON CONFLICT (name) DO UPDATE SET value = value + 1"
    )


def owner_of(connection: Connection, session_id: SessionId) -> str | None:
    """Return the key that has or had a session id."""
    row = connection.execute(
        "SELECT session_key FROM sessions WHERE session_id = ?", (session_id,)
    ).fetchone()
    return None if row is None else str(row[0])


def stamp(at: datetime) -> str:
    """Return an instant as it stands in the database and in `sessions.json`."""
    return at.isoformat().replace("+00:00", "Z")
