"""Giving back what was pruned, out of the grace or out of an archive file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread
import orjson

from gateway.errors import BadRequestError, DamagedDataError, NotFoundError
from gateway.log import get_logger
from gateway.pruning.units import instant_text
from gateway.retention.archive_file import PIECE_BYTES
from gateway.retention.archiving import STEP_ITEMS
from gateway.retention.rows import item_id_of
from gateway.transcripts import restorable
from gateway.transcripts.archives import find as find_archive
from gateway.transcripts.items import item_id
from gateway.transcripts.pruned import PrunedState, original
from gateway.transcripts.restorable import (
    Entry,
    Group,
    entries_in,
    entries_of,
    files_with,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping

    from gateway.clock import Clock
    from gateway.durable.batch import Queries, Transaction
    from gateway.durable.database import Database
    from gateway.retention.archiving import Archives

GONE: Final = "it is gone: the time in which it could be given back is over"
BEFORE: Final = "it was given back before"
ERASED: Final = "its conversation was erased"
UNREADABLE: Final = "what it was cannot be read"
TAKEN: Final = "another message is in its place"
AWAY: Final = "it was taken away since"
CHANGED: Final = "it was changed since"
PAGE: Final = 500
"""Entries of one read."""
_STATES: Final[dict[str, str]] = {PrunedState.PURGED: GONE, PrunedState.RESTORED: BEFORE}
_REMOVING: Final = frozenset({"delete", "archive"})
"""Actions after which the row is not there."""


@dataclass(frozen=True, slots=True)
class Restorable:
    """What to give back; exactly one of these."""

    items: Sequence[str] = ()
    """Ids of items, as 000000000042 or 42."""
    run: str | None = None
    """All that a run took and that can be given back."""
    sessions: Sequence[str] = ()
    """All that was ever taken of these session ids and can be given back."""


@dataclass(frozen=True, slots=True)
class RestoredItem:
    """An item that is as it was before."""

    item_id: str
    session_id: str
    action: str
    """What was undone."""
    archive: str | None
    """The file it came out of; None where it was still in the database."""


@dataclass(frozen=True, slots=True)
class NotRestored:
    """An item that could not be given back."""

    item_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Restored:
    """What was given back, and what was not."""

    items: tuple[RestoredItem, ...]
    refused: tuple[NotRestored, ...]

    @property
    def session_ids(self) -> frozenset[str]:
        """The sessions whose messages are others now."""
        return frozenset(one.session_id for one in self.items)


async def restore(archives: Archives, clock: Clock, which: Restorable) -> Restored:
    """Give back what was pruned, in steps between which others write.

    A row comes back at its old place with a version of its own and `restored_at` in its marks. What
    was shortened more than once is undone from the last time on, as far as it is asked for. Of a
    run or a session only what can be given back is asked for: what came back before, or is gone, is
    refused only where its item was named.

    Durability: on return what is told is on disk; one step is done whole or not at all.
    Cancellation: what is done stays done; asked again, it goes on.

    Raises:
        BadRequestError: an id is none, or nothing or more than one thing is asked for.
        NotFoundError: of an item nothing is known; whether there is such a run was asked before.
        StorageFullError: no space left; what came before is given back.
    """
    if bool(which.items) + (which.run is not None) + bool(which.sessions) != 1:
        raise BadRequestError("accepted is one of: items, a run, a session")

    async with archives.lock:
        giving = _Giving(archives, instant_text(clock.now()))
        if which.items:
            await _give_items(giving, archives.database, which.items)
        elif which.run is not None:
            await _give_all(giving, archives.database, Group("run_id", which.run))
        # One by one: of each there is an index in the order of positions.
        for session_id in which.sessions:
            await _give_all(giving, archives.database, Group("session_id", session_id))
        return await anyio.to_thread.run_sync(giving.told)


async def _give_items(giving: _Giving, database: Database, named: Sequence[str]) -> None:
    items = {int(item_id_of(one)) for one in named}
    entries = await database.read(partial(entries_of, items=items))
    unknown = items - {one.item for one in entries}
    if unknown:
        raise NotFoundError(f"nothing was ever done to item {item_id(min(unknown))}")

    giving.refuse_gone(entries)
    files: dict[str, dict[int, Entry]] = {}
    for one in entries:
        if one.archive is not None and one.state == PrunedState.ARCHIVED:
            files.setdefault(one.archive, {})[one.position] = one
    for name, wanted in files.items():
        await giving.out_of_file(name, wanted)
    await giving.out_of_grace([one for one in entries if one.state == PrunedState.HELD])


async def _give_all(giving: _Giving, database: Database, group: Group) -> None:
    """Give back all that can be of a group.

    Files come first: to what is in one nothing was done after that.
    """
    for name in await database.read(partial(files_with, group=group)):
        archived = partial(entries_in, group=group, state=PrunedState.ARCHIVED.value, archive=name)
        wanted = {one.position: one async for page in _pages_of(database, archived) for one in page}
        await giving.out_of_file(name, wanted)
    held = partial(entries_in, group=group, state=PrunedState.HELD.value)
    async for page in _pages_of(database, held):
        await giving.out_of_grace(page)


async def _pages_of(
    database: Database, query: Callable[..., list[Entry]]
) -> AsyncGenerator[list[Entry]]:
    """Yield the entries that a query finds, newest first, some at a time."""
    before: int | None = None
    while page := await database.read(partial(query, before=before, limit=PAGE)):
        yield page
        before = page[-1].position


class _Giving:
    """Gives entries back, newest first, and keeps what became of each item."""

    def __init__(self, archives: Archives, at: str) -> None:
        self._archives = archives
        self._at = at
        self._given: dict[int, RestoredItem] = {}
        self._refused: dict[int, tuple[int, str]] = {}
        """Why an item was not, and the entry that says so."""
        self._versions: dict[int, int] = {}
        """Of items that were given back: the version whose content they have again."""

    def refuse_gone(self, entries: Sequence[Entry]) -> None:
        """Take note of entries that cannot be given back, whatever happens."""
        for one in entries:
            if one.state not in {PrunedState.HELD, PrunedState.ARCHIVED}:
                self._refuse(one, _STATES.get(one.state, UNREADABLE))

    async def out_of_file(self, name: str, wanted: dict[int, Entry]) -> None:
        """Give back what a file has, if it is as it was written."""
        archives = self._archives
        row = await archives.database.read(lambda place: find_archive(place, name))
        reason = "" if row else f"{archives.path / name}: nothing tells what it must be"
        try:
            if row is not None:
                async with aclosing(archives.read(row)) as pieces:
                    async for items in pieces:
                        known = [(wanted.pop(one.position, None), one.row) for one in items]
                        await self._give([(one, row) for one, row in known if one is not None])
        except DamagedDataError as error:
            if error.path.parent != archives.path:
                raise
            reason = str(error)
        if wanted and reason:
            get_logger().warning("items.damaged", problem=reason)
        for one in wanted.values():
            self._refuse(one, reason or f"{archives.path / name}: does not hold it")

    async def out_of_grace(self, entries: Sequence[Entry]) -> None:
        """Give back what the database still holds."""
        for some in _pieces(entries):

            def read(
                place: Queries, some: Sequence[Entry] = some
            ) -> list[tuple[Entry, Mapping[str, Any]]]:
                return [(one, _held(place, one.position)) for one in some]

            await self._give(await self._archives.database.read(read))

    def told(self) -> Restored:
        """Return what became of each item, in the order of their ids."""
        given = tuple(one for _, one in sorted(self._given.items()))
        refused = sorted(
            (item, why) for item, (_, why) in self._refused.items() if item not in self._given
        )
        return Restored(given, tuple(NotRestored(item_id(item), why) for item, why in refused))

    def _refuse(self, entry: Entry, reason: str) -> None:
        # The newest entry of an item says best why.
        position, _ = self._refused.get(entry.item, (0, ""))
        if entry.position > position:
            self._refused[entry.item] = entry.position, reason

    async def _give(self, some: Sequence[tuple[Entry, Mapping[str, Any]]]) -> None:
        for start in range(0, len(some), STEP_ITEMS):
            step = some[start : start + STEP_ITEMS]

            def work(
                transaction: Transaction, step: Sequence[tuple[Entry, Mapping[str, Any]]] = step
            ) -> list[str]:
                versions = dict(self._versions)
                return [self._put_back(transaction, one, row, versions) for one, row in step]

            reasons = await self._archives.database.write_through(work)
            for (one, row), reason in zip(step, reasons, strict=True):
                if reason:
                    self._refuse(one, reason)
                    continue
                self._versions[one.item] = row["version"]
                self._given[one.item] = RestoredItem(
                    item_id(one.item), one.session_id, one.action, one.archive
                )

    def _put_back(
        self,
        transaction: Transaction,
        entry: Entry,
        row: Mapping[str, Any],
        versions: dict[int, int],
    ) -> str:
        """Make an item what it was, in the writer; return why not, empty where it is so.

        `versions` is as `_versions`, and is kept up to date.
        """
        marks = _marked(row.get("marks"), self._at)
        version = restorable.version_of(transaction, entry.item)
        reason = _why_not(transaction, entry)
        if not reason and (marks is None or not restorable.is_row(entry, row)):
            reason = UNREADABLE
        if not reason:
            reason = _misfit(entry, row, version, versions.get(entry.item, version))
        if reason or marks is None:
            return reason

        if version is None:
            restorable.insert(transaction, row, version=row["version"] + 1, marks=marks)
        else:
            restorable.change(transaction, row, version=version + 1, marks=marks)
        restorable.restored(transaction, entry.position)
        versions[entry.item] = row["version"]
        return ""


def _why_not(transaction: Transaction, entry: Entry) -> str:
    """Return why an entry cannot be given back any more, as things are now; empty where it can."""
    state = restorable.state_of(transaction, entry)
    if state not in {PrunedState.HELD, PrunedState.ARCHIVED}:
        return _STATES.get(state or "", ERASED)

    return "" if restorable.is_known(transaction, entry.session_id) else ERASED


def _misfit(entry: Entry, row: Mapping[str, Any], version: int | None, content: int | None) -> str:
    """Return why a row does not fit where its message was; empty where it does.

    Args:
        entry: What is undone.
        row: The row as it was.
        version: That of the message that is there; None: none is.
        content: The version whose content it has.
    """
    if entry.action in _REMOVING:
        return "" if version is None else TAKEN
    if version is None:
        return AWAY

    return "" if content == row["version"] + 1 else CHANGED


def _pieces(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Yield entries some at a time, few and small enough for one transaction."""
    start = total = 0
    for number, one in enumerate(entries):
        total += one.size_bytes
        if number > start and (total > PIECE_BYTES or number - start == STEP_ITEMS):
            yield entries[start:number]
            start, total = number, one.size_bytes
    if entries[start:]:
        yield entries[start:]


def _held(place: Queries, position: int) -> Mapping[str, Any]:
    try:
        return original(place, position) or {}
    except ValueError:
        return {}


def _marked(marks: object, at: str) -> str | None:
    """Return the marks of an item that is given back now; None where they cannot be read."""
    try:
        found = {} if marks is None else orjson.loads(str(marks))
    except ValueError:
        return None

    if not isinstance(found, dict):
        return None

    return orjson.dumps({**found, "restored_at": at}).decode()
