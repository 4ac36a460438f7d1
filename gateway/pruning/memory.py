"""Items in memory: the first `ItemStore`, and what tests of everything above it run on.

Pure. Nothing awaits in it, so a change is whole by itself. What is removed leaves no trace but the
highest version, so that an item that comes back under an old id is never taken for the old one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from gateway.errors import ConflictError
from gateway.pruning.conditions import Totals
from gateway.pruning.items import (
    PrunableItem,
    checked,
    marks_of,
    pair_keys,
    with_marks,
)
from gateway.pruning.ordered import Ordered
from gateway.pruning.rules import ArchiveAction
from gateway.pruning.store import ALL_TYPES, Committed, Page, StoreStatistics

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence

    from gateway.pruning.conditions import SetCondition
    from gateway.pruning.items import ItemType, PairKey, Position
    from gateway.pruning.records import PrunedItem
    from gateway.pruning.store import Change, Changes, ItemQuery

AUDIT_RECORDS: Final = 10_000
"""Records that are kept; older ones go."""
LISTED_SESSIONS: Final = 10_000
"""Sessions up to which statistics tell of each; more would hold up whoever asks."""


@dataclass(frozen=True, slots=True)
class ArchivedItem:
    """What the archive holds of an item."""

    item: PrunableItem
    archived_at: datetime
    destination: str
    rule_id: str


class _Sums:
    """What items come to, by type and in all."""

    def __init__(self) -> None:
        self.total = Totals()
        self._by_type: dict[ItemType, Totals] = {}

    def add(self, item: PrunableItem) -> None:
        one = amounts(item)
        self.total += one
        self._by_type[item.type] = self._by_type.get(item.type, Totals()) + one

    def remove(self, item: PrunableItem) -> None:
        one = amounts(item)
        self.total -= one
        self._by_type[item.type] -= one

    def of(self, types: frozenset[ItemType] | None) -> Totals:
        if types is None or types == ALL_TYPES:
            return self.total

        chosen = (one for kind, one in self._by_type.items() if kind in types)
        return sum(chosen, start=Totals())


class _Session:
    """The items of one session, and what they come to."""

    def __init__(self) -> None:
        self.items = Ordered[PrunableItem](_position)
        self.sums = _Sums()


class MemoryItemStore:
    """Items, their archive and the audit, all in memory."""

    gives_content = True
    """Nothing is saved by leaving contents out."""

    def __init__(self, items: Iterable[PrunableItem] = ()) -> None:
        """Take items; one of the same id as one before takes its place."""
        self._items: dict[str, PrunableItem] = {}
        self._ordered = Ordered[PrunableItem](_position)
        self._sessions: dict[str, _Session] = {}
        self._names = Ordered[str](str)
        self._halves: dict[PairKey, set[str]] = {}
        self._sums = _Sums()
        self._archive: dict[tuple[str, int], ArchivedItem] = {}
        self._archived = Totals()
        self._revision = 0
        self._floor = 0
        """The highest version of an item that is no more."""
        self.audit: deque[PrunedItem] = deque(maxlen=AUDIT_RECORDS)
        """The last records of what was done, the newest last."""
        for item in items:
            self.add(item)

    def add(self, item: PrunableItem) -> PrunableItem:
        """Put an item in; it takes the place of one of the same id, with a higher version.

        Raises:
            BadRequestError: a field is of no use.
        """
        item = checked(item)
        old = self._items.get(item.id)
        least = self._floor + 1 if old is None and self._floor else 0
        if old is not None:
            least = old.version + 1
            self._out(old)
        if item.version < least:
            item = replace(item, version=least)
        self._in(item)
        return item

    def get(self, item_id: str) -> PrunableItem | None:
        """Return an item; None where there is none."""
        return self._items.get(item_id)

    def all(self) -> list[PrunableItem]:
        """Return all items, the oldest first."""
        return [item for chunk in self._ordered.after(None) for item in chunk]

    def of_session(self, session_id: str) -> list[PrunableItem]:
        """Return the items of a session, the oldest first."""
        session = self._sessions.get(session_id)
        return (
            [] if session is None else [one for part in session.items.after(None) for one in part]
        )

    def remove(self, item_id: str) -> bool:
        """Take an item out for good; return whether there was one."""
        item = self._items.get(item_id)
        if item is None:
            return False

        self._out(item)
        self._floor = max(self._floor, item.version)
        return True

    def clear(self) -> int:
        """Take all items out for good; the archive stays. Return how many there were."""
        number = len(self._items)
        for item_id in list(self._items):
            self.remove(item_id)
        return number

    def archived(self) -> list[ArchivedItem]:
        """Return what is in the archive, the first archived first."""
        return list(self._archive.values())

    def restore(self, item_id: str, at: datetime) -> PrunableItem | None:
        """Put back what was last archived under an id; None where there is nothing.

        Raises:
            ConflictError: there is an item of this id again.
        """
        versions = [version for one, version in self._archive if one == item_id]
        if not versions:
            return None

        if item_id in self._items:
            raise ConflictError(f"{item_id!r}: there is an item of this id again")

        found = self._archive.pop((item_id, max(versions)))
        self._archived -= amounts(found.item)
        item = with_marks(found.item, replace(marks_of(found.item), restored_at=at))
        return self.add(item)

    def statistics(self) -> StoreStatistics:
        """Return what it holds; exact, and without single sessions where there are very many."""
        number, sessions = len(self._sessions), dict[str, Totals]()
        if number <= LISTED_SESSIONS:
            sessions = {name: one.sums.total for name, one in self._sessions.items()}
        listed = MappingProxyType(sessions)
        return StoreStatistics(self._sums.total, number, listed, self._archived)

    def revision(self) -> int:
        """Return how many changes there were."""
        return self._revision

    async def totals(self, session_id: str | None) -> Totals:
        """Return what it holds now, of one session or of all."""
        if session_id is None:
            return self._sums.total

        session = self._sessions.get(session_id)
        return session.sums.total if session else Totals()

    async def sessions_over(
        self, query: ItemQuery, condition: SetCondition
    ) -> AsyncGenerator[Mapping[str, Totals]]:
        """Yield the totals, by session, of those that exceed the limit of a set condition."""
        names: Sequence[str] = () if query.session_id is None else (query.session_id,)
        if query.session_id is None:
            names = next(self._names.after(None), ())
        while names:
            over = {}
            for name in names:
                session = self._sessions.get(name)
                if session is not None and name not in query.excluded:
                    totals = session.sums.of(query.types)
                    if condition.total(totals) > condition.maximum:
                        over[name] = totals
            last = names[-1]
            yield over
            names = next(self._names.after(last), ()) if query.session_id is None else ()

    async def sum(self, query: ItemQuery) -> Totals:
        """Return what the items of a query come to; only its sessions and types count."""
        left_out = [self._sessions[one] for one in query.excluded if one in self._sessions]
        if query.session_id is None:
            start = self._sums.of(query.types)
            return start - sum((one.sums.of(query.types) for one in left_out), start=Totals())

        session = self._sessions.get(query.session_id)
        return session.sums.of(query.types) if session and session not in left_out else Totals()

    async def page(self, query: ItemQuery, *, after: Position | None, limit: int) -> Page:
        """Return the next items of a query."""
        if query.session_id is None:
            ordered = self._ordered
        else:
            session = self._sessions.get(query.session_id)
            if session is None or query.session_id in query.excluded:
                return Page((), None)
            ordered = session.items

        found: list[PrunableItem] = []
        looked_at = 0
        last: PrunableItem | None = None
        for chunk in ordered.after(after):
            if query.created_before is not None and chunk[0].created_at >= query.created_before:
                return Page(found, None)
            if looked_at >= limit:
                return Page(found, last.position if last else None)
            part = chunk[: limit - looked_at]
            found += query.matching(part)
            looked_at += len(part)
            last = part[-1]
            if len(part) < len(chunk):
                return Page(found, last.position)
        return Page(found, None)

    async def newest(
        self, session_ids: Collection[str], count: int, *, until: datetime
    ) -> Mapping[str, frozenset[str]]:
        """Return the ids of the newest items of each session, those made later left out."""
        newest: dict[str, frozenset[str]] = {}
        for session_id in session_ids:
            session = self._sessions.get(session_id)
            if session is not None:
                dated = (one.id for one in session.items.newest_first() if one.created_at <= until)
                newest[session_id] = frozenset(islice(dated, count))
        return newest

    async def halves(self, items: Collection[PrunableItem]) -> Sequence[PrunableItem]:
        """Return what belongs together with these items, and them, as far as they are there."""
        waiting = [key for item in items for key in pair_keys(item)]
        known, ids = set(waiting), set[str]()
        while waiting:
            for item_id in self._halves.get(waiting.pop(), set()) - ids:
                ids.add(item_id)
                more = set(pair_keys(self._items[item_id])) - known
                known |= more
                waiting += more
        return [self._items[item_id] for item_id in sorted(ids)]

    async def find(self, item_ids: Collection[str]) -> Mapping[str, PrunableItem]:
        """Return items by id; what is not there is left out."""
        return {one: self._items[one] for one in item_ids if one in self._items}

    async def commit(self, changes: Changes) -> Committed:
        """Do all of the changes or none of them; return which do not fit, or what is left."""
        stale = frozenset(one.item_id for one in changes if not self._fits(one))
        if stale:
            return Committed(stale)

        for change in changes:
            self._do(change)
        left = {one.item_id: amounts(one.after) for one in changes if one.after is not None}
        return Committed(after=left)

    def _fits(self, change: Change) -> bool:
        item = self._items.get(change.item_id)
        return item is not None and item.version == change.version

    def _do(self, change: Change) -> None:
        item = self._items[change.item_id]
        if change.after is None:
            self._out(item)
            self._floor = max(self._floor, item.version)
            if isinstance(change.action, ArchiveAction):
                rule_id = change.record.rule_id if change.record else ""
                archived = ArchivedItem(item, change.at, change.action.destination, rule_id)
                self._archive[item.id, item.version] = archived
                self._archived += amounts(item)
        else:
            self.add(change.after)
        if change.record is not None:
            self.audit.append(change.record)

    def _in(self, item: PrunableItem) -> None:
        self._revision += 1
        self._items[item.id] = item
        self._ordered.add(item)
        session = self._sessions.get(item.session_id)
        if session is None:
            session = self._sessions[item.session_id] = _Session()
            self._names.add(item.session_id)
        session.items.add(item)
        session.sums.add(item)
        self._sums.add(item)
        for key in pair_keys(item):
            self._halves.setdefault(key, set()).add(item.id)

    def _out(self, item: PrunableItem) -> None:
        self._revision += 1
        del self._items[item.id]
        self._ordered.remove(item)
        session = self._sessions[item.session_id]
        session.items.remove(item)
        session.sums.remove(item)
        if not session.sums.total.items:
            del self._sessions[item.session_id]
            self._names.remove(item.session_id)
        self._sums.remove(item)
        for key in pair_keys(item):
            if item.id in self._halves.get(key, ()):
                self._halves[key].discard(item.id)
                if not self._halves[key]:
                    del self._halves[key]


def _position(item: PrunableItem) -> Position:
    return item.created_at, item.id


def amounts(item: PrunableItem) -> Totals:
    """Return what one item comes to."""
    return Totals(1, item.size_bytes, item.token_count)
