"""The archive: files of pruned items, each written once, checked when read, and taken away whole.

state/archive/   0700, files 0600
<UTC time>-<n>.jsonl.zst   a line an item; see `archive_file`
Order: the file aside, synced, renamed, the folder synced; its row in `archives`; then its items, a
few at a time, name it and let go of their originals. A file without a row is taken away, for the
database still has everything; items of the newest file that do not name it yet are seen to. To go,
items first let go of their file, then its row does, then it is unlinked.
"""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import anyio.to_thread

from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.errors import DamagedDataError
from gateway.retention.archive_file import (
    PIECE_BYTES,
    ArchivedItem,
    ArchiveWriter,
    read_file,
)
from gateway.retention.archive_folder import ArchiveFolder
from gateway.transcripts import archives, graces
from gateway.transcripts.archives import ArchiveRow, Placed
from gateway.transcripts.graces import Due
from gateway.transcripts.pruned import instant

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator
    from pathlib import Path

    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.transcripts.graces import Held

T = TypeVar("T")

FOLDER: Final = "archive"
"""Where files are, in the state directory."""
MAX_CONTENT_BYTES: Final = 67_108_864
"""A file with as much in it is closed, before it is compressed."""
MAX_ITEMS: Final = 20_000
"""A file of so many items is closed."""
STEP_ITEMS: Final = 50
"""Items that change in one transaction; it holds the writer for some milliseconds."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What was archived."""

    items: int
    file_bytes: int
    unreadable: tuple[int, ...]
    """Entries of `pruned_items` that were passed over, for what they hold cannot be read."""
    more: bool
    """Whether others are due."""


NOTHING_STORED: Final = Stored(0, 0, (), more=False)


@dataclass(frozen=True, slots=True)
class Removed:
    """What was taken away because its time was over."""

    items: int
    files: int
    more: bool
    """Whether the time of others is over."""


async def nothing() -> None:
    """Do nothing between steps."""


