"""What becomes of pruned items when their time is over: purged, archived, forgotten.

A sweep does some of everything that is due, in small transactions between which others write, and
tells whether there is more. All of it may be cut off anywhere: what is due is found in the database
each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.errors import DamagedDataError, StorageFullError
from gateway.retention.archiving import nothing
from gateway.retention.removing import RemovedSessions
from gateway.transcripts import graces
from gateway.transcripts.graces import Due
from gateway.transcripts.pruned import instant

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from gateway.clock import Clock
    from gateway.retention.archiving import Archives
    from gateway.retention.settings import KeepSettings

STEP_ROWS: Final = 100
STEP_BYTES: Final = 524_288
"""Rows, and bytes of originals, of one transaction: it holds the writer for some milliseconds."""
LOOKED_AT: Final = 1_000
"""Rows of the audit that are looked at in one read."""
SWEEP_STEPS: Final = 100
"""Transactions of one sweep for each thing there is to do."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What one sweep did."""

    purged_items: int = 0
    """Items whose grace, or whose archive's time, was over: their contents are gone."""
    archived_items: int = 0
    archived_bytes: int = 0
    """What they take in the archive file, compressed."""
    removed_archives: int = 0
    """Archive files whose time was over, and leftovers of a crash."""
    moved_items: int = 0
    """Messages of conversations that ended long ago, which are on their way to the archive."""
    forgotten_sessions: int = 0
    """Conversations of which nothing is left but what the audit says."""
    forgotten_records: int = 0
    """Rows of the audit, of items and of runs, and of model calls of forgotten conversations."""
    freed_bytes: int = 0
    """What the file of the database became smaller."""
    more: bool = False
    """Whether there is more to do at once."""
    problems: tuple[str, ...] = ()
    """Files and rows that were passed over because they are damaged, and why."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing was done."""
        return self == Kept(problems=self.problems)

    def plus(self, other: Kept) -> Kept:
        """Return what both did."""
        return Kept(
            self.purged_items + other.purged_items,
            self.archived_items + other.archived_items,
            self.archived_bytes + other.archived_bytes,
            self.removed_archives + other.removed_archives,
            self.moved_items + other.moved_items,
            self.forgotten_sessions + other.forgotten_sessions,
            self.forgotten_records + other.forgotten_records,
            self.freed_bytes + other.freed_bytes,
            self.more or other.more,
            self.problems + other.problems,
        )


