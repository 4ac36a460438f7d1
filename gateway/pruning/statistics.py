"""What a manager says of itself: what there is, what was done, what comes next. Frozen.

Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from gateway.pruning.conditions import Totals
from gateway.pruning.records import PruningResult

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

    @classmethod
    def of(cls, store: StoreStatistics) -> GlobalStats:
        """Return what a store holds in all."""
        totals, archived = store.totals, store.archived
        return cls(
            total_items=totals.items,
            total_bytes=totals.size_bytes,
            total_tokens=totals.tokens,
            total_sessions=store.total_sessions,
            archived_items=archived.items,
            archived_bytes=archived.size_bytes,
        )


@dataclass(frozen=True, slots=True)
class ManagerStatistics:
    """What a manager says of itself."""

    global_stats: GlobalStats
    sessions: Mapping[str, Totals]
    """By session id; empty where the store has too many to tell of each."""
    last_run: PruningResult | None
    """Without its items."""
    runs: int
    """Since the manager was made, dry runs among them; `runs_by_status` tells how they ended."""
    runs_by_status: Mapping[str, int]
    dry_runs: int
    failures: int
    """Runs and checks that ended with an error."""
    pruned_items: int
    """By all runs; `pruned_by_action` tells how."""
    pruned_by_action: Mapping[str, int]
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

    @classmethod
    def of(
        cls,
        store: StoreStatistics,
        counts: Counts,
        *,
        next_due_at: datetime | None,
        is_running: bool,
        quarantined: int,
        handler_failures: int,
    ) -> ManagerStatistics:
        """Return what there is, what was done and what comes next."""
        return cls(
            global_stats=GlobalStats.of(store),
            sessions=store.sessions,
            last_run=counts.last,
            runs=counts.by_status.total(),
            runs_by_status=dict(counts.by_status),
            dry_runs=counts.dry_runs,
            failures=counts.failures,
            pruned_items=counts.pruned_items,
            pruned_by_action=dict(counts.pruned_by_action),
            freed_bytes=counts.freed_bytes,
            next_due_at=next_due_at,
            is_running=is_running,
            quarantined=quarantined,
            handler_failures=handler_failures,
        )


@dataclass(slots=True)
class Counts:
    """What was done so far."""

    by_status: Counter[str] = field(default_factory=Counter)
    dry_runs: int = 0
    failures: int = 0
    pruned_items: int = 0
    pruned_by_action: Counter[str] = field(default_factory=Counter)
    freed_bytes: int = 0
    last: PruningResult | None = None

    def add(self, result: PruningResult) -> None:
        """Count a run."""
        self.by_status[result.status.value] += 1
        self.dry_runs += result.dry_run
        if not result.dry_run:
            self.pruned_items += result.stats.pruned_count
            self.freed_bytes += result.stats.freed_bytes
            for action, tally in result.stats.by_action.items():
                self.pruned_by_action[action] += tally.count
        self.last = replace(result, pruned_items=(), skipped_items=(), errors=())
