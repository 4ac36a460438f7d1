"""The items of the rules in SQLite: pages, sums, and changes with their audit in one transaction.

All reading is in threads, a page one read; all writing is in the database's writer. Rows that
cannot be read are offered to no rule, nor is anything that may belong to them; they are counted and
told of. Over all sessions items are in the order of time; where more than a page of them was made
within one second, those at its very beginning may come after others of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.log import get_logger
from gateway.model import Role
from gateway.pruning.conditions import NO_TOTALS, CountCondition, Totals, TotalSizeCondition
from gateway.pruning.store import Page, StoreStatistics
from gateway.retention.committing import commit
from gateway.retention.rows import (
    UnreadableItemError,
    choice_of,
    cursor_of,
    instant_of,
    item_id_of,
    item_of,
    lost_half,
    position_after,
    second_of,
    stamp_of,
)
from gateway.sessions.history import stamp
from gateway.transcripts import items, pruned
from gateway.transcripts.items import ItemRow, item_id, position_of
from gateway.transcripts.pruned import PrunedState

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        Callable,
        Collection,
        Mapping,
        Sequence,
    )
    from datetime import datetime

    from gateway.clock import Clock
    from gateway.durable.batch import Queries
    from gateway.durable.database import Database
    from gateway.pruning.conditions import SetCondition
    from gateway.pruning.items import Position, PrunableItem
    from gateway.pruning.records import RunStarted
    from gateway.pruning.store import Changes, Committed, ItemQuery
    from gateway.transcripts.items import Choice, Sums

__all__ = ["SqliteItemStore", "StoredItems", "item_id_of"]

MAX_TOLD: Final = 1_000
"""Unreadable rows that are told one by one and counted."""
_CALLER: Final = Role.ASSISTANT.value
_SLICE: Final = 1_000
"""Sessions that are looked at in one read."""


@dataclass(frozen=True, slots=True)
class StoredItems:
    """What is stored, as last counted."""

    totals: Totals = NO_TOTALS
    sessions: int = 0
    held: int = 0
    """Originals of items that were pruned, in their grace."""
    archived: int = 0
    """Items in archive files."""
    unreadable: int = 0
    """Rows met so far that no rule can be held against; up to 1,000 are counted."""


class SqliteItemStore:
    """The messages of all sessions as items."""

    gives_content = False
    """Contents are read where a query asks for them."""

    def __init__(self, database: Database, clock: Clock, grace_s: Callable[[], float]) -> None:
        """Work on a database.

        Args:
            database: Where the messages are.
            clock: Tells when a grace begins.
            grace_s: How long what was pruned can be given back from the database, in seconds;
                asked at each change.
        """
        self.on_changed: Callable[[Collection[str]], None] = lambda _: None
        """Called on the event loop, with the ids of the sessions, after changes became durable."""
        self._database = database
        self._clock = clock
        self._grace_s = grace_s
        self._run: RunStarted | None = None
        self._stored = StoredItems()
        self._unreadable: set[int] = set()
        self._known: tuple[int, dict[tuple[bool | None, frozenset[str]], Sums]] | None = None
        """The greatest sums of sessions, as they were at a revision."""

    @property
    def run_id(self) -> str | None:
        """The run in progress that was begun last; None: none is."""
        return self._run.run_id if self._run else None

    def begin_run(self, started: RunStarted) -> None:
        """Take what is kept of a run once it changes something."""
        if not started.dry_run:
            self._run = started

    def end_run(self) -> None:
        """Know of no run in progress any more."""
        self._run = None

    async def count(self) -> None:
        """Count what is stored, for `stored` and `statistics`; a few milliseconds in a thread."""

        def work(place: Queries) -> StoredItems:
            return StoredItems(
                totals=Totals(*items.sums(place, items.Choice())),
                sessions=items.session_count(place),
                held=pruned.count_in(place, PrunedState.HELD),
                archived=pruned.count_in(place, PrunedState.ARCHIVED),
            )

        self._stored = await self._database.read(work)

    def stored(self) -> StoredItems:
        """Return what is stored, as last counted; waits for nothing."""
        one = self._stored
        return StoredItems(one.totals, one.sessions, one.held, one.archived, len(self._unreadable))

    def statistics(self) -> StoreStatistics:
        """Return what is stored, as last counted; sessions are not told one by one."""
        one = self._stored
        return StoreStatistics(
            one.totals, total_sessions=one.sessions, archived=Totals(items=one.archived)
        )

    def revision(self) -> int:
        """Return how many transactions there were, of whatever kind."""
        return self._database.statistics().transactions

    async def totals(self, session_id: str | None) -> Totals:
        """Return what is stored now, of one session or of all."""
        choice = items.Choice(session_id=session_id)
        return Totals(*await self._database.read(lambda place: items.sums(place, choice)))

    async def sum(self, query: ItemQuery) -> Totals:
        """Return what the items of a query come to; only its sessions and types count."""
        choice = choice_of(query)
        if choice is None:
            return NO_TOTALS

        return Totals(*await self._database.read(lambda place: items.sums(place, choice)))

    async def sessions_over(
        self, query: ItemQuery, condition: SetCondition
    ) -> AsyncGenerator[Mapping[str, Totals]]:
        """Yield the totals, by session, of those that exceed the limit of a set condition."""
        choice = choice_of(query)
        if choice is None:
            return

        if query.session_id is not None:
            totals = await self.sum(query)
            over = condition.total(totals) > condition.maximum
            yield {query.session_id: totals} if over else {}
            return

        column, after = _column(condition), ""
        if getattr(await self._greatest(choice), column) <= condition.maximum:
            return

        while True:
            found = await self._database.read(
                lambda place, after=after: items.sums_over(  # type: ignore[misc]
                    place, choice, column, condition.maximum, after=after, limit=_SLICE
                )
            )
            yield {session_id: Totals(*sums) for session_id, sums in found}
            if len(found) < _SLICE:
                return
            after = found[-1][0]

    async def page(self, query: ItemQuery, *, after: Position | None, limit: int) -> Page:
        """Return the next items of a query."""
        choice = choice_of(query)
        if choice is None or query.session_id in query.excluded:
            return Page((), None)

        return await self._database.read(
            lambda place: self._page(place, query, choice, after, limit)
        )

    async def newest(
        self, session_ids: Collection[str], count: int, *, until: datetime
    ) -> Mapping[str, frozenset[str]]:
        """Return the ids of the newest items of each session, those made later left out."""

        def work(place: Queries) -> dict[str, frozenset[str]]:
            # Nearly always nothing was made later, and no row has to be read.
            past = second_of(items.latest_instant(place)) < second_of(stamp(until))
            newest = items.newest_of if past else partial(_newest_until, until=until)
            return {
                session_id: frozenset(map(item_id, newest(place, session_id, count)))
                for session_id in session_ids
            }

        return await self._database.read(work)

    async def halves(self, some: Collection[PrunableItem]) -> Sequence[PrunableItem]:
        """Return what of the turns of these items makes or answers a tool call."""
        return await self._database.read(lambda place: self._halves(place, some))

    async def find(self, item_ids: Collection[str]) -> Mapping[str, PrunableItem]:
        """Return items with their contents by the ids asked for; unreadable ones are left out."""
        positions = {
            one: position for one in item_ids if (position := position_of(one)) is not None
        }
        if not positions:
            return {}

        def work(place: Queries) -> dict[int, PrunableItem]:
            rows = items.with_text(place, set(positions.values()))
            return self._items(place, rows)

        found = await self._database.read(work)
        return {one: found[position] for one, position in positions.items() if position in found}

    async def commit(self, changes: Changes) -> Committed:
        """Do all of the changes, with their audit and their originals, or none of them.

        The first changes of a run make its row as well. What goes leaves its position to nobody.

        Durability: on return all of it survives power loss.
        Cancellation: all of it is done, and told, before that comes through.
        """
        due_at = pruned.instant(self._clock.now() + timedelta(seconds=self._grace_s()))
        run = self._run
        committed, session_ids = await self._database.write_through(
            lambda transaction: commit(transaction, changes, due_at=due_at, run=run)
        )
        if session_ids:
            self.on_changed(session_ids)
        return committed

    async def _greatest(self, choice: Choice) -> Sums:
        """Return the greatest sums of a session; asked for once as long as nothing is written."""
        revision, known = self.revision(), self._known
        if known is None or known[0] != revision:
            known = self._known = revision, {}
        of = choice.results, frozenset(choice.excluded)
        if of not in known[1]:
            known[1][of] = await self._database.read(
                lambda place: items.greatest_sums(place, choice)
            )
        return known[1][of]

    def _page(
        self,
        place: Queries,
        query: ItemQuery,
        choice: Choice,
        after: Position | None,
        limit: int,
    ) -> Page:
        cursor, of_all = cursor_of(after), query.session_id is None
        if of_all:
            begin = cursor.created_at, cursor.position
            rows = items.page_of_all(place, choice, after=begin, limit=limit)
        else:
            rows = items.page_of_session(place, choice, after=cursor.position, limit=limit)
        is_full = len(rows) == limit
        if is_full and of_all:
            rows = _whole_seconds(rows)
        found = [
            item
            for item in self._items(place, rows).values()
            if (cursor.since is None or item.created_at >= cursor.since)
            and (query.created_before is None or item.created_at < query.created_before)
        ]
        if of_all:
            found.sort(key=lambda item: item.position)
        return Page(found, position_after(rows[-1], cursor.since) if is_full else None)

    def _halves(self, place: Queries, some: Collection[PrunableItem]) -> list[PrunableItem]:
        turns: dict[tuple[str, str, str], list[PrunableItem]] = {}
        for item in some:
            turn = item.session_id, item.turn_id, stamp_of(item.created_at)
            turns.setdefault(turn, []).append(item)
        rows = {
            turn: items.turn_of(place, *turn, _positions(asked)) for turn, asked in turns.items()
        }
        known = {(int(item.id), item.version): item for item in some}
        unknown = [
            row
            for found in rows.values()
            for row in found
            if (row.position, row.version) not in known
        ]
        calls = _calls(place, unknown)
        halves: list[PrunableItem] = []
        for turn, asked in turns.items():
            mine = rows[turn]
            found = [
                known.get((row.position, row.version)) or self._item(row, calls)
                for row in mine
                # What an agent says without a call is no half, and need not be read.
                if row.role != _CALLER
                or row.position in calls
                or (row.position, row.version) in known
            ]
            paired = [item for item in found if item is not None]
            halves += paired
            made = {call for item in paired for call in item.metadata.get("tool_calls", ())}
            answers = (item.metadata.get("tool_call_id") for item in paired)
            answered = {call for call in answers if call}
            if len(paired) < len(found) or (
                not answered <= made
                and len(mine) < items.count_of_turn(place, *turn[:2], _positions(asked))
            ):
                halves.append(lost_half(asked[0], made | answered))
        return halves

    def _items(self, place: Queries, rows: Sequence[ItemRow]) -> dict[int, PrunableItem]:
        """Return rows as items by position, in their order; those that cannot be read are told."""
        calls = _calls(place, rows)
        made = ((row.position, self._item(row, calls)) for row in rows)
        return {position: item for position, item in made if item is not None}

    def _item(self, row: ItemRow, calls: Mapping[int, str]) -> PrunableItem | None:
        """Return a row as an item; None where it cannot be read, which is told."""
        try:
            return item_of(row, calls.get(row.position))
        except UnreadableItemError as error:
            self._tell_unreadable(row.position, error)
            return None

    def _tell_unreadable(self, position: int, error: UnreadableItemError) -> None:
        if position not in self._unreadable and len(self._unreadable) < MAX_TOLD:
            self._unreadable.add(position)
            get_logger().error("item.unreadable", item_id=item_id(position), reason=str(error))


def _calls(place: Queries, rows: Sequence[ItemRow]) -> dict[int, str]:
    """Return the tool calls that rows make, as they are stored; only agents make any."""
    callers = [row.position for row in rows if row.role == _CALLER]
    return items.tool_calls(place, callers) if callers else {}


def _positions(some: Collection[PrunableItem]) -> list[int]:
    return [int(item.id) for item in some]


def _newest_until(place: Queries, session_id: str, count: int, *, until: datetime) -> list[int]:
    found: list[int] = []
    for position, created_at in items.dated_newest_first(place, session_id):
        if len(found) == count:
            break
        try:
            if instant_of(created_at) <= until:
                found.append(position)
        except UnreadableItemError:
            continue
    return found


def _whole_seconds(rows: list[ItemRow]) -> list[ItemRow]:
    """Return rows without those of the last second, of which there may be more.

    Instants without a fraction come after the others of their second, but are older.
    """
    last = second_of(rows[-1].created_at)
    return [row for row in rows if second_of(row.created_at) != last] or rows


def _column(condition: SetCondition) -> str:
    if isinstance(condition, CountCondition):
        return "items"

    return "size_bytes" if isinstance(condition, TotalSizeCondition) else "tokens"
