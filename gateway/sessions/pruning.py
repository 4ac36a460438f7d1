"""Dropping old entries from the store: who is due, who is protected, what was done.

The age is tested first, the callback only for stale entries and outside any lock. The last check of
an entry and handing over its drop are one step without an await; the drop then happens only if the
entry is still, byte for byte, the one that was checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import anyio.lowlevel

from gateway.durable.database import Database
from gateway.log import get_logger
from gateway.model import SessionId, SessionKey
from gateway.sessions.entry import EntryError, updated_at_text
from gateway.sessions.history import record_ended, stamp
from gateway.sessions.policy import Guard
from gateway.sessions.staging import EntryStaging
from gateway.sessions.table import EntryTable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Sequence

    from gateway.durable.batch import Transaction
    from gateway.sessions.entry import SessionEntry

SLICE: Final = 64
"""Entries looked at before the event loop gets its turn; about 1 ms with a quick callback."""

Candidate = tuple["SessionEntry", bytes]


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune did, or in a dry run would do."""

    scanned: int
    """Entries that were old enough, or surplus, to be looked at."""
    pruned: int
    kept_by_reason: dict[str, int]
    """Entries that were due and stayed: `suspended`, `busy`, `active_process`, `callback_error`,
    `touched` (changed meanwhile), `unreadable`."""
    duration_ms: float
    dry_run: bool = False
    complete: bool = True
    """False where an error ended the run; what it dropped until then is gone."""


@dataclass(slots=True)
class PruneRun:
    """One run over the table; made by the store, used once."""

    database: Database
    table: EntryTable
    staging: EntryStaging
    is_busy: Guard
    has_active: Guard
    on_dropped: Callable[[SessionKey, SessionId], None]
    now: datetime
    dry_run: bool
    scanned: int = 0
    pruned: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    counted: set[str] = field(default_factory=set)
    """Keys that stay in the table and in the report, so that no rule counts them again."""

    complete: bool = False
    """Set by the owner once the run has come to its end."""

    def report(self, duration_ms: float) -> PruneReport:
        """Return what was done so far."""
        return PruneReport(
            scanned=self.scanned,
            pruned=self.pruned,
            kept_by_reason={reason: n for reason, n in sorted(self.kept.items()) if n},
            duration_ms=round(duration_ms, 3),
            dry_run=self.dry_run,
            complete=self.complete,
        )

    async def by_age(self, max_age_days: float) -> None:
        """Drop what was last updated strictly longer ago than the age; 0 or less drops nothing."""
        cutoff = cutoff_at(self.now, max_age_days)
        if cutoff is None:
            return

        for keys in self.table.oldest_first(before=stamp(cutoff)):
            for part in _sliced(keys):
                await self._drop(self._due(part, cutoff), reason="pruned")

    async def by_count(self, max_entries: int) -> None:
        """Drop the oldest unprotected entries beyond a number; 0 drops nothing."""
        surplus = len(self.table) - max_entries if max_entries > 0 else 0
        if self.dry_run:
            surplus -= self.pruned
        # An hour may hold every entry there is: nothing of it is looked at without need.
        if surplus <= 0:
            return

        for keys in self.table.oldest_first():
            left = [key for key in keys if key not in self.counted]
            for part in _sliced(sorted(left, key=self._updated_at)):
                if surplus <= 0:
                    return
                before = self.pruned
                await self._drop(self._due(part, None, limit=surplus), reason="pruned")
                surplus -= self.pruned - before

    def _due(
        self, keys: Sequence[str], cutoff: datetime | None, *, limit: int = SLICE
    ) -> list[Candidate]:
        """Return the entries to drop, counting the others by why they stay."""
        due: list[Candidate] = []
        for key in keys:
            if len(due) == limit:
                break
            member = self.table.member(key)
            if member is None:
                continue
            try:
                entry = self.table.get(key)
            except EntryError as error:
                self.scanned += 1
                self._log_kept("unreadable", key, error)
                self.kept["unreadable"] += 1
                self.counted.add(key)
                continue
            if entry is None or (cutoff is not None and entry.updated_at >= cutoff):
                continue
            self.scanned += 1
            reason = self._protection(entry)
            if reason is None:
                due.append((entry, member))
            else:
                self.kept[reason] += 1
            if reason is not None or self.dry_run:
                self.counted.add(key)
        return due

    def _protection(self, entry: SessionEntry) -> str | None:
        if entry.suspended_at is not None:
            return "suspended"

        try:
            if self.is_busy(entry.session_key):
                return "busy"
            return "active_process" if self.has_active(entry.session_key) else None
        except Exception as error:  # noqa: BLE001 - boundary around a callback: failing protects
            self._log_kept("callback_error", entry.session_key, error)
            return "callback_error"

    def _log_kept(self, reason: str, key: str, error: Exception) -> None:
        get_logger().warning("store.prune_kept", session_key=key, reason=reason, error=repr(error))

    async def _drop(self, due: list[Candidate], *, reason: str) -> None:
        if not due or self.dry_run:
            self.pruned += len(due)
            await anyio.lowlevel.checkpoint()
            return

        dropped = await self._submit(due, reason)
        for entry in dropped:
            self.on_dropped(entry.session_key, entry.session_id)
        self.pruned += len(dropped)
        self.kept["touched"] += len(due) - len(dropped)

    def _submit(self, due: list[Candidate], reason: str) -> asyncio.Future[list[SessionEntry]]:
        def drop(transaction: Transaction) -> list[SessionEntry]:
            gone = []
            for entry, member in due:
                if self.staging.member(entry.session_key) == member:
                    record_ended(transaction, entry, reason=reason, at=self.now)
                    self.staging.drop(transaction, entry.session_key)
                    gone.append(entry)
            return gone

        return self.database.submit(drop)

    def _updated_at(self, key: str) -> bytes:
        """Return the instant as text that sorts by time; without its Z, for fractions vary."""
        member = self.table.member(key)
        return b"" if member is None else updated_at_text(member)[:-1]


def cutoff_at(now: datetime, max_age_days: float) -> datetime | None:
    """Return the instant before which an entry is too old; None where nothing can be."""
    if not max_age_days > 0:  # not a number is no age either
        return None

    try:
        return now - timedelta(days=max_age_days)
    except OverflowError:
        return None


def _sliced(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), SLICE):
        yield keys[start : start + SLICE]
