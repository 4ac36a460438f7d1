"""Why an item stays or goes: each rule condition by condition, each protection, and when it is due.

Pure. What becomes of the item is what a plan says that is made in the same situation, budgets
aside; an explanation only takes it apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from gateway.errors import NotFoundError
from gateway.pruning.conditions import (
    SET_CONDITIONS,
    AgeCondition,
    CustomCondition,
    Observation,
    holds,
    observe,
    surplus,
)
from gateway.pruning.judging import Judge, describe
from gateway.pruning.pairs import groups_of
from gateway.pruning.plan import SkipReason
from gateway.pruning.planner import Planner
from gateway.pruning.rules import Protection, RuleScope
from gateway.pruning.store import ItemQuery

if TYPE_CHECKING:
    from gateway.pruning.conditions import Condition, SetCondition
    from gateway.pruning.items import PrunableItem
    from gateway.pruning.judging import Evaluate, Situation
    from gateway.pruning.planner import Traced
    from gateway.pruning.rulebook import Rulebook, ScopedRule
    from gateway.pruning.shards import Pause
    from gateway.pruning.store import ItemStore


@dataclass(frozen=True, slots=True)
class ConditionVerdict:
    """One condition, held against the item."""

    observation: Observation
    holds: bool
    detail: str = ""
    """What else there is to say, as the part that is too much of a set, or what failed."""


@dataclass(frozen=True, slots=True)
class ProtectionVerdict:
    """One protection, and whether it keeps the item from a rule."""

    protection: Protection
    holds: bool
    """Whether it applies to the item."""
    ignored: bool
    """Whether the rule says otherwise."""


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """One rule, held against the item."""

    rule_id: str
    rule_name: str
    priority: int
    action: str
    enabled: bool
    counts: bool
    """Whether it is one for the item's session."""
    conditions: tuple[ConditionVerdict, ...]
    protections: tuple[ProtectionVerdict, ...]
    takes: bool
    """Whether it takes the item now."""
    reason: str
    """Why it takes it or does not."""
    due_at: datetime | None
    """When its age conditions hold, where all its other conditions hold now and nothing but time
    protects the item; None: nobody can say."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """All rules, held against one item."""

    item_id: str
    session_id: str
    at: datetime
    rules: tuple[RuleVerdict, ...]
    """In their order."""
    protections: tuple[Protection, ...]
    """Everything that protects the item from rules that do not say otherwise."""
    quarantined: bool
    taken_by: str | None
    """The rule that takes it now, budgets aside; None: none does."""
    due_at: datetime | None
    """When the first rule takes it, as far as time alone decides; None: nobody can say."""


async def explain(
    item_id: str,
    rulebook: Rulebook,
    store: ItemStore,
    situation: Situation,
    evaluate: Evaluate,
    pause: Pause,
) -> Explanation:
    """Explain an item.

    Raises:
        NotFoundError: there is none of this id.
    """
    item = (await store.find([item_id])).get(item_id)
    if item is None:
        raise NotFoundError(f"there is no item {item_id!r}")

    item_id = item.id  # Some stores know an item by more than one spelling.
    planner = Planner(rulebook, store, situation, evaluate, pause, watched=item_id)
    await planner.select()
    explainer = _Explainer(rulebook, store, situation, planner.judge, evaluate, item)
    group = (await groups_of(store, [item])).get(item_id)
    explainer.paired = group is not None and (not group.complete or len(group.items) > 1)
    rules = []
    for place, scoped in enumerate(rulebook.rules):
        rules.append(await explainer.rule(scoped, planner.traces.get(place), planner.taken_by))
    dates = [one.due_at for one in rules if one.due_at is not None]
    taken_by = planner.taken_by
    return Explanation(
        item_id=item_id,
        session_id=item.session_id,
        at=situation.now,
        rules=tuple(rules),
        protections=tuple(explainer.protections()),
        quarantined=item_id in situation.quarantined,
        taken_by=None if taken_by is None else taken_by.rule.id,
        due_at=min(dates, default=None),
    )


class _Explainer:
    """Takes the verdicts on one item apart."""

    def __init__(
        self,
        rulebook: Rulebook,
        store: ItemStore,
        situation: Situation,
        judge: Judge,
        evaluate: Evaluate,
        item: PrunableItem,
    ) -> None:
        self.paired = False
        self._rulebook = rulebook
        self._store = store
        self._now = situation.now
        self._situation = situation
        self._judge = judge
        self._evaluate = evaluate
        self._item = item

    def protections(self) -> list[Protection]:
        """Return what protects the item; a pair is one that a rule has to take whole."""
        found = self._judge.protections(self._item)
        return found + ([Protection.TOOL_PAIR] if self.paired else [])

    async def rule(
        self, scoped: ScopedRule, trace: Traced | None, taken_by: ScopedRule | None
    ) -> RuleVerdict:
        rule, item = scoped.rule, self._item
        await self._judge.prepare(scoped, [item])
        conditions = [await self._condition(scoped, one, trace) for one in rule.conditions]
        held = self.protections()
        protections = tuple(
            ProtectionVerdict(one, one in held, one in rule.ignore_protections)
            for one in Protection
        )
        counts = scoped.is_for(item.session_id)
        takes = taken_by is scoped
        return RuleVerdict(
            rule_id=rule.id,
            rule_name=rule.name,
            priority=rule.priority,
            action=rule.action.kind,
            enabled=rule.enabled,
            counts=counts,
            conditions=tuple(conditions),
            protections=protections,
            takes=takes,
            reason=self._reason(scoped, conditions, trace, taken_by),
            due_at=self._due_at(scoped, conditions, held, trace) if counts else None,
        )

    async def _condition(
        self, scoped: ScopedRule, condition: Condition, trace: Traced | None
    ) -> ConditionVerdict:
        item = self._item
        if isinstance(condition, CustomCondition):
            seen = observe(condition, item, self._now)
            try:
                answer = await self._evaluate(condition, item)
            except Exception as error:  # noqa: BLE001 - boundary around functions of others: told
                return ConditionVerdict(seen, holds=False, detail=f"it failed: {describe(error)}")
            said = Observation(seen.condition, seen.observed, "yes" if answer else "no")
            return ConditionVerdict(said, answer)

        if isinstance(condition, SET_CONDITIONS):
            return await self._of_set(scoped, condition, trace)

        return ConditionVerdict(
            observe(condition, item, self._now), holds(condition, item, self._now)
        )

    async def _of_set(
        self, scoped: ScopedRule, condition: SetCondition, trace: Traced | None
    ) -> ConditionVerdict:
        rule = scoped.rule
        totals = trace.totals if trace else None
        if totals is None:
            one = self._item.session_id if rule.scope is RuleScope.SESSION else None
            excluded = frozenset[str]() if one else scoped.excluded
            totals = await self._store.sum(ItemQuery(one, excluded, types=rule.types))
        total = condition.total(totals)
        seen = Observation(condition.kind, total, condition.maximum, rule.scope.value)
        over = surplus(condition, total)
        if not over:
            return ConditionVerdict(seen, holds=False, detail="the set is within the limit")

        detail = "newer than the oldest surplus" if trace is None else f"{over:,} too much"
        return ConditionVerdict(seen, trace is not None, detail)

    def _reason(
        self,
        scoped: ScopedRule,
        conditions: list[ConditionVerdict],
        trace: Traced | None,
        taken_by: ScopedRule | None,
    ) -> str:
        rule = scoped.rule
        failing = [one for one in conditions if not one.holds]
        if not rule.enabled or not scoped.is_for(self._item.session_id):
            return "is not for this session" if rule.enabled else "is switched off"
        if taken_by is scoped:
            return "; ".join(one.observation.text for one in conditions) or "takes every item"
        if failing:
            return "does not hold: " + ", ".join(one.observation.condition for one in failing)

        reason = None if trace is None else trace.verdict.reason
        if reason is not None:
            return reason.value

        return f"{taken_by.rule.id} comes before" if taken_by else SkipReason.CHANGED.value

    def _due_at(
        self,
        scoped: ScopedRule,
        conditions: list[ConditionVerdict],
        held: list[Protection],
        trace: Traced | None,
    ) -> datetime | None:
        """Return when time alone lets a rule take the item."""
        rule = scoped.rule
        reason = None if trace is None else trace.verdict.reason
        kept = [one for one in held if one not in rule.ignore_protections]
        untimed = [
            one
            for condition, one in zip(rule.conditions, conditions, strict=True)
            if not one.holds and not isinstance(condition, AgeCondition)
        ]
        if not rule.enabled or untimed or set(kept) - _TIMED or reason in _FOR_GOOD:
            return None

        age_s = rule.max_age_s or 0.0
        if Protection.YOUNG not in rule.ignore_protections:
            age_s = max(age_s, self._rulebook.config.protections.min_age_s)
        due_at = self._item.created_at + timedelta(seconds=age_s)
        ends = self._judge.restored_until(self._item)
        if Protection.RESTORED in kept and ends is not None:
            due_at = max(due_at, ends)
        return due_at


_TIMED: Final = frozenset({Protection.YOUNG, Protection.RESTORED, Protection.TOOL_PAIR})
"""What time ends, and a pair, which may be taken whole."""
_FOR_GOOD: Final = frozenset(
    {
        SkipReason.ALREADY_APPLIED,
        SkipReason.NO_GAIN,
        SkipReason.NO_CONTENT,
        SkipReason.QUARANTINED,
        SkipReason.TOOL_PAIR,
    }
)
"""Why time alone does not let a rule take an item."""
