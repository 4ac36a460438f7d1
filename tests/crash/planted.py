"""Stores that are broken on purpose: each has a bug that the checks must find."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

from typing_extensions import override

from gateway.errors import DamagedDataError
from gateway.sessions.lifecycle import Lifecycle
from gateway.sessions.recovery import Recovered, recover
from gateway.sessions.snapshots import Snapshots
from gateway.sessions.store import SessionStore
from gateway.sessions.table import EntryTable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from datetime import datetime

    from gateway.clock import Clock
    from gateway.durable.batch import Transaction
    from gateway.durable.connection import Connection
    from gateway.durable.database import Database
    from gateway.durable.directory import StateDirectory
    from gateway.model import SessionKey
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.settings import StoreSettings


class _TrimsFirst(Snapshots):
    @override
    async def _replace(self, sequence: int, at: datetime) -> int:
        await self._trim(sequence)
        return await super()._replace(sequence, at)


class TrimsFirst(SessionStore):
    """Deletes log rows before the snapshot that has them is in place."""

    def __init__(
        self,
        directory: StateDirectory,
        database: Database,
        clock: Clock,
        settings: StoreSettings,
        recovered: Recovered,
    ) -> None:
        super().__init__(directory, database, clock, settings, recovered)
        self.snapshots = _TrimsFirst(directory, database, clock, settings, recovered)
        self._staging = self.snapshots.staging
        self.lifecycle = Lifecycle(self._staging, clock)


class EmptyOnError(SessionStore):
    """Takes what it cannot read for nothing."""

    @classmethod
    @asynccontextmanager
    @override
    async def open(
        cls, directory: StateDirectory, database: Database, clock: Clock, settings: StoreSettings
    ) -> AsyncGenerator[Self]:
        try:
            recovered = await database.read(lambda conn: recover(conn, directory, clock.now()))
        except DamagedDataError:
            last = await database.read(_last)
            recovered = Recovered(
                table=EntryTable(),
                sequence=last,
                previous_sequence=last,
                clean=False,
                snapshot_usable=True,
                replayed=0,
                quarantined=0,
            )
        store = cls(directory, database, clock, settings, recovered)
        await store.snapshots.begin()
        yield store
        await store.snapshots.end()


def _last(connection: Connection) -> int:
    """Return the newest change there is, so that what is empty at least fits the database."""
    query = "SELECT max(value) FROM store_state WHERE name IN ('last', 'floor')"
    logged = "SELECT max(sequence) FROM session_log"
    found = connection.execute(f"SELECT max(({query}), coalesce(({logged}), 0))").fetchall()
    return int(str(found[0][0]))


class AnswersEarly(SessionStore):
    """Acknowledges an update once it is staged; the commit comes after."""

    @override
    async def update(
        self, key: SessionKey, change: Callable[[SessionEntry], SessionEntry]
    ) -> SessionEntry:
        loop = asyncio.get_running_loop()
        staged: asyncio.Future[SessionEntry] = loop.create_future()
        answered = threading.Event()

        def work(transaction: Transaction) -> None:
            entry = self.stage_update(transaction, key, change)
            loop.call_soon_threadsafe(staged.set_result, entry)
            answered.wait(30)

        self._database.submit(work)
        entry = await staged
        loop.call_soon(answered.set)
        return entry
