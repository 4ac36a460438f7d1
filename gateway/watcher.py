"""The one background loop: context tokens made durable, entries and items pruned, snapshots made.

It wakes for whichever comes first and does what is due. Each duty is isolated: one that fails is
logged, counted and tried again at its next time, the others go on. Intervals go by the monotonic
clock, ages by the wall clock.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from gateway.log import get_logger
from gateway.sessions.entry import EntryError
from gateway.sessions.history import probe
from gateway.sessions.mailbox import ContextMailbox, Pending, apply_measurement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskStatus

    from gateway.clock import Clock
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.model import ContextMeasurement, SessionId, SessionKey
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.store import SessionStore

PRUNE_INTERVAL_S: Final = 3600.0
RETRY_S: Final = 5.0
"""How long a failed write of measurements, or work on items, waits before it is tried again."""
CLOCK_STEP_S: Final = 3600.0
"""A wall clock that moved this much against the monotonic one puts the prune, and all work on
items, off by one tick."""
PROBE_S: Final = 5.0
"""How often a full disk is asked whether it has space again."""
DRAIN_TIMEOUT_S: Final = 10.0
STUCK_S: Final = 600.0
"""A duty that takes longer than this counts as stuck."""


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """What the store may keep."""

    session_store_max_age_days: float
    """0 keeps entries of any age."""
    session_store_max_entries: int
    """0 keeps any number of entries."""


class TimedWork(Protocol):
    """Work that knows itself when it is due."""

    def next_in_s(self) -> float:
        """Return how long until it is due, in seconds; 0: now."""
        ...

    async def work(self, between: Callable[[], Awaitable[None]]) -> None:
        """Do what is due, and call `between` again and again: what must not wait is done there."""
        ...


@dataclass(frozen=True, slots=True)
class WatcherStatistics:
    """What the watcher did since the start."""

    prunes: int
    pruned: int
    """Entries dropped."""
    measurements_written: int
    measurements_pending: int
    measurements_dropped: int
    """Refused because too many sessions waited."""
    failures: dict[str, int]
    """Failed duties by name: `prune`, `snapshot`, `context`, `retention`, `space`, `items`."""
    clock_steps: int
    next_prune_in_s: float
    last_prune_at: datetime | None
    busy_s: float
    """How long the duty that runs now has been running; 0 while it waits."""


class ExpiryWatcher:
    """Owns every timed duty of the store; `run` is its one task."""

    def __init__(
        self,
        store: SessionStore,
        database: Database,
        clock: Clock,
        limits: RetentionLimits,
        discard_old: Callable[[], Awaitable[int]],
        items: TimedWork | None = None,
    ) -> None:
        """Wire the parts; nothing runs before `run`.

        Args:
            store: What is pruned and written.
            database: Where measurements go.
            clock: Both clocks.
            limits: What the store may keep.
            discard_old: Run after each prune: deletes what nobody needs any more beside
                transcripts, and returns how many rows went.
            items: The rules over what sessions store; None: there are none.
        """
        self._store = store
        self._database = database
        self._clock = clock
        self.limits = limits
        """What the store may keep; may be replaced at any time."""
        self._discard_old = discard_old
        self._items = items
        self._items_at = 0.0
        self._mailbox = ContextMailbox()
        self._wake = anyio.Event()
        self._prune_at = clock.monotonic()
        self._writing: asyncio.Future[None] | None = None
        self._retry_at: float | None = None
        self._probe_at = 0.0
        self._seen: tuple[datetime, float] | None = None
        self._prune_doubtful = self._items_doubtful = False
        self._duty_since: float | None = None
        self._last_prune_at: datetime | None = None
        self._counts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Do what is due until cancelled; the first prune comes at once.

        Cancellation: pending measurements are made durable before it ends.
        """
        self._store.snapshots.on_change = self.wake
        self._database.on_full = self.wake
        task_status.started()
        try:
            while True:
                self._wake = anyio.Event()
                await self._do_due()
                with self._clock.move_on_after(self._next_in_s()):
                    await self._wake.wait()
        finally:
            with anyio.move_on_after(DRAIN_TIMEOUT_S, shield=True):
                await self._drain()

    def post_context(
        self, key: SessionKey, session_id: SessionId, measurement: ContextMeasurement
    ) -> None:
        """Take a context measurement: shown by `view` at once, durable soon. Never fails.

        It is handed to the database at once, or together with others when the write that is under
        way ends: it waits for no duty of the loop.
        """
        if self._mailbox.post(key, session_id, measurement):
            self._flush()

    def view(self, entry: SessionEntry) -> SessionEntry:
        """Return an entry with its pending measurement."""
        return self._mailbox.view(entry)

    def wake(self) -> None:
        """Look again at what is due."""
        self._wake.set()

    @property
    def alive(self) -> bool:
        """Whether it waits, or works on a duty that is not stuck."""
        return self._busy_s() < STUCK_S

    def statistics(self) -> WatcherStatistics:
        """Return what the watcher did since the start."""
        return WatcherStatistics(
            prunes=self._counts["prunes"],
            pruned=self._counts["pruned"],
            measurements_written=self._counts["measurements"],
            measurements_pending=len(self._mailbox),
            measurements_dropped=self._mailbox.dropped,
            failures=dict(self._failures),
            clock_steps=self._counts["clock_steps"],
            next_prune_in_s=max(0.0, self._prune_at - self._clock.monotonic()),
            last_prune_at=self._last_prune_at,
            busy_s=self._busy_s(),
        )

    async def _do_due(self) -> None:
        await self._do_short()
        items = self._items
        if items is None or self._items_in_s(items) > 0:
            return

        self._look_at_clock()
        if self._items_doubtful:
            self._items_doubtful = False
            self._items_at = self._clock.monotonic() + PRUNE_INTERVAL_S
            return

        done = await self._duty("items", lambda: items.work(self._between))
        self._items_at = self._clock.monotonic() + (0.0 if done else RETRY_S)

    async def _between(self) -> None:
        """Do what must not wait for the end of a long duty, which thereby shows that it goes on."""
        self._duty_since = self._clock.monotonic()
        await self._do_short()

    async def _do_short(self) -> None:
        now = self._clock.monotonic()
        if self._retry_at is not None and self._retry_at <= now:
            self._retry_at = None
            self._flush()
        if self._database.statistics().full and self._probe_at <= now:
            self._probe_at = now + PROBE_S
            await self._duty("space", self._probe)
        if self._prune_at <= now:
            self._prune_at = now + PRUNE_INTERVAL_S
            self._look_at_clock()
            doubtful, self._prune_doubtful = self._prune_doubtful, False
            if not doubtful:
                await self._duty("prune", self._prune)
                await self._duty("retention", self._discard)
        if self._store.snapshots.due_in_s() == 0:
            await self._duty("snapshot", self._store.snapshots.write)

    def _items_in_s(self, items: TimedWork) -> float:
        return max(items.next_in_s(), self._items_at - self._clock.monotonic())

    def _next_in_s(self) -> float:
        now = self._clock.monotonic()
        waits = [self._prune_at - now]
        if self._retry_at is not None:
            waits.append(self._retry_at - now)
        if self._database.statistics().full:
            waits.append(self._probe_at - now)
        snapshot_in_s = self._store.snapshots.due_in_s()
        if snapshot_in_s is not None:
            waits.append(snapshot_in_s)
        if self._items is not None:
            waits.append(self._items_in_s(self._items))
        return max(0.0, min(waits))

    async def _duty(self, name: str, work: Callable[[], Awaitable[None]]) -> bool:
        """Run a duty; whatever it raises ends neither the watcher nor another duty.

        Returns whether it was done.
        """
        before, self._duty_since = self._duty_since, self._clock.monotonic()
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - supervisor boundary: a duty that fails is tried again
            self._failures[name] += 1
            get_logger().warning("watcher.duty_failed", duty=name, error=repr(error))
            return False
        finally:
            # A snapshot amid another duty shows that this one goes on.
            self._duty_since = None if before is None else self._clock.monotonic()
        return True

    async def _probe(self) -> None:
        """Find out whether a full disk has space again: only a write can tell."""
        await self._database.write(probe)

    async def _prune(self) -> None:
        limits = self.limits
        report = await self._store.prune_old_entries(
            limits.session_store_max_age_days, max_entries=limits.session_store_max_entries
        )
        self._last_prune_at = self._clock.now()
        self._counts["prunes"] += 1
        self._counts["pruned"] += report.pruned

    async def _discard(self) -> None:
        gone = await self._discard_old()
        if gone:
            get_logger().info("retention.discarded", rows=gone)

    def _flush(self) -> None:
        """Hand all pending measurements to the database, unless it is at some or a retry waits."""
        if self._writing is None and self._retry_at is None and len(self._mailbox):
            taken = self._mailbox.take()
            self._writing = self._database.submit(lambda tx: self._write(tx, taken))
            self._writing.add_done_callback(lambda done: self._written(done, len(taken)))

    def _written(self, done: asyncio.Future[None], count: int) -> None:
        self._writing = None
        error = done.exception()
        self._mailbox.settle(written=error is None)
        if error is None:
            self._counts["measurements"] += count
            self._flush()
            return

        self._failures["context"] += 1
        get_logger().warning("watcher.duty_failed", duty="context", error=repr(error))
        self._retry_at = self._clock.monotonic() + RETRY_S
        self.wake()

    async def _drain(self) -> None:
        """Wait until pending measurements are durable, or have failed once more."""
        self._retry_at = None
        self._flush()
        while self._writing is not None:
            await asyncio.wait([self._writing])

    def _write(self, transaction: Transaction, taken: Pending) -> None:
        for (key, session_id), measurement in taken.items():
            change = partial(apply_measurement, session_id=session_id, measurement=measurement)
            try:
                # A measurement never makes an entry.
                if self._store.has_staged(key):
                    self._store.stage_update(transaction, key, change)
            except EntryError as error:
                # One damaged entry must not keep the measurements of all others waiting.
                get_logger().warning("store.entry_unreadable", session_key=key, reason=str(error))

    def _look_at_clock(self) -> None:
        """See whether the wall clock jumped since the last look: ages are doubtful then."""
        seen, self._seen = self._seen, (self._clock.now(), self._clock.monotonic())
        if seen is None:
            return

        wall_s = (self._seen[0] - seen[0]).total_seconds()
        step_s = wall_s - (self._seen[1] - seen[1])
        if abs(step_s) > CLOCK_STEP_S:
            self._prune_doubtful = self._items_doubtful = True
            self._counts["clock_steps"] += 1
            get_logger().warning("clock.step", step_s=round(step_s, 3), prune="put off by one tick")

    def _busy_s(self) -> float:
        since = self._duty_since
        return 0.0 if since is None else self._clock.monotonic() - since