class Keeping:
    """Keeps what pruning took for as long as the settings say."""

    def __init__(self, archives: Archives, clock: Clock, settings: KeepSettings) -> None:
        """Take the archive, whose database it works on."""
        self.settings = settings
        """May be replaced at any time."""
        self.on_changed: Callable[[Collection[str]], None] = lambda _: None
        """Called on the event loop with the ids of sessions whose messages went to the archive."""
        self._archives = archives
        self._database = archives.database
        self._clock = clock
        self._removed = RemovedSessions(archives.database, self._tell_changed)
        self._after_entry = self._after_run = 0
        self._between: Callable[[], Awaitable[None]] = nothing

    @property
    def run_id(self) -> str | None:
        """The run that moves messages of ended conversations, while it is in progress."""
        return self._removed.run_id

    async def work(self, between: Callable[[], Awaitable[None]] | None = None) -> Kept:
        """Do one bounded sweep, in steps between which others write; never two at once.

        What is damaged is passed over and told.

        Args:
            between: Called between the steps, again and again: what must not wait is done there. It
                must not read or change the archive.

        Durability: on return what is told is on disk.
        Cancellation: what is done stays done; the next sweep goes on.

        Raises:
            StorageFullError: no space left; what is due stays where it is.
            StorageError: the storage failed.
        """
        settings, now = self.settings, self._clock.now()
        self._between = nothing if between is None else between
        kept = await self._purge_held(now)
        kept = kept.plus(await self._remove_archives(now, settings.archive_s))
        kept = kept.plus(await self._mend())
        kept = kept.plus(await self._archive(now, settings.archive_s))
        if settings.removed_sessions_s is not None:
            kept = kept.plus(await self._move_removed(now, settings, settings.removed_sessions_s))
        if settings.audit_s is not None:
            kept = kept.plus(await self._forget(now, settings.audit_s))
        return kept.plus(await self._give_back())

    async def _purge_held(self, now: datetime) -> Kept:
        """Let go of originals whose grace is over, but for those that go to the archive."""
        gone, after = 0, Due()
        for _ in range(SWEEP_STEPS):
            due = await self._database.read(
                partial(
                    graces.due_to_go,
                    now=instant(now),
                    after=after,
                    limit=STEP_ROWS,
                    max_bytes=STEP_BYTES,
                )
            )
            if not due:
                return Kept(purged_items=gone)

            gone += await self._database.write(partial(graces.purge, entries=due))
            after = due[-1]
            await self._between()
        return Kept(purged_items=gone, more=True)

    async def _remove_archives(self, now: datetime, archive_s: float | None) -> Kept:
        removed = await self._archives.remove_expired(now, archive_s, self._between)
        return Kept(purged_items=removed.items, removed_archives=removed.files, more=removed.more)

    async def _mend(self) -> Kept:
        """Finish what a crash or an erasure has left undone."""
        try:
            return Kept(removed_archives=await self._archives.mend(self._between))
        except DamagedDataError as error:
            return self._told(error)

    async def _archive(self, now: datetime, archive_s: float | None) -> Kept:
        try:
            purge_at = _later(now, archive_s)
            stored = await self._archives.store_due(now, purge_at, self._between)
        except DamagedDataError as error:
            return self._told(error)
        except StorageFullError as error:
            # What else a sweep does may make room.
            return Kept(problems=(str(error),))

        problems = [
            f"{self._database.path}: pruned_items {position}: its original cannot be read"
            for position in stored.unreadable
        ]
        return Kept(
            archived_items=stored.items,
            archived_bytes=stored.file_bytes,
            more=stored.more,
            problems=tuple(problems),
        )

    def _told(self, error: DamagedDataError) -> Kept:
        """Return what is wrong with a file of the archive; a damaged database ends the gateway."""
        if error.path.parent != self._archives.path:
            raise error

        return Kept(problems=(str(error),))

    async def _move_removed(self, now: datetime, settings: KeepSettings, removed_s: float) -> Kept:
        """Move what was said in conversations that ended long ago on its way to the archive."""
        before, due_at = _earlier(now, removed_s), _later(now, settings.grace_s)
        if before is None or due_at is None:
            return Kept()

        moved = await self._removed.work(
            now,
            before,
            due_at,
            steps=SWEEP_STEPS,
            exempt_keys=settings.exempt_keys,
            between=self._between,
        )
        problems = [
            f"{self._database.path}: messages {position}: cannot be read"
            for position in moved.unreadable
        ]
        return Kept(
            moved_items=moved.totals.items,
            forgotten_sessions=moved.forgotten,
            forgotten_records=moved.calls,
            more=moved.more,
            problems=tuple(problems),
        )

    async def _forget(self, now: datetime, audit_s: float) -> Kept:
        """Delete what is told of items that are gone, and of runs that took nothing else."""
        before = _earlier(now, audit_s)
        if before is None:
            return Kept()

        entries = await self._forget_entries(before)
        runs = await self._forget_runs(before)
        gone = entries.forgotten_records + runs.forgotten_records
        return Kept(forgotten_records=gone, more=bool(gone) and (entries.more or runs.more))

    async def _forget_entries(self, before: datetime) -> Kept:
        """Delete entries, as far as a sweep comes; the next goes on where it ended."""
        gone = 0
        for _ in range(SWEEP_STEPS):
            found, after = await self._database.read(
                partial(graces.old_entries, before=before, after=self._after_entry, limit=LOOKED_AT)
            )
            for start in range(0, len(found), STEP_ROWS):
                some = found[start : start + STEP_ROWS]
                gone += await self._database.write(
                    partial(graces.forget, entries=some, before=before)
                )
                await self._between()
            self._after_entry = after or 0
            if after is None:
                return Kept(forgotten_records=gone)
            await self._between()
        return Kept(forgotten_records=gone, more=True)

    async def _forget_runs(self, before: datetime) -> Kept:
        gone = 0
        for _ in range(SWEEP_STEPS):
            found, after = await self._database.read(
                partial(graces.old_runs, before=before, after=self._after_run, limit=STEP_ROWS)
            )
            if found:
                gone += await self._database.write(
                    partial(graces.forget_runs, runs=found, before=before)
                )
            self._after_run = after or 0
            if after is None:
                return Kept(forgotten_records=gone)
            await self._between()
        return Kept(forgotten_records=gone, more=True)

    def _tell_changed(self, session_ids: Collection[str]) -> None:
        self.on_changed(session_ids)

    async def _give_back(self) -> Kept:
        """Give free pages back to the disk."""
        freed = 0
        for _ in range(SWEEP_STEPS):
            step = await self._database.give_back()
            if not step:
                return Kept(freed_bytes=freed)
            freed += step
            await self._between()
        return Kept(freed_bytes=freed, more=True)


def _later(now: datetime, duration_s: float | None) -> datetime | None:
    try:
        return None if duration_s is None else now + timedelta(seconds=duration_s)
    except OverflowError:
        return None


def _earlier(now: datetime, duration_s: float) -> datetime | None:
    """Return the instant so long ago; None where there was none."""
    try:
        return now - timedelta(seconds=duration_s)
    except OverflowError:
        return None
