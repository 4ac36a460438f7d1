"""Accepted messages that are owed an answer: stored before they are acknowledged.

A row leaves with the commit of its turn: from then on the transcript has the message, and the
outbox its reply.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.errors import DamagedDataError
from gateway.model import AgentId, ChatType, SessionId, SessionKey, SessionSource, TurnId

if TYPE_CHECKING:
    from gateway.durable.batch import Queries, Transaction
    from gateway.durable.connection import Connection

_COLUMNS = (
    "turn_id, session_key, message_id, agent, source, text, reset, accepted_at, recoveries, "
    "session_id, origin, begun, ended, continues, asked"
)


_WAITS: Final = (
    "session_key = ? AND message_id = ? AND begun = 0 AND recoveries = 0 AND ended IS NULL"
)
OWN_ID: Final = "\x1f"
"""What message ids of the gateway's own begin with: no client can send one with it."""
_NONE: Final = SessionId("")
_NO_TURN: Final = TurnId("")


class Origin(StrEnum):
    """Who a message comes from."""

    USER = "user"
    COMPACT = "compact"
    """A user who asks for a summary of the old part of the conversation."""
    PROCESS = "process"
    """A background process that has ended: no interaction of the user."""


class Ending(StrEnum):
    """Why a message that was accepted is not answered by an agent any more."""

    STOP = "stop"
    """Its user stopped the session."""
    NEW = "new"
    """Its conversation was left for another one."""
    SUPERSEDED = "superseded"
    """Another message was to interrupt it."""
    RESTARTS = "restarts"
    """Its session broke too many starts."""
    RETRACTED = "retracted"
    """Its sender took it back before its turn began."""


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
    """How often a stop of the gateway cut its turn off; one that only waited was not cut off."""
    session_id: SessionId = _NONE
    """The conversation it was accepted in; empty where an older gateway did."""
    origin: Origin = Origin.USER
    begun: bool = False
    """Whether its turn may have begun since the last start."""
    ended: Ending | None = None
    """Why no agent is asked any more; None for most."""
    continues: TurnId = _NO_TURN
    """The turn that goes on with the results of its caller's tools; empty: it is one of its own."""
    asked: dict[str, Any] | None = None
    """What a client asks of the answer beside the text; None for most."""

    @property
    def platform_id(self) -> str:
        """The platform's id of the message, by which an answer refers to it; empty: it has none."""
        if self.origin is not Origin.USER or self.message_id == self.turn_id:
            return ""

        return self.message_id.rpartition(OWN_ID)[2]


def linked_id(source: SessionSource, message_id: str) -> str:
    """Return a message id that is unique in a session with messages of several platforms."""
    # No id of a platform holds what stands between them.
    return OWN_ID.join(("", source.platform, source.account, source.chat_id, message_id))


def find(place: Queries, key: SessionKey, message_id: str) -> InboxRow | None:
    """Return a message that is owed an answer."""
    rows = place.execute(
        f"SELECT {_COLUMNS} FROM inbox WHERE session_key = ? AND message_id = ?",  # noqa: S608 - constant column names
        (key, message_id),
    ).fetchall()
    return _row(rows[0]) if rows else None


def newest(place: Queries, key: SessionKey) -> InboxRow | None:
    """Return the last message of a session that is owed an answer."""
    rows = place.execute(
        f"SELECT {_COLUMNS} FROM inbox WHERE session_key = ? ORDER BY position DESC LIMIT 1",  # noqa: S608 - constant column names
        (key,),
    ).fetchall()
    return _row(rows[0]) if rows else None


def accept(transaction: Transaction, row: InboxRow) -> None:
    """Store a message."""
    transaction.execute(
        f"INSERT INTO inbox ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - constant column names
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
            row.session_id,
            row.origin.value,
            int(row.begun),
            None if row.ended is None else row.ended.value,
            row.continues or None,
            None if row.asked is None else orjson.dumps(row.asked).decode(),
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


def is_owed_any(place: Queries, key: SessionKey) -> bool:
    """Return whether a message of a session waits, is being answered, or is ended just now."""
    rows = place.execute("SELECT 1 FROM inbox WHERE session_key = ? LIMIT 1", (key,)).fetchall()
    return bool(rows)


def note_begun(transaction: Transaction, row: InboxRow) -> None:
    """Note that a message's turn begins, for the first time or once more after a restart."""
    transaction.execute(
        "UPDATE inbox SET begun = 1, recoveries = ? WHERE session_key = ? AND message_id = ?",
        (row.recoveries, row.session_key, row.message_id),
    )


def change_text(transaction: Transaction, row: InboxRow, text: str) -> bool:
    """Let a message that waits read otherwise; False where its turn has begun or is not owed."""
    transaction.execute(f"UPDATE inbox SET text = ? WHERE {_WAITS}", (text, *_waits(row)))  # noqa: S608 - a text of ours
    return transaction.connection.changes() > 0


def end_waiting(transaction: Transaction, row: InboxRow, why: Ending) -> bool:
    """Note that no agent answers a message that waits; False where its turn has begun or ended."""
    transaction.execute(f"UPDATE inbox SET ended = ? WHERE {_WAITS}", (why.value, *_waits(row)))  # noqa: S608 - a text of ours
    return transaction.connection.changes() > 0


def end_all(transaction: Transaction, key: SessionKey, why: Ending) -> list[TurnId]:
    """Note that no agent answers what was accepted of a session so far; return the turns."""
    rows = transaction.execute(
        "SELECT turn_id FROM inbox WHERE session_key = ? AND ended IS NULL", (key,)
    ).fetchall()
    if rows:
        transaction.execute(
            "UPDATE inbox SET ended = ? WHERE session_key = ? AND ended IS NULL", (why.value, key)
        )
    return [TurnId(str(turn_id)) for (turn_id,) in rows]


def _waits(row: InboxRow) -> tuple[str, str]:
    return row.session_key, row.message_id


def _row(row: tuple[object, ...]) -> InboxRow:
    turn_id, key, message_id, agent, source, text, reset, accepted_at, *rest = row
    recoveries, session_id, origin, begun, ended, continues, asked = rest
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
        session_id=SessionId(str(session_id)),
        origin=Origin(str(origin)),
        begun=bool(begun),
        ended=None if ended is None else Ending(str(ended)),
        continues=_NO_TURN if continues is None else TurnId(str(continues)),
        asked=None if asked is None else orjson.loads(str(asked)),
    )
