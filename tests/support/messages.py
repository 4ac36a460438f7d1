"""Stored messages, for tests of what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.model import AgentId, Message, Role, TurnId
from gateway.sessions.history import stamp
from gateway.transcripts import inbox, outbox
from gateway.transcripts.inbox import InboxRow
from gateway.transcripts.writing import append_messages
from tests.support.state import START, entry, key_of, source

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.durable.batch import Transaction
    from gateway.model import SessionId


def inbox_row(number: int, chat_id: str = "alice", *, text: str = "hello") -> InboxRow:
    """Return the row of a message `m<number>` and its turn."""
    return InboxRow(
        turn_id=TurnId(f"{chat_id}-t{number}"),
        session_key=key_of(chat_id),
        message_id=f"m{number}",
        agent=AgentId("main"),
        source=source(chat_id),
        text=text,
        reset=None,
        accepted_at=stamp(START),
    )


def commit_turn(
    transaction: Transaction,
    row: InboxRow,
    reply: str,
    *,
    at: datetime = START,
    session_id: SessionId | None = None,
) -> None:
    """Store an accepted message's end: both sides of its turn, and the reply handed out."""
    said = [
        Message(Role.USER, row.text, turn_id=row.turn_id),
        Message(Role.ASSISTANT, reply, turn_id=row.turn_id),
    ]
    session_id = session_id or entry(row.source.chat_id).session_id
    append_messages(transaction, session_id, said, at=stamp(at))
    outbox.add(transaction, row, reply=reply, at=stamp(at))
    inbox.remove(transaction, row)
