"""Tables of very many keys, kept and let go of in small pieces.

Pure. A table of a million keys that has to grow, or is freed at once, holds the event loop up for
tens of milliseconds; of many small ones no single step takes long.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.pruning.items import PrunableItem

T = TypeVar("T")
V = TypeVar("V")

Pause: TypeAlias = Callable[[int], Awaitable[None]]
"""Lets others run, once so much work was done; a unit of work is a few microseconds."""

SLICE: Final = 200
"""What is freed in one piece."""
_SHARDS: Final = 256
_PART: Final = 75_000
"""A set of this many has last grown when it had a quarter."""


class Shards(Generic[V]):
    """A table by text."""

    def __init__(self) -> None:
        self.parts: list[dict[str, V]] = [{} for _ in range(_SHARDS)]

    def part(self, key: str) -> dict[str, V]:
        """Return the small table that a key belongs into."""
        return self.parts[hash(key) % _SHARDS]

    async def let_go(self, pause: Pause) -> None:
        """Empty the table."""
        for part in self.parts:
            while part:
                for _ in range(min(len(part), SLICE)):
                    part.popitem()
                await pause(SLICE // 2)


class Ids:
    """A set of texts that only grows; of those looked for most are in its first part."""

    def __init__(self) -> None:
        self._parts: list[set[str]] = [set()]

    def __contains__(self, one: str) -> bool:
        return any(one in part for part in self._parts)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def update(self, ids: Iterable[str]) -> None:
        """Put ids in that are not in yet."""
        if len(self._parts[-1]) >= _PART:
            self._parts.append(set())
        self._parts[-1].update(ids)

    def without(self, items: Sequence[PrunableItem]) -> Sequence[PrunableItem]:
        """Return those of the items whose id is not in."""
        for part in self._parts:
            items = [one for one in items if one.id not in part]
        return items

    async def let_go(self, pause: Pause) -> None:
        """Empty the set."""
        for part in self._parts:
            while part:
                for _ in range(min(len(part), SLICE)):
                    part.pop()
                await pause(SLICE // 2)


async def let_go(items: list[T], pause: Pause) -> None:
    """Empty a list."""
    while items:
        del items[-SLICE:]
        await pause(SLICE // 2)
