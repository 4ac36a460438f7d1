"""Which items the rules take: rule by rule, highest priority first, each the oldest items first.

Pure: it reads the store in slices and changes nothing. What a rule takes counts as gone, or as
shorter, for the rules after it, so that a set loses no more than it has to. Of a set the oldest
surplus is taken: protected items are passed over, and newer ones go in their place; items that do
not meet another condition of the rule, or fail, are part of the surplus, and stay.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from gateway.pruning.budgets import choose, let_go
from gateway.pruning.conditions import (
    Observation,
    SetCondition,
    SizeCondition,
    TokensCondition,
    Totals,
    surplus,
)
from gateway.pruning.judging import MISS, Judge, Verdict
from gateway.pruning.pairs import groups_of
from gateway.pruning.plan import Plan, PlannedAction, SkippedItem, SkipReason
from gateway.pruning.rules import Protection, RuleScope
from gateway.pruning.shrinking import expected_after
from gateway.pruning.store import ItemQuery
from gateway.pruning.tallies import Freed, Ids, Skips
from gateway.pruning.units import instant_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from gateway.pruning.budgets import Pause, Unit
    from gateway.pruning.items import PrunableItem
    from gateway.pruning.judging import Evaluate, Situation
    from gateway.pruning.rulebook import Rulebook, ScopedRule
    from gateway.pruning.store import ItemStore

PAGE: Final = 100
"""Items that are looked at in one piece; about 1 ms where each of them is taken."""
_JUDGED: Final = 4
"""What judging an item costs, in units of work, where a function is asked as well."""


@dataclass(slots=True)
class Room:
    """What of a set is still too much, by condition, while the oldest are walked through."""

    conditions: tuple[SetCondition, ...]
    totals: Totals
    """What the set came to before the rule."""
    left: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with the whole surplus."""
        self.left = [surplus(one, one.total(self.totals)) for one in self.conditions]

    @property
    def spent(self) -> bool:
        """Whether nothing is too much any more by one of the conditions."""
        return min(self.left) <= 0

    def helps(self, items: Sequence[PrunableItem]) -> bool:
        """Return whether each condition gains by these items."""
        return all(sum(map(one.amount, items)) for one in self.conditions)

    def walk(self, items: Sequence[PrunableItem]) -> None:
        """Count items as part of the surplus."""
        for place, condition in enumerate(self.conditions):
            self.left[place] -= sum(map(condition.amount, items))


@dataclass(slots=True)
class Traced:
    """What became of one watched item under one rule."""

    verdict: Verdict
    totals: Totals | None
    """What its set came to before the rule; None where the rule has no set."""


