"""What is noted of the replies to channels: tries, what became of them, and what was given up.

Each function changes one reply and, in the same transaction, when its chat is looked at next. A row
is found by its position and its id: a position may have been given anew once a session was erased.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.transcripts.outbox import OWED, queue, sortable, stamped
from gateway.transcripts.outbox_rows import Repeat

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.durable.batch import Transaction
    from gateway.transcripts.outbox_rows import OutboxRow

_OWED_CHATS: Final = f"SELECT chat, channel, '' FROM outbox WHERE {OWED}"  # noqa: S608 - a text of ours
_QUEUE_MISSING: Final = (
    f"INSERT INTO outbox_chats (chat, channel, due_at) {_OWED_CHATS} AND channel = ? "
    "GROUP BY chat ON CONFLICT (chat) DO NOTHING"
)
_LEAVE_ALL: Final = (
    f"DELETE FROM outbox_chats WHERE chat NOT IN (SELECT chat FROM outbox WHERE {OWED})"  # noqa: S608 - a text of ours
)
_LEAVE: Final = (
    f"DELETE FROM outbox_chats WHERE chat = ?1 AND NOT EXISTS ({_OWED_CHATS} AND chat = ?1)"  # noqa: S608 - a text of ours
)


def queue_missing(transaction: Transaction, channel: str) -> None:
    """Queue every chat that the channel owes something to and that is not queued."""
    transaction.execute(_QUEUE_MISSING, (channel,))


def leave_all(transaction: Transaction) -> None:
    """Take every chat out of the queue that is owed nothing."""
    transaction.execute(_LEAVE_ALL)


def note_sending(
    transaction: Transaction, row: OutboxRow, *, repeat: Repeat, at: datetime, shown_id: str = ""
) -> None:
    """Note a try, before it is made: from now on nobody knows what became of it.

    `repeat`: what is not known of the tries before it, however this one ends. `shown_id`: the
    message that it edits; a gateway that starts anew edits that again.
    """
    transaction.execute(
        "UPDATE outbox SET sending_at = ?, attempts = attempts + 1, repeated = ?, shown_id = ? "
        "WHERE position = ? AND turn_id = ?",
        (stamped(at), int(repeat), shown_id or None, row.position, row.delivery_id),
    )


def note_sent(
    transaction: Transaction, row: OutboxRow, *, chars: int, platform_id: str, at: datetime
) -> None:
    """Note that the text is sent up to a place; at its end the reply is sent, dead or not."""
    done = chars >= len(row.text)
    transaction.execute(
        "UPDATE outbox SET sending_at = NULL, shown_id = NULL, error = NULL, platform_id = ?1, "
        "sent_chars = ?2, "
        "sent_at = iif(?3, ?4, NULL), dead_at = iif(?3, NULL, dead_at), "
        "attempts = iif(?3, attempts, 0), repeated = iif(?3, repeated, 0) "
        "WHERE position = ?5 AND turn_id = ?6",
        (platform_id or None, chars, done, stamped(at), row.position, row.delivery_id),
    )
    _look_again(transaction, row, at)


def note_failed(
    transaction: Transaction,
    row: OutboxRow,
    *,
    error: str,
    unknown: bool,
    due_at: datetime,
    counts: bool = True,
) -> None:
    """Note that a try failed, or that nobody knows, and when the chat is looked at next.

    `counts`: whether it is one of those that a reply may have.
    """
    transaction.execute(
        "UPDATE outbox SET error = ?, sending_at = iif(?, sending_at, NULL), "
        "attempts = attempts - ? WHERE position = ? AND turn_id = ? AND dead_at IS NULL",
        (error, unknown, int(not counts), row.position, row.delivery_id),
    )
    _look_again(transaction, row, due_at)


def note_not_tried(
    transaction: Transaction, row: OutboxRow, *, due_at: datetime, anew: bool = False
) -> None:
    """Take back a try that came to nothing before it was made.

    `anew`: what it edits can be edited no more, and the reply is sent as a message of its own.
    """
    transaction.execute(
        "UPDATE outbox SET attempts = attempts - 1, sending_at = NULL, "
        "shown_id = iif(?, NULL, shown_id) WHERE position = ? AND turn_id = ? AND dead_at IS NULL",
        (int(anew), row.position, row.delivery_id),
    )
    _look_again(transaction, row, due_at)


def bury(
    transaction: Transaction, row: OutboxRow, *, error: str, at: datetime, unknown: bool = True
) -> None:
    """Make a dead letter of an owed reply; what is owed to its chat besides goes on.

    `unknown`: whether a try that was noted may have been shown.
    """
    transaction.execute(
        "UPDATE outbox SET dead_at = ?, error = ?, sending_at = iif(?, sending_at, NULL) "
        "WHERE position = ? AND turn_id = ? AND sent_at IS NULL AND dead_at IS NULL",
        (stamped(at), error, unknown, row.position, row.delivery_id),
    )
    _look_again(transaction, row, at)


def put_off(transaction: Transaction, row: OutboxRow, *, due_at: datetime) -> None:
    """Look at a chat later."""
    _look_again(transaction, row, due_at)


def revive(transaction: Transaction, row: OutboxRow, *, at: datetime) -> None:
    """Have an owed or dead reply sent now, with a new time to live and all its tries.

    Of a dead one that may have been sent, the next try is a repeat.
    """
    transaction.execute(
        "UPDATE outbox SET dead_at = NULL, error = NULL, attempts = 0, owed_since = ?1, "
        "repeated = iif(dead_at IS NULL OR sending_at IS NULL, repeated, "
        "max(repeated, iif(shown_id IS NULL, ?4, ?5))), "
        "sending_at = iif(dead_at IS NULL, sending_at, NULL), "
        "shown_id = iif(dead_at IS NULL, shown_id, NULL) "
        "WHERE position = ?2 AND turn_id = ?3 AND sent_at IS NULL",
        (sortable(at), row.position, row.delivery_id, Repeat.MESSAGE, Repeat.EDIT),
    )
    queue(transaction, row.channel, row.chat, at)
    _look_again(transaction, row, at)


def remove(transaction: Transaction, row: OutboxRow) -> None:
    """Delete a reply, and with it the memory of its message's id."""
    transaction.execute(
        "DELETE FROM outbox WHERE position = ? AND turn_id = ?", (row.position, row.delivery_id)
    )


def leave(transaction: Transaction, chat: str) -> None:
    """Take a chat out of the queue that is owed nothing."""
    transaction.execute(_LEAVE, (chat,))


def _look_again(transaction: Transaction, row: OutboxRow, at: datetime) -> None:
    leave(transaction, row.chat)
    transaction.execute(
        "UPDATE outbox_chats SET due_at = ? WHERE chat = ?", (sortable(at), row.chat)
    )
