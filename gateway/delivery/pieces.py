"""Where a reply is cut that is longer than a platform takes at once, and what a cut adds. Pure.

A block of code that is open at a cut is closed in the piece and opened again in the next, so that
each piece reads well alone. What is added for that is no part of the text: the pieces without it,
one behind the other, are the text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from gateway.text import whole

_ENDS: Final = ("\n\n", "\n", ". ", " ")
"""Where a text is best cut, the best first."""
_FENCE: Final = re.compile(r"^([ \t]*+)(`{3,}|~{3,})([^\n]*)$", re.MULTILINE)
_DEEPER: Final = 3
"""So much deeper than its opening a closing fence may stand.

Source: CommonMark 0.31.2, 4.5."""
_LONG_CHARS: Final = 16_384
"""From so many characters on the blocks of a text are found once for all its pieces."""
_MAX_KEPT: Final = 8
"""Of so many long texts the blocks are remembered."""
_SHARE: Final = 4
"""The marks that a piece repeats take at most this part of its room; else they are left out."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text, as it is shown."""

    start: int
    end: int
    before: str = ""
    """Opens the block of code again that the cut at its start has divided."""
    after: str = ""
    """Closes the block of code that the cut at its end divides."""

    def shown(self, text: str) -> str:
        """Return the piece of this text as it is shown."""
        return self.before + text[self.start : self.end] + self.after


@dataclass(frozen=True, slots=True)
class _Fence:
    """The line that opens a block of code."""

    start: int
    indent: str
    mark: str
    info: str

    @property
    def end(self) -> int:
        """Where the line ends."""
        return self.start + len(self.indent) + len(self.mark) + len(self.info)

    def is_closed_by(self, indent: str, mark: str, info: str) -> bool:
        """Return whether a line closes the block."""
        deeper = len(indent) - len(self.indent)
        return mark.startswith(self.mark) and not info.strip() and deeper <= _DEEPER


def cut(text: str, start: int, max_chars: int) -> Piece:
    """Return the piece that begins at a place: it ends with a paragraph, a line or a word.

    White space at a cut belongs to the piece before it. The same pieces come out each time.

    Args:
        text: The whole text.
        start: Where the piece before has ended.
        max_chars: The most that is shown of a piece, in code points.
    """
    before = _opening(_open_at(text, start), max_chars)
    end = _end(text, start, max_chars - len(before))
    while True:
        end = _out_of_fences(text, start, end)
        after = _closing(text, end, max_chars)
        excess = len(before) + end - start + len(after) - max_chars
        if excess <= 0:
            break

        end = _end(text, start, max(1, end - start - excess))
    if after:
        for closed in _closed_at(text, end):
            if len(before) + closed - start <= max_chars:
                # The block ends here by itself; the next piece would begin with an empty one.
                return Piece(start, closed, before)

    return Piece(start, end, before, after)


def _end(text: str, start: int, max_chars: int) -> int:
    most = start + max_chars
    if len(text) <= most:
        return len(text)

    # A piece of less than half the room would only make more of them.
    least = start + max_chars // 2
    for ending in _ENDS:
        found = text.rfind(ending, least, most)
        if found >= 0:
            return found + len(ending)
    return max(whole(text, most), start + 1)


def _out_of_fences(text: str, start: int, end: int) -> int:
    """Move a cut that stands in a line of marks, or right behind an opening one, before it."""
    if end >= len(text):
        return end

    line = text.rfind("\n", 0, end) + 1
    stop = text.find("\n", line)
    if line < end and _FENCE.match(text[line : len(text) if stop < 0 else stop]):
        return line if line > start else end

    fence = _open_at(text, end)
    if fence is not None and start < fence.start and not text[fence.end : end].strip():
        return fence.start
    return end


def _open_at(text: str, place: int) -> _Fence | None:
    """Return the line that opens the block of code that a place stands in; None outside of any."""
    if place == 0:
        return None

    line = text.rfind("\n", 0, place) + 1
    starts, fences = (_known if len(text) > _LONG_CHARS else _found)(text)
    before = bisect_right(starts, line - 1)
    fence = fences[before - 1] if before else None
    # Of the line in which the place stands only what is before it counts.
    mark = _FENCE.match(text, line, place)
    return _after(mark, fence) if mark is not None else fence


def _found(text: str) -> tuple[list[int], list[_Fence | None]]:
    """Return where a block of code opens or closes, and the one that is open from there on."""
    starts: list[int] = []
    fences: list[_Fence | None] = []
    fence: _Fence | None = None
    for mark in _FENCE.finditer(text):
        after = _after(mark, fence)
        if after is not fence:
            fence = after
            starts.append(mark.start())
            fences.append(fence)
    return starts, fences


@lru_cache(_MAX_KEPT)
def _known(text: str) -> tuple[list[int], list[_Fence | None]]:
    return _found(text)


def _after(mark: re.Match[str], fence: _Fence | None) -> _Fence | None:
    """Return which block is open behind a line of marks, given the one that is open before it."""
    indent, marks, info = mark.groups()
    if fence is not None:
        return None if fence.is_closed_by(indent, marks, info) else fence

    # A line with a back-tick further on is code within a line.
    return _Fence(mark.start(), indent, marks, info) if marks[0] == "~" or "`" not in info else None


def _closed_at(text: str, place: int) -> tuple[int, ...]:
    """Return where the line may end that closes a block of code at a place: its break, or it."""
    fence, found = _open_at(text, place), _FENCE.match(text, place)
    if fence is None or found is None or not fence.is_closed_by(*found.groups()):
        return ()

    return min(found.end() + 1, len(text)), found.end()


def _opening(fence: _Fence | None, max_chars: int) -> str:
    if fence is None or len(fence.indent + fence.mark) * _SHARE > max_chars:
        return ""

    line = fence.indent + fence.mark + fence.info
    if len(line) * _SHARE > max_chars:
        line = fence.indent + fence.mark
    return f"{line}\n"


def _closing(text: str, end: int, max_chars: int) -> str:
    # The end of a text divides nothing: one that grows is not read as a whole each time.
    fence = _open_at(text, end) if end < len(text) else None
    if fence is None or len(fence.indent + fence.mark) * _SHARE > max_chars:
        return ""

    gap = "" if text[end - 1] == "\n" else "\n"
    return f"{gap}{fence.indent}{fence.mark}"
