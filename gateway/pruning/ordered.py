"""Items in their order, the oldest first, in chunks: any one goes in or out at the same small cost.

Pure. A list of 200,000 would be moved for each item; sorting it anew would hold up the event loop.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.pruning.items import Position, PrunableItem

CHUNK: Final = 512
"""Items a chunk has at most; it is split in two beyond."""


def _position(item: PrunableItem) -> Position:
    return item.created_at, item.id


class OrderedItems:
    """Items by position; each position stands once."""

    def __init__(self) -> None:
        self._chunks: list[list[PrunableItem]] = []
        self._firsts: list[Position] = []
        """The position of the first item of each chunk, as it was when the chunk was made."""

    def __len__(self) -> int:
        return sum(map(len, self._chunks))

    def add(self, item: PrunableItem) -> None:
        """Put an item in its place."""
        if not self._chunks:
            self._chunks, self._firsts = [[item]], [item.position]
            return

        place = max(0, bisect_right(self._firsts, item.position) - 1)
        chunk = self._chunks[place]
        insort(chunk, item, key=_position)
        self._firsts[place] = chunk[0].position
        if len(chunk) > CHUNK:
            half = chunk[CHUNK // 2 :]
            del chunk[CHUNK // 2 :]
            self._chunks.insert(place + 1, half)
            self._firsts.insert(place + 1, half[0].position)

    def remove(self, item: PrunableItem) -> None:
        """Take an item out that is in."""
        place = max(0, bisect_right(self._firsts, item.position) - 1)
        chunk = self._chunks[place]
        del chunk[bisect_left(chunk, item.position, key=_position)]
        if not chunk:
            del self._chunks[place]
            del self._firsts[place]

    def after(self, position: Position | None) -> Iterator[Sequence[PrunableItem]]:
        """Yield what follows a position, chunk by chunk; nothing may change in between."""
        start = 0 if position is None else max(0, bisect_right(self._firsts, position) - 1)
        for place in range(start, len(self._chunks)):
            chunk = self._chunks[place]
            if place == start and position is not None:
                chunk = chunk[bisect_right(chunk, position, key=_position) :]
            if chunk:
                yield chunk

    def newest_first(self) -> Iterator[PrunableItem]:
        """Yield all, the newest first; nothing may change in between."""
        for chunk in reversed(self._chunks):
            yield from reversed(chunk)
