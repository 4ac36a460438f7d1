"""Carrying out a plan: each item is looked at again right before it is touched.

Pure but for what it is handed. A unit is done whole or not at all, records and all. Many units are
one change of the store, and single ones where it does not take them together, so that a bad one
costs itself alone; between changes others run, and the run may end. A summary is written outside of
any change, and counts only if the item is still the same afterwards.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from gateway.errors import StorageBusyError, StorageError, StorageFullError
from gateway.pruning.budgets import Unit, cost_of
from gateway.pruning.conditions import NO_TOTALS, Totals
from gateway.pruning.items import PrunableItem
from gateway.pruning.judging import describe, is_live
from gateway.pruning.ledger import Ledger
from gateway.pruning.plan import Plan, PlannedAction, PruningFailure, SkipReason
from gateway.pruning.quarantine import Quarantine
from gateway.pruning.records import DRY_RUN, Event, PrunedItem, RunStatus
from gateway.pruning.rulebook import Rulebook
from gateway.pruning.rules import CompactAction, Protection, SummarizeAction
from gateway.pruning.shards import Ids, Pause
from gateway.pruning.shrinking import (
    ItemSummary,
    compacted,
    done_before,
    marked_as_is,
    summarized,
)
from gateway.pruning.store import NOTHING_DONE, Change, ItemStore

SUMMARIZER_TRIES: Final = 3
"""Failures in a row after which the summarizer is left alone for the rest of a run: it is more
likely to be out of order than the items are."""
BATCH: Final = 100
"""Items that are changed together at most, but for a unit that has more."""
BATCH_BYTES: Final = 1_024**2
"""What they come to at most, but for a unit that has more: their contents are in memory, shortening
takes its time, and who writes as well waits for the change."""
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
    between: Callable[[], Awaitable[None]]
    """Lets others do what is due, between changes."""
    tell: Callable[[Event, object], Awaitable[None]]
    summarize: Callable[[PrunableItem, SummarizeAction, str], Awaitable[ItemSummary | None]]
    """Writes a summary; None where the time of the run is over, or it has to end."""
    live_turns: Callable[[], Mapping[str, str]]
    exempt: Callable[[], frozenset[str]]
    """The sessions that are exempt now."""
    is_stopped: Callable[[], bool]
    """Whether the run has to end between two changes."""


@dataclass(slots=True)
class Outcome:
    """What becomes of a unit."""

    unit: Unit
    changes: list[Change] = field(default_factory=list)
    skips: list[tuple[PlannedAction, SkipReason]] = field(default_factory=list)
    """Why it stays; then there are no changes."""


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
    kept: Ids | None = None
    """Of a plan that was made some time ago what the rules still take; None: all of it."""
    halt: Halt | None = None
    """Set before the start where nothing is to be done."""
    ledger: Ledger = field(init=False)
    """What was done so far."""
    _in_a_row: int = 0
    """Failures of the summarizer."""
    _live: Mapping[str, str] = field(default_factory=dict)
    """The turns that run, as last asked: to ask for each item would hold up everybody."""

    def __post_init__(self) -> None:
        """Begin with nothing done."""
        self.ledger = Ledger(self.plan, self.means.tell)

    async def carry_out(self) -> None:
        """Do what the plan says.

        Raises:
            StorageError: the storage failed; what was done until then is done.

        Cancellation: units that were done are done; those at hand are done whole or not at all.
        """
        await self._take_over()
        for units in _batches(self.plan.units):
            await self.means.pause(2 * len(units))
            self._look_up()
            if self.dry_run and self.halt is None:
                await self._pretend_all(units)
            else:
                await self._do(units)
            await self.means.between()

    @property
    def status(self) -> RunStatus:
        """How the run ended."""
        if self.halt is not None and self.halt.status is not RunStatus.OK:
            return self.halt.status

        return RunStatus.PARTIAL if self.ledger.failures.count else RunStatus.OK

    async def _take_over(self) -> None:
        """Tell what the plan found: who stays, and what failed."""
        await self.ledger.take_over(self.means.pause)
        for failure in self.plan.failures:
            await self._fail(failure)
        self.ledger.failures.add_unlisted(self.plan.failed - len(self.plan.failures))
        for failure in () if self.dry_run else self.plan.unlisted:
            await self.means.pause(1)
            self.means.quarantine.fail(failure)

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

    async def _pretend_all(self, units: Sequence[Unit]) -> None:
        """Tell what would become of units; of an older plan as the items are now."""
        outcomes = [Outcome(unit) for unit in units]
        if self.kept is not None:
            items = await self.means.store.find([one.item_id for unit in units for one in unit])
            self._live = self.means.live_turns()
            outcomes = [self._checked(outcome, items) for outcome in outcomes]
        at = self.means.now()
        for outcome in outcomes:
            for one, reason in outcome.skips:
                await self.ledger.skip(one, reason)
            for one in () if outcome.skips else outcome.unit:
                self.ledger.keep(self._record(one, one.before, one.after, at))
            await self.ledger.progress(outcome.unit)

    def _is_spared(self, one: PlannedAction) -> bool:
        return self.kept is not None and one.item_id not in self.kept

    async def _do(self, units: Sequence[Unit]) -> None:
        """Do units together, or else one by one."""
        if self.halt is not None:
            await self.ledger.leave(units, self.halt.reason)
            return

        try:
            if await self._together(units):
                return
        except StorageError:
            raise
        except (StorageFullError, StorageBusyError) as error:
            self.halt = Halt(SkipReason.STOPPED, describe(error), RunStatus.PARTIAL)
            await self.ledger.leave(units, SkipReason.STOPPED)
            return
        except Exception as error:  # noqa: BLE001 - boundary around summarizers, stores and bad data
            if len(units) == 1:
                for one in units[0]:
                    failed = PruningFailure(
                        one.item_id, one.session_id, one.rule_id, describe(error)
                    )
                    await self._fail(failed)
                await self.ledger.progress(units[0])
                return

        for unit in units:
            await self.means.pause(2)
            self._look_up()
            await self._do([unit])

    async def _together(self, units: Sequence[Unit]) -> bool:
        """Do units in one change; return whether that was possible, else nothing was done."""
        items = await self.means.store.find([one.item_id for unit in units for one in unit])
        self._live = self.means.live_turns()
        outcomes = []
        for unit in units:
            await self.means.pause(2)
            outcomes.append(await self._outcome(unit, items))
        self._live = self.means.live_turns()  # Others have run meanwhile.
        outcomes = [self._checked(one, items) if one.changes else one for one in outcomes]
        changes = [change for outcome in outcomes for change in outcome.changes]
        done = await self.means.store.commit(changes) if changes else NOTHING_DONE
        if done.stale and len(units) > 1:
            return False

        for outcome in outcomes:
            await self.means.pause(2)
            if done.stale:
                outcome.changes = []
                outcome.skips = [(one, SkipReason.CHANGED) for one in outcome.unit]
            await self._told(outcome, done.after)
        return True

    def _checked(self, outcome: Outcome, items: Mapping[str, PrunableItem]) -> Outcome:
        """Return what is to become of a unit if nothing has come up since that keeps an item."""
        for one in outcome.unit:
            reason = self._why_not(one, items.get(one.item_id))
            if reason is not None:
                return _staying(outcome.unit, one, reason)
        return outcome

    async def _told(self, outcome: Outcome, after: Mapping[str, Totals]) -> None:
        """Keep and tell what became of a unit."""
        for one, reason in outcome.skips:
            if reason is SkipReason.GONE:
                self.means.quarantine.forget(one.item_id)
            await self.ledger.skip(one, reason)
        for one, change in zip(outcome.unit, outcome.changes, strict=False):
            self.means.quarantine.forget(one.item_id)
            self.means.waiting.pop((one.item_id, one.version), None)
            if change.record is None:
                await self.ledger.skip(one, SkipReason.NO_GAIN)
            else:
                record = replace(change.record, after=after.get(one.item_id, NO_TOTALS))
                self.ledger.keep(record)
                await self.means.tell(Event.ITEM_PRUNED, record)
        await self.ledger.progress(outcome.unit)

    async def _outcome(self, unit: Unit, items: Mapping[str, PrunableItem]) -> Outcome:
        """Return what is to become of a unit as its items are now; changes nothing."""
        outcome = Outcome(unit)
        for one in unit:
            item = items.get(one.item_id)
            reason = self._why_not(one, item)
            if item is not None and reason is None:
                found = await self._change(one, item)
                if isinstance(found, Change):
                    outcome.changes.append(found)
                    continue
                reason = found
            return _staying(unit, one, reason or SkipReason.GONE)
        return outcome

    def _why_not(self, one: PlannedAction, item: PrunableItem | None) -> SkipReason | None:
        """Return why an item that was planned for stays after all."""
        if item is None:
            return SkipReason.GONE
        if item.version != one.version:
            return SkipReason.CHANGED

        rule = self.means.rulebook.find(one.rule_id, one.session_id)
        ignored = frozenset[Protection]() if rule is None else rule.ignore_protections
        failing = self.means.quarantine.of(one.item_id)
        is_exempt = item.session_id in self.means.exempt() and not self.plan.force
        is_in_turn = is_live(self._live, item)
        # Whatever else may protect it has not begun since, or has changed its version.
        checks = (
            (SkipReason.EXEMPT, is_exempt and Protection.EXEMPT not in ignored),
            (SkipReason.LIVE_TURN, is_in_turn and Protection.LIVE_TURN not in ignored),
            (SkipReason.QUARANTINED, failing is not None and failing.is_quarantined),
        )
        found = [reason for reason, holds in checks if holds]
        reason = found[0] if found else done_before(one.action, item)
        return SkipReason.SPARED if reason is None and self._is_spared(one) else reason

    async def _change(self, one: PlannedAction, item: PrunableItem) -> Change | SkipReason:
        """Return what becomes of an item, or why it stays for now."""
        at = self.means.now()
        after: PrunableItem | None = None
        if isinstance(one.action, CompactAction):
            after = compacted(one.action, item, one.rule_id, at) if item.content else None
        elif isinstance(one.action, SummarizeAction) and item.content:
            summary = await self._summary(one, one.action, item)
            if isinstance(summary, SkipReason):
                return summary
            self._live = self.means.live_turns()  # Much may have happened meanwhile.
            reason = self._why_not(one, item)
            if reason is not None:
                return reason
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
    ) -> ItemSummary | SkipReason:
        waiting = self.means.waiting.get((item.id, item.version))
        if waiting is not None:
            return waiting

        if self._in_a_row >= SUMMARIZER_TRIES:
            return SkipReason.SUMMARIZER

        self._in_a_row += 1
        summary = await self.means.summarize(item, action, one.reason)
        self._in_a_row -= 1
        if summary is None:
            self._look_up()
            if self.halt is None:
                self._out_of_time()
            return SkipReason.BUDGET_SECONDS if self.halt is None else self.halt.reason

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

    async def _fail(self, failure: PruningFailure) -> None:
        if not self.dry_run:
            self.means.quarantine.fail(failure)
        await self.ledger.fail(failure)


def _staying(unit: Unit, one: PlannedAction, reason: SkipReason) -> Outcome:
    """Return that a unit stays, and which of its items is why."""
    others = [(other, SkipReason.CHANGED) for other in unit if other is not one]
    return Outcome(unit, [], [(one, reason), *others])


def _totals(item: PrunableItem) -> Totals:
    return Totals(1, item.size_bytes, item.token_count)


def _batches(units: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
    """Yield units that are changed together; one that needs a summary, by itself."""
    batch: list[Unit] = []
    items = size_bytes = 0
    for unit in units:
        more, more_bytes, summaries = cost_of(unit)
        is_full = items + more > BATCH or size_bytes + more_bytes > BATCH_BYTES
        if batch and (summaries or is_full):
            yield batch
            batch, items, size_bytes = [], 0, 0
        if summaries:
            yield [unit]
        else:
            batch.append(unit)
            items, size_bytes = items + more, size_bytes + more_bytes
    if batch:
        yield batch
