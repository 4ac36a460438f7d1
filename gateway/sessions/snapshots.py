"""When `sessions.json` is written, and what follows from it: `.prev`, and a shorter session log.

Paced three ways: not before an interval, not more than a tenth of the time, and within a budget of
bytes. Order on disk: content synced, renamed, directory synced, only then log rows deleted, and
only those that `.prev` covers.
"""

from __future__ import annotations

import asyncio
import grp
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from gateway.clock import SystemClock
from gateway.durable.disk import remove
from gateway.durable.files import Replacement, old_name, shrink, storage_errors
from gateway.errors import ConfigurationError, SyncFailedError
from gateway.log import get_logger
from gateway.sessions.recovery import PREVIOUS, SNAPSHOT, Recovered
from gateway.sessions.snapshot import write_snapshot
from gateway.sessions.staging import EntryStaging

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import Clock
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.durable.directory import StateDirectory
    from gateway.sessions.settings import StoreSettings

DUTY: Final = 10
"""A snapshot is begun no sooner than this many durations after the one before: 10 % of the time."""
TRIM_ROWS: Final = 500
"""Log rows deleted in one transaction, so that no commit waits long behind it; about 3 ms."""
SHRINK_PAUSE_S: Final = 0.01
"""Between two steps of taking a large file away."""


@dataclass(frozen=True, slots=True)
class SnapshotStatistics:
    """The snapshot in place."""

    sequence: int
    written_at: datetime | None
    """When the newest one was begun; None before the first of this run."""
    size_bytes: int
    duration_ms: float
    written: int
    """Snapshots written since the start."""
    failed: int
    """Snapshots that could not be written since the start."""


