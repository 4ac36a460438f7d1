"""What a plan takes and skips so far, kept so that no single step takes long.

Pure. A table of very many keys that has to grow holds the loop up for tens of milliseconds, so
large ones are split into many small ones.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from gateway.pruning.conditions import NO_TOTALS, Totals
from gateway.pruning.plan import MAX_LISTED, SkippedItem, SkipReason

if TYPE_CHECKING:
    from gateway.pruning.items import ItemType
    from gateway.pruning.plan import PlannedAction
    from gateway.pruning.store import ItemQuery

_SHARDS: Final = 256


class Ids:
    """Ids of items."""

    def __init__(self) -> None:
        self._shards: list[set[str]] = [set() for _ in range(_SHARDS)]

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._shards[hash(item_id) % _SHARDS]

    def __len__(self) -> int:
        return sum(map(len, self._shards))

    def add(self, item_id: str) -> None:
        """Put an id in."""
        self._shards[hash(item_id) % _SHARDS].add(item_id)


class Freed:
    """What rules free, by session and type."""

    def __init__(self) -> None:
        self._all: dict[ItemType, list[int]] = {}
        self._sessions: list[dict[str, dict[ItemType, list[int]]]] = [{} for _ in range(_SHARDS)]

    @property
    def shards(self) -> list[dict[str, dict[ItemType, list[int]]]]:
        """The tables by session, to let go of."""
        return self._sessions

    def add(self, one: PlannedAction) -> None:
        """Count what an action frees."""
        before, after = one.before, one.after
        shard = self._sessions[hash(one.session_id) % _SHARDS]
        for by_type in (self._all, shard.setdefault(one.session_id, {})):
            freed = by_type.setdefault(one.type, [0, 0, 0])
            freed[0] += before.items - after.items
            freed[1] += before.size_bytes - after.size_bytes
            freed[2] += before.tokens - after.tokens

    def of(self, query: ItemQuery) -> Totals:
        """Return what is freed of the items of a query, by its sessions and types."""
        freed = self._sum(query.session_id, query)
        for session_id in query.excluded:
            freed -= self._sum(session_id, query)
        return freed

    def _sum(self, session_id: str | None, query: ItemQuery) -> Totals:
        if session_id is None:
            by_type = self._all
        else:
            by_type = self._sessions[hash(session_id) % _SHARDS].get(session_id, {})
        types = query.types
        chosen = (Totals(*one) for kind, one in by_type.items() if types is None or kind in types)
        return sum(chosen, start=NO_TOTALS)


class Skips:
    """Why items stay, each for the first reason; the first of them are listed, all are counted."""

    def __init__(self) -> None:
        self._listed: dict[str, SkippedItem] = {}
        self._more: list[dict[str, SkipReason]] = [{} for _ in range(_SHARDS)]
        self._counts: Counter[str] = Counter()

    @property
    def shards(self) -> list[dict[str, SkipReason]]:
        """The tables of what is not listed, to let go of."""
        return self._more

    def add(self, skip: SkippedItem) -> None:
        """Count an item that was not counted yet."""
        more = self._more[hash(skip.item_id) % _SHARDS]
        if skip.item_id in self._listed or skip.item_id in more:
            return

        self._counts[skip.reason.value] += 1
        if len(self._listed) < MAX_LISTED:
            self._listed[skip.item_id] = skip
        else:
            more[skip.item_id] = skip.reason

    def drop(self, item_id: str) -> None:
        """Count an item out that is taken after all."""
        listed = self._listed.pop(item_id, None)
        more = self._more[hash(item_id) % _SHARDS]
        reason = more.pop(item_id, None) if listed is None else listed.reason
        if reason is not None:
            self._counts[reason.value] -= 1

    def listed(self) -> tuple[SkippedItem, ...]:
        """Return the first of them."""
        return tuple(self._listed.values())

    def counts(self) -> dict[str, int]:
        """Return how many there are, by reason."""
        return {name: number for name, number in sorted(self._counts.items()) if number}
