"""The end of what a process wrote, as people and models read it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gateway.model import clean_text
from gateway.text import whole

_ESCAPES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, cursor movements
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles, links, and their like
    r"|\x1b[ -/]*[0-~]?"
)
_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class KeptOutput:
    """What is kept of a process' output."""

    data: bytes
    """Its end."""
    total_bytes: int
    """How much it wrote."""
    whole: bool = False
    """Whether that is all of it, though what is not shown may be taken out already."""

    def text(self, max_chars: int) -> str:
        """Return its end within so many characters, with a line before it where that is not all."""
        text = plain(self.data)
        shown = tail(text, max_chars)
        if (self.whole or self.total_bytes == len(self.data)) and shown == text:
            return shown

        return f"[the end of {self.total_bytes} bytes of output]\n{shown}"


def plain(data: bytes) -> str:
    """Return the text of output: no escape sequences, of a line written over only the last form."""
    text = _ESCAPES.sub("", clean_text(data.decode("utf-8", "replace")))
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return _CONTROLS.sub("", "\n".join(lines))


def tail(text: str, max_chars: int) -> str:
    """Return the end of a text in whole lines, at most so many characters.

    Of a last line that is longer, the end.
    """
    if len(text) <= max_chars:
        return text

    start = len(text) - max_chars
    line = text.find("\n", start - 1)
    # Without a break but the one at its very end it is one long line.
    if 0 <= line < len(text) - 1:
        return text[line + 1 :]

    # A cut moves back to part no character, and then it would be too long: one more of them goes.
    cut = whole(text, start)
    return text[cut:] if cut == start else text[start:].lstrip("\u200d")
