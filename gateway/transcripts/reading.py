"""Reading transcripts back: for people, and as the messages of a context.

Rules may have taken messages away, or made them shorter; what was done stands in `pruned_items`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from gateway.model import Image, Message, Role, SessionId, ToolCall, TurnId

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.durable.batch import Queries
    from gateway.durable.connection import Connection
    from gateway.durable.database import Database
    from gateway.model import SessionKey

_COLUMNS = "position, turn_id, role, text, tool_calls, tool_call_id, tool_name, created_at, images"
_GONE = "action IN ('delete', 'archive') AND state <> 'restored'"
"""Of `pruned_items`: what is not in the transcript any more."""


@dataclass(frozen=True, slots=True)
class TranscriptRow:
    """One message as it was said, or as rules have left it."""

    position: int
    """Place in the order of all messages; grows."""
    message: Message
    created_at: str
    """When its turn was committed, RFC 3339 in UTC."""
    shortened: str = ""
    """What rules made of its text: `summary`, `compacted`; empty: it is as it was said."""


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
            f"SELECT {_COLUMNS}, CAST(marks AS BLOB) FROM messages "  # noqa: S608 - constant column names
            "WHERE session_id = ? AND position > ? ORDER BY position LIMIT ?",
            (session_id, after, limit),
        )
        return [
            TranscriptRow(int(row[0]), _message(row), str(row[7]), _shortened(row[9]))
            for row in rows
        ]

    return await database.read(query)


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where the part of a session that is sent begins."""

    position: int = 0
    """The last message that is left out."""
    turns: int = 0
    """Turns that are left out."""
    last_answer: Message | None = None
    """What the agent said last in them."""


def beginning_after(
    connection: Queries, session_id: SessionId, turn_id: TurnId, through: int | None = None
) -> Beginning:
    """Return where a session goes on after a turn.

    Args:
        connection: Where it is.
        session_id: The conversation.
        turn_id: The turn.
        through: Its last message, of which nothing may be left; None: it is looked for, and a turn
            that is gone leaves nothing out.
    """
    position: object = through
    if position is None:
        position = connection.execute(
            "SELECT max(position) FROM messages WHERE session_id = ? AND turn_id = ?",
            (session_id, turn_id),
        ).fetchall()[0][0]
    if position is None:
        return Beginning()

    turns = connection.execute(
        "SELECT count(DISTINCT turn_id) FROM messages WHERE session_id = ? AND position <= ?",
        (session_id, position),
    ).fetchall()[0][0]
    answer = connection.execute(
        f"SELECT {_COLUMNS} FROM messages WHERE session_id = ? AND position <= ? "  # noqa: S608 - constant column names
        "AND role = 'assistant' ORDER BY position DESC LIMIT 1",
        (session_id, position),
    ).fetchall()
    return Beginning(int(str(position)), int(str(turns)), _message(answer[0]) if answer else None)


def turns_between(connection: Queries, session_id: SessionId, first: int, last: int) -> int:
    """Return how many turns have a message after a position and up to another one."""
    rows = connection.execute(
        "SELECT count(DISTINCT turn_id) FROM messages "
        "WHERE session_id = ? AND position > ? AND position <= ?",
        (session_id, first, last),
    ).fetchall()
    return int(str(rows[0][0]))


def newest_turn(connection: Queries, session_id: SessionId, until: int) -> TurnId | None:
    """Return the turn of the newest message up to a position; None where there is none."""
    rows = connection.execute(
        "SELECT turn_id FROM messages WHERE session_id = ? AND position <= ? "
        "ORDER BY position DESC LIMIT 1",
        (session_id, until),
    ).fetchall()
    return TurnId(str(rows[0][0])) if rows else None


def messages_after(connection: Queries, session_id: SessionId, position: int) -> Iterator[Message]:
    """Yield what was said in a session after a position, oldest first, without notices."""
    for _, message in placed_after(connection, session_id, position):
        yield message


def placed_after(
    connection: Queries, session_id: SessionId, position: int
) -> Iterator[tuple[int, Message]]:
    """Yield the same, each message with its position."""
    for row in connection.execute(
        f"SELECT {_COLUMNS} FROM messages WHERE session_id = ? AND position > ? "  # noqa: S608 - constant column names
        "AND role <> 'notice' ORDER BY position",
        (session_id, position),
    ):
        yield int(row[0]), _message(row)


