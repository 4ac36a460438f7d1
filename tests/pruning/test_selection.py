"""Which items rules take: ages and sizes, surpluses, priorities, and what sessions have instead."""

from __future__ import annotations

from datetime import timedelta
from itertools import permutations

import pytest

from gateway.pruning import (
    AgeCondition,
    ArchiveAction,
    CompactAction,
    CountCondition,
    CustomCondition,
    EvaluationContext,
    ItemType,
    Protections,
    PrunableItem,
    PruningConfigError,
    RuleScope,
    SessionThresholds,
    SizeCondition,
    TokensCondition,
    TotalSizeCondition,
    TotalTokensCondition,
    TypeCondition,
)
from tests.pruning.making import DAY_S, item, items, left, limit, manager, reasons, rule, taken

RESULTS = TypeCondition(include=frozenset({ItemType.TOOL_RESULT}))


async def test_1001_items_under_a_count_of_1000_lose_exactly_the_oldest() -> None:
    stored = items(1_001)
    pruner = manager([limit(1_000)], reversed(stored))

    result = await pruner.prune()

    assert taken(result) == ["s0000"]
    assert left(pruner) == [one.id for one in stored[1:]]
    assert result.stats.scanned_count == 1_001
    assert result.pruned_items[0].reason == "count of session 1,001 > 1,000"


@pytest.mark.parametrize(
    ("condition", "gone"),
    [
        pytest.param(AgeCondition(10), ["old"], id="age-is-strict"),
        pytest.param(SizeCondition(100), ["big"], id="size-is-strict"),
        pytest.param(TokensCondition(10), ["wordy"], id="tokens-are-strict"),
        pytest.param(RESULTS, ["result"], id="type-included"),
        pytest.param(
            TypeCondition(exclude=frozenset(ItemType) - {ItemType.TOOL_RESULT}),
            ["result"],
            id="type-excluded",
        ),
    ],
)
async def test_each_condition_takes_what_exceeds_it(condition: object, gone: list[str]) -> None:
    stored = [
        item("old", 11),
        item("exactly", 10),
        item("big", size_bytes=101),
        item("wordy", tokens=11),
        item("uncounted", tokens=None),
        item("result", type=ItemType.TOOL_RESULT),
    ]

    result = await manager([rule("r", condition)], stored).prune()  # type: ignore[arg-type]

    assert taken(result) == gone


async def test_all_conditions_of_a_rule_have_to_hold() -> None:
    stored = [item("old", 11), item("big", size_bytes=101), item("both", 11, size_bytes=101)]

    result = await manager([rule("r", AgeCondition(10), SizeCondition(100))], stored).prune()

    assert taken(result) == ["both"]
    assert result.pruned_items[0].reason == "age 11s > 10s; size 101B > 100B"


async def test_what_is_dated_in_the_future_is_never_old() -> None:
    stored = [item("future", -1e9)]

    assert taken(await manager([rule("r", AgeCondition(0))], stored).prune()) == []


async def test_no_rule_and_no_item_take_nothing() -> None:
    assert (await manager([], items(3)).prune()).pruned_items == ()
    assert (await manager([limit(0)]).prune()).success


async def test_all_is_taken_only_where_a_rule_says_so() -> None:
    with pytest.raises(PruningConfigError, match="match_all = true takes every item"):
        manager([rule("empty")])

    assert len(taken(await manager([rule("all", match_all=True)], items(3)).prune())) == 3


async def test_a_surplus_is_the_oldest_of_each_session_by_itself() -> None:
    pruner = manager([limit(2)], [*items(3, "a"), *items(2, "b"), *items(4, "c")])

    assert sorted(taken(await pruner.prune())) == ["a0000", "c0000", "c0001"]


async def test_a_surplus_of_all_is_the_oldest_of_all() -> None:
    pruner = manager(
        [limit(3, scope=RuleScope.ALL)],
        [item("a1", 5, "a"), item("a2", 1, "a"), item("b1", 4, "b"), item("b2", 3, "b")],
    )

    result = await pruner.prune()

    assert taken(result) == ["a1"]
    assert result.pruned_items[0].reason == "count of all 4 > 3"


async def test_a_limit_of_all_asked_for_one_session_takes_of_the_surplus_what_is_of_it() -> None:
    stored = [item("a1", 5, "a"), item("b1", 4, "b"), item("a2", 3, "a"), item("b2", 2, "b")]
    pruner = manager([limit(2, scope=RuleScope.ALL)], stored)

    assert taken(await pruner.prune(session_id="b")) == ["b1"]
    assert taken(await pruner.prune(session_id="b")) == []


