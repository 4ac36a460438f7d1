"""Committing a batch of work in one transaction, each work undone alone where it fails.

Runs in the database's writer thread. Memory that work has staged follows the database: `on_commit`
actions run once it is durable, `on_abort` actions where it is rolled back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from gateway.durable.connection import STORAGE_ERRORS, as_ours
from gateway.errors import GatewayError, StorageBusyError, StorageError, StorageFullError

if TYPE_CHECKING:
    from pathlib import Path

    import apsw


PASSING: Final = (StorageFullError, StorageBusyError)
"""Errors after which the storage may be used again."""


class Queries(Protocol):
    """What reads: a transaction as well as a reading connection."""

    def execute(self, sql: str, bindings: Any = ..., /) -> apsw.Cursor:  # noqa: ANN401 - apsw's own type
        """Run one statement."""
        ...


class Transaction:
    """One unit of work in the writer thread; valid only inside the work it was handed to."""

    __slots__ = ("_aborts", "_commits", "connection", "execute")

    def __init__(self, connection: apsw.Connection) -> None:
        """Wrap the writing connection."""
        self.connection = connection
        self.execute = connection.execute
        """Run one statement."""
        self._commits: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        self._aborts: list[tuple[Callable[..., None], tuple[object, ...]]] = []

    def on_commit(self, action: Callable[..., None], *arguments: object) -> None:
        """Run an action in the writer thread once the work is durable; it must not raise."""
        self._commits.append((action, arguments))

    def on_abort(self, action: Callable[..., None], *arguments: object) -> None:
        """Run an action in the writer thread if the work is rolled back; it must not raise."""
        self._aborts.append((action, arguments))

    def committed(self) -> None:
        """Run what waits for durability, in order."""
        for action, arguments in self._commits:
            action(*arguments)

    def aborted(self) -> None:
        """Undo what the work staged in memory, newest first."""
        for action, arguments in reversed(self._aborts):
            action(*arguments)


@dataclass(slots=True)
class Job:
    """Work that waits, and what became of it."""

    work: Callable[[Transaction], object]
    future: asyncio.Future[Any]
    transaction: Transaction | None = None
    result: object = None
    error: BaseException | None = None


def commit_batch(connection: apsw.Connection, path: Path, batch: list[Job]) -> GatewayError | None:
    """Run and commit jobs; each leaves with a result or an error.

    Returns the storage's error, with database and memory as before the batch. All are final but a
    full disk and another program's lock: after a failed sync no later one can be trusted.
    """
    try:
        if not _run_all(connection, batch):
            _run_apart(connection, batch)
        connection.execute("COMMIT")
    except STORAGE_ERRORS as error:
        refusal = as_ours(path, error)
        refusal.__cause__ = error
        _roll_back(connection, batch, refusal)
        return refusal
    except BaseException as error:  # noqa: BLE001 - a thread that dies silently hangs all waiters
        failure = StorageError(f"{path}: the writer failed: {error!r}")
        failure.__cause__ = error
        _roll_back(connection, batch, failure)
        return failure

    for job in batch:
        if job.error is None and job.transaction is not None:
            job.transaction.committed()
    return None


def fail_all(batch: list[Job], error: GatewayError) -> None:
    """Give jobs an error, but for those that have one of their own."""
    for job in batch:
        job.error = job.error or error


def _run_all(connection: apsw.Connection, batch: list[Job]) -> bool:
    """Run a batch in one transaction; False, and all undone, if a job fails half way."""
    connection.execute("BEGIN IMMEDIATE")
    for place, job in enumerate(batch):
        before = connection.total_changes()
        if not _attempt(connection, job) and connection.total_changes() != before:
            connection.execute("ROLLBACK")
            for done in reversed(batch[:place]):
                if done.transaction is not None and done.error is None:
                    done.transaction.aborted()
                    done.transaction = None
            return False

    return True


def _run_apart(connection: apsw.Connection, batch: list[Job]) -> None:
    """Run a batch once more, a savepoint each, so that a failing job undoes only its own."""
    connection.execute("BEGIN IMMEDIATE")
    for job in batch:
        job.error = None
        connection.execute("SAVEPOINT job")
        if not _attempt(connection, job):
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")


def _attempt(connection: apsw.Connection, job: Job) -> bool:
    """Run one job; its own errors stay its own, storage errors are everybody's."""
    transaction = job.transaction = Transaction(connection)
    try:
        job.result = job.work(transaction)
    except STORAGE_ERRORS:
        raise
    except BaseException as error:  # noqa: BLE001 - handed to the waiter whole
        transaction.aborted()
        # A future refuses a StopIteration.
        job.error = RuntimeError(repr(error)) if isinstance(error, StopIteration) else error
        return False

    return True


def _roll_back(connection: apsw.Connection, batch: list[Job], error: GatewayError) -> None:
    """Leave memory and, where the storage still works, the database as before the batch."""
    for job in reversed(batch):
        if job.transaction is not None and job.error is None:
            job.transaction.aborted()
    fail_all(batch, error)
    if isinstance(error, PASSING) and connection.in_transaction:
        connection.execute("ROLLBACK")
