"""Accepted messages that are owed an answer: stored before they are acknowledged.

A row leaves with the commit of its turn: from then on the transcript has the message, and the
outbox its reply.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from gateway.errors import DamagedDataError
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


def find(place: Queries, key: SessionKey, message_id: str) -> InboxRow | None:
    """Return a message that is owed an answer."""
    rows = place.execute(
        f"SELECT {_COLUMNS} FROM inbox WHERE session_key = ? AND message_id = ?",  # noqa: S608 - constant column names
        (key, message_id),
    ).fetchall()
    return _row(rows[0]) if rows else None


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


def remove(transaction: Transaction, row: InboxRow) -> None:
    """Take out a message that is answered; its text is in the transcript."""
    transaction.execute(
        "DELETE FROM inbox WHERE session_key = ? AND message_id = ?",
        (row.session_key, row.message_id),
    )


def unfinished(connection: Connection) -> list[InboxRow]:
    """Return the messages that are owed an answer, in the order they came."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM inbox ORDER BY position"  # noqa: S608 - constant column names
    )
    found = []
    for row in rows:
        try:
            found.append(_row(row))
        except (KeyError, TypeError, ValueError) as exc:
            place = f"the inbox is damaged (turn {row[0]}); `gateway store check` says more"
            raise DamagedDataError(Path(connection.filename), place) from exc
    return found


def note_recovery(transaction: Transaction, row: InboxRow) -> None:
    """Note that a message runs again after a restart, before it does."""
    transaction.execute(
        "UPDATE inbox SET recoveries = ? WHERE session_key = ? AND message_id = ?",
        (row.recoveries, row.session_key, row.message_id),
    )


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
