"""Accepted messages: stored before they are acknowledged, one row for one platform message id.

A row without `finished_at` is owed an answer. The text leaves the row when its turn is committed:
from then on the transcript has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from gateway.model import AgentId, ChatType, SessionKey, SessionSource, TurnId

if TYPE_CHECKING:
    from gateway.durable.batch import Queries, Transaction
    from gateway.durable.connection import Connection

_COLUMNS = "turn_id, session_key, message_id, agent, source, text, reset, accepted_at, recoveries"


@dataclass(frozen=True, slots=True)
class InboxRow:
    """An accepted message."""

    turn_id: TurnId
    session_key: SessionKey
    message_id: str
    """The platform's id; the turn's own id where it gave none."""
    agent: AgentId
    source: SessionSource
    text: str
    reset: dict[str, str | None] | None
    """The reset this message caused, told in its reply."""
    accepted_at: str
    """RFC 3339 in UTC."""
    recoveries: int = 0
    """How often it was run again after a restart; one that only waited has not been run."""


def find(place: Queries, key: SessionKey, message_id: str) -> tuple[TurnId, bool] | None:
    """Return the turn of a message accepted before, and whether it has ended."""
    row = place.execute(
        "SELECT turn_id, finished_at IS NOT NULL FROM inbox "
        "WHERE session_key = ? AND message_id = ?",
        (key, message_id),
    ).fetchone()
    return None if row is None else (TurnId(str(row[0])), bool(row[1]))


def accept(transaction: Transaction, row: InboxRow) -> None:
    """Store a message."""
    transaction.execute(
        f"INSERT INTO inbox ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - constant column names
        (
            row.turn_id,
            row.session_key,
            row.message_id,
            row.agent,
            orjson.dumps(row.source).decode(),
            row.text,
            None if row.reset is None else orjson.dumps(row.reset).decode(),
            row.accepted_at,
            row.recoveries,
        ),
    )


def finish(transaction: Transaction, row: InboxRow, *, at: str) -> None:
    """Note that a message is answered; its text is in the transcript."""
    transaction.execute(
        "UPDATE inbox SET finished_at = ?, text = '' WHERE session_key = ? AND message_id = ?",
        (at, row.session_key, row.message_id),
    )


def unfinished(connection: Connection) -> list[InboxRow]:
    """Return the messages that are owed an answer, in the order they came."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM inbox WHERE finished_at IS NULL ORDER BY position"  # noqa: S608 - constant column names
    )
    return [_row(row) for row in rows]


def load(place: Queries, key: SessionKey, message_id: str) -> InboxRow:
    """Return the row of a message that `find` has found."""
    row = place.execute(
        f"SELECT {_COLUMNS} FROM inbox WHERE session_key = ? AND message_id = ?",  # noqa: S608 - constant column names
        (key, message_id),
    ).fetchall()[0]
    return _row(row)


def note_recovery(transaction: Transaction, row: InboxRow) -> None:
    """Note that a message runs again after a restart, before it does."""
    transaction.execute(
        "UPDATE inbox SET recoveries = ? WHERE session_key = ? AND message_id = ?",
        (row.recoveries, row.session_key, row.message_id),
    )


def discard_finished(transaction: Transaction, *, before: str, limit: int) -> int:
    """Delete answered messages older than an instant; return how many."""
    transaction.execute(
        "DELETE FROM inbox WHERE position IN "
        "(SELECT position FROM inbox WHERE finished_at < ? LIMIT ?)",
        (before, limit),
    )
    return transaction.connection.changes()


def _row(row: tuple[object, ...]) -> InboxRow:
    turn_id, key, message_id, agent, source, text, reset, accepted_at, recoveries = row
    fields = orjson.loads(str(source))
    fields["chat_type"] = ChatType(fields["chat_type"])
    return InboxRow(
        turn_id=TurnId(str(turn_id)),
        session_key=SessionKey(str(key)),
        message_id=str(message_id),
        agent=AgentId(str(agent)),
        source=SessionSource(**fields),
        text=str(text),
        reset=None if reset is None else orjson.loads(str(reset)),
        accepted_at=str(accepted_at),
        recoveries=int(str(recoveries)),
    )
