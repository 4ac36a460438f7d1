"""Where a text may be cut, so that no character people see is cut in two."""

from __future__ import annotations

import unicodedata
from itertools import takewhile
from typing import Final

MAX_BACK: Final = 32
"""Code points that a cut moves at most to keep a character whole.

Source: UAX 15, Stream-Safe Text Format: 30 marks at most follow a character that anybody wrote."""
_ZWJ: Final = "\u200d"
_EXTENDING: Final = frozenset(
    "\u0e33\u0eb3\u200c\u200d\uff9e\uff9f"
    + "".join(map(chr, (*range(0x1160, 0x1200), *range(0x1F3FB, 0x1F400))))
    + "".join(map(chr, range(0xE0020, 0xE0080)))
)
"""What belongs to the character before it and is no mark: joiners, Hangul vowels and finals, skin
tones, the letters of tagged flags."""
_FLAG_LETTERS: Final = frozenset(map(chr, range(0x1F1E6, 0x1F200)))


def whole(text: str, place: int) -> int:
    """Return the place itself, or one shortly before it that cuts no character people see."""
    for at in range(place, max(place - MAX_BACK, 0), -1):
        if at == len(text) or not _is_within(text, at):
            return at
    return 0 if place <= MAX_BACK else place


def _is_within(text: str, place: int) -> bool:
    """Return whether a place stands within what people see as one character."""
    before, after = text[place - 1], text[place]
    if after.isascii():
        return before + after == "\r\n"

    if after in _FLAG_LETTERS:
        letters = takewhile(
            _FLAG_LETTERS.__contains__, reversed(text[max(0, place - MAX_BACK) : place])
        )
        return len(list(letters)) % 2 == 1

    return before == _ZWJ or after in _EXTENDING or unicodedata.category(after)[0] == "M"
