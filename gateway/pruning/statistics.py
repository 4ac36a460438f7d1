"""What a manager says of itself: what there is, what was done, what comes next. Frozen.

Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from gateway.pruning.conditions import Totals
from gateway.pruning.records import PruningResult, PruningStats, RunStatus

if TYPE_CHECKING:
    from gateway.pruning.store import StoreStatistics


@dataclass(frozen=True, slots=True)
class GlobalStats:
    """What the store holds."""

    total_items: int
    total_bytes: int
    total_tokens: int
    total_sessions: int
    archived_items: int
    archived_bytes: int


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last run, without its items."""

    id: str
    trigger: str
    status: RunStatus
    detail: str
    dry_run: bool
    started_at: datetime
    completed_at: datetime
    stats: PruningStats


@dataclass(frozen=True, slots=True)
class ManagerStatistics:
    """What a manager says of itself."""

    global_stats: GlobalStats
    sessions: Mapping[str, Totals]
    """By session id."""
    last_run: LastRun | None
    runs: int
    """Since the manager was made, dry runs among them; `runs_by_status` tells how they ended."""
    runs_by_status: Mapping[str, int]
    dry_runs: int
    failures: int
    """Runs and checks that ended with an error."""
    pruned_items: int
    """By all runs."""
    freed_bytes: int
    """By all runs."""
    next_due_at: datetime | None
    """When something is due, as last found out; None: nobody can say, or nothing."""
    is_running: bool
    """Whether a run is in progress."""
    quarantined: int
    """Items that failed too often and are left alone."""
    handler_failures: int
    """How often a handler of an event raised."""


@dataclass(slots=True)
class Counts:
    """What was done so far."""

    by_status: Counter[str] = field(default_factory=Counter)
    dry_runs: int = 0
    failures: int = 0
    pruned_items: int = 0
    freed_bytes: int = 0
    last: LastRun | None = None

    def add(self, result: PruningResult) -> None:
        """Count a run."""
        self.by_status[result.status.value] += 1
        self.dry_runs += result.dry_run
        if not result.dry_run:
            self.pruned_items += result.stats.pruned_count
            self.freed_bytes += result.stats.freed_bytes
        self.last = LastRun(
            result.id,
            result.trigger,
            result.status,
            result.detail,
            result.dry_run,
            result.started_at,
            result.completed_at,
            result.stats,
        )


def global_stats(store: StoreStatistics) -> GlobalStats:
    """Return what a store holds in all."""
    return GlobalStats(
        total_items=store.totals.items,
        total_bytes=store.totals.size_bytes,
        total_tokens=store.totals.tokens,
        total_sessions=len(store.sessions),
        archived_items=store.archived.items,
        archived_bytes=store.archived.size_bytes,
    )


def statistics_of(
    counts: Counts,
    store: StoreStatistics,
    *,
    next_due_at: datetime | None,
    is_running: bool,
    quarantined: int,
    handler_failures: int,
) -> ManagerStatistics:
    """Put together what a manager says of itself."""
    return ManagerStatistics(
        global_stats=global_stats(store),
        sessions=store.sessions,
        last_run=counts.last,
        runs=counts.by_status.total(),
        runs_by_status=dict(counts.by_status),
        dry_runs=counts.dry_runs,
        failures=counts.failures,
        pruned_items=counts.pruned_items,
        freed_bytes=counts.freed_bytes,
        next_due_at=next_due_at,
        is_running=is_running,
        quarantined=quarantined,
        handler_failures=handler_failures,
    )
