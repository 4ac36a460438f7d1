"""Adding to a transcript, inside a transaction. What is written here is never rewritten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from gateway.transcripts.gone import NEXT_POSITION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.durable.batch import Transaction
    from gateway.model import Message, ModelCall, SessionId, TurnId


_INSERT: Final = (
    "INSERT INTO messages (session_id, turn_id, role, text, tool_calls, tool_call_id, tool_name, "  # noqa: S608 - a text of ours
    f"images, created_at, position) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, {NEXT_POSITION})"
)
_MORE: Final = ", (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)"
_COLUMNS: Final = 9
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
            orjson.dumps(message.images).decode() if message.images else None,
            at,
        )
    for start in range(0, len(rows), _ROWS * _COLUMNS):
        part = rows[start : start + _ROWS * _COLUMNS]
        transaction.execute(_INSERT + _MORE * (len(part) // _COLUMNS - 1), part)


def append_model_calls(
    transaction: Transaction,
    session_id: SessionId,
    turn_id: TurnId,
    agent: str,
    calls: Sequence[ModelCall],
    verdicts: Sequence[str],
    prices: Sequence[float | None] | None = None,
) -> None:
    """Record each model call of a turn with what its provider counted.

    Args:
        transaction: Where.
        session_id: The conversation.
        turn_id: The turn.
        agent: Who made the calls.
        calls: In order.
        verdicts: What became of each call at the provider's prompt cache.
        prices: What each call cost in US dollars, None where that is not known; left out: of none
            it is.
    """
    of_turn = (session_id, turn_id, agent)
    prices = [None] * len(calls) if prices is None else prices
    for call, verdict, usd in zip(calls, verdicts, prices, strict=True):
        started_at = call.started_at.isoformat().replace("+00:00", "Z")
        usage = call.usage
        counts: tuple[int | None, ...] = (None,) * 6
        if usage is not None:
            counts = (
                usage.input_tokens,
                usage.output_tokens,
                usage.cache_read_tokens,
                usage.cache_write_tokens,
                usage.cache_write_1h_tokens,
                usage.reasoning_tokens,
            )
        transaction.execute(
            "INSERT INTO model_calls (session_id, turn_id, agent, model, started_at, "
            "input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, "
            "cache_write_1h_tokens, reasoning_tokens, cache_verdict, purpose, usd) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*of_turn, call.model, started_at, *counts, verdict, call.purpose.value, usd),
        )
