"""Carrying out a plan, unit by unit: each item is looked at again right before it is touched.

Pure but for what it is handed. A unit is one change of the store, records and all; between units
others run, and the run may end. A summary is written outside of any change, and counts only if the
item is still the same afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final

from gateway.errors import StorageBusyError, StorageError, StorageFullError
from gateway.pruning.budgets import Pause, Unit
from gateway.pruning.conditions import NO_TOTALS, Totals
from gateway.pruning.items import PrunableItem
from gateway.pruning.judging import describe, is_live
from gateway.pruning.plan import (
    MAX_LISTED,
    Plan,
    PlannedAction,
    PruningFailure,
    SkippedItem,
    SkipReason,
)
from gateway.pruning.quarantine import Quarantine
from gateway.pruning.records import (
    DRY_RUN,
    Event,
    PrunedItem,
    PruningProgress,
    PruningStats,
    RunStatus,
    Tally,
)
from gateway.pruning.rulebook import Rulebook
from gateway.pruning.rules import CompactAction, Protection, SummarizeAction
from gateway.pruning.shrinking import (
    ItemSummary,
    compacted,
    done_before,
    marked_as_is,
    summarized,
)
from gateway.pruning.store import Change, ItemStore

SUMMARIZER_TRIES: Final = 3
"""Failures in a row after which the summarizer is left alone for the rest of a run: it is more
likely to be out of order than the items are."""
MAX_WAITING_SUMMARIES: Final = 100
"""Summaries that are kept for items whose change failed, so that none is made twice."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a run works with."""

    store: ItemStore
    rulebook: Rulebook
    quarantine: Quarantine
    waiting: dict[tuple[str, int], ItemSummary]
    """Summaries by item id and version that could not be put in place."""
    now: Callable[[], datetime]
    elapsed_s: Callable[[], float]
    """Since the run began."""
    pause: Pause
    tell: Callable[[Event, object], Awaitable[None]]
    summarize: Callable[[PrunableItem, SummarizeAction, str], Awaitable[ItemSummary | None]]
    """Writes a summary; None where the time of the run is over."""
    live_turns: Callable[[], Mapping[str, str]]
    exempt: Callable[[], frozenset[str]]
    """The sessions that are exempt now."""
    is_stopped: Callable[[], bool]
    """Whether the run has to end between two units."""


@dataclass(slots=True)
class Halt:
    """Why the rest of a plan is left."""

    reason: SkipReason
    detail: str
    status: RunStatus


