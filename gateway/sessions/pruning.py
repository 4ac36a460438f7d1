"""Dropping old entries from the store: who is due, who is protected, what was done.

The age is tested first, the callback only for stale entries and outside any lock. The last check of
an entry and handing over its drop are one step without an await; the drop then happens only if the
entry is still, byte for byte, the one that was checked. Entries are looked at as their bytes:
decoding them would take ten times as long.
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
from gateway.sessions.entry import (
    HOUR_CHARS,
    EntryError,
    decode_member,
    identity,
    is_surely_not_suspended,
    updated_at_text,
)
from gateway.sessions.history import record_pruned, stamp
from gateway.sessions.policy import Guard
from gateway.sessions.staging import EntryStaging
from gateway.sessions.table import EntryTable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Sequence

    from gateway.durable.batch import Transaction

SLICE: Final = 256
"""Entries looked at before the event loop gets its turn, and dropped in one transaction; about
0.3 ms with a quick callback, and a few ms of the writer."""

Candidate = tuple[SessionKey, bytes]
"""A key and the bytes its entry had when it was looked at."""
_Dropped = tuple[list[tuple[SessionKey, SessionId]], list[tuple[SessionKey, EntryError]]]
"""What was pruned, and what could not be read."""


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

        # As text that sorts by time: without its Z, for fractions vary.
        end = stamp(cutoff).encode()[:-1]
        for hour, keys in self.table.oldest_first(before=end):
            for part in _sliced(keys):
                # Only the last hour has entries of either side.
                whole = hour < end[:HOUR_CHARS]
                found = self.table.members_of(part) if whole else self._older(part, end)
                await self._drop(self._due(found))

    async def by_count(self, max_entries: int) -> None:
        """Drop the oldest unprotected entries beyond a number; 0 drops nothing."""
        surplus = len(self.table) - max_entries if max_entries > 0 else 0
        if self.dry_run:
            surplus -= self.pruned
        # An hour may hold every entry there is: nothing of it is looked at without need.
        if surplus <= 0:
            return

        most = self.pruned + surplus
        for _, keys in self.table.oldest_first():
            for part in _sliced(keys if len(keys) <= most - self.pruned else self._sorted(keys)):
                if self.pruned >= most:
                    return
                found = self.table.members_of(part)
                await self._drop(self._due(found, limit=most - self.pruned))

    def _older(self, keys: Sequence[SessionKey], than: bytes) -> list[Candidate]:
        return [one for one in self.table.members_of(keys) if updated_at_text(one[1])[:-1] < than]

    def _due(self, found: list[Candidate], *, limit: int = SLICE) -> list[Candidate]:
        """Return up to `limit` entries to drop, counting the others by why they stay."""
        due: list[Candidate] = []
        counted, is_busy, has_active = self.counted, self.is_busy, self.has_active
        # One loop with few calls of its own: a prune looks at hundreds of thousands of entries.
        for candidate in found:
            key, member = candidate
            if key in counted:
                continue
            if len(due) == limit:
                break
            reason = None if is_surely_not_suspended(member) else self._suspended(key, member)
            if reason is None:
                try:
                    if is_busy(key):
                        reason = "busy"
                    elif has_active(key):
                        reason = "active_process"
                except Exception as error:  # noqa: BLE001 - boundary around a callback: failing protects
                    reason = self._log_kept("callback_error", key, error)
            if reason is None:
                due.append(candidate)
            else:
                self.kept[reason] += 1
                self.scanned += 1
                counted.add(key)
        self.scanned += len(due)
        if self.dry_run:
            counted.update(key for key, _ in due)
        return due

    def _suspended(self, key: SessionKey, member: bytes) -> str | None:
        try:
            suspended_at = decode_member(key, member).suspended_at
        except EntryError as error:
            return self._log_kept("unreadable", key, error)

        return None if suspended_at is None else "suspended"

    def _log_kept(self, reason: str, key: str, error: Exception) -> str:
        get_logger().warning("store.prune_kept", session_key=key, reason=reason, error=repr(error))
        return reason

    async def _drop(self, due: list[Candidate]) -> None:
        if not due or self.dry_run:
            self.pruned += len(due)
            await anyio.lowlevel.checkpoint()
            return

        pruned, unreadable = await self._submit(due)
        for key, session_id in pruned:
            self.on_dropped(key, session_id)
        for key, error in unreadable:
            self.kept[self._log_kept("unreadable", key, error)] += 1
            self.counted.add(key)
        self.pruned += len(pruned)
        self.kept["touched"] += len(due) - len(pruned) - len(unreadable)

    def _submit(self, due: list[Candidate]) -> asyncio.Future[_Dropped]:
        at = stamp(self.now)

        def drop(transaction: Transaction) -> _Dropped:
            pruned, unreadable = [], []
            for key, member in due:
                if self.staging.member(key) != member:
                    continue
                try:
                    session_id, created_at = identity(member)
                except EntryError as error:
                    unreadable.append((key, error))
                    continue
                record_pruned(transaction, key, session_id, member, created_at=created_at, at=at)
                self.staging.drop(transaction, key)
                pruned.append((key, session_id))
            return pruned, unreadable

        return self.database.submit(drop)

    def _sorted(self, keys: Sequence[SessionKey]) -> list[SessionKey]:
        """Return keys, the longest untouched first."""
        found = self.table.members_of(keys)
        return [key for key, _ in sorted(found, key=lambda one: updated_at_text(one[1])[:-1])]


def cutoff_at(now: datetime, max_age_days: float) -> datetime | None:
    """Return the instant before which an entry is too old; None where nothing can be."""
    if not max_age_days > 0:  # not a number is no age either
        return None

    try:
        return now - timedelta(days=max_age_days)
    except OverflowError:
        return None


def _sliced(keys: Sequence[SessionKey]) -> Iterator[Sequence[SessionKey]]:
    for start in range(0, len(keys), SLICE):
        yield keys[start : start + SLICE]