class Archives:
    """The folder of archive files of a state directory."""

    def __init__(
        self,
        database: Database,
        path: Path,
        disk: Disk = SYSTEM_DISK,
        *,
        max_content_bytes: int = MAX_CONTENT_BYTES,
    ) -> None:
        """Take the folder `archive` of the state directory; it is made when it is needed."""
        self._max_content_bytes = max_content_bytes
        self.database = database
        self.path = path
        self.disk = disk
        self._folder = ArchiveFolder(path, disk)
        self.lock = database.lock(FOLDER)
        """Guards the files, and which items `archives` and `pruned_items` say are in them."""

    async def store_due(
        self,
        now: datetime,
        purge_at: datetime | None,
        between: Callable[[], Awaitable[None]] = nothing,
    ) -> Stored:
        """Write items whose grace is over to one file, the longest due first.

        Durability: on return the items are in the file, or still held where nothing is told.
        Cancellation: the file is given up, or finished by `mend`.

        Args:
            now: The present instant.
            purge_at: When the time of the file is over; None: never.
            between: Called between parts of the file, with the lock held.

        Raises:
            StorageFullError: no space for the file; what is due stays held.
            DamagedDataError: what was written cannot be read back; it stays held.
        """
        async with self.lock, aclosing(self._due(instant(now))) as pieces:
            first = await anext(pieces, None)
            if first is None:
                return NOTHING_STORED

            await self._in_thread(self._folder.make)
            unreadable, more = list[int](), False
            async with self._writing(now) as file:
                unreadable += await self._in_thread(partial(file.add_held, first))
                async for piece in pieces:
                    if file.content_bytes >= self._max_content_bytes or file.items >= MAX_ITEMS:
                        more = True
                        break
                    unreadable += await self._in_thread(partial(file.add_held, piece))
                    await between()
            if not file.items:
                return replace(NOTHING_STORED, unreadable=tuple(unreadable))

            row = file.row(instant(now), None if purge_at is None else instant(purge_at))
            await self.database.write_through(partial(archives.add, row=row))
            await self._settle(row, between)
            return Stored(row.items, row.file_bytes, tuple(unreadable), more)

    async def mend(self, between: Callable[[], Awaitable[None]] = nothing) -> int:
        """Finish what was cut off, also by a crash; return how many files were taken away.

        `between` is called between steps.

        Raises:
            DamagedDataError: a file cannot be read; it stays, all else is done.
        """
        async with self.lock:
            gone = await self._take_leftovers()
            problems: list[DamagedDataError] = []
            for name in await self.database.read(archives.unfinished):
                newest = await self.database.read(archives.newest)
                is_newest = newest is not None and newest.name == name
                with self._collecting(problems):
                    # Of the newest, items may still be held; of others, only what is left counts.
                    if newest and is_newest:
                        await self._settle(newest, between)
                    else:
                        await self._renew(name, between)
            for name in await self.database.read(archives.condemned):
                with self._collecting(problems):
                    await self._renew(name, between)
            for name in await self.database.read(archives.going):
                await self._purge(name, between)
                gone += 1
            if problems:
                raise problems[0]

            return gone

    async def remove_expired(
        self,
        now: datetime,
        keep_s: float | None,
        between: Callable[[], Awaitable[None]] = nothing,
    ) -> Removed:
        """Take the oldest file away whose time is over.

        Args:
            now: The present instant.
            keep_s: How long a file stays after it was made, also one that is there; None: for ever.
            between: Called between steps.
        """
        async with self.lock:
            rows = await self.database.read(archives.all_of)
            times = {row.name: _purge_at(row, keep_s) for row in rows}
            changed = [
                (row.name, times[row.name]) for row in rows if times[row.name] != row.purge_at
            ]
            if changed:
                await self.database.write(partial(archives.set_purge_at, times=changed))
            over = [name for name, at in times.items() if at is not None and at <= instant(now)]
            if not over:
                return Removed(0, 0, more=False)

            return Removed(await self._purge(over[0], between), 1, more=len(over) > 1)

    async def read(self, row: ArchiveRow) -> AsyncGenerator[list[ArchivedItem]]:
        """Yield the items of a file, some at a time; the lock must be held.

        Raises:
            DamagedDataError: it is not as it was written, or not there.
        """
        pieces = read_file(self.path / row.name, row.sha256, self.disk)
        try:
            while (piece := await self._in_thread(partial(next, pieces, None))) is not None:
                yield piece
        finally:
            pieces.close()

    async def _due(self, now: str) -> AsyncGenerator[list[Held]]:
        after = Due()
        while piece := await self.database.read(
            partial(
                graces.due_to_archive, now=now, after=after, limit=STEP_ITEMS, max_bytes=PIECE_BYTES
            )
        ):
            yield piece
            after = piece[-1].due

    @asynccontextmanager
    async def _writing(self, at: datetime) -> AsyncGenerator[ArchiveWriter]:
        """Write a file of this time, which is there at the end if anything was put in."""
        name = await self._free_name(at)
        file = await self._in_thread(partial(ArchiveWriter, self.path / name, self.disk))
        try:
            yield file
            if file.items:
                await self._in_thread(file.commit)
        finally:
            with anyio.CancelScope(shield=True):
                await self._in_thread(file.discard)

    async def _settle(
        self,
        row: ArchiveRow,
        between: Callable[[], Awaitable[None]],
        instead_of: str | None = None,
    ) -> None:
        """Let the items of a file name it; what it should not hold is taken out of it.

        It is read back before the database lets go of what it holds.
        """
        missing = 0
        async with aclosing(self.read(row)) as pieces:
            async for items in pieces:
                entries = [Placed(one.position, one.item) for one in items]
                for start in range(0, len(entries), STEP_ITEMS):
                    missing += await self.database.write_through(
                        partial(
                            archives.put_into,
                            name=row.name,
                            entries=entries[start : start + STEP_ITEMS],
                            instead_of=instead_of,
                        )
                    )
                    await between()
        if missing:
            await self._renew(row.name, between)

    async def _renew(self, name: str, between: Callable[[], Awaitable[None]]) -> None:
        """Put in the place of a file one that holds only what is nowhere else, or none."""
        row = await self.database.read(partial(archives.find, name=name))
        if not await self._in_thread(partial(self._folder.has, name)):
            # What it held is not here, whatever says so.
            await self.database.write_through(partial(archives.forget_condemned, name=name))
            return
        if row is None:
            raise DamagedDataError(self.path / name, "nothing tells what it must be")

        if await self.database.read(partial(archives.holds_any, name=name)):
            async with self._writing(_instant(row.made_at)) as file:
                await self._copy_needed(row, file, between)
            if file.items:
                newer = file.row(row.made_at, row.purge_at)
                await self.database.write_through(partial(archives.add, row=newer))
                await self._settle(newer, between, instead_of=name)
        await self.database.write_through(partial(archives.replace, name=name))
        await self._in_thread(partial(self._folder.remove, name))

    async def _copy_needed(
        self, row: ArchiveRow, file: ArchiveWriter, between: Callable[[], Awaitable[None]]
    ) -> None:
        async with aclosing(self.read(row)) as pieces:
            async for items in pieces:
                positions = [one.position for one in items]
                needed = await self.database.read(
                    partial(archives.archived_among, name=row.name, positions=positions)
                )
                lines = [one.line for one in items if one.position in needed]
                await self._in_thread(partial(file.add_lines, lines))
                await between()

    async def _purge(self, name: str, between: Callable[[], Awaitable[None]]) -> int:
        """Take a file away, its items first; return how many of them are thereby gone."""

        def begin(transaction: Transaction) -> None:
            archives.let_go(transaction, name)
            archives.forget_condemned(transaction, name)

        await self.database.write_through(begin)
        gone = 0
        while positions := await self.database.read(
            partial(archives.entries_in, name=name, limit=STEP_ITEMS)
        ):
            gone += await self.database.write_through(
                partial(archives.purge, name=name, positions=positions)
            )
            await between()
        await self.database.write_through(partial(archives.remove, name=name))
        await self._in_thread(partial(self._folder.remove, name))
        return gone

    async def _take_leftovers(self) -> int:
        """Take away files of which no row tells: a crash came between them and their row."""
        names = await self._in_thread(self._folder.names)
        unknown = await self.database.read(partial(archives.unknown, names=names))
        for name in unknown:
            await self._in_thread(partial(self._folder.remove, name))
        return len(unknown)

    async def _free_name(self, at: datetime) -> str:
        """Return a name of a time that nothing has or tells of."""
        names = self._folder.free_names(at)
        while True:
            name = await self._in_thread(lambda: next(names))
            if await self.database.read(partial(archives.unknown, names=[name])):
                return name

    @contextmanager
    def _collecting(self, problems: list[DamagedDataError]) -> Generator[None]:
        """Keep what is told of damaged files for later."""
        try:
            yield
        except DamagedDataError as error:
            if error.path.parent != self.path:
                raise
            problems.append(error)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work)


