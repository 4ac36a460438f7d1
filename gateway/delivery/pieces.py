"""Where a reply is cut that is longer than a platform takes at once. Pure."""

from __future__ import annotations

from typing import Final

from gateway.text import whole

_ENDS: Final = ("\n\n", "\n", ". ", " ")
"""Where a text is best cut, the best first."""


def piece_end(text: str, start: int, max_chars: int) -> int:
    """Return where the piece ends that begins at a place: at the end of a paragraph, line, word.

    White space at a cut belongs to the piece before it. The pieces together are the text, and the
    same places come out each time.
    """
    most = start + max_chars
    if len(text) <= most:
        return len(text)

    # A piece of less than half the room would only make more of them.
    least = start + max_chars // 2
    for end in _ENDS:
        found = text.rfind(end, least, most)
        if found >= 0:
            return found + len(end)
    return max(whole(text, most), start + 1)
