"""Dropping old entries from the store: who is due, who is protected, what was done.

The age is tested first, the callback only for stale entries and outside any lock. The last check of
an entry and handing over its drop are one step without an await; the writer, which puts all changes
in order, drops it only if it was neither used nor suspended since. The loop goes by the index of
hours, the writer by the entry's bytes: decoding them would take ten times as long.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import anyio.lowlevel

from gateway.durable.batch import Transaction
from gateway.durable.database import Database
from gateway.log import get_logger
from gateway.model import SessionId, SessionKey
from gateway.sessions.entry import (
    HOUR_CHARS,
    EntryError,
    identity,
    is_suspended,
    updated_at_text,
)
from gateway.sessions.history import record_pruned, stamp
from gateway.sessions.policy import Guard
from gateway.sessions.staging import EntryStaging
from gateway.sessions.table import EntryTable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Sequence

SLICE: Final = 256
"""Entries looked at before the event loop gets its turn, and dropped in one transaction; about
0.3 ms with a quick callback, and a few ms of the writer."""

SECOND_CHARS: Final = 19
"""Length of an RFC 3339 instant up to its second."""

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
    on_pruned: Callable[[Transaction, SessionKey, SessionId, str], None] | None = None
    """Called in the transaction of each prune, with the rule: `age` or `count`."""
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
        for hour, keys, paused in self.table.oldest_first(before=end):
            # Only the last hour has entries of either side.
            than = end if hour == end[:HOUR_CHARS] else None
            for part in self._parts(keys, paused, than):
                await self._drop(self._due(part), hour, end)

    async def by_count(self, max_entries: int) -> None:
        """Drop the oldest unprotected entries beyond a number; 0 drops nothing."""
        surplus = len(self.table) - max_entries if max_entries > 0 else 0
        if self.dry_run:
            surplus -= self.pruned
        # An hour may hold every entry there is: nothing of it is looked at without need.
        if surplus <= 0:
            return

        most = self.pruned + surplus
        for hour, keys, paused in self.table.oldest_first():
            ordered = keys if len(keys) <= most - self.pruned else await self._sorted(keys)
            for part in self._parts(ordered, paused, None):
                if self.pruned >= most:
                    return
                await self._drop(self._due(part, limit=most - self.pruned), hour, None)

    def _parts(
        self, keys: Sequence[SessionKey], paused: Sequence[SessionKey], than: bytes | None
    ) -> Iterator[Sequence[SessionKey]]:
        """Yield whom to look at, in parts; who is suspended is counted and left out.

        Args:
            keys: Whose entries are surely not suspended.
            paused: Whose entries may be.
            than: Only entries last updated before; None: all.
        """
        for part in _sliced(paused):
            yield self._not_suspended(part if than is None else self._older(part, than))
        for part in _sliced(keys):
            yield part if than is None else self._older(part, than)

    def _older(self, keys: Sequence[SessionKey], than: bytes) -> list[SessionKey]:
        found = self.table.members_of(keys)
        return [key for key, member in found if updated_at_text(member)[:-1] < than]

    def _not_suspended(self, keys: Sequence[SessionKey]) -> list[SessionKey]:
        """Return those that are not suspended after all, counting the others."""
        free = []
        for key, member in self.table.members_of(keys):
            try:
                reason = "suspended" if is_suspended(key, member) else None
            except EntryError as error:
                reason = self._log_kept("unreadable", key, error)
            if reason is None:
                free.append(key)
            elif key not in self.counted:
                self._keep(key, reason)
        return free

    def _due(self, keys: Sequence[SessionKey], *, limit: int = SLICE) -> list[SessionKey]:
        """Return up to `limit` keys whose entries may be dropped, counting the others."""
        due: list[SessionKey] = []
        counted, is_busy, has_active = self.counted, self.is_busy, self.has_active
        # One loop with few calls of its own: a prune looks at hundreds of thousands of entries.
        for key in keys:
            if key in counted:
                continue
            if len(due) == limit:
                break
            try:
                if is_busy(key):
                    self._keep(key, "busy")
                elif has_active(key):
                    self._keep(key, "active_process")
                else:
                    due.append(key)
            except Exception as error:  # noqa: BLE001 - boundary around a callback: failing protects
                self._keep(key, self._log_kept("callback_error", key, error))
        self.scanned += len(due)
        if self.dry_run:
            counted.update(due)
        return due

    def _keep(self, key: SessionKey, reason: str) -> None:
        self.scanned += 1
        self.kept[reason] += 1
        self.counted.add(key)

    def _log_kept(self, reason: str, key: str, error: Exception) -> str:
        get_logger().warning("store.prune_kept", session_key=key, reason=reason, error=repr(error))
        return reason

    async def _drop(self, due: list[SessionKey], hour: bytes, end: bytes | None) -> None:
        if not due or self.dry_run:
            self.pruned += len(due)
            await anyio.lowlevel.checkpoint()
            return

        pruned, unreadable = await self._submit(due, hour, end)
        for key, session_id in pruned:
            self.on_dropped(key, session_id)
        for key, error in unreadable:
            self.kept[self._log_kept("unreadable", key, error)] += 1
            self.counted.add(key)
        self.pruned += len(pruned)
        self.kept["touched"] += len(due) - len(pruned) - len(unreadable)

    def _submit(
        self, due: list[SessionKey], hour: bytes, end: bytes | None
    ) -> asyncio.Future[_Dropped]:
        at = stamp(self.now)

        def drop(transaction: Transaction) -> _Dropped:
            pruned, unreadable = [], []
            for key in due:
                member = self.staging.member(key)
                if member is None or not _is_as_old(member, hour, end):
                    continue
                try:
                    if is_suspended(key, member):
                        continue
                    session_id, created_at = identity(member)
                except EntryError as error:
                    unreadable.append((key, error))
                    continue
                record_pruned(transaction, key, session_id, member, created_at=created_at, at=at)
                self.staging.drop(transaction, key)
                if self.on_pruned is not None:
                    self.on_pruned(transaction, key, session_id, "age" if end else "count")
                pruned.append((key, session_id))
            return pruned, unreadable

        return self.database.submit(drop)

    async def _sorted(self, keys: Sequence[SessionKey]) -> list[SessionKey]:
        """Return keys, the longest untouched first; of an hour, second by second."""
        seconds: defaultdict[bytes, list[tuple[bytes, SessionKey]]] = defaultdict(list)
        for part in _sliced(keys):
            for key, member in self.table.members_of(part):
                text = updated_at_text(member)[:-1]
                seconds[text[:SECOND_CHARS]].append((text, key))
            await anyio.lowlevel.checkpoint()
        ordered: list[SessionKey] = []
        for second in sorted(seconds):
            ordered += [key for _, key in sorted(seconds[second])]
            await anyio.lowlevel.checkpoint()
        return ordered


def cutoff_at(now: datetime, max_age_days: float) -> datetime | None:
    """Return the instant before which an entry is too old; None where nothing can be."""
    if not max_age_days > 0:  # not a number is no age either
        return None

    try:
        return now - timedelta(days=max_age_days)
    except OverflowError:
        return None


def _is_as_old(member: bytes, hour: bytes, end: bytes | None) -> bool:
    """Return whether an entry was not used since it was looked at."""
    updated_at = updated_at_text(member)[:-1]
    return updated_at[:HOUR_CHARS] == hour and (end is None or updated_at < end)


def _sliced(keys: Sequence[SessionKey]) -> Iterator[Sequence[SessionKey]]:
    for start in range(0, len(keys), SLICE):
        yield keys[start : start + SLICE]