@pytest.mark.parametrize(
    ("condition", "gone"),
    [
        (TotalTokensCondition(30), 2),
        (TotalTokensCondition(31), 2),
        (TotalTokensCondition(50), 0),
        (TotalSizeCondition(499), 1),
        (TotalSizeCondition(100, low_water_ratio=0.5), 5),
        (CountCondition(4, low_water_ratio=0.5), 3),
        (CountCondition(5, low_water_ratio=0.5), 0),
    ],
)
async def test_no_more_of_a_set_is_taken_than_brings_it_within_its_limit(
    condition: object, gone: int
) -> None:
    result = await manager([rule("r", condition)], items(5)).prune()  # type: ignore[arg-type]

    assert taken(result) == [f"s{place:04}" for place in range(gone)]


async def test_what_adds_nothing_to_a_total_is_not_taken_for_it() -> None:
    stored = [item("uncounted", 9, tokens=None), item("old", 8), item("new", 7)]

    assert taken(await manager([rule("r", TotalTokensCondition(10))], stored).prune()) == ["old"]


async def test_a_type_beside_a_count_says_what_is_counted() -> None:
    results = items(3, "r", type=ItemType.TOOL_RESULT)
    stored = [*items(5), *(item(one.id, 100 - n, type=one.type) for n, one in enumerate(results))]

    assert taken(await manager([rule("r", RESULTS, CountCondition(2))], stored).prune()) == [
        "r0000"
    ]


async def test_an_age_beside_a_count_takes_of_the_surplus_what_is_old() -> None:
    pruner = manager([rule("r", CountCondition(1), AgeCondition(3))], items(5))

    assert taken(await pruner.prune()) == ["s0000", "s0001"]
    assert taken(await pruner.prune()) == []


async def test_two_limits_take_what_exceeds_both() -> None:
    pruner = manager([rule("r", CountCondition(3), TotalTokensCondition(40))], items(5))

    assert taken(await pruner.prune()) == ["s0000"]


async def test_protected_items_are_passed_over_and_newer_ones_go_for_them() -> None:
    stored = items(4)
    stored[0] = item("pinned", 9, pinned=True)
    pruner = manager([limit(2)], stored)

    result = await pruner.prune()

    assert taken(result) == ["s0001", "s0002"]
    assert reasons(result) == {"pinned": "pinned"}


async def test_the_highest_priority_comes_first_and_lower_ones_skip_what_it_took() -> None:
    rules = [
        rule("low", AgeCondition(1), priority=1),
        rule("high", AgeCondition(1), action=ArchiveAction(), priority=2),
    ]
    pruner = manager(rules, [item("a", 5)])

    result = await pruner.prune()

    assert [one.rule_id for one in result.pruned_items] == ["high"]
    assert [one.item.id for one in pruner.get_archived_items()] == ["a"]


async def test_ties_go_by_id_and_the_order_of_rules_and_items_is_nothing() -> None:
    rules = [
        rule("b", AgeCondition(2)),
        rule("a", SizeCondition(100), action=ArchiveAction()),
        limit(3, priority=-1),
    ]
    stored = [item("x", 5), item("y", 5, size_bytes=200), item("z"), *items(4)]
    plans = [
        await manager(some, order).plan()
        for some in permutations(rules)
        for order in (stored, stored[::-1])
    ]

    assert len(plans[0].actions) == 4
    assert [one.actions for one in plans] == [plans[0].actions] * len(plans)
    assert {one.rule_id for one in plans[0].actions if one.item_id == "y"} == {"a"}


async def test_what_a_rule_removes_is_not_counted_by_those_after_it() -> None:
    pruner = manager([rule("age", AgeCondition(4), priority=2), limit(4)], items(5))

    assert taken(await pruner.prune()) == ["s0000"]


async def test_what_a_rule_makes_shorter_counts_as_shorter_after_it() -> None:
    stored = [item(f"i{n}", 5 - n, content="x" * 100) for n in range(3)]
    rules = [
        rule("short", AgeCondition(4), action=CompactAction(0.5), priority=2),
        rule("total", TotalSizeCondition(250)),
    ]

    assert taken(await manager(rules, stored).prune()) == ["i0"]


async def test_a_rule_that_is_switched_off_takes_nothing() -> None:
    pruner = manager([limit(1, enabled=False)], items(3))
    assert taken(await pruner.prune(force=True)) == []

    assert pruner.set_rule_enabled("count", enabled=True)

    assert len(taken(await pruner.prune())) == 2


async def test_an_async_evaluator_that_says_no_matches_nothing() -> None:
    async def never(_item: PrunableItem, _context: EvaluationContext) -> bool:
        return False

    pruner = manager([rule("r", CustomCondition("never"))], items(3), evaluators={"never": never})

    assert taken(await pruner.prune()) == []


