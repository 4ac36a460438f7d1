"""What a session is told that none of its users asked for: how a background process has ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.durable.batch import Transaction
from gateway.model import AgentId, Message, Role, SessionKey, SessionSource, TurnId
from gateway.sessions.history import stamp
from gateway.transcripts import inbox, outbox
from gateway.transcripts.inbox import InboxRow, Origin
from gateway.transcripts.outbox import NOTICE
from gateway.transcripts.writing import append_messages
from gateway.turns.records import encode_reply, reply_without_turn

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.sessions.store import SessionStore


@dataclass(frozen=True, slots=True)
class Report:
    """Something to be told once."""

    message_id: str
    """Unique in the session."""
    key: SessionKey
    agent: AgentId
    source: SessionSource
    """Where an answer goes."""
    text: str
    as_turn: bool
    """Whether the agent is given it as a message; else its user alone is told."""
    settle: Callable[[Transaction], bool]
    """Notes in the same transaction that it is told; False where it was before."""


def take_report(
    transaction: Transaction, store: SessionStore, report: Report, turn_id: TurnId, at: datetime
) -> InboxRow | None:
    """Store what is told; return what is owed a turn, None where nothing is.

    Nothing is told that was told before, nor where nobody is there any more. A paused session has
    no turns: its user is told without one.
    """
    if not report.settle(transaction):
        return None

    entry = store.find_staged(report.key)
    if entry is None:
        return None

    row = InboxRow(
        turn_id=turn_id,
        session_key=report.key,
        message_id=report.message_id,
        agent=report.agent,
        source=report.source,
        text=report.text,
        reset=None,
        accepted_at=stamp(at),
        session_id=entry.session_id,
        origin=Origin.PROCESS,
    )
    if report.as_turn and entry.suspended_at is None:
        inbox.accept(transaction, row)
        return row

    told = Message(Role.NOTICE, report.text, turn_id=turn_id)
    append_messages(transaction, entry.session_id, [told], at=stamp(at))
    reply = reply_without_turn(report.key, entry, report.text, NOTICE, turn_id)
    outbox.add(transaction, row, reply=encode_reply(reply), at=stamp(at))
    return None
