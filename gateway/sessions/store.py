"""The session store: one entry a key, durable in the session log, shown in `sessions.json`.

Every change is a row of the session log in the transaction of whatever caused it; memory shows it
once it is durable. A snapshot is written aside and renamed, the one before stays as `.prev`, and
log rows are deleted only up to what `.prev` covers. `gateway.sessions.recovery` reads it all back.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

import anyio
import anyio.to_thread

from gateway.errors import ConflictError
from gateway.log import get_logger
from gateway.sessions import history
from gateway.sessions.entry import EntryError, SessionEntry
from gateway.sessions.lifecycle import Lifecycle
from gateway.sessions.policy import OPERATOR, Action, Guard, ResetPolicy, decide
from gateway.sessions.pruning import PruneReport, PruneRun
from gateway.sessions.recovery import Recovered, recover
from gateway.sessions.resolution import MovedOnError, Resolution, View
from gateway.sessions.snapshots import Snapshots, SnapshotStatistics

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from gateway.clock import Clock
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.durable.directory import StateDirectory
    from gateway.model import SessionId, SessionKey, SessionSource
    from gateway.sessions.settings import StoreSettings


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """The state of the store."""

    entries: int
    sequence: int
    """The last change that is durable and in memory."""
    replayed: int
    """Log rows applied at start."""
    quarantined: int
    """Entries set aside at start."""
    snapshot: SnapshotStatistics
    last_prune: PruneReport | None


class SessionStore:
    """Entries by session key."""

    def __init__(
        self,
        directory: StateDirectory,
        database: Database,
        clock: Clock,
        settings: StoreSettings,
        recovered: Recovered,
    ) -> None:
        """Use `open`."""
        self._database = database
        self._clock = clock
        self._recovered = recovered
        self._table = recovered.table
        self.snapshots = Snapshots(directory, database, clock, settings, recovered)
        self._staging = self.snapshots.staging
        self.lifecycle = Lifecycle(self._staging, clock)
        """How entries begin, end and come back, inside a transaction."""
        self._pruning = anyio.Lock()
        self._last_prune: PruneReport | None = None
        self.is_busy: Guard = lambda _: False
        """Whether a session has a running, queued or unfinished turn; set by who runs turns."""
        self.has_active_processes: Guard = lambda _: False
        """Whether a session has a live process; set by who runs processes."""
        self.on_dropped: Callable[[SessionKey, SessionId], None] = lambda *_: None
        """Called on the event loop for every entry that was pruned or removed, once it is gone."""
        self.on_pruned: Callable[[Transaction, SessionKey, SessionId, str], None] | None = None
        """Called in the transaction of each prune, with the rule: `age` or `count`."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, directory: StateDirectory, database: Database, clock: Clock, settings: StoreSettings
    ) -> AsyncGenerator[Self]:
        """Recover the store, and write its last snapshot before returning.

        Raises:
            DamagedDataError: what is there cannot be trusted; nothing was changed.
        """
        recovered = await database.read(lambda conn: recover(conn, directory, clock.now()))
        store = cls(directory, database, clock, settings, recovered)
        get_logger().info(
            "store.recovered",
            entries=len(recovered.table),
            sequence=recovered.sequence,
            replayed=recovered.replayed,
            quarantined=recovered.quarantined,
            clean=recovered.clean,
        )
        await store.snapshots.begin()
        yield store
        await store.snapshots.end()

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._table)

    def get(self, key: SessionKey) -> SessionEntry | None:
        """Return the durable entry of a key, from any thread.

        Raises:
            EntryError: the stored entry is damaged.
        """
        return self._table.get(key)

    def entries(self, *, after: str = "", limit: int = 100) -> list[SessionEntry]:
        """Return entries in a fixed order that stays valid while entries come and go.

        Args:
            after: The key of the last entry seen; empty for the beginning.
            limit: How many at most.
        """
        found: list[SessionEntry] = []
        while len(found) < limit:
            keys = self._table.keys_after(after, limit - len(found))
            if not keys:
                break
            found += [entry for key in keys if (entry := self._readable(key)) is not None]
            after = keys[-1]
        return found

    def view(self, key: SessionKey, policy: ResetPolicy, guard: Guard) -> View:
        """Decide what a message now would do with a session, without doing it."""
        member = self._table.member(key)
        entry = None if member is None else self._table.decoded(key, member)
        return View(decide(entry, policy, self._clock.now(), guard), entry, member)

    async def resolve(
        self, key: SessionKey, source: SessionSource, policy: ResetPolicy, guard: Guard
    ) -> Resolution:
        """Return the session a message goes to, made or reset as decided.

        Durability: a new or reset entry survives power loss on return.
        """
        while True:
            view = self.view(key, policy, guard)
            try:
                return await self._database.write(
                    lambda transaction, view=view: self.stage_resolution(  # type: ignore[misc]
                        transaction, key, source, view
                    )
                )
            except MovedOnError:
                continue

    def stage_resolution(
        self, transaction: Transaction, key: SessionKey, source: SessionSource, view: View
    ) -> Resolution:
        """Carry out a decision inside a transaction.

        Raises:
            MovedOnError: the entry is not the one that was looked at; decide again.
        """
        if self._staging.member(key) != view.member:
            raise MovedOnError

        entry = view.entry
        if view.decision.action is Action.RESET and entry is not None:
            fresh = self.lifecycle.reset(transaction, key, view.decision.reason or "manual")
            return Resolution(fresh, view.decision, entry.session_id, view.decision.reason)

        if view.decision.action is Action.RESUME:
            return Resolution(self.lifecycle.resume(transaction, key), view.decision)

        if entry is not None and view.member is not None:
            # The turn that follows will ask for it.
            self._table.keep_decoded(key, view.member, entry)
            return Resolution(entry, view.decision)

        fresh = self.lifecycle.begin(transaction, key, source)
        return Resolution(fresh, view.decision, fresh.previous_session_id, fresh.reset_reason)

    async def update(
        self, key: SessionKey, change: Callable[[SessionEntry], SessionEntry]
    ) -> SessionEntry:
        """Replace an entry by what a pure function makes of it.

        Durability: the new entry survives power loss on return.

        Raises:
            NotFoundError: there is no such entry.
            StorageFullError: no space; the entry is as before.
        """
        return await self._database.submit(lambda tx: self.stage_update(tx, key, change))

    def stage_update(
        self,
        transaction: Transaction,
        key: SessionKey,
        change: Callable[[SessionEntry], SessionEntry],
    ) -> SessionEntry:
        """Replace an entry inside a transaction; see `update`. No change writes nothing."""
        return self._staging.update(transaction, key, change)

    def has_staged(self, key: SessionKey) -> bool:
        """Return whether a key has an entry as of this point in the writer thread's order."""
        return self._staging.member(key) is not None

    def find_staged(self, key: SessionKey) -> SessionEntry | None:
        """Return an entry as of this point in the writer thread's order of changes."""
        return self._staging.get(key)

    async def create(self, entry: SessionEntry) -> None:
        """Add an entry under a new key.

        Raises:
            ConflictError: the key has an entry.
        """

        def work(transaction: Transaction) -> None:
            if self._staging.member(entry.session_key) is not None:
                raise ConflictError("the key has a session")
            self.lifecycle.start(transaction, entry)

        await self._database.write(work)

    async def reset(self, key: SessionKey, reason: str = "manual") -> SessionEntry:
        """Start a new conversation under a key; `undo` brings the old one back."""
        return await self._database.write(lambda tx: self.lifecycle.reset(tx, key, reason))

    async def undo(self, key: SessionKey) -> SessionEntry:
        """Bring back the conversation before the last reset, prune or removal of a key.

        Raises:
            ConflictError: there is none to bring back.
        """
        return await self._database.write(lambda tx: self.lifecycle.undo(tx, key))

    async def suspend(self, key: SessionKey) -> SessionEntry:
        """Pause a session: it is kept, and its messages are answered with how to resume it."""
        return await self._database.submit(lambda tx: self.lifecycle.suspend(tx, key, OPERATOR))

    async def resume(self, key: SessionKey) -> SessionEntry:
        """End a pause."""
        return await self._database.submit(lambda tx: self.lifecycle.resume(tx, key))

    async def remove(self, key: SessionKey, reason: str = "removed") -> SessionEntry:
        """Drop an entry; what was said stays.

        Raises:
            NotFoundError: there is no such entry.
        """

        def work(transaction: Transaction) -> SessionEntry:
            entry = self.lifecycle.existing(key)
            history.record_ended(transaction, entry, reason=reason, at=self._clock.now())
            self._staging.drop(transaction, key)
            return entry

        entry = await self._database.write(work)
        self.on_dropped(key, entry.session_id)
        return entry

    async def prune_old_entries(
        self, max_age_days: float, *, max_entries: int = 0, dry_run: bool = False
    ) -> PruneReport:
        """Drop entries older than an age, then the oldest beyond a number; one run at a time.

        Suspended and busy entries stay, and those whose process callback says so or raises.

        Args:
            max_age_days: Entries updated strictly longer ago are dropped; 0 or less drops none.
            max_entries: How many entries may stay; 0 is no limit.
            dry_run: Report what would go, and change nothing.

        Every run but a dry one is logged and shown in `statistics`, also one that an error ended.

        Durability: where something was dropped, a snapshot begun after the last drop is on disk.
        """
        async with self._pruning:
            run = PruneRun(
                database=self._database,
                table=self._table,
                staging=self._staging,
                is_busy=self.is_busy,
                has_active=self.has_active_processes,
                on_dropped=self.on_dropped,
                now=self._clock.now(),
                dry_run=dry_run,
                on_pruned=self.on_pruned,
            )
            began = self._clock.monotonic()
            try:
                await run.by_age(max_age_days)
                await run.by_count(max_entries)
                if run.pruned and not dry_run:
                    await self.snapshots.write()
                run.complete = True
            finally:
                report = run.report((self._clock.monotonic() - began) * 1000)
                if not dry_run:
                    self._last_prune = report
                    get_logger().info(
                        "session.pruned",
                        **asdict(report),
                        max_age_days=max_age_days,
                        max_entries=max_entries,
                        entries=len(self._table),
                    )
            return report

    def statistics(self) -> StoreStatistics:
        """Return the state of the store."""
        return StoreStatistics(
            entries=len(self._table),
            sequence=self._staging.applied_sequence,
            replayed=self._recovered.replayed,
            quarantined=self._recovered.quarantined,
            snapshot=self.snapshots.statistics(),
            last_prune=self._last_prune,
        )

    def _readable(self, key: str) -> SessionEntry | None:
        try:
            return self._table.get(key)
        except EntryError as error:
            get_logger().warning("store.entry_unreadable", session_key=key, reason=str(error))
            return None
