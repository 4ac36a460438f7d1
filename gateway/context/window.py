"""Which messages of a session fit the window of a model.

Whole turns are left out, oldest first, so that a tool call never loses its result. Nothing is
shortened here, and the transcript is never touched: the choice is made anew for each turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.context.estimate import CHARS_PER_TOKEN_ESTIMATE, message_chars
from gateway.model import Message, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.model import TurnId


@dataclass(frozen=True, slots=True)
class FittedContext:
    """The part of a session that is sent to a model."""

    messages: tuple[Message, ...]
    """Oldest first, without notices."""
    chars: int
    """The size of the request, its overhead included."""
    turns_left_out: int
    """How many of the oldest turns are missing."""
    fits: bool
    """False where the last turn alone is too large; an agent must not be asked then."""


def fit_window(
    messages: Sequence[Message],
    *,
    window_tokens: int,
    reserve_tokens: int,
    overhead_chars: int,
    chars: int | None = None,
) -> FittedContext:
    """Leave out as few of the oldest whole turns as needed for the rest to fit.

    The last turn always stays, and so do messages that belong to no turn.

    Args:
        messages: A session's messages, oldest first.
        window_tokens: The size of the model's window.
        reserve_tokens: How much of it stays free for the answer.
        overhead_chars: What a request carries beside the messages.
        chars: The characters of all messages, where they are known and no notice is among them:
            then messages that all fit are not looked at.
    """
    room_chars = (window_tokens - reserve_tokens) * CHARS_PER_TOKEN_ESTIMATE
    if chars is not None and chars + overhead_chars <= room_chars:
        return FittedContext(tuple(messages), chars + overhead_chars, turns_left_out=0, fits=True)

    sent = [message for message in messages if message.role is not Role.NOTICE]
    turn_chars = _turn_chars(sent)
    chars = overhead_chars + sum(message_chars(message) for message in sent if not message.turn_id)

    kept: set[TurnId] = set()
    for turn_id, size in turn_chars.items():
        if kept and chars + size > room_chars:
            break
        kept.add(turn_id)
        chars += size

    return FittedContext(
        messages=tuple(
            message for message in sent if not message.turn_id or message.turn_id in kept
        ),
        chars=chars,
        turns_left_out=len(turn_chars) - len(kept),
        fits=chars <= room_chars,
    )


def _turn_chars(messages: Sequence[Message]) -> dict[TurnId, int]:
    """Return the characters of each turn, the turn of the last message first."""
    turn_chars: dict[TurnId, int] = {}
    for message in reversed(messages):
        if message.turn_id:
            size = turn_chars.get(message.turn_id, 0)
            turn_chars[message.turn_id] = size + message_chars(message)

    return turn_chars
