"""What a session is told that none of its users asked for: how a background process has ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.durable.batch import Transaction
from gateway.errors import BusyError
from gateway.model import AgentId, Message, Role, SessionId, SessionKey, SessionSource, TurnId
from gateway.sessions.history import stamp
from gateway.transcripts import inbox, outbox
from gateway.transcripts.inbox import InboxRow, Origin
from gateway.transcripts.outbox import NOTICE
from gateway.transcripts.writing import append_messages
from gateway.turns.records import encode_reply, reply_without_turn

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.sessions.store import SessionStore


MAX_UNASKED: Final = 5
"""So many ends of processes in a row become turns; further ones are told to the user alone."""


@dataclass(frozen=True, slots=True)
class Report:
    """Something to be told once."""

    message_id: str
    """Unique in the session."""
    key: SessionKey
    session_id: SessionId
    """The conversation that it comes from."""
    agent: AgentId
    source: SessionSource
    """Where an answer goes."""
    text: str
    as_turn: bool
    """Whether the agent is given it as a message; else its user alone is told."""
    settle: Callable[[Transaction], bool]
    """Notes in the same transaction that it is told; False where it was before."""


class Unasked:
    """Turns that no user asked for: processes that start each other must not go on without end."""

    def __init__(self, spend: Callable[[SessionKey, str], None]) -> None:
        """Start with none; `spend` takes a message from the rates of a session and a user."""
        self._spend = spend
        self._in_a_row: dict[SessionKey, int] = {}

    def may(self, key: SessionKey, user: str) -> bool:
        """Return whether a session may have one more, and count it."""
        count = self._in_a_row.get(key, 0) + 1
        if count > MAX_UNASKED:
            return False

        try:
            self._spend(key, user)
        except BusyError:
            return False

        self._in_a_row[key] = count
        return True

    def forget(self, key: SessionKey) -> None:
        """Begin anew: the user has written, or the session is gone."""
        self._in_a_row.pop(key, None)


def take_report(
    transaction: Transaction, store: SessionStore, report: Report, turn_id: TurnId, at: datetime
) -> InboxRow | None:
    """Store what is told; return what is owed a turn, None where nothing is.

    Nothing is told that was told before. A turn it becomes only in the conversation that it comes
    from, and not while that is paused: else its user is told without one.
    """
    if not report.settle(transaction):
        return None

    entry = store.find_staged(report.key)
    row = InboxRow(
        turn_id=turn_id,
        session_key=report.key,
        message_id=report.message_id,
        agent=report.agent,
        source=report.source,
        text=report.text,
        reset=None,
        accepted_at=stamp(at),
        session_id=report.session_id,
        origin=Origin.PROCESS,
    )
    goes_on = entry is not None and entry.session_id == report.session_id
    if report.as_turn and goes_on and entry is not None and entry.suspended_at is None:
        inbox.accept(transaction, row)
        return row

    told = Message(Role.NOTICE, report.text, turn_id=turn_id)
    append_messages(transaction, report.session_id, [told], at=stamp(at))
    reply = reply_without_turn(report.key, entry, report.text, NOTICE, turn_id)
    outbox.add(transaction, row, reply=encode_reply(reply), at=stamp(at))
    return None
