"""What a plan frees and skips so far, and what of an older one the rules still take.

Pure.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from gateway.pruning.conditions import NO_TOTALS, Totals
from gateway.pruning.failures import Failures
from gateway.pruning.items import ItemType
from gateway.pruning.plan import MAX_LISTED, SkippedItem, SkipReason
from gateway.pruning.shards import Ids, Shards

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.pruning.plan import PlannedAction
    from gateway.pruning.store import ItemQuery

_Amounts: TypeAlias = tuple[int, int, int]
"""Items, bytes, tokens."""
_NOTHING: Final = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Checked:
    """What the rules still take of the items that they were asked about."""

    kept: Ids
    """The ids of these items."""
    breaker: str
    """Why the rules take too much now, whatever was named; empty where they do not."""
    own_breaker: str
    """Why what is kept is too much by itself; empty where it is not."""
    failures: Failures
    """What went wrong with items that were asked about."""


class Freed:
    """What rules free, by session and type."""

    def __init__(self) -> None:
        self.sessions: Shards[dict[ItemType, _Amounts]] = Shards()
        self._all: dict[ItemType, _Amounts] = {}

    def add(self, units: Iterable[Sequence[PlannedAction]]) -> None:
        """Count what actions free."""
        name, by_type = None, dict[ItemType, _Amounts]()
        for unit in units:
            for _, session_id, kind, _, size_bytes, tokens, after, _, _ in unit:
                if session_id != name:
                    name = session_id
                    by_type = self.sessions.part(name).setdefault(name, {})
                freed = 1 - after.items, size_bytes - after.size_bytes, tokens - after.tokens
                for sums in (self._all, by_type):
                    so_far = sums.get(kind, _NOTHING)
                    sums[kind] = so_far[0] + freed[0], so_far[1] + freed[1], so_far[2] + freed[2]

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
            by_type = self.sessions.part(session_id).get(session_id, {})
        types = query.types
        chosen = (Totals(*one) for kind, one in by_type.items() if types is None or kind in types)
        return sum(chosen, start=NO_TOTALS)


class Skips:
    """Why items stay, each for the first reason; the first of them are listed, all are counted."""

    def __init__(self) -> None:
        self.more = Shards[SkipReason]()
        """What is not listed."""
        self._listed: dict[str, SkippedItem] = {}
        self._counts: Counter[str] = Counter()

    def add(self, item_id: str, session_id: str, rule_id: str, reason: SkipReason) -> None:
        """Count an item that was not counted yet."""
        more = self.more.part(item_id)
        if item_id in self._listed or item_id in more:
            return

        self._counts[reason.value] += 1
        if len(self._listed) < MAX_LISTED:
            self._listed[item_id] = SkippedItem(item_id, session_id, rule_id, reason)
        else:
            more[item_id] = reason

    def drop(self, ids: Iterable[str]) -> None:
        """Count items out that are taken after all."""
        if not self._counts:
            return  # Nearly always nothing was skipped.

        for item_id in ids:
            listed = self._listed.pop(item_id, None)
            reason = self.more.part(item_id).pop(item_id, None) if listed is None else listed.reason
            if reason is not None:
                self._counts[reason.value] -= 1

    def listed(self) -> tuple[SkippedItem, ...]:
        """Return the first of them."""
        return tuple(self._listed.values())

    def counts(self) -> dict[str, int]:
        """Return how many there are, by reason."""
        return {name: number for name, number in sorted(self._counts.items()) if number}
