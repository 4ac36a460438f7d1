"""Laws of planning and pruning, against a model of the rules in their most naive form."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.clock import FakeClock
from gateway.pruning import (
    AgeCondition,
    ArchiveAction,
    CompactAction,
    CountCondition,
    DeleteAction,
    ItemType,
    MemoryItemStore,
    Protection,
    Protections,
    PrunableItem,
    PruningBudgets,
    PruningConfig,
    PruningManager,
    PruningRule,
    RuleScope,
    SizeCondition,
    SummarizeAction,
    TokensCondition,
    TotalSizeCondition,
    TotalTokensCondition,
    TypeCondition,
)
from gateway.pruning.rules import SessionPruningConfig
from tests.pruning.making import NOW, Summaries, item
from tests.pruning.making import limit as count_rule

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from gateway.pruning import PruningResult
    from gateway.pruning.conditions import Condition, SetCondition
    from gateway.pruning.rules import Action

SET = (CountCondition, TotalTokensCondition, TotalSizeCondition)
SMALL = st.integers(0, 30)

CONDITIONS: st.SearchStrategy[Condition] = st.one_of(
    st.builds(AgeCondition, st.integers(0, 12).map(float)),
    st.builds(SizeCondition, SMALL),
    st.builds(TokensCondition, st.integers(0, 6)),
    st.builds(
        TypeCondition, include=st.frozensets(st.sampled_from(list(ItemType)[:3]), min_size=1)
    ),
    st.builds(CountCondition, st.integers(0, 6), st.sampled_from([1.0, 0.5])),
    st.builds(TotalTokensCondition, SMALL, st.sampled_from([1.0, 0.5])),
    st.builds(TotalSizeCondition, st.integers(0, 120), st.sampled_from([1.0, 0.5])),
)
REMOVALS: st.SearchStrategy[Action] = st.sampled_from([DeleteAction(), ArchiveAction()])
ACTIONS: st.SearchStrategy[Action] = st.one_of(
    REMOVALS,
    st.builds(CompactAction, st.sampled_from([0.2, 0.5, 0.8])),
    st.just(SummarizeAction(1)),
)


def _rules(
    actions: st.SearchStrategy[Action], *, ignoring: bool = True
) -> st.SearchStrategy[list[PruningRule]]:
    ignored = [one for one in Protection if one is not Protection.TOOL_PAIR]
    return st.lists(
        st.builds(
            PruningRule,
            st.sampled_from("abcd"),
            st.just("rule"),
            st.integers(0, 2),
            st.lists(CONDITIONS, min_size=1, max_size=3).map(tuple),
            actions,
            scope=st.sampled_from(list(RuleScope)),
            enabled=st.sampled_from([True, True, True, False]),
            ignore_protections=st.frozensets(st.sampled_from(ignored), max_size=2)
            if ignoring
            else st.just(frozenset[Protection]()),
        ),
        max_size=4,
        unique_by=lambda one: one.id,
    )


METADATA: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.just({"role": "system"}),
    st.just({"turn_id": "live"}),
    st.builds(lambda call: {"tool_calls": [call]}, st.sampled_from("xy")),
    st.builds(lambda call: {"tool_call_id": call}, st.sampled_from("xy")),
    st.just({"tool_calls": ["x", "y"]}),
)


@st.composite
def _items(draw: st.DrawFn) -> list[PrunableItem]:
    made = []
    for number in range(draw(st.integers(0, 14))):
        content = draw(st.none() | st.integers(0, 30).map("z".__mul__))
        beside = draw(st.integers(0, 5))
        made.append(
            PrunableItem(
                id=f"i{number}",
                session_id=draw(st.sampled_from("pqr")),
                type=draw(st.sampled_from(list(ItemType)[:3])),
                created_at=NOW - timedelta(seconds=draw(st.integers(-2, 12))),
                size_bytes=len(content or "") + beside,
                tokens=draw(st.none() | st.integers(0, 8)),
                content=content,
                metadata=draw(METADATA),
                pinned=draw(st.sampled_from([False, False, False, True])),
            )
        )
    return made


PROTECTIONS = st.builds(Protections, st.integers(0, 2), st.sampled_from([0.0, 0.0, 3.0]))


def _manager(
    rules: Sequence[PruningRule],
    items: Sequence[PrunableItem] | MemoryItemStore,
    protections: Protections | None = None,
    summaries: Summaries | None = None,
    **config: Any,  # noqa: ANN401 - fields of the configuration
) -> PruningManager:
    return PruningManager(
        PruningConfig(
            rules=tuple(rules),
            protections=protections or Protections(),
            session_configs={"r": SessionPruningConfig(exempt=True)},
            **config,
        ),
        items,
        summaries or Summaries("s", 1),
        FakeClock(),
        live_turns=lambda: {"q": "live"},
    )


def _run(work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever it returns
    return asyncio.run(work)


# The model: rules that remove, in sequence, over lists.


def _amount(condition: SetCondition, one: PrunableItem) -> int:
    if isinstance(condition, CountCondition):
        return 1
    return (one.tokens or 0) if isinstance(condition, TotalTokensCondition) else one.size_bytes


def _meets(rule: PruningRule, one: PrunableItem) -> bool:
    for condition in rule.conditions:
        age_s = (NOW - one.created_at).total_seconds()
        if isinstance(condition, AgeCondition) and not age_s > condition.max_age_s:
            return False
        if isinstance(condition, SizeCondition) and not one.size_bytes > condition.max_size_bytes:
            return False
        if isinstance(condition, TokensCondition) and not (one.tokens or 0) > condition.max_tokens:
            return False
        if isinstance(condition, TypeCondition) and one.type not in condition.include:
            return False
    return True


def _protected(
    rule: PruningRule, one: PrunableItem, everything: Sequence[PrunableItem], kept: Protections
) -> bool:
    past = [other for other in everything if other.created_at <= NOW]
    mine = [other for other in past if other.session_id == one.session_id]
    newest = sorted(mine, key=lambda other: (other.created_at, other.id))[::-1][: kept.keep_newest]
    age_s = (NOW - one.created_at).total_seconds()
    holding = {
        Protection.EXEMPT: one.session_id == "r",
        Protection.PINNED: one.pinned,
        Protection.SYSTEM: one.metadata.get("role") == "system",
        Protection.LIVE_TURN: one.session_id == "q"
        and one.metadata.get("turn_id") in {None, "live"},
        Protection.YOUNG: bool(kept.min_age_s) and age_s < kept.min_age_s,
        Protection.NEWEST: one in newest,
    }
    return any(holds and name not in rule.ignore_protections for name, holds in holding.items())


def _calls(one: PrunableItem) -> set[str]:
    return set(one.metadata.get("tool_calls", ()))


def _answers(one: PrunableItem) -> set[str]:
    return {one.metadata["tool_call_id"]} if "tool_call_id" in one.metadata else set()


def _group(one: PrunableItem, items: Sequence[PrunableItem]) -> list[PrunableItem]:
    found = [one]
    for member in found:
        keys = _calls(member) | _answers(member)
        for other in items:
            same = other.session_id == one.session_id and keys & (_calls(other) | _answers(other))
            if same and other not in found:
                found.append(other)
    return sorted(found, key=lambda each: (each.created_at, each.id))


def _model(  # noqa: C901 - one flat piece, to be read against the words of the rules
    rules: Sequence[PruningRule], items: Sequence[PrunableItem], kept: Protections
) -> dict[str, str]:
    """Return which rule takes which item, where all rules remove."""
    taken: dict[str, str] = {}
    for rule in sorted(rules, key=lambda one: (-one.priority, one.id)):
        if not rule.enabled:
            continue
        here = [one for one in items if one.id not in taken]
        here.sort(key=lambda one: (one.created_at, one.id))
        limits = [one for one in rule.conditions if isinstance(one, SET)]
        types = [one.include for one in rule.conditions if isinstance(one, TypeCondition)]
        population = [one for one in here if all(one.type in some for some in types)]
        by_session = rule.scope is RuleScope.SESSION and limits
        names = sorted({one.session_id for one in here}) if by_session else [None]
        for name in names:
            chosen = [one for one in population if name in {None, one.session_id}]
            room = []
            for limit in limits:
                total = sum(_amount(limit, one) for one in chosen)
                low = int(limit.maximum * limit.low_water_ratio)
                room.append(total - low if total > limit.maximum else 0)
            done: set[str] = set()
            for one in chosen:
                if one.id in done:
                    continue
                if limits and min(room) <= 0:
                    break
                group = _group(one, items)
                done |= {each.id for each in group}
                called = {call for each in group for call in _calls(each)}
                answered = {call for each in group for call in _answers(each)}
                is_pair = bool(called | answered)
                meets = [_meets(rule, each) and each.id not in taken for each in group]
                if any(_protected(rule, each, items, kept) for each in group):
                    continue
                if any(each.id in taken for each in group):
                    continue
                if is_pair and (not called <= answered or len(set(meets)) > 1):
                    continue
                helps = all(sum(_amount(limit, each) for each in group) for limit in limits)
                if all(meets) and helps:
                    taken.update({each.id: rule.id for each in group})
                for place, limit in enumerate(limits):
                    room[place] -= sum(_amount(limit, each) for each in group)
    return taken


@given(_rules(REMOVALS), _items(), PROTECTIONS)
def test_a_plan_is_what_the_naive_model_says(
    rules: list[PruningRule], items: list[PrunableItem], kept: Protections
) -> None:
    plan = _run(_manager(rules, items, kept).plan())

    assert {one.item_id: one.rule_id for one in plan.actions} == _model(rules, items, kept)


@given(_rules(ACTIONS), _items(), PROTECTIONS, st.randoms(use_true_random=False))
@example([count_rule(0)], [item("i0", 9, "p"), item("i1", 9, "q")], Protections(), Random(1))
def test_the_order_of_rules_and_items_is_nothing(
    rules: list[PruningRule], items: list[PrunableItem], kept: Protections, random: Random
) -> None:
    shuffled_rules, shuffled = list(rules), list(items)
    random.shuffle(shuffled_rules)
    random.shuffle(shuffled)

    first = _run(_manager(rules, items, kept).plan())
    second = _run(_manager(shuffled_rules, shuffled, kept).plan())

    assert first.units == second.units
    assert sorted(map(repr, first.skipped)) == sorted(map(repr, second.skipped))


@given(_rules(ACTIONS), _items(), PROTECTIONS)
def test_plan_then_apply_is_prune_and_a_dry_run_changes_nothing(
    rules: list[PruningRule], items: list[PrunableItem], kept: Protections
) -> None:
    async def both() -> None:
        one, two = _manager(rules, items, kept), _manager(rules, items, kept)
        before = one.get_all_items()
        dry = await one.prune(dry_run=True)
        plan = await one.plan()
        assert one.get_all_items() == before
        assert [(each.item_id, each.rule_id) for each in dry.pruned_items] == [
            (each.item_id, each.rule_id) for each in plan.actions
        ]

        applied, pruned = await one.apply(plan), await two.prune()

        assert _told(applied) == _told(pruned)
        assert applied.stats == replace(pruned.stats, duration_ms=applied.stats.duration_ms)
        assert one.get_all_items() == two.get_all_items()
        removed = {each.item_id for each in plan.actions if each.action.removes}
        assert {each.id for each in before} - removed == {each.id for each in one.get_all_items()}

    _run(both())


@given(_rules(REMOVALS), _items(), PROTECTIONS, st.data())
def test_of_a_plan_that_is_carried_out_later_only_what_the_rules_take_then_goes(
    rules: list[PruningRule], items: list[PrunableItem], kept: Protections, data: st.DataObject
) -> None:
    gone = data.draw(st.sets(st.sampled_from([one.id for one in items]))) if items else set()

    async def later() -> None:
        pruner = _manager(rules, items, kept)
        plan = await pruner.plan()
        for name in gone:
            pruner.remove_item(name)
        then = _model(rules, pruner.get_all_items(), kept)

        done = await pruner.apply(plan)

        planned = {one.item_id: one.rule_id for one in plan.actions}
        applied = {one.item_id: one.rule_id for one in done.pruned_items}
        assert applied.items() <= planned.items() & then.items()
        assert planned.keys() - applied.keys() <= {one.item_id for one in done.skipped_items}
        assert gone or applied == planned

    _run(later())


def _told(result: PruningResult) -> list[object]:
    return [replace(one, run_id="") for one in result.pruned_items]


@given(_rules(ACTIONS), _items(), PROTECTIONS)
def test_a_second_prune_right_after_takes_nothing_more(
    rules: list[PruningRule], items: list[PrunableItem], kept: Protections
) -> None:
    async def twice() -> None:
        pruner = _manager(rules, items, kept)
        await pruner.prune()
        after = pruner.get_all_items()

        second = await pruner.prune()

        assert second.pruned_items == ()
        assert pruner.get_all_items() == after

    _run(twice())


@given(_rules(ACTIONS), _items(), PROTECTIONS)
def test_what_was_freed_is_what_is_not_there_any_more(
    rules: list[PruningRule], items: list[PrunableItem], kept: Protections
) -> None:
    async def prune() -> None:
        store = MemoryItemStore(items)
        pruner = _manager(rules, store, kept)
        before = pruner.get_stats().global_stats

        result = await pruner.prune()

        after, stats = pruner.get_stats().global_stats, result.stats
        assert before.total_bytes - after.total_bytes == stats.freed_bytes
        assert before.total_tokens - after.total_tokens == stats.freed_tokens
        for tallies in (stats.by_rule, stats.by_action):
            assert sum(one.freed_bytes for one in tallies.values()) == stats.freed_bytes
            assert sum(one.count for one in tallies.values()) == stats.pruned_count
        assert sum(one.freed_bytes for one in result.pruned_items) == stats.freed_bytes
        assert all(one.freed_bytes >= 0 for one in result.pruned_items)
        assert tuple(store.audit) == result.pruned_items
        left = store.all()
        assert store.statistics().totals.size_bytes == sum(one.size_bytes for one in left)

    _run(prune())


@given(_rules(ACTIONS, ignoring=False), _items(), PROTECTIONS)
def test_no_protection_is_ever_violated(
    rules: list[PruningRule], items: list[PrunableItem], kept: Protections
) -> None:
    rule = PruningRule("x", "x", 0, (), DeleteAction(), match_all=True)

    result = _run(_manager(rules, items, kept).prune())

    by_id = {one.id: one for one in items}
    gone = {one.item_id for one in result.pruned_items if one.action.removes}
    for record in result.pruned_items:
        assert not _protected(rule, by_id[record.item_id], items, kept)
    for name in gone:
        group = _group(by_id[name], items)
        assert {one.id for one in group} <= gone
        assert {call for one in group for call in _calls(one)} <= {
            call for one in group for call in _answers(one)
        }


@given(
    _rules(ACTIONS),
    _items(),
    st.builds(
        PruningBudgets,
        st.none() | st.integers(1, 5),
        st.none() | st.integers(1, 60),
        st.none(),
        st.none() | st.integers(0, 2),
    ),
)
def test_no_budget_is_ever_exceeded(
    rules: list[PruningRule], items: list[PrunableItem], budgets: PruningBudgets
) -> None:
    async def prune() -> None:
        summaries = Summaries("s", 1)
        pruner = _manager(rules, items, summaries=summaries, budgets=budgets)
        for _ in range(5):
            asked = len(summaries.asked)
            done = (await pruner.prune()).pruned_items
            assert len(done) <= (budgets.max_items or len(items))
            assert sum(one.before.size_bytes for one in done) <= (budgets.max_bytes or 10**9)
            if budgets.max_summaries is not None:
                assert len(summaries.asked) - asked <= budgets.max_summaries

    _run(prune())


@given(_rules(REMOVALS), _items(), PROTECTIONS)
def test_with_a_budget_the_runs_come_to_an_end_within_the_limits(
    rules: list[PruningRule], items: list[PrunableItem], kept: Protections
) -> None:
    """However little a run may do, in the end nothing is left that a run without budget takes."""

    async def prune() -> None:
        pruner = _manager(rules, items, kept, budgets=PruningBudgets(max_items=len(items) or 1))
        for _ in range(len(items) + 1):
            if not (await pruner.prune()).pruned_items:
                break
        pruner.update_config(budgets=PruningBudgets())
        assert (await pruner.prune()).pruned_items == ()

    _run(prune())