@dataclass(slots=True)
class Run:
    """One plan being carried out."""

    id: str
    plan: Plan
    means: Means
    dry_run: bool
    halt: Halt | None = None
    """Set before the start where nothing is to be done."""
    pruned: list[PrunedItem] = field(default_factory=list)
    skipped: list[SkippedItem] = field(default_factory=list)
    failures: list[PruningFailure] = field(default_factory=list)
    _by_reason: Counter[str] = field(default_factory=Counter)
    _by_rule: dict[str, Tally] = field(default_factory=dict)
    _by_action: dict[str, Tally] = field(default_factory=dict)
    _dealt_with: int = 0
    _in_a_row: int = 0
    """Failures of the summarizer."""

    async def carry_out(self) -> None:
        """Do what the plan says.

        Raises:
            StorageError: the storage failed; what was done until then is done.

        Cancellation: units that were done are done; the one at hand is done whole or not at all.
        """
        await self._take_over()
        total = sum(map(len, self.plan.units))
        for unit in self.plan.units:
            await self.means.pause(2)
            self._look_up()
            if self.halt is not None:
                await self._skip(unit, self.halt.reason)
            elif self.dry_run:
                self._pretend(unit)
            else:
                await self._unit(unit)
            self._dealt_with += len(unit)
            await self.means.tell(
                Event.PROGRESS,
                PruningProgress(self.plan.scanned.items, self._dealt_with, total),
            )

    @property
    def status(self) -> RunStatus:
        """How the run ended."""
        if self.halt is not None and self.halt.status is not RunStatus.OK:
            return self.halt.status

        return RunStatus.PARTIAL if self.failures else RunStatus.OK

    def stats(self) -> PruningStats:
        """Return the sums so far."""
        tallies = self._by_action.values()
        return PruningStats(
            scanned_count=self.plan.scanned.items,
            pruned_count=len(self.pruned),
            skipped_count=self._by_reason.total(),
            error_count=len(self.failures),
            freed_bytes=sum(one.freed_bytes for one in tallies),
            freed_tokens=sum(one.freed_tokens for one in tallies),
            duration_ms=round(self.means.elapsed_s() * 1_000, 3),
            by_rule=MappingProxyType(self._by_rule),
            by_action=MappingProxyType(self._by_action),
            skipped_by_reason=MappingProxyType(dict(sorted(self._by_reason.items()))),
        )

    async def _take_over(self) -> None:
        """Tell what the plan found: who stays, and what failed."""
        self.skipped += self.plan.skipped
        self._by_reason.update(self.plan.skipped_by_reason)
        for skip in self.plan.skipped:
            await self.means.pause(1)
            await self.means.tell(Event.ITEM_SKIPPED, skip)
        for failure in self.plan.failures:
            await self._fail(failure)

    def _look_up(self) -> None:
        """See whether the run has to end."""
        if self.halt is not None:
            return

        limit_s = self.means.rulebook.config.budgets.max_duration_s
        if self.means.is_stopped():
            self.halt = Halt(SkipReason.STOPPED, "the manager was stopped", RunStatus.PARTIAL)
        elif limit_s is not None and self.means.elapsed_s() >= limit_s:
            self._out_of_time()

    def _out_of_time(self) -> None:
        self.halt = Halt(SkipReason.BUDGET_SECONDS, "the time of the run is over", RunStatus.OK)

    def _pretend(self, unit: Unit) -> None:
        at = self.means.now()
        for one in unit:
            self._keep(self._record(one, one.before, one.after, at))

    async def _unit(self, unit: Unit) -> None:
        try:
            changes = await self._changes(unit)
            if not changes:
                return

            stale = await self.means.store.commit(changes)
        except StorageError:
            raise
        except (StorageFullError, StorageBusyError) as error:
            self.halt = Halt(SkipReason.STOPPED, describe(error), RunStatus.PARTIAL)
            await self._skip(unit, SkipReason.STOPPED)
            return
        except Exception as error:  # noqa: BLE001 - boundary around summarizers, stores and bad data
            for one in unit:
                await self._fail(
                    PruningFailure(one.item_id, one.session_id, one.rule_id, describe(error))
                )
            return

        if stale:
            await self._skip(unit, SkipReason.CHANGED)
            return

        for one, change in zip(unit, changes, strict=True):
            self.means.quarantine.forget(one.item_id)
            self.means.waiting.pop((one.item_id, one.version), None)
            if change.record is None:
                await self._skip((one,), SkipReason.NO_GAIN)
            else:
                self._keep(change.record)
                await self.means.tell(Event.ITEM_PRUNED, change.record)

    async def _changes(self, unit: Unit) -> list[Change]:
        """Return what becomes of the items of a unit; nothing where they stay, which is told."""
        items = []
        for one in unit:
            item = await self.means.store.get(one.item_id)
            reason = self._why_not(one, item)
            if item is None or reason is not None:
                if item is None:
                    self.means.quarantine.forget(one.item_id)
                await self._skip((one,), reason or SkipReason.GONE)
                others = tuple(other for other in unit if other is not one)
                await self._skip(others, SkipReason.CHANGED)
                return []
            items.append(item)
        changes = []
        for one, item in zip(unit, items, strict=True):
            change = await self._change(one, item)
            if change is None:
                return []
            changes.append(change)
        return changes

    def _why_not(self, one: PlannedAction, item: PrunableItem | None) -> SkipReason | None:
        """Return why an item that was planned for stays after all."""
        if item is None:
            return SkipReason.GONE
        if item.version != one.version:
            return SkipReason.CHANGED

        ignored: frozenset[Protection] = frozenset()
        rule = self.means.rulebook.find(one.rule_id, one.session_id)
        if rule is not None:
            ignored = rule.ignore_protections
        failing = self.means.quarantine.of(one.item_id)
        is_exempt = item.session_id in self.means.exempt() and not self.plan.force
        checks = (
            (SkipReason.EXEMPT, is_exempt and Protection.EXEMPT not in ignored),
            (SkipReason.PINNED, item.pinned and Protection.PINNED not in ignored),
            (
                SkipReason.LIVE_TURN,
                Protection.LIVE_TURN not in ignored and is_live(self.means.live_turns(), item),
            ),
            (SkipReason.QUARANTINED, failing is not None and failing.is_quarantined),
        )
        found = [reason for reason, holds in checks if holds]
        return found[0] if found else done_before(one.action, item)

    async def _change(self, one: PlannedAction, item: PrunableItem) -> Change | None:
        """Return what becomes of an item; None where it stays for now, which is told."""
        at = self.means.now()
        after: PrunableItem | None = None
        if isinstance(one.action, CompactAction):
            after = compacted(one.action, item, one.rule_id, at) if item.content else None
        elif isinstance(one.action, SummarizeAction) and item.content:
            summary = await self._summary(one, one.action, item)
            if summary is None:
                return None
            at = self.means.now()
            after = summarized(item, summary, one.rule_id, at)
        if not one.action.removes and (after is None or after.size_bytes >= item.size_bytes):
            unchanged = marked_as_is(one.action, item, one.rule_id, at)
            return Change(item.id, item.version, one.action, unchanged, None, at, self.id)

        left = NO_TOTALS if after is None else _totals(after)
        record = self._record(one, _totals(item), left, at)
        return Change(item.id, item.version, one.action, after, record, at, self.id)

    async def _summary(
        self, one: PlannedAction, action: SummarizeAction, item: PrunableItem
    ) -> ItemSummary | None:
        waiting = self.means.waiting.get((item.id, item.version))
        if waiting is not None:
            return waiting

        if self._in_a_row >= SUMMARIZER_TRIES:
            await self._skip((one,), SkipReason.SUMMARIZER)
            return None

        self._in_a_row += 1
        summary = await self.means.summarize(item, action, one.reason)
        self._in_a_row -= 1
        if summary is None:
            self._out_of_time()
            await self._skip((one,), SkipReason.BUDGET_SECONDS)
            return None

        self._in_a_row = 0
        if len(self.means.waiting) >= MAX_WAITING_SUMMARIES:
            del self.means.waiting[next(iter(self.means.waiting))]
        self.means.waiting[item.id, item.version] = summary
        return summary

    def _record(
        self, one: PlannedAction, before: Totals, after: Totals, at: datetime
    ) -> PrunedItem:
        return PrunedItem(
            run_id=self.id,
            item_id=one.item_id,
            session_id=one.session_id,
            type=one.type,
            rule_id=one.rule_id,
            rule_name=one.rule_name,
            action=one.action,
            reason=one.reason + DRY_RUN if self.dry_run else one.reason,
            observed=one.observed,
            before=before,
            after=after,
            at=at,
            dry_run=self.dry_run,
        )

    def _keep(self, record: PrunedItem) -> None:
        self.pruned.append(record)
        by_rule, by_action = self._by_rule, self._by_action
        kind = record.action.kind
        by_rule[record.rule_id] = by_rule.get(record.rule_id, Tally()).with_one(record)
        by_action[kind] = by_action.get(kind, Tally()).with_one(record)

    async def _skip(self, unit: Unit, reason: SkipReason) -> None:
        for one in unit:
            self._by_reason[reason.value] += 1
            skip = SkippedItem(one.item_id, one.session_id, one.rule_id, reason)
            if len(self.skipped) < MAX_LISTED:
                self.skipped.append(skip)
                await self.means.tell(Event.ITEM_SKIPPED, skip)

    async def _fail(self, failure: PruningFailure) -> None:
        self.failures.append(failure)
        if not self.dry_run:
            self.means.quarantine.fail(failure)
        await self.means.tell(Event.ERROR, failure)


def _totals(item: PrunableItem) -> Totals:
    return Totals(1, item.size_bytes, item.token_count)
