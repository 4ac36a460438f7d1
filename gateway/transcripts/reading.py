"""Reading transcripts back: for people, and as the messages of a context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from gateway.model import Message, Role, SessionId, ToolCall, TurnId

if TYPE_CHECKING:
    from gateway.durable.connection import Connection
    from gateway.durable.database import Database
    from gateway.model import SessionKey

_COLUMNS = "position, turn_id, role, text, tool_calls, tool_call_id, tool_name, created_at"


@dataclass(frozen=True, slots=True)
class TranscriptRow:
    """One message as it was said."""

    position: int
    """Place in the order of all messages; grows."""
    message: Message
    created_at: str
    """When its turn was committed, RFC 3339 in UTC."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One session id that a key has or had."""

    session_id: SessionId
    started_at: str
    ended_at: str | None
    """None while it runs."""
    end_reason: str | None


async def read_transcript(
    database: Database, session_id: SessionId, *, after: int = 0, limit: int = 1000
) -> list[TranscriptRow]:
    """Return what was said in a session, oldest first, notices included.

    Args:
        database: Where it is.
        session_id: The conversation.
        after: Only rows with a greater position.
        limit: How many rows at most.
    """

    def query(connection: Connection) -> list[TranscriptRow]:
        rows = connection.execute(
            f"SELECT {_COLUMNS} FROM messages WHERE session_id = ? AND position > ? "  # noqa: S608 - constant column names
            "ORDER BY position LIMIT ?",
            (session_id, after, limit),
        )
        return [TranscriptRow(int(row[0]), _message(row), str(row[7])) for row in rows]

    return await database.read(query)


@dataclass(frozen=True, slots=True)
class ContextTail:
    """The newest whole turns of a session, as a model gets them."""

    messages: list[Message]
    """Oldest first, notices left out."""
    chars: int
    """Characters of the messages as they are stored."""
    older_turns: int
    """Turns before them, which were not read."""


async def read_context(database: Database, session_id: SessionId, *, max_chars: int) -> ContextTail:
    """Return the newest whole turns of a session that fit a number of characters.

    It reads no more than that, however long the session is.
    """

    def query(connection: Connection) -> ContextTail:
        rows: list[tuple[object, ...]] = []
        chars = 0
        for row in connection.execute(
            f"SELECT {_COLUMNS} FROM messages WHERE session_id = ? AND role <> 'notice' "  # noqa: S608 - constant column names
            "ORDER BY position DESC",
            (session_id,),
        ):
            chars += len(str(row[3])) + len(str(row[4] or ""))
            if chars > max_chars:
                # The turn this row belongs to does not fit as a whole.
                kept = [one for one in rows if one[1] != row[1]]
                older = connection.execute(
                    "SELECT count(DISTINCT turn_id) FROM messages "
                    "WHERE session_id = ? AND position <= ? AND role <> 'notice'",
                    (session_id, row[0]),
                ).fetchall()[0][0]
                return _tail(kept, int(str(older)))

            rows.append(row)
        return _tail(rows, 0)

    return await database.read(query)


def _tail(rows: list[tuple[object, ...]], older_turns: int) -> ContextTail:
    """Return rows that were read newest first."""
    chars = sum(len(str(row[3])) + len(str(row[4] or "")) for row in rows)
    return ContextTail([_message(row) for row in reversed(rows)], chars, older_turns)


async def sessions_of(database: Database, key: SessionKey) -> list[SessionRecord]:
    """Return the session ids a key has had, newest first."""

    def query(connection: Connection) -> list[SessionRecord]:
        rows = connection.execute(
            "SELECT session_id, started_at, ended_at, end_reason FROM sessions "
            "WHERE session_key = ? ORDER BY position DESC",
            (key,),
        )
        return [
            SessionRecord(
                SessionId(str(row[0])),
                str(row[1]),
                None if row[2] is None else str(row[2]),
                None if row[3] is None else str(row[3]),
            )
            for row in rows
        ]

    return await database.read(query)


def _message(row: tuple[object, ...]) -> Message:
    calls = orjson.loads(str(row[4])) if row[4] else ()
    return Message(
        role=Role(str(row[2])),
        text=str(row[3]),
        tool_calls=tuple(ToolCall(**call) for call in calls),
        tool_call_id=str(row[5] or ""),
        tool_name=str(row[6] or ""),
        turn_id=TurnId(str(row[1])),
    )
