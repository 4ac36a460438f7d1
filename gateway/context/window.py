"""How many of the oldest turns leave a context that no longer fits the window of a model.

Whole turns leave, so that a tool call never loses its result, and more than need be: each time the
beginning of the context changes, the provider's prompt cache is lost. What left stays out. A
summary in front of the turns never leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.context.counted import image_chars
from gateway.context.estimate import CHARS_PER_TOKEN_ESTIMATE
from gateway.model import Role, TurnId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.context.counted import CountedContext

FILL: Final = 0.75
"""What is left takes at most this share of the room, but for the newest turn alone."""


@dataclass(frozen=True, slots=True)
class Overflow:
    """The turns that leave a context."""

    messages: int
    """How many messages these are, from the first on; a summary in front is not counted."""
    turns: int
    last_turn: TurnId
    """The newest of them."""


def room_chars(
    window_tokens: int, reserve_tokens: int, other_tokens: int, tokens_per_estimate: float = 1.0
) -> int:
    """Return how many characters of context fit a window.

    Args:
        window_tokens: The size of the model's window.
        reserve_tokens: How much of it stays free for the answer.
        other_tokens: What a request carries beside the context.
        tokens_per_estimate: How many tokens are counted for each that is estimated.
    """
    room_tokens = (window_tokens - reserve_tokens - other_tokens) / tokens_per_estimate
    return int(room_tokens * CHARS_PER_TOKEN_ESTIMATE)


def overflow(context: CountedContext, room: int) -> Overflow | None:
    """Return which turns must leave a context for the rest to fit; None where all of it does.

    Args:
        context: Without the turn that runs, which always stays.
        room: What `room_chars` returned; where it is not positive, all turns leave.
    """
    return _oldest(context, context.sizes, context.chars, room)


def too_many_images(context: CountedContext, most_chars: int) -> Overflow | None:
    """Return which turns must leave a context for the images of the rest to be bearable.

    Args:
        context: Without the turn that runs.
        most_chars: What all images may take in memory, in base64.
    """
    if context.image_chars <= most_chars:
        return None

    weights = [image_chars(message) for message in context.messages]
    return _oldest(context, weights, context.image_chars, most_chars)


def _oldest(
    context: CountedContext, weights: Sequence[int], weight: int, most: int
) -> Overflow | None:
    """Return the oldest turns without which the rest is not heavier than it may be."""
    if weight <= most:
        return None

    messages, turns, first = 0, 0, context.begins
    newest = context.messages[-1].turn_id if context.messages else None
    last: TurnId | None = None
    for message, own in zip(context.messages[first:], weights[first:], strict=True):
        if message.turn_id != last:
            fits = weight <= (most if message.turn_id == newest else FILL * most)
            # Where rules took a question, its answer must not be what a request begins with.
            if fits and (first or message.role not in {Role.ASSISTANT, Role.TOOL}):
                break
            last = message.turn_id
            turns += 1
        weight -= own
        messages += 1
    return None if last is None else Overflow(messages, turns, last)
