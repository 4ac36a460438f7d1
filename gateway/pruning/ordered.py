"""Things in their order, in chunks: any one goes in or out at the same small cost.

Pure. A list of 200,000 would be moved for each item; sorting it anew would hold up the event loop.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

CHUNK: Final = 512
"""Things a chunk has at most; it is split in two beyond."""


class Ordered(Generic[T]):
    """Things by their keys, the least first; each key stands once."""

    def __init__(self, key: Callable[[T], Any]) -> None:
        """Order by what a function returns, which never changes."""
        self._key = key
        self._chunks: list[list[T]] = []
        self._firsts: list[Any] = []
        """The key of the first of each chunk, as it was when the chunk was made."""

    def __len__(self) -> int:
        return sum(map(len, self._chunks))

    def add(self, one: T) -> None:
        """Put something in its place."""
        key = self._key(one)
        if not self._chunks:
            self._chunks, self._firsts = [[one]], [key]
            return

        place = max(0, bisect_right(self._firsts, key) - 1)
        chunk = self._chunks[place]
        insort(chunk, one, key=self._key)
        self._firsts[place] = self._key(chunk[0])
        if len(chunk) > CHUNK:
            half = chunk[CHUNK // 2 :]
            del chunk[CHUNK // 2 :]
            self._chunks.insert(place + 1, half)
            self._firsts.insert(place + 1, self._key(half[0]))

    def remove(self, one: T) -> None:
        """Take something out that is in."""
        key = self._key(one)
        place = max(0, bisect_right(self._firsts, key) - 1)
        chunk = self._chunks[place]
        del chunk[bisect_left(chunk, key, key=self._key)]
        if not chunk:
            del self._chunks[place]
            del self._firsts[place]

    def after(self, key: Any) -> Iterator[Sequence[T]]:  # noqa: ANN401 - whatever orders them
        """Yield what follows a key, chunk by chunk; None: all. Nothing may change in between."""
        start = 0 if key is None else max(0, bisect_right(self._firsts, key) - 1)
        for place in range(start, len(self._chunks)):
            chunk = self._chunks[place]
            if place == start and key is not None:
                chunk = chunk[bisect_right(chunk, key, key=self._key) :]
            if chunk:
                yield chunk

    def newest_first(self) -> Iterator[T]:
        """Yield all, the last first; nothing may change in between."""
        for chunk in reversed(self._chunks):
            yield from reversed(chunk)