async def test_an_evaluator_plain_or_not_is_told_the_item_its_params_and_the_time() -> None:
    def longer(one: PrunableItem, context: EvaluationContext) -> bool:
        age = context.now - one.created_at
        return age > timedelta(seconds=context.params["s"])

    async def later(one: PrunableItem, context: EvaluationContext) -> bool:
        return longer(one, context)

    for function in (longer, later):
        pruner = manager(
            [rule("r", CustomCondition("old", {"s": 2}))], items(4), evaluators={"old": function}
        )
        assert taken(await pruner.prune()) == ["s0000", "s0001"]


async def test_a_throwing_evaluator_costs_one_item_and_no_lower_rule_takes_it() -> None:
    def moody(one: PrunableItem, _context: EvaluationContext) -> bool:
        if one.id == "s0001":
            raise RuntimeError("secret")
        return True

    rules = [rule("custom", CustomCondition("moody"), priority=2), rule("all", match_all=True)]
    pruner = manager(rules, items(3), evaluators={"moody": moody})

    result = await pruner.prune()

    assert left(pruner) == ["s0001"]
    assert [(one.item_id, one.error) for one in result.errors] == [("s0001", "RuntimeError")]
    assert reasons(result) == {"s0001": "failed"}
    assert not result.success


@pytest.mark.parametrize("answer", [None, 1, "yes", object()])
async def test_an_answer_that_is_no_truth_value_is_no_yes(answer: object) -> None:
    pruner = manager(
        [rule("r", CustomCondition("odd"))], items(1), evaluators={"odd": lambda *_: answer}
    )

    assert [one.error for one in (await pruner.prune()).errors] == ["TypeError"]
    assert left(pruner) == ["s0000"]


async def test_rules_of_a_session_stand_in_for_those_of_all_and_beside_them() -> None:
    pruner = manager([limit(3)], [*items(5, "a"), *items(5, "b")])
    pruner.set_session_config("a", rules=[limit(4), rule("age", AgeCondition(4.5))])

    assert sorted(taken(await pruner.prune())) == ["a0000", "b0000", "b0001"]

    assert pruner.remove_session_config("a")
    assert not pruner.remove_session_config("a")
    assert taken(await pruner.prune()) == ["a0001"]


async def test_a_session_may_switch_a_rule_off() -> None:
    pruner = manager([limit(3)], [*items(5, "a"), *items(5, "b")])
    pruner.set_session_config("a", rules=[limit(3, enabled=False)])

    assert taken(await pruner.prune()) == ["b0000", "b0001"]


async def test_thresholds_of_a_session_take_the_place_of_those_in_the_rules() -> None:
    pruner = manager([limit(3), rule("age", AgeCondition(DAY_S))], [*items(5, "a"), *items(5, "b")])
    pruner.set_session_config("a", thresholds=SessionThresholds(max_count=1, max_age_s=2))
    pruner.set_session_config("b", thresholds=SessionThresholds(max_count=5))

    assert taken(await pruner.prune()) == ["a0000", "a0001", "a0002", "a0003"]


async def test_a_threshold_without_a_rule_of_its_kind_archives_what_exceeds_it() -> None:
    pruner = manager([], [*items(3, "a"), *items(3, "b")])
    pruner.set_session_config("a", thresholds=SessionThresholds(max_count=2))

    result = await pruner.prune()

    assert [(one.item_id, one.rule_id) for one in result.pruned_items] == [
        ("a0000", "session-count")
    ]
    assert [one.item.id for one in pruner.get_archived_items()] == ["a0000"]


async def test_a_limit_of_all_is_no_matter_of_a_sessions_thresholds() -> None:
    pruner = manager([limit(3, scope=RuleScope.ALL)], items(5))
    pruner.set_session_config("s", thresholds=SessionThresholds(max_count=4))

    rules = {one.rule_id for one in (await pruner.prune()).pruned_items}

    assert rules == {"count"}
    assert len(left(pruner)) == 3


async def test_one_session_alone_may_be_pruned() -> None:
    pruner = manager([limit(1)], [*items(3, "a"), *items(3, "b")])

    result = await pruner.prune(session_id="b")

    assert taken(result) == ["b0000", "b0001"]
    assert result.stats.scanned_count == 3
    assert result.session_id == "b"


async def test_of_a_surplus_longer_than_a_page_nothing_is_missed() -> None:
    pruner = manager([limit(10)], items(1_500), protections=Protections(keep_newest=3))

    assert taken(await pruner.prune()) == [f"s{place:04}" for place in range(1_490)]
