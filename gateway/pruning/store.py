"""What a manager asks of the place where items are: pages, totals, and changes that hold together.

Pure. A store may keep its items in memory or in a database; a plan reads it in slices, by queries
that an index can answer, and never asks for everything at once. Times and orders are by
`created_at`, ties by id.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

from gateway.pruning.conditions import NO_TOTALS, SetCondition, Totals
from gateway.pruning.items import ItemType, Position, PrunableItem
from gateway.pruning.records import PrunedItem
from gateway.pruning.rules import Action

ALL_TYPES: Final = frozenset(ItemType)


@dataclass(frozen=True, slots=True)
class ItemQuery:
    """Which items; those for which everything holds that is not None."""

    session_id: str | None = None
    excluded: frozenset[str] = frozenset()
    """Sessions whose items are left out."""
    created_before: datetime | None = None
    """Strictly."""
    size_over_bytes: int | None = None
    """Strictly more."""
    tokens_over: int | None = None
    """Strictly more."""
    types: frozenset[ItemType] | None = None
    with_content: bool = False
    """Whether `content` is needed; else a store may leave it out."""

    def matching(self, items: Sequence[PrunableItem]) -> Sequence[PrunableItem]:
        """Return those of the items, all of its session, that it is for."""
        # One pass a bound: a comprehension of one comparison is many times faster than a call.
        if self.created_before is not None:
            end = self.created_before
            items = [one for one in items if one.created_at < end]
        if self.size_over_bytes is not None:
            size_bytes = self.size_over_bytes
            items = [one for one in items if one.size_bytes > size_bytes]
        if self.tokens_over is not None:
            tokens = self.tokens_over
            items = [one for one in items if (one.tokens or 0) > tokens]
        if self.types is not None and self.types != ALL_TYPES:
            types = self.types
            items = [one for one in items if one.type in types]
        if self.excluded:
            excluded = self.excluded
            items = [one for one in items if one.session_id not in excluded]
        return items


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the items of a query, the oldest first."""

    items: Sequence[PrunableItem]
    next: Position | None
    """After which place to go on, also where a page has no items; None: there are no more."""


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """What a store holds, as it last counted."""

    totals: Totals
    total_sessions: int
    sessions: Mapping[str, Totals] = field(default_factory=lambda: MappingProxyType({}))
    """By session id; a store with many sessions may leave them out, all of them."""
    archived: Totals = NO_TOTALS
    """What is in the archive, and counted nowhere else."""


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one item."""

    item_id: str
    version: int
    """The version that it must still have."""
    action: Action
    after: PrunableItem | None
    """What takes its place; None where it goes. The store gives it a version of its own."""
    record: PrunedItem | None
    """What the audit keeps; None where only marks change."""
    at: datetime
    run_id: str


Changes: TypeAlias = Sequence[Change]


@dataclass(frozen=True, slots=True)
class Committed:
    """What came of changes that were handed over together."""

    stale: frozenset[str] = frozenset()
    """The ids of items that are gone or have another version. Where there are any, nothing was
    done."""
    after: Mapping[str, Totals] = field(default_factory=lambda: MappingProxyType({}))
    """What is in the place of each item that has a record, as it is measured; of one that went,
    nothing may be said."""


NOTHING_DONE: Final = Committed()


class ItemStore(Protocol):
    """Where items are.

    Failures: a `StorageError` ends the run and is the caller's; a `StorageFullError` or
    `StorageBusyError` ends the run, which says so; whatever else is raised costs the items at hand:
    of changes handed over together each unit is tried again by itself.
    """

    gives_content: bool
    """Whether items of pages have their contents also where a query does not ask for them."""

    def statistics(self) -> StoreStatistics:
        """Return what it holds, as last counted; waits for nothing."""
        ...

    def revision(self) -> int:
        """Return a number that is another one after every change; waits for nothing."""
        ...

    async def totals(self, session_id: str | None) -> Totals:
        """Return what it holds now, of one session or of all."""
        ...

    def sessions_over(
        self, query: ItemQuery, condition: SetCondition
    ) -> AsyncGenerator[Mapping[str, Totals]]:
        """Yield the totals, by session, of those that exceed the limit of a set condition.

        Of a query only the sessions and the types count. They come in the order of their ids, and
        in slices, which may be empty.
        """
        ...

    async def sum(self, query: ItemQuery) -> Totals:
        """Return what the items of a query come to; only its sessions and types count."""
        ...

    async def page(self, query: ItemQuery, *, after: Position | None, limit: int) -> Page:
        """Return the next items of a query; it looks at no more than about `limit` of them."""
        ...

    async def newest(
        self, session_ids: Collection[str], count: int, *, until: datetime
    ) -> Mapping[str, frozenset[str]]:
        """Return the ids of the newest items of each session, those made later left out."""
        ...

    async def halves(self, items: Collection[PrunableItem]) -> Sequence[PrunableItem]:
        """Return what belongs together with these items, and them, as far as they are there.

        That is whatever makes or answers a tool call that one of them makes or answers, and what
        belongs together with that in turn: all of the same session and turn. Others of these turns
        that make or answer a call may be among them; none that belongs to these may be missing.
        """
        ...

    async def find(self, item_ids: Collection[str]) -> Mapping[str, PrunableItem]:
        """Return items by id, each with its content; what is not there is left out."""
        ...

    async def commit(self, changes: Changes) -> Committed:
        """Do all of the changes, with their records in the audit, or none of them.

        The audit tells the same of what is left as is returned.

        Durability: what was done survives as the store promises, the records with it.
        Cancellation: all of it is done or nothing is.
        """
        ...