def turn_backwards(connection: Queries, session_id: SessionId) -> list[Message]:
    """Return the newest turn of a session, its newest message first, without notices."""
    said: list[Message] = []
    for row in connection.execute(
        f"SELECT {_COLUMNS} FROM messages WHERE session_id = ? AND role <> 'notice' "  # noqa: S608 - constant column names
        "ORDER BY position DESC",
        (session_id,),
    ):
        message = _message(row)
        if said and message.turn_id != said[0].turn_id:
            break
        said.append(message)
    return said


def count_gone(connection: Queries, session_id: SessionId) -> int:
    """Return how many messages rules have taken from a session, as far as the audit reaches."""
    rows = connection.execute(
        f"SELECT count(*) FROM pruned_items WHERE session_id = ? AND {_GONE}",  # noqa: S608 - a text of ours
        (session_id,),
    ).fetchall()
    return int(str(rows[0][0]))


def count_gone_since(connection: Queries, session_id: SessionId, *, after: int, since: str) -> int:
    """Return how many messages after a position were taken since an instant and are not back."""
    count = 0
    # Newest first, so that an old audit is not read.
    for item, at, gone in connection.execute(
        f"SELECT item, at, {_GONE} FROM pruned_items WHERE session_id = ? "  # noqa: S608 - a text of ours
        "ORDER BY position DESC",
        (session_id,),
    ):
        if str(at) <= since:
            break
        count += bool(gone) and int(str(item)) > after
    return count


def is_changed_since(connection: Queries, session_id: SessionId, *, after: int, since: str) -> bool:
    """Return whether rules may have changed a message after a position since an instant.

    What came back counts whenever it went: nobody noted when it came.
    """
    return bool(
        connection.execute(
            "SELECT 1 FROM pruned_items WHERE session_id = ? AND item > ? "
            "AND (at > ? OR state = 'restored') LIMIT 1",
            (session_id, after, since),
        ).fetchall()
    )


async def beginnings(database: Database, session_ids: Sequence[SessionId]) -> dict[SessionId, str]:
    """Return what was said first in sessions, of those in which anything was."""

    def query(connection: Connection) -> dict[SessionId, str]:
        found = {}
        for session_id in session_ids:
            row = connection.execute(
                "SELECT substr(text, 1, 1000) FROM messages "
                "WHERE session_id = ? AND role = 'user' ORDER BY position LIMIT 1",
                (session_id,),
            ).fetchone()
            if row is not None:
                found[session_id] = str(row[0])
        return found

    return await database.read(query)


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


def session_ids_of(connection: Queries, session: str) -> tuple[str, ...]:
    """Return the ids of the conversations of a session key: the oldest first, the present one last.

    That is not always the newest, for an undo brings back the one before. The id of a conversation
    stands for itself; what nobody knows has none.
    """
    rows = connection.execute(
        "SELECT session_id FROM sessions WHERE session_key = ? OR session_id = ? "
        "ORDER BY ended_at IS NULL, position",
        (session, session),
    )
    return tuple(str(row[0]) for row in rows)


def _shortened(marks: object) -> str:
    try:
        made = orjson.loads(marks) if isinstance(marks, bytes) else {}
    except ValueError:
        made = {}
    if not isinstance(made, dict):
        return ""  # Damage of the marks is no damage of what was said.
    if made.get("summary") == "made":
        return "summary"

    # A ratio is noted also where nothing could be gained; the content is the item's whole then.
    return "compacted" if made.get("ratio") is not None else ""


def _message(row: tuple[object, ...]) -> Message:
    calls = orjson.loads(str(row[4])) if row[4] else ()
    return Message(
        role=Role(str(row[2])),
        text=str(row[3]),
        tool_calls=tuple(ToolCall(**call) for call in calls),
        tool_call_id=str(row[5] or ""),
        tool_name=str(row[6] or ""),
        turn_id=TurnId(str(row[1])),
        images=tuple(Image(**image) for image in orjson.loads(str(row[8]))) if row[8] else (),
    )
