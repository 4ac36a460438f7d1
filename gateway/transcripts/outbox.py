"""Committed replies, until well after they are delivered.

A platform that fetches its replies, as an HTTP client does, has them "sent" with their commit: the
row then serves the same message id coming again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.durable.batch import Queries, Transaction
    from gateway.model import SessionKey, TurnId


def add(
    transaction: Transaction,
    turn_id: TurnId,
    key: SessionKey,
    *,
    platform: str,
    reply: str,
    at: str,
) -> None:
    """Store a reply (JSON text), as handed out at once."""
    transaction.execute(
        "INSERT INTO outbox (turn_id, session_key, platform, reply, created_at, sent_at) "
        "VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
        (turn_id, key, platform, reply, at),
    )


def reply_of(place: Queries, turn_id: TurnId) -> str | None:
    """Return the stored reply of a turn."""
    row = place.execute("SELECT reply FROM outbox WHERE turn_id = ?", (turn_id,)).fetchone()
    return None if row is None else str(row[0])


def discard_sent(transaction: Transaction, *, before: str, limit: int) -> int:
    """Delete replies sent before an instant; return how many."""
    transaction.execute(
        "DELETE FROM outbox WHERE position IN "
        "(SELECT position FROM outbox WHERE sent_at < ? LIMIT ?)",
        (before, limit),
    )
    return transaction.connection.changes()
