"""Committed replies, one to a message, until well after they are delivered.

A platform that fetches its replies, as an HTTP client does, has them "sent" with their commit: the
row then serves the same message id coming again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.durable.batch import Queries, Transaction
    from gateway.model import SessionKey
    from gateway.transcripts.inbox import InboxRow


def add(transaction: Transaction, row: InboxRow, *, reply: str, at: str) -> None:
    """Store the reply (JSON text) to an accepted message, as handed out at once."""
    transaction.execute(
        "INSERT INTO outbox "
        "(session_key, message_id, turn_id, platform, reply, created_at, sent_at) "
        "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
        (row.session_key, row.message_id, row.turn_id, row.source.platform, reply, at),
    )


def reply_to(place: Queries, key: SessionKey, message_id: str) -> str | None:
    """Return the stored reply to a message."""
    row = place.execute(
        "SELECT reply FROM outbox WHERE session_key = ? AND message_id = ?", (key, message_id)
    ).fetchone()
    return None if row is None else str(row[0])


def discard_sent(transaction: Transaction, *, before: str, limit: int) -> int:
    """Delete replies sent before an instant; return how many."""
    transaction.execute(
        "DELETE FROM outbox WHERE position IN "
        "(SELECT position FROM outbox WHERE sent_at < ? LIMIT ?)",
        (before, limit),
    )
    return transaction.connection.changes()
