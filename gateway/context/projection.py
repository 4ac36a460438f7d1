"""Projections: what stands in a context in place of a message of the transcript, for good.

A projection names what it stands for and how its bytes are made from it, so that the same bytes
come out of the transcript in every later request, also after a restart or a change of settings.
"""

from __future__ import annotations

import unicodedata
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from gateway.model import Message, ProjectionMode

if TYPE_CHECKING:
    from gateway.model import Projection, TurnId

_ZWJ: Final = "\u200d"
_EXTENDING: Final = frozenset(
    "\u0e33\u0eb3\u200c\u200d\uff9e\uff9f"
    + "".join(map(chr, (*range(0x1160, 0x1200), *range(0x1F3FB, 0x1F400))))
    + "".join(map(chr, range(0xE0020, 0xE0080)))
)
"""What belongs to the character before it and is no mark: joiners, Hangul vowels and finals, skin
tones, the letters of tagged flags."""
_FLAG_LETTERS: Final = frozenset(map(chr, range(0x1F1E6, 0x1F200)))
_MAX_BACK: Final = 32
"""Code points that a cut moves at most to keep a character whole.

Source: UAX 15, Stream-Safe Text Format: 30 marks at most follow a character that anybody wrote."""


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
    head = text[: _whole(text, head_chars)]
    tail = text[_whole(text, len(text) - tail_chars) :] if tail_chars else ""
    note = f"[trimmed: the first {len(head)} and the last {len(tail)} of {len(text)} characters]"
    return min(text, f"{head}\n...\n{tail}\n{note}", key=len)


def _whole(text: str, place: int) -> int:
    """Return the place itself, or one shortly before it that cuts no character people see."""
    for at in range(place, max(place - _MAX_BACK, 0), -1):
        if at == len(text) or not _is_within(text, at):
            return at
    return 0 if place <= _MAX_BACK else place


def _is_within(text: str, place: int) -> bool:
    """Return whether a place stands within what people see as one character."""
    before, after = text[place - 1], text[place]
    if after.isascii():
        return before + after == "\r\n"

    if after in _FLAG_LETTERS:
        letters = takewhile(
            _FLAG_LETTERS.__contains__, reversed(text[max(0, place - _MAX_BACK) : place])
        )
        return len(list(letters)) % 2 == 1

    return before == _ZWJ or after in _EXTENDING or unicodedata.category(after)[0] == "M"
