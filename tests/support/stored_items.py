"""Old messages and tool results in a database, and rules that take them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from gateway.model import Message, Role, SessionId, ToolCall, TurnId
from gateway.sessions.history import stamp
from gateway.transcripts.writing import append_messages

if TYPE_CHECKING:
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database

OLD: Final = datetime(2025, 6, 1, tzinfo=UTC)
"""When the first of the old messages was said."""
ANN: Final = "agent:main:http::dm:ann::"
BOB: Final = "agent:main:http::dm:bob::"
OLD_GO: Final = {
    "id": "old",
    "name": "Old ones go",
    "conditions": [{"type": "age", "max_age": "30d"}],
    "action": {"type": "delete"},
}
NO_PROTECTIONS: Final = {"keep_newest": 0, "min_age": "0s", "restored": "0s", "settle": "0s"}


def id_of(key: str) -> SessionId:
    """Return the id of the one conversation of a key."""
    return SessionId(f"s-{key.split(':')[5]}")


async def said(
    database: Database, count: int, key: str = ANN, *, at: datetime = OLD, chars: int = 100
) -> None:
    """Store so many messages of a session, a minute apart."""

    def work(transaction: Transaction) -> None:
        _begin(transaction, key, at)
        for number in range(count):
            role = (Role.USER, Role.ASSISTANT)[number % 2]
            one = Message(role, "x" * chars, turn_id=TurnId(f"t-{number // 2}"))
            append_messages(
                transaction, id_of(key), [one], at=stamp(at + timedelta(minutes=number))
            )

    await database.write(work)


async def used_a_tool(database: Database, key: str = ANN, *, at: datetime = OLD) -> None:
    """Store a turn that called a tool, with a result of 1,000 characters."""
    turn = TurnId("t-tool")
    call = ToolCall("c1", "look", "{}")

    def work(transaction: Transaction) -> None:
        _begin(transaction, key, at)
        messages = [
            Message(Role.USER, "look", turn_id=turn),
            Message(Role.ASSISTANT, "", turn_id=turn, tool_calls=(call,)),
            Message(Role.TOOL, "y" * 1_000, turn_id=turn, tool_call_id="c1", tool_name="look"),
            Message(Role.ASSISTANT, "seen", turn_id=turn),
        ]
        append_messages(transaction, id_of(key), messages, at=stamp(at))

    await database.write(work)


async def positions(database: Database) -> list[int]:
    """Return the positions of all messages."""
    return await database.read(
        lambda place: [row[0] for row in place.execute("SELECT position FROM messages ORDER BY 1")]
    )


def _begin(transaction: Transaction, key: str, at: datetime) -> None:
    transaction.execute(
        "INSERT OR IGNORE INTO sessions (session_id, session_key, started_at) VALUES (?, ?, ?)",
        (id_of(key), key, stamp(at)),
    )
