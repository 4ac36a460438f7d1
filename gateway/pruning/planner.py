"""Which items the rules take: rule by rule, highest priority first, each the oldest items first.

Pure: it reads the store in slices and changes nothing. What a rule takes counts as gone, or as
shorter, for the rules after it, so that a set loses no more than it has to. Of a set the oldest
surplus is taken: protected items are passed over, and newer ones go in their place; items that do
not meet another condition of the rule, or fail, are part of the surplus, and stay.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from gateway.pruning.budgets import NO_BUDGETS, Chosen, choose
from gateway.pruning.conditions import NO_TOTALS, Totals
from gateway.pruning.judging import FREE, MISS, Judge, Verdict
from gateway.pruning.pairs import groups_of
from gateway.pruning.passes import Pass, Room, items_of, set_of
from gateway.pruning.plan import MAX_PLANNED, Plan, SkipReason
from gateway.pruning.rules import Protection, RuleScope
from gateway.pruning.shards import Ids, let_go
from gateway.pruning.store import ItemQuery
from gateway.pruning.tallies import Checked, Freed, Skips
from gateway.pruning.units import instant_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from gateway.pruning.budgets import Unit
    from gateway.pruning.items import PrunableItem
    from gateway.pruning.judging import Evaluate, Situation
    from gateway.pruning.pairs import Group
    from gateway.pruning.rulebook import Rulebook, ScopedRule
    from gateway.pruning.rules import PruningBudgets
    from gateway.pruning.shards import Pause, Shards
    from gateway.pruning.store import ItemStore

PAGE: Final = 250
"""Items that are looked at in one piece; about 1 ms where each of them is taken."""
_JUDGED: Final = 4
"""What judging an item costs, in units of work, where a function is asked as well."""


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
        most: int = MAX_PLANNED,
    ) -> None:
        """Plan by these rules.

        Args:
            rulebook: The rules.
            store: The items.
            situation: What else the plan depends on.
            evaluate: Asks the functions that rules name.
            pause: Lets others run.
            watched: An item whose fate under each rule is kept.
            most: How many units the plan may hold; what is taken beside is counted only.
        """
        self.traces: dict[int, Traced] = {}
        """By the place of the rule: the verdicts on the watched item."""
        self.taken_by: ScopedRule | None = None
        """The rule that takes the watched item."""
        self.judge = Judge(
            rulebook,
            store,
            situation,
            evaluate,
            lambda item_id: self._among is None or self._rule_for(item_id) is not None,
        )
        self._rulebook = rulebook
        self._store = store
        self._situation = situation
        self._pause = pause
        self._watched = watched
        self._among: Shards[str] | None = None
        """The items to plan for and the rules that have to take them, by item id; None: all."""
        self._most = most
        self._is_plain = not watched and situation.session_id is None
        """Whether a verdict is of no use to anybody else."""
        self._units: list[Unit] = []
        self._taken = Ids()
        self._full = Ids()
        """Sessions of which no more is planned, for older units of theirs are not either."""
        self._more = 0
        self._skips = Skips()
        self._freed = Freed()

    async def plan(self) -> Plan:
        """Return what a run would do."""
        scanned = await self._store.totals(self._situation.session_id)
        await self.select()
        return await self._finished(scanned)

    async def check(self, among: Shards[str]) -> Checked:
        """Return which items the rules take that are named, by item id, for these items.

        All others are taken into account, and not planned for.
        """
        self._among = among
        scanned = await self._store.totals(self._situation.session_id)
        await self.select()
        kept, own = Ids(), NO_TOTALS
        for first in range(0, len(self._units), PAGE):
            await self._pause(PAGE)
            actions = [one for unit in self._units[first : first + PAGE] for one in unit]
            kept.update(one.item_id for one in actions)
            freed = sum([one.size_bytes - one.after.size_bytes for one in actions])
            own += Totals(len(actions), freed)
        whole, part = self._breaker(self._selected(), scanned), self._breaker(own, scanned)
        checked = Checked(kept, whole, part, self.judge.failures)
        await self._let_go()
        return checked

    async def select(self) -> None:
        """Hold every rule against the items; after it the fate of a watched item is known."""
        for place, scoped in self._rulebook.enabled(self._situation.session_id):
            await self._rule(place, scoped)

    async def _rule(self, place: int, scoped: ScopedRule) -> None:
        now, max_age_s = self._situation.now, scoped.rule.max_age_s
        if not scoped.rule.set_conditions:
            end = None if max_age_s is None else now - timedelta(seconds=max_age_s)
            query = items_of(scoped, self._situation.session_id, created_before=end)
            await self._walk(Pass(place, scoped, now, None), query)
            return

        async for query, room in self._rooms(scoped):
            await self._walk(Pass(place, scoped, now, room), query)

    async def _rooms(self, scoped: ScopedRule) -> AsyncIterator[tuple[ItemQuery, Room]]:
        """Yield the sets that exceed a limit, and the queries for them."""
        rule = scoped.rule
        if rule.scope is RuleScope.ALL:
            # A limit of all is one of all, also where only one session is looked at.
            of_all = set_of(scoped)
            totals = await self._store.sum(of_all) - self._freed.of(of_all)
            room = Room(rule.set_conditions, totals)
            if not room.spent:
                yield of_all, room
            return

        query = set_of(scoped, self._situation.session_id)
        async for over in self._store.sessions_over(query, rule.set_conditions[0]):
            await self._pause(PAGE)
            for session_id, totals in over.items():
                await self._pause(1)
                one = replace(query, session_id=session_id, excluded=frozenset())
                room = Room(rule.set_conditions, totals - self._freed.of(one))
                if not room.spent:
                    yield one, room

    async def _walk(self, one: Pass, query: ItemQuery) -> None:
        """Go through the items of a query, the oldest first, until there is no room to make."""
        after, room = None, one.room
        while True:
            page = await self._store.page(query, after=after, limit=PAGE)
            await self._pause(PAGE)
            items = self._taken.without(page.items)
            if items:
                self._take(one, await self._picked(one, query, items))
                await self._trim()
            if page.next is None or (room is not None and room.spent):
                return
            after = page.next

    async def _picked(
        self, one: Pass, query: ItemQuery, items: Sequence[PrunableItem]
    ) -> list[Sequence[PrunableItem]]:
        """Return what is taken of these items, and what goes with each of them."""
        groups = await self._groups(one.scoped, items)
        picked: list[Sequence[PrunableItem]] = []
        for item in items:
            if one.room is not None and one.room.spent:
                break
            group = groups.get(item.id)
            if group is None:
                together: Sequence[PrunableItem] = (item,)
                verdict = (
                    await self._asked(one, item)
                    if one.scoped.custom
                    else (self._judged(one, item, known=one.is_known))
                )
                if verdict is not FREE:
                    self._skip(one, item, verdict)
            elif self._is_first(item, group, query):
                together = group.items
                verdict = await self._of_group(one, group)
            else:
                continue
            gains = one.room is None or verdict.passes or one.room.walk(together)
            if gains and verdict.meets and verdict.reason is None:
                picked.append(together)
        return picked

    async def _groups(self, scoped: ScopedRule, items: Sequence[PrunableItem]) -> dict[str, Group]:
        """Return what has to go together with each item, and learn what judging needs."""
        groups: dict[str, Group] = {}
        rule = scoped.rule
        if rule.action.removes and Protection.TOOL_PAIR not in rule.ignore_protections:
            groups = await groups_of(self._store, items)
        halves = (half for group in groups.values() for half in group.items)
        await self.judge.prepare(scoped, chain(items, halves))
        return groups

    def _is_first(self, item: PrunableItem, group: Group, query: ItemQuery) -> bool:
        """Return whether a group is dealt with at this item: once, at the first that is found."""
        found = self._taken.without(query.matching(group.items))
        return bool(found) and found[0].id == item.id

    async def _of_group(self, one: Pass, group: Group) -> Verdict:
        """Return the verdict on items that go together: what keeps one of them keeps them all."""
        there = self._taken.without(group.items)
        verdicts = [
            await self._asked(one, item) if one.scoped.custom else self._judged(one, item)
            for item in there
        ]
        meets = [verdict.meets for verdict in verdicts]
        if all(meets) and all(verdict.reason is None for verdict in verdicts):
            joint = FREE
        else:
            joint = Verdict(any(meets), SkipReason.TOOL_PAIR)
        parted = len(there) < len(group.items) or any(meets) != all(meets)
        if parted or not group.complete or any(verdict.passes for verdict in verdicts):
            joint = Verdict(any(meets), SkipReason.TOOL_PAIR, passes=True)
        for item, verdict in zip(there, verdicts, strict=True):
            if joint is not FREE:
                own = verdict.reason is not None or not verdict.meets
                self._skip(one, item, verdict if own else joint)
        return joint

    async def _asked(self, one: Pass, item: PrunableItem) -> Verdict:
        await self._pause(_JUDGED)
        return self._noted(one, item, await self.judge.judge(one.place, one.scoped, item))

    def _judged(self, one: Pass, item: PrunableItem, *, known: bool = False) -> Verdict:
        verdict = self.judge.compare(one.place, one.scoped, item, known=known)
        return verdict if self._is_plain else self._noted(one, item, verdict)

    def _noted(self, one: Pass, item: PrunableItem, verdict: Verdict) -> Verdict:
        only = self._situation.session_id
        if only is not None and item.session_id != only and not verdict.passes:
            # Part of a surplus of all sessions, and none of this run's business.
            verdict = MISS
        if item.id == self._watched:
            self.traces[one.place] = Traced(verdict, one.room.totals if one.room else None)
        return verdict

    def _skip(self, one: Pass, item: PrunableItem, verdict: Verdict) -> None:
        """Keep why an item stays: what the first rule says that would take it."""
        if verdict.meets and verdict.reason is not None:
            self._skips.add(item.id, item.session_id, one.cause.rule_id, verdict.reason)
            if item.id == self._watched:
                self.traces[one.place].verdict = verdict

    def _take(self, one: Pass, picked: Sequence[Sequence[PrunableItem]]) -> None:
        ids = [item.id for items in picked for item in items]
        self._taken.update(ids)
        self._skips.drop(ids)
        if self._watched in ids:
            self.taken_by = one.scoped
        units = one.units(picked)
        self._freed.add(units)
        if self._among is not None:
            wanted = self._rule_for
            units = [
                unit for unit in units if all(wanted(one.item_id) == one.rule_id for one in unit)
            ]
        if self._more:
            full = [unit for unit in units if unit[0].session_id in self._full]
            self._more += sum(map(len, full))
            units = [unit for unit in units if unit[0].session_id not in self._full]
        self._units += units

    def _rule_for(self, item_id: str) -> str | None:
        """Return the rule that has to take an item; None where it is not one to plan for."""
        return None if self._among is None else self._among.part(item_id).get(item_id)

    async def _trim(self) -> None:
        """Keep of what was taken what a plan has room for, as fairly as budgets would."""
        if len(self._units) >= 2 * self._most:
            await self._choose(NO_BUDGETS)

    async def _choose(self, budgets: PruningBudgets) -> Chosen:
        cursor, most = self._situation.cursor, self._most
        chosen = await choose(self._units, budgets, cursor, self._pause, most=most)
        for queue in chosen.beyond:
            self._full.update([queue[0][0].session_id])
            self._more += sum(map(len, queue))
            await let_go(queue, self._pause)
        await let_go(self._units, self._pause)
        self._units = chosen.units
        return chosen

    async def _finished(self, scanned: Totals) -> Plan:
        budgets, situation = self._rulebook.config.budgets, self._situation
        chosen = Chosen(self._units, cursor=situation.cursor)
        if budgets.limited or self._more or len(self._units) > self._most:
            chosen = await self._choose(budgets)
        for units, lack in chosen.left:
            for unit in units:
                await self._pause(1)
                for one in unit:
                    self._skips.add(one.item_id, one.session_id, one.cause.rule_id, lack)
            await let_go(units, self._pause)
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
            failures=tuple(self.judge.failures.first),
            failed=self.judge.failures.count,
            unlisted=tuple(self.judge.failures.unlisted),
            selected=self._selected(),
            more=self._more,
            cursor=chosen.cursor,
            breaker=self._breaker(self._selected(), scanned),
        )
        await self._let_go()
        return plan

    def _selected(self) -> Totals:
        """Return what the rules take, budgets aside."""
        freed = self._freed.of(ItemQuery())
        return Totals(len(self._taken), freed.size_bytes, freed.tokens)

    def _breaker(self, selected: Totals, scanned: Totals) -> str:
        """Return why so much is too much; empty where it is not."""
        max_share = self._rulebook.config.max_share
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

    async def _let_go(self) -> None:
        await let_go(self._units, self._pause)
        tables = self._taken, self._full, self._freed.sessions, self._skips.more, self.judge.failed
        for table in tables:
            await table.let_go(self._pause)

    async def _digest(self, units: Sequence[Unit]) -> str:
        situation = self._situation
        start = (self._rulebook.version, instant_text(situation.now), situation.session_id or "")
        digest = hashlib.sha256(repr((*start, situation.force)).encode())
        for first in range(0, len(units), PAGE):
            await self._pause(PAGE)
            lines = [
                f"{one.item_id!r} {one.version} {one.cause.rule_id!r}\n"
                for unit in units[first : first + PAGE]
                for one in unit
            ]
            digest.update("".join(lines).encode())
        return digest.hexdigest()[:16]