class Snapshots:
    """Writes snapshots of one store; owns the pace and the session log's length."""

    def __init__(
        self,
        directory: StateDirectory,
        database: Database,
        clock: Clock,
        settings: StoreSettings,
        recovered: Recovered,
    ) -> None:
        """Start from a recovered store; `begin` comes next."""
        self._path = directory.path / SNAPSHOT
        self._previous = directory.path / PREVIOUS
        self._disk = directory.disk
        self._database = database
        self._clock = clock
        self._settings = settings
        self._recovered = recovered
        self._table = recovered.table
        self._group_id = dashboard_group_id(settings)
        self._writing = anyio.Lock()
        self._loop = asyncio.get_running_loop()
        self.on_change: Callable[[], None] = lambda: None
        """Called on the event loop when memory begins to differ from the newest snapshot."""
        self.staging = EntryStaging(recovered.table, recovered.sequence, self._first_change)
        self._sequence = recovered.previous_sequence
        self._keep_previous = recovered.snapshot_usable
        self._written_at: datetime | None = None
        self._size_bytes = 0
        self._duration_s = 0.0
        self._begun_at = clock.monotonic()
        self._allowance_bytes = float(settings.snapshot_burst_bytes)
        self._allowance_at = clock.monotonic()
        self._written = self._failed = 0

    def configure(self, settings: StoreSettings) -> None:
        """Take a new pace."""
        self._settings = settings

    async def begin(self) -> None:
        """Make the files agree with memory, and mark the store as in use."""
        if not self._recovered.clean:
            await self.write()
        await self._take_old_away()
        last, taken = self._recovered.sequence, self._recovered.taken

        def mark(transaction: Transaction) -> None:
            for name, value in (("used", 1), ("clean", 0), ("last", last)):
                _set_state(transaction, name, value)
            if taken:
                # What was said before is then not here: a check must not take it for lost.
                _set_state(transaction, "taken", 1)

        await self._database.write(mark)

    async def end(self) -> None:
        """Write what is not yet in the snapshot, and mark the shutdown as orderly."""
        if self.staging.applied_sequence != self._sequence:
            await self.write()
        await self._database.write(lambda transaction: _set_state(transaction, "clean", 1))

    def due_in_s(self) -> float | None:
        """Return the seconds until a snapshot may be written; None while there is nothing new."""
        if not self.staging.changed:
            return None

        now, settings = self._clock.monotonic(), self._settings
        wait = self._begun_at + max(settings.snapshot_interval_s, DUTY * self._duration_s) - now
        rate = settings.snapshot_budget_bytes_per_s
        if rate:
            missing = self._size_bytes - self._allowance(now)
            # A snapshot larger than the burst would never be allowed: it may go when it is full.
            missing = min(missing, settings.snapshot_burst_bytes - self._allowance(now))
            wait = max(wait, missing / rate)
        return max(0.0, wait)

    async def write(self) -> None:
        """Write a snapshot that is begun after this call.

        Durability: on return the snapshot, renamed, survives power loss.

        Raises:
            StorageFullError: no space left; the snapshot in place is untouched.
            SyncFailedError: the disk did not confirm it; nothing is accepted any more.
            StorageError: the file cannot be written; the one in place is untouched.
        """
        async with self._writing:
            began, at = self._clock.monotonic(), self._clock.now()
            self._begun_at = began
            self.staging.changed = False
            sequence = self.staging.applied_sequence
            try:
                size = await self._replace(sequence, at)
            except BaseException as error:
                self._failed += 1
                self._first_change()
                self.staging.changed = True
                if isinstance(error, SyncFailedError):
                    # A failed sync is final, of this file as of the database.
                    self._database.fail(error)
                raise

            self._duration_s = self._clock.monotonic() - began
            self._allowance_bytes = self._allowance(began) - size
            self._allowance_at = began
            covered = self._sequence
            self._sequence, self._written_at, self._size_bytes = sequence, at, size
            self._written += 1
            get_logger().info(
                "store.snapshot",
                entries=len(self._table),
                sequence=sequence,
                size_bytes=size,
                duration_ms=round(self._duration_s * 1000, 3),
            )
            # First what needs no space and gives some.
            await self._take_old_away()
            await self._trim(covered)

    def statistics(self) -> SnapshotStatistics:
        """Return the snapshot in place."""
        return SnapshotStatistics(
            sequence=self._sequence,
            written_at=self._written_at,
            size_bytes=self._size_bytes,
            duration_ms=round(self._duration_s * 1000, 3),
            written=self._written,
            failed=self._failed,
        )

    async def _replace(self, sequence: int, at: datetime) -> int:
        mode = 0o600 if self._group_id is None else 0o640
        replacement = await anyio.to_thread.run_sync(
            lambda: Replacement(self._path, mode=mode, group_id=self._group_id, disk=self._disk)
        )
        try:
            await write_snapshot(replacement, self._table, sequence=sequence, at=at)
            keep = self._previous if self._keep_previous else None
            await anyio.to_thread.run_sync(lambda: replacement.commit(keep_previous=keep))
            self._keep_previous = True
        except BaseException:
            # A large file takes its time to go, also where the caller was cancelled.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(replacement.discard)
            raise
        return replacement.written_bytes

    async def _trim(self, covered: int) -> None:
        """Delete log rows up to what `.prev` covers, oldest first."""

        def delete(transaction: Transaction) -> int:
            _set_state(transaction, "floor", covered)
            transaction.execute(
                "DELETE FROM session_log WHERE sequence IN "
                "(SELECT sequence FROM session_log WHERE sequence <= ? LIMIT ?)",
                (covered, TRIM_ROWS),
            )
            return transaction.connection.changes()

        while await self._database.write(delete) == TRIM_ROWS:
            await anyio.lowlevel.checkpoint()

    async def _take_old_away(self) -> None:
        """Free the file before `.prev`, in steps, so that no commit waits for the disk."""
        old = old_name(self._previous)
        while await anyio.to_thread.run_sync(shrink, old):
            # The disk needs this time, whatever the gateway's clock says.
            await SystemClock().sleep(SHRINK_PAUSE_S)
        with storage_errors(old):
            await anyio.to_thread.run_sync(remove, self._disk, old)

    def _allowance(self, now: float) -> float:
        settings = self._settings
        earned = (now - self._allowance_at) * settings.snapshot_budget_bytes_per_s
        return min(self._allowance_bytes + earned, float(settings.snapshot_burst_bytes))

    def _tell(self) -> None:
        self.on_change()

    def _first_change(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._tell)
        except RuntimeError:
            # The loop is closed: there is nobody left to write a snapshot.
            return


def discard_leftovers(directory: StateDirectory) -> None:
    """Take away what a crash left aside: a database on a full disk may need the room to open."""
    previous = directory.path / PREVIOUS
    aside = (directory.path / f"{SNAPSHOT}.tmp", directory.path / f"{PREVIOUS}.tmp")
    for path in (*aside, old_name(previous)):
        with storage_errors(path):
            remove(directory.disk, path)


def dashboard_group_id(settings: StoreSettings) -> int | None:
    """Return the id of the group that may read the snapshot; None where none may.

    Raises:
        ConfigurationError: the machine has no such group.
    """
    name = settings.dashboard_group
    if not name:
        return None

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        problem = f"store.dashboard_group: accepted is a group of this machine, not {name!r}"
        raise ConfigurationError([problem]) from None


def _set_state(transaction: Transaction, name: str, value: int) -> None:
    transaction.execute(
        "INSERT INTO store_state (name, value) VALUES (?1, ?2) "
        "ON CONFLICT (name) DO UPDATE SET value = ?2",
        (name, value),
    )
