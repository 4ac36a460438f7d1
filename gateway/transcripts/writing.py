"""Adding to a transcript, inside a transaction. What is written here is never rewritten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.durable.batch import Transaction
    from gateway.model import Message, ModelCall, SessionId, TurnId


_INSERT: Final = (
    "INSERT INTO messages (session_id, turn_id, role, text, tool_calls, tool_call_id, tool_name, "
    "created_at) VALUES "
)
_VALUES: Final = "(?, ?, ?, ?, ?, ?, ?, ?)"
_ROWS: Final = 100
"""Messages written by one statement."""


def append_messages(
    transaction: Transaction, session_id: SessionId, messages: Sequence[Message], *, at: str
) -> None:
    """Append messages to a session's transcript, in order."""
    rows: list[object] = []
    for message in messages:
        rows += (
            session_id,
            message.turn_id,
            message.role.value,
            message.text,
            orjson.dumps(message.tool_calls).decode() if message.tool_calls else None,
            message.tool_call_id or None,
            message.tool_name or None,
            at,
        )
    for start in range(0, len(rows), _ROWS * 8):
        part = rows[start : start + _ROWS * 8]
        transaction.execute(_INSERT + ", ".join([_VALUES] * (len(part) // 8)), part)


def append_model_calls(
    transaction: Transaction,
    session_id: SessionId,
    turn_id: TurnId,
    agent: str,
    calls: Sequence[ModelCall],
) -> None:
    """Record each model call of a turn with what its provider counted."""
    for call in calls:
        started_at = call.started_at.isoformat().replace("+00:00", "Z")
        usage = call.usage
        counts: tuple[int | None, ...] = (None,) * 4
        if usage is not None:
            counts = (
                usage.input_tokens,
                usage.output_tokens,
                usage.cache_read_tokens,
                usage.cache_write_tokens,
            )
        transaction.execute(
            "INSERT INTO model_calls (session_id, turn_id, agent, model, started_at, "
            "input_tokens, output_tokens, cache_read_tokens, cache_write_tokens) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (session_id, turn_id, agent, call.model, started_at, *counts),
        )