class Planner:
    """Makes one plan."""

    def __init__(
        self,
        rulebook: Rulebook,
        store: ItemStore,
        situation: Situation,
        evaluate: Evaluate,
        pause: Pause,
        *,
        watched: str = "",
    ) -> None:
        """Plan by these rules; `watched` is an item whose fate under each rule is kept."""
        self.traces: dict[int, Traced] = {}
        """By the place of the rule: the verdicts on the watched item."""
        self.taken_by: ScopedRule | None = None
        """The rule that takes the watched item."""
        self.judge = Judge(rulebook, store, situation, evaluate)
        self._rulebook = rulebook
        self._store = store
        self._situation = situation
        self._pause = pause
        self._watched = watched
        self._units: list[Unit] = []
        self._taken = Ids()
        self._skips = Skips()
        self._freed = Freed()

    async def plan(self) -> Plan:
        """Return what a run would do."""
        session_id = self._situation.session_id
        scanned = await self._store.totals(session_id)
        for place, scoped in self._rulebook.enabled(session_id):
            await self._rule(place, scoped)
        return await self._finished(scanned)

    async def _rule(self, place: int, scoped: ScopedRule) -> None:
        query = self._query(scoped)
        if not scoped.rule.set_conditions:
            await self._walk(place, scoped, query, None)
            return

        async for part, room in self._rooms(scoped):
            await self._walk(place, scoped, part, room)

    def _query(self, scoped: ScopedRule) -> ItemQuery:
        """Return the query for the items that meet the conditions of an item."""
        rule = scoped.rule
        max_age_s = rule.max_age_s
        now = self._situation.now
        sizes = [one.max_size_bytes for one in rule.conditions if isinstance(one, SizeCondition)]
        tokens = [one.max_tokens for one in rule.conditions if isinstance(one, TokensCondition)]
        return ItemQuery(
            session_id=scoped.only or self._situation.session_id,
            excluded=scoped.excluded,
            created_before=None if max_age_s is None else now - timedelta(seconds=max_age_s),
            size_over_bytes=max(sizes, default=None),
            tokens_over=max(tokens, default=None),
            types=rule.types,
            with_content=bool(rule.custom_conditions),
        )

    async def _rooms(self, scoped: ScopedRule) -> AsyncIterator[tuple[ItemQuery, Room]]:
        """Yield the sets that exceed a limit, and the queries for them."""
        rule = scoped.rule
        query = ItemQuery(
            session_id=scoped.only or self._situation.session_id,
            excluded=scoped.excluded,
            types=rule.types,
            with_content=bool(rule.custom_conditions),
        )
        if rule.scope is RuleScope.ALL:
            # A limit of all is one of all, also where only one session is looked at.
            of_all = ItemQuery(excluded=scoped.excluded, types=rule.types)
            totals = await self._store.sum(of_all) - self._freed.of(of_all)
            room = Room(rule.set_conditions, totals)
            if not room.spent:
                yield (
                    ItemQuery(
                        excluded=scoped.excluded, types=rule.types, with_content=query.with_content
                    ),
                    room,
                )
            return

        async for over in self._store.sessions_over(query, rule.set_conditions[0]):
            await self._pause(PAGE)
            for session_id, totals in over.items():
                one = ItemQuery(
                    session_id=session_id, types=rule.types, with_content=query.with_content
                )
                room = Room(rule.set_conditions, totals - self._freed.of(one))
                if not room.spent:
                    yield one, room

    async def _walk(
        self, place: int, scoped: ScopedRule, query: ItemQuery, room: Room | None
    ) -> None:
        """Go through the items of a query, the oldest first, until there is no room to make."""
        after, seen = None, set[str]()
        while True:
            page = await self._store.page(query, after=after, limit=PAGE)
            await self._pause(PAGE)
            if page.items:
                groups = await self._groups(scoped, page.items)
                for item in page.items:
                    if item.id in seen:
                        continue
                    if room is not None and room.spent:
                        return
                    group = groups.get(item.id)
                    if group is None:
                        await self._single(place, scoped, item, room)
                    else:
                        seen.update(one.id for one in group[0])
                        await self._group(place, scoped, group, room)
            if page.next is None:
                return
            after = page.next

    async def _groups(
        self, scoped: ScopedRule, items: Sequence[PrunableItem]
    ) -> dict[str, tuple[tuple[PrunableItem, ...], bool]]:
        """Return what has to go together with each item, and whether it may go at all."""
        groups: dict[str, tuple[tuple[PrunableItem, ...], bool]] = {}
        rule = scoped.rule
        if rule.action.removes and Protection.TOOL_PAIR not in rule.ignore_protections:
            found = await groups_of(self._store, items)
            groups = {name: (one.items, one.complete) for name, one in found.items()}
        await self.judge.prepare(scoped, [*items, *(one for g in groups.values() for one in g[0])])
        return groups

    async def _single(
        self, place: int, scoped: ScopedRule, item: PrunableItem, room: Room | None
    ) -> None:
        if item.id in self._taken:
            return

        verdict = await self._judged(place, scoped, item, room, grouped=False)
        if verdict.reason is not None and verdict.meets:
            self._skip(scoped, item, verdict.reason)
        if verdict.passes:
            return

        if verdict.meets and verdict.reason is None and (room is None or room.helps([item])):
            self._take(scoped, (item,), room)
        if room is not None:
            room.walk([item])

    async def _group(
        self,
        place: int,
        scoped: ScopedRule,
        group: tuple[tuple[PrunableItem, ...], bool],
        room: Room | None,
    ) -> None:
        """Take all of a group, or none of it."""
        items, complete = group
        verdicts = [
            Verdict(meets=False, passes=True)
            if one.id in self._taken
            else await self._judged(place, scoped, one, room, grouped=True)
            for one in items
        ]
        if complete and all(one.meets and one.reason is None for one in verdicts):
            if room is None or room.helps(items):
                self._take(scoped, items, room)
            if room is not None:
                room.walk(items)
            return

        split = any(one.meets for one in verdicts) and not all(one.meets for one in verdicts)
        protected = split or not complete or any(one.passes for one in verdicts)
        if room is not None and not protected:
            room.walk(items)
        for item, verdict in zip(items, verdicts, strict=True):
            if verdict.meets and item.id not in self._taken:
                self._skip(scoped, item, verdict.reason or SkipReason.TOOL_PAIR)
                if item.id == self._watched and verdict.reason is None:
                    held = Verdict(meets=True, reason=SkipReason.TOOL_PAIR, passes=True)
                    self.traces[place].verdict = held

    async def _judged(
        self,
        place: int,
        scoped: ScopedRule,
        item: PrunableItem,
        room: Room | None,
        *,
        grouped: bool,
    ) -> Verdict:
        if scoped.custom:
            await self._pause(_JUDGED)
            verdict = await self.judge.judge(place, scoped, item)
        else:
            known = not grouped and (room is None or scoped.by_query)
            verdict = self.judge.compare(place, scoped, item, known=known)
        only = self._situation.session_id
        if only is not None and item.session_id != only and not verdict.passes:
            # Part of a surplus of all sessions, and none of this run's business.
            verdict = MISS
        if item.id == self._watched:
            self.traces[place] = Traced(verdict, room.totals if room else None)
        return verdict

    def _take(self, scoped: ScopedRule, items: Sequence[PrunableItem], room: Room | None) -> None:
        unit = tuple(self._planned(scoped, item, room) for item in items)
        self._units.append(unit)
        for one in unit:
            self._taken.add(one.item_id)
            if one.item_id == self._watched:
                self.taken_by = scoped
            self._skips.drop(one.item_id)
            self._freed.add(one)

    def _planned(self, scoped: ScopedRule, item: PrunableItem, room: Room | None) -> PlannedAction:
        rule = scoped.rule
        now = self._situation.now
        observed = [one.observe(item, now) for one in (*scoped.compared, *scoped.custom)]
        if room is not None:
            observed += [
                Observation(one.kind, one.total(room.totals), one.maximum, rule.scope.value)
                for one in rule.set_conditions
            ]
        return PlannedAction(
            item_id=item.id,
            session_id=item.session_id,
            type=item.type,
            version=item.version,
            rule_id=rule.id,
            rule_name=rule.name,
            action=rule.action,
            observed=tuple(observed),
            before=Totals(1, item.size_bytes, item.token_count),
            after=expected_after(rule.action, item),
        )

    def _skip(self, scoped: ScopedRule, item: PrunableItem, reason: SkipReason) -> None:
        """Keep why an item stays: what the first rule says that would take it."""
        self._skips.add(SkippedItem(item.id, item.session_id, scoped.rule.id, reason))

    async def _finished(self, scanned: Totals) -> Plan:
        budgets, situation = self._rulebook.config.budgets, self._situation
        chosen = await choose(self._units, budgets, situation.cursor, self._pause)
        freed = self._freed.of(ItemQuery())
        selected = Totals(len(self._taken), freed.size_bytes, freed.tokens)
        for unit, lack in chosen.left:
            await self._pause(1)
            for one in unit:
                self._skips.add(SkippedItem(one.item_id, one.session_id, one.rule_id, lack))
        plan = Plan(
            id=await self._digest(chosen.units),
            made_at=situation.now,
            config_version=self._rulebook.version,
            force=situation.force,
            session_id=situation.session_id,
            scanned=scanned,
            units=tuple(chosen.units),
            skipped=self._skips.listed(),
            skipped_by_reason=MappingProxyType(self._skips.counts()),
            failures=tuple(self.judge.failures),
            selected=selected,
            cursor=chosen.cursor,
            breaker=_breaker(self._rulebook.config.max_share, selected, scanned),
        )
        await let_go(chosen.left, self._pause)
        await let_go(self._units, self._pause)
        for freed_shard in self._freed.shards:
            await let_go(freed_shard, self._pause)
        for skip_shard in self._skips.shards:
            await let_go(skip_shard, self._pause)
        return plan

    async def _digest(self, units: Sequence[Unit]) -> str:
        situation = self._situation
        start = (self._rulebook.version, instant_text(situation.now), situation.session_id or "")
        digest = hashlib.sha256(repr((*start, situation.force)).encode())
        for unit in units:
            await self._pause(1)
            for one in unit:
                digest.update(repr((one.item_id, one.version, one.rule_id)).encode())
        return digest.hexdigest()[:16]


def _breaker(max_share: float | None, selected: Totals, scanned: Totals) -> str:
    """Return why a plan takes too much; empty where it does not."""
    if max_share is None:
        return ""

    for what, part, whole in (
        ("items", selected.items, scanned.items),
        ("bytes", selected.size_bytes, scanned.size_bytes),
    ):
        if part > whole * max_share:
            return (
                f"the rules would take {part:,} of {whole:,} {what}, "
                f"more than max_share ({max_share:.0%})"
            )
    return ""
