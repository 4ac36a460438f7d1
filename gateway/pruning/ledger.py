"""What a run has done so far: records, skips, failures and their sums; each is told as it comes.

Pure but for whom it tells.
"""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

from gateway.pruning.failures import Failures
from gateway.pruning.plan import MAX_LISTED, SkippedItem
from gateway.pruning.records import Event, PruningProgress, PruningStats, Tally

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from gateway.pruning.budgets import Unit
    from gateway.pruning.plan import Plan, PlannedAction, PruningFailure, SkipReason
    from gateway.pruning.records import PrunedItem
    from gateway.pruning.shards import Pause


class Ledger:
    """The books of one run."""

    def __init__(self, plan: Plan, tell: Callable[[Event, object], Awaitable[None]]) -> None:
        """Begin with nothing done."""
        self.pruned: list[PrunedItem] = []
        self.skipped: list[SkippedItem] = []
        """The first of what was skipped."""
        self.failures = Failures()
        self._plan = plan
        self._tell = tell
        self._total = sum(map(len, plan.units))
        self._dealt_with = 0
        self._by_reason = Counter(plan.skipped_by_reason)
        self._by_rule: dict[str, Tally] = {}
        self._by_action: dict[str, Tally] = {}

    async def take_over(self, pause: Pause) -> None:
        """Tell of what the plan skips."""
        self.skipped += self._plan.skipped
        for skip in self._plan.skipped:
            await pause(1)
            await self._tell(Event.ITEM_SKIPPED, skip)

    def keep(self, record: PrunedItem) -> None:
        """Count an item that was pruned, or in a dry run would be."""
        self.pruned.append(record)
        by_rule, by_action = self._by_rule, self._by_action
        kind = record.action.kind
        by_rule[record.rule_id] = by_rule.get(record.rule_id, Tally()).with_one(record)
        by_action[kind] = by_action.get(kind, Tally()).with_one(record)

    async def skip(self, one: PlannedAction, reason: SkipReason) -> None:
        """Count an item that stays after all."""
        self._by_reason[reason.value] += 1
        if len(self.skipped) < MAX_LISTED:
            skip = SkippedItem(one.item_id, one.session_id, one.rule_id, reason)
            self.skipped.append(skip)
            await self._tell(Event.ITEM_SKIPPED, skip)

    async def leave(self, units: Sequence[Unit], reason: SkipReason) -> None:
        """Count units that stay because the run is over; it does not get any further by them."""
        for unit in units:
            for one in unit:
                await self.skip(one, reason)
        await self.progress(())

    async def fail(self, failure: PruningFailure) -> None:
        """Count a failure, and tell of it."""
        self.failures.add(failure)
        await self._tell(Event.ERROR, failure)

    async def progress(self, unit: Unit) -> None:
        """Tell that a unit was dealt with."""
        self._dealt_with += len(unit)
        progress = PruningProgress(self._plan.scanned.items, self._dealt_with, self._total)
        await self._tell(Event.PROGRESS, progress)

    def stats(self, elapsed_s: float) -> PruningStats:
        """Return the sums so far."""
        tallies = self._by_action.values()
        return PruningStats(
            scanned_count=self._plan.scanned.items,
            pruned_count=len(self.pruned),
            skipped_count=self._by_reason.total(),
            error_count=self.failures.count,
            freed_bytes=sum(one.freed_bytes for one in tallies),
            freed_tokens=sum(one.freed_tokens for one in tallies),
            duration_ms=round(elapsed_s * 1_000, 3),
            by_rule=MappingProxyType(self._by_rule),
            by_action=MappingProxyType(self._by_action),
            skipped_by_reason=MappingProxyType(dict(sorted(self._by_reason.items()))),
        )
