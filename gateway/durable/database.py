"""The one SQLite database: one writer thread, group commit, readers beside it.

All work that waits is committed together with one sync (WAL, FULL); work that fails undoes only
its own. The writer thread owns the only writing connection and its checkpoints; it is also where
every change is put in order, so what runs in it sees the result of all that came before. Knows no
table but the version.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import anyio.to_thread
import apsw
from typing_extensions import override

from gateway.durable.batch import PASSING, Job, Transaction, commit_batch, fail_all
from gateway.durable.connection import open_reader, open_writer, translated
from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.durable.pages import give_back
from gateway.errors import ConflictError, GatewayError, StorageError, StorageFullError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from gateway.clock import Clock

T = TypeVar("T")

MAX_BATCH: Final = 512
"""Most transactions committed together."""
READERS: Final = 2
"""Reading connections; reads are short and the interpreter runs one at a time anyway."""
IDLE_CHECKPOINT_PAGES: Final = 1_000
"""Pages in the WAL (4 KiB each) from which an idle writer checkpoints."""
BUSY_CHECKPOINT_PAGES: Final = 4_000
"""Pages in the WAL from which a busy writer checkpoints as well; about 5 ms of work."""
STEP_PAGES: Final = 200
"""Free pages given back to the disk in one step; about 2 ms of work."""
CLOSE_TIMEOUT_S: Final = 30.0
"""Longest wait for the writer thread at close."""


@dataclass(frozen=True, slots=True)
class DatabaseStatistics:
    """What the writer did since it was opened."""

    transactions: int
    commits: int
    """Group commits, one sync each."""
    waiting: int
    """Transactions handed over and not yet begun."""
    largest_batch: int
    last_commit_ms: float
    slowest_commit_ms: float
    wal_pages: int
    full: bool
    """True from a refused change for want of space until the next successful one."""
    failed: bool
    """True once the storage failed; nothing is accepted any more."""


class _KeptFuture(asyncio.Future[T]):
    """A future whose waiter cannot leave: being cancelled reaches it when the result is there."""

    @override
    def cancel(self, msg: object = None) -> bool:
        return False


class Database:
    """The writer thread, its queue and the readers."""

    def __init__(self, path: Path, writer: apsw.Connection, clock: Clock) -> None:
        """Take an opened and migrated connection; use `open`."""
        self.path = path
        self._writer = writer
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._readers: queue.SimpleQueue[apsw.Connection] = queue.SimpleQueue()
        self._read_limiter = anyio.CapacityLimiter(READERS)
        self._locks: dict[str, anyio.Lock] = {}
        self._failure: GatewayError | None = None
        self._failed = anyio.Event()
        self.on_full: Callable[[], None] = lambda: None
        """Called on the event loop when changes begin to be refused for want of space."""
        self._full = self._closed = False
        self._transactions = self._commits = self._largest_batch = self._wal_pages = 0
        self._last_commit_ms = self._slowest_commit_ms = 0.0
        self._thread = threading.Thread(target=self._run, name="database-writer", daemon=True)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path, clock: Clock, disk: Disk = SYSTEM_DISK
    ) -> AsyncGenerator[Database]:
        """Open or create the database, migrate it, and start its writer.

        Raises:
            DamagedDataError: it is not a database of ours, or it is damaged.
            DatabaseTooNewError: a newer gateway wrote it.
            StorageError: it cannot be opened or written.
        """
        database = cls(path, await anyio.to_thread.run_sync(open_writer, path, disk), clock)
        try:
            for _ in range(READERS):
                database._readers.put(await anyio.to_thread.run_sync(open_reader, path, disk))
            database._writer.set_wal_hook(database._wal_grew)
            database._thread.start()
            yield database
        finally:
            await database._close()

    def submit(self, work: Callable[[Transaction], T]) -> asyncio.Future[T]:
        """Hand work to the writer at once and return what it will have come to.

        Work is run in the order of `submit`, each in a transaction of its own. It runs in the
        writer thread and must be short. It may be run again if another work of its batch failed,
        so it must do nothing but with its transaction.

        Durability: the future ends once the work is synced to disk.
        Cancellation: a cancelled waiter leaves, its work is done all the same.

        Raises:
            StorageError: (from the future) the storage failed now or earlier.
            StorageFullError: (from the future) no space; nothing of the work was applied.
        """
        return self._hand_over(work, self._loop.create_future())

    def _hand_over(
        self, work: Callable[[Transaction], T], future: asyncio.Future[T]
    ) -> asyncio.Future[T]:
        if self._closed:
            future.set_exception(StorageError(f"{self.path}: the database is closed"))
        elif self._failure is not None:
            future.set_exception(self._failure)
        else:
            self._jobs.put(Job(work, future))

        return future

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run work in the writer thread and wait until it is durable; see `submit`."""
        return await self.submit(work)

    async def write_through(self, work: Callable[[Transaction], T]) -> T:
        """Run work and wait until it is durable, also when cancelled meanwhile; see `submit`.

        Cancellation: of an anyio scope, comes through at the caller's next wait, when the work is
        done; a bare `task.cancel()` is not told again.
        """
        future = self._hand_over(work, _KeptFuture(loop=self._loop))
        try:
            return await future
        except asyncio.CancelledError:
            return future.result()

    async def read(self, query: Callable[[apsw.Connection], T]) -> T:
        """Run a query on a reading connection, in a thread; it sees all that is durable."""
        if self._closed:
            raise StorageError(f"{self.path}: the database is closed")

        def run() -> T:
            connection = self._readers.get()
            try:
                with translated(self.path):
                    return query(connection)
            finally:
                self._readers.put(connection)

        return await anyio.to_thread.run_sync(run, limiter=self._read_limiter)

    async def ping(self) -> None:
        """Return once the writer has reached this; proves that it is alive, without a sync."""
        # A full disk that refused the others of the batch is an answer of the writer's too.
        with suppress(StorageFullError):
            await self.submit(lambda _: None)

    async def compact(self, up_to_bytes: int) -> bool:
        """Rewrite the database without a trace of what was deleted, and empty the WAL.

        Nothing else is written meanwhile: about 10 s for each GB, and as much space again. A
        database over the limit is not rewritten, only its WAL emptied.

        Args:
            up_to_bytes: The largest database that is rewritten.

        Returns:
            Whether it was rewritten.

        Raises:
            StorageBusyError: another program reads the database for longer than a few seconds.
            StorageFullError: no space; the database is as before.
        """
        outcome: list[GatewayError | None] = []
        small = (await anyio.to_thread.run_sync(self.path.stat)).st_size <= up_to_bytes

        def rewrite() -> None:
            mode = apsw.SQLITE_CHECKPOINT_TRUNCATE
            error = self._outside(lambda: self._writer.execute("VACUUM")) if small else None
            outcome.append(error or self._checkpoint(mode))

        await self.submit(lambda transaction: transaction.on_commit(rewrite))
        if outcome[0] is not None:
            raise outcome[0]

        return small

    async def give_back(self) -> int:
        """Give a few free pages back to the disk; return how many bytes, 0 where none are left.

        Between steps others write. A reserve of free pages stays; the file is cut by the checkpoint
        that follows, at the latest after the last step.
        """

        def cut() -> None:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)

        def step(transaction: Transaction) -> int:
            given = give_back(transaction.connection, STEP_PAGES)
            if not given and self._wal_pages:
                transaction.on_commit(cut)
            return given

        return await self.write(step)

    def lock(self, name: str) -> anyio.Lock:
        """Return the lock of a name, for work of several transactions that must not meet its like.

        The writer does not know of it: who needs it must take it.
        """
        return self._locks.setdefault(name, anyio.Lock())

    async def wait_failed(self) -> GatewayError:
        """Return the failure once the storage has failed."""
        await self._failed.wait()
        return self._failure or StorageError()

    def statistics(self) -> DatabaseStatistics:
        """Return what the writer did since it was opened."""
        return DatabaseStatistics(
            transactions=self._transactions,
            commits=self._commits,
            waiting=self._jobs.qsize(),
            largest_batch=self._largest_batch,
            last_commit_ms=self._last_commit_ms,
            slowest_commit_ms=self._slowest_commit_ms,
            wal_pages=self._wal_pages,
            full=self._full,
            failed=self._failure is not None,
        )

    async def _close(self) -> None:
        self._closed = True
        self._jobs.put(None)
        with anyio.CancelScope(shield=True):
            if self._thread.ident is not None:
                await anyio.to_thread.run_sync(self._thread.join, CLOSE_TIMEOUT_S)
                if self._thread.is_alive():
                    # A disk that does not answer: the end of the process ends its work.
                    return
            while not self._readers.empty():
                self._readers.get().close()
            await anyio.to_thread.run_sync(self._writer.close)

    def _run(self) -> None:
        while (first := self._jobs.get()) is not None:
            batch, stop = [first], False
            # Nobody else takes from the queue: what is in it can be had.
            while len(batch) < MAX_BATCH and not stop and not self._jobs.empty():
                job = self._jobs.get_nowait()
                if job is None:
                    stop = True
                else:
                    batch.append(job)
            self._guarded(lambda batch=batch: self._commit(batch), batch)  # type: ignore[misc]
            self._settle(batch)
            if stop:
                return
            self._guarded(self._checkpoint_if_due, [])

    def _guarded(self, action: Callable[[], None], batch: list[Job]) -> None:
        """Do a step of the writer; whatever it raises ends the daemon and not just the thread."""
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - a thread that dies silently hangs all waiters
            failure = StorageError(f"{self.path}: the writer failed: {error!r}")
            failure.__cause__ = error
            fail_all(batch, failure)
            self.fail(failure)

    def _commit(self, batch: list[Job]) -> None:
        """Run and commit a batch; every job leaves with a result or an error."""
        if self._failure is not None:
            fail_all(batch, self._failure)
            return

        started = self._clock.monotonic()
        error = commit_batch(self._writer, self.path, batch)
        if isinstance(error, PASSING):
            self._note_full(error)
        elif error is not None:
            self.fail(error)
        else:
            self._last_commit_ms = (self._clock.monotonic() - started) * 1000
            self._slowest_commit_ms = max(self._slowest_commit_ms, self._last_commit_ms)
            self._commits += 1
            self._transactions += len(batch)
            self._largest_batch = max(self._largest_batch, len(batch))

    def fail(self, error: GatewayError) -> None:
        """Accept nothing any more: after a failed sync no later one can be trusted.

        The daemon ends with the error; from any thread.
        """
        self._failure = self._failure or error
        self._call_loop(self._failed.set)

    def _note_full(self, error: GatewayError) -> None:
        if isinstance(error, StorageFullError) and not self._full:
            self._full = True
            self._call_loop(self.on_full)

    def _settle(self, batch: list[Job]) -> None:
        self._call_loop(lambda: _deliver(batch))

    def _call_loop(self, action: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError:
            # The loop is closed: nobody waits any more, and the work is durable.
            return

    def _wal_grew(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        # Called for commits that wrote something: an empty one succeeds on a full disk as well.
        self._wal_pages, self._full = pages, False
        return apsw.SQLITE_OK

    def _checkpoint_if_due(self) -> None:
        limit = IDLE_CHECKPOINT_PAGES if self._jobs.empty() else BUSY_CHECKPOINT_PAGES
        if self._wal_pages >= limit:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _checkpoint(self, mode: int) -> GatewayError | None:
        """Move the WAL into the database; where that fails it still holds everything."""
        error = self._outside(lambda: self._writer.wal_checkpoint(mode=mode))
        if error is None:
            self._wal_pages = 0
        return error

    def _outside(self, action: Callable[[], object]) -> GatewayError | None:
        """Do what no transaction can hold; a busy or full disk leaves it to the next time."""
        try:
            with translated(self.path):
                action()
        except apsw.SQLError as exc:
            return ConflictError(f"{self.path}: in use ({exc})")
        except GatewayError as error:
            if isinstance(error, PASSING):
                self._note_full(error)
            else:
                self.fail(error)
            return error

        return None


def _deliver(batch: list[Job]) -> None:
    for job in batch:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
