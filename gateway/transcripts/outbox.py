"""Committed replies, one to a message, until well after they are delivered.

A client of the HTTP API fetches its replies: they are sent with their commit, and the row then
serves the same message id coming again. To every other platform, a channel, a reply is *owed* until
it is sent or dead. `outbox_chats` holds each chat that is owed something, and when it is looked at
next; a chat too many there is harmless. `outbox_rows` reads what is owed, `outbox_changes` notes
what became of it; what is done about it is decided above, in `gateway.delivery`.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.durable.batch import Queries, Transaction
    from gateway.model import SessionKey, SessionSource
    from gateway.transcripts.inbox import InboxRow

ANSWERED: Final = "answered"
"""Status of a reply to a message that was meant for the question of the turn that runs."""
COMMAND: Final = "command"
"""Status of a reply to a command."""
NOTICE: Final = "notice"
"""Status of what the gateway tells without having been asked."""
RETRACTED: Final = "retracted"
"""Status of the empty reply to a message that its sender took back in time."""
WITHOUT_TURN: Final = (ANSWERED, COMMAND, NOTICE, RETRACTED)
"""Stored replies of these leave nothing in a transcript that bears their turn's id, or need not."""
FETCHING: Final = frozenset({"http", "openai"})
"""The platforms whose clients fetch their replies."""
OWED: Final = "channel IS NOT NULL AND sent_at IS NULL AND dead_at IS NULL"
"""The rows that are owed to a channel, in SQL."""


def add(transaction: Transaction, row: InboxRow, *, reply: str, at: str) -> None:
    """Store the reply (JSON text) to an accepted message: as handed out, or owed to a channel."""
    source = row.source
    if source.platform in FETCHING:
        transaction.execute(
            "INSERT INTO outbox "
            "(session_key, message_id, turn_id, platform, reply, created_at, sent_at) "
            "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
            (row.session_key, row.message_id, row.turn_id, source.platform, reply, at),
        )
        return

    channel, chat = channel_of(source.platform, source.account), chat_of(source)
    since = datetime.fromisoformat(at)
    transaction.execute(
        "INSERT INTO outbox (session_key, message_id, turn_id, platform, reply, created_at, "
        "owed_since, channel, chat, source, reply_to) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(row.session_key, row.message_id, row.turn_id, source.platform, reply, at),
            *(sortable(since), channel, chat, orjson.dumps(source).decode()),
            row.platform_id,
        ),
    )
    queue(transaction, channel, chat, since)


def channel_of(platform: str, account: str) -> str:
    """Return the name of a channel among all channels."""
    return f"{platform}/{account}"


def chat_of(source: SessionSource) -> str:
    """Return what names a chat among all chats of all channels."""
    chat = source.chat_id or source.user_id
    parts = (source.platform, source.account, chat, source.thread_id)
    return orjson.dumps(parts).decode()


def reply_to(place: Queries, key: SessionKey, message_id: str) -> str | None:
    """Return the stored reply to a message."""
    row = place.execute(
        "SELECT reply FROM outbox WHERE session_key = ? AND message_id = ?", (key, message_id)
    ).fetchone()
    return None if row is None else str(row[0])


def newest_first(place: Queries, key: SessionKey) -> Iterator[tuple[str, datetime, str]]:
    """Yield the id of each message of a session that has a reply, with when and what that was."""
    for message_id, at, reply in place.execute(
        "SELECT message_id, created_at, reply FROM outbox WHERE session_key = ? "
        "ORDER BY position DESC",
        (key,),
    ):
        yield str(message_id), datetime.fromisoformat(str(at)), str(reply)


def discard_sent(transaction: Transaction, *, before: str, limit: int) -> int:
    """Delete replies sent before an instant; return how many."""
    return _discard(transaction, "sent_at < ?", before, limit)


def discard_dead(transaction: Transaction, *, before: str, limit: int) -> int:
    """Delete replies given up before an instant; return how many."""
    return _discard(transaction, "dead_at < ?", before, limit)


def queue(transaction: Transaction, channel: str, chat: str, at: datetime) -> None:
    """Have a chat looked at, unless that is planned already."""
    transaction.execute(
        "INSERT INTO outbox_chats (chat, channel, due_at) VALUES (?, ?, ?) "
        "ON CONFLICT (chat) DO NOTHING",
        (chat, channel, sortable(at)),
    )


def stamped(at: datetime) -> str:
    """Return an instant as it stands elsewhere in the database."""
    return at.isoformat().replace("+00:00", "Z")


def sortable(at: datetime) -> str:
    """Return an instant so that instants compare as texts do."""
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _discard(transaction: Transaction, condition: str, before: str, limit: int) -> int:
    chosen = f"SELECT position FROM outbox WHERE {condition} LIMIT ?"  # noqa: S608 - a text of ours
    transaction.execute(
        f"DELETE FROM outbox WHERE position IN ({chosen})",  # noqa: S608 - a text of ours
        (before, limit),
    )
    return transaction.connection.changes()
