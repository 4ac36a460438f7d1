"""Projections: what stands in a context in place of a message of the transcript, for good.

A projection names what it stands for and how its bytes are made from it, so that the same bytes
come out of the transcript in every later request, also after a restart or a change of settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.model import Message, ProjectionMode
from gateway.text import whole

if TYPE_CHECKING:
    from gateway.model import Projection, TurnId

NOTE_CHARS: Final = 160
"""What the note of `trimmed` takes at most, with what a cut moves to part no character."""


def tool_item(turn_id: TurnId, call_id: str, occurrence: int) -> str:
    """Return the name of a tool result in its session.

    Args:
        turn_id: The turn it came in.
        call_id: The call it answers.
        occurrence: How many results of this turn to the same call came before it.
    """
    # The call id stands last, for a provider may write anything into it.
    return f"{turn_id}/{occurrence}/{call_id}"


def project(message: Message, projection: Projection) -> Message:
    """Return what stands in place of a tool result; call id and tool name stay."""
    if projection.mode is ProjectionMode.CLEAR:
        return _showing(message, projection.placeholder)

    text = message.text
    if len(text) > projection.max_chars:
        text = trimmed(text, projection.head_chars, projection.tail_chars)
    markers = [f"[image removed: {image.media_type}]" for image in message.images]
    return _showing(message, "\n".join(filter(None, (text, *markers))))


def _showing(message: Message, text: str) -> Message:
    """Return a tool result with another text and without images."""
    call_id, name = message.tool_call_id, message.tool_name
    return Message(message.role, text, (), call_id, name, message.turn_id)


def trimmed(text: str, head_chars: int, tail_chars: int) -> str:
    """Return beginning and end of a text with a note of what is missing; the text if that is less.

    The tail is up to 32 characters longer, so that no character people see is cut.
    """
    head = text[: whole(text, head_chars)]
    tail = text[whole(text, len(text) - tail_chars) :] if tail_chars else ""
    note = f"[trimmed: the first {len(head)} and the last {len(tail)} of {len(text)} characters]"
    return min(text, f"{head}\n...\n{tail}\n{note}", key=len)