def condemn_sessions(transaction: Transaction, session_ids: Collection[str]) -> None:
    """Delete what pruning holds and tells of sessions; what files hold is gone for readers at once.

    For the transaction that erases the sessions. After it is durable call `forget_condemned`; where
    that is cut off, the next sweep or the next erasure goes on with it.
    """
    archives.condemn(transaction, session_ids)


async def forget_condemned(store: Archives) -> None:
    """Write the archive files that hold items of erased sessions anew without them.

    Durability: on return no file of the archive holds anything of them.

    Raises:
        DamagedDataError: such a file cannot be read; it stays.
        StorageFullError: no space for the new file; the old one stays. Ask again.
    """
    await store.mend()


async def forget_sessions(store: Archives, session_ids: Collection[str]) -> None:
    """Forget what pruning holds of sessions: `condemn_sessions` and `forget_condemned` in one."""
    await store.database.write(partial(condemn_sessions, session_ids=session_ids))
    await forget_condemned(store)


def _purge_at(row: ArchiveRow, keep_s: float | None) -> str | None:
    if keep_s is None or row.purge_at == row.made_at:
        return row.purge_at if row.purge_at == row.made_at else None

    try:
        return instant(_instant(row.made_at) + timedelta(seconds=keep_s))
    except (OverflowError, ValueError):
        return row.purge_at


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
