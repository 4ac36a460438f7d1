"""What no rule takes that does not say otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.pruning import (
    AgeCondition,
    ArchiveAction,
    CompactAction,
    CountCondition,
    ItemType,
    Protection,
    Protections,
    PrunableItem,
    TypeCondition,
)
from tests.pruning.making import (
    answer,
    call,
    item,
    items,
    left,
    limit,
    manager,
    reasons,
    rule,
    taken,
)

EVERYTHING = rule("all", match_all=True)

CASES = [
    pytest.param(item("it", 9, pinned=True), {}, Protection.PINNED, id="pinned"),
    pytest.param(item("it", 9, metadata={"role": "system"}), {}, Protection.SYSTEM, id="system"),
    pytest.param(
        item("it", 9), {"protections": Protections(keep_newest=1)}, Protection.NEWEST, id="newest"
    ),
    pytest.param(
        item("it", 9), {"protections": Protections(min_age_s=10)}, Protection.YOUNG, id="young"
    ),
    pytest.param(
        item("it", 9, metadata={"turn_id": "t"}),
        {"live_turns": lambda: {"s": "t"}},
        Protection.LIVE_TURN,
        id="live-turn",
    ),
    pytest.param(
        item("it", 9, metadata={"turn_id": "t"}),
        {"live_turns": lambda: {"s": ""}},
        Protection.LIVE_TURN,
        id="live-session",
    ),
    pytest.param(
        item("it", 9), {"live_turns": lambda: {"s": "t"}}, Protection.LIVE_TURN, id="no-turn-named"
    ),
    pytest.param(call("it", 9, "c"), {}, Protection.TOOL_PAIR, id="unanswered-call"),
]


@pytest.mark.parametrize(("one", "config", "protection"), CASES)
async def test_a_protected_item_stays_unless_the_rule_says_otherwise(
    one: PrunableItem, config: dict[str, Any], protection: Protection
) -> None:
    pruner = manager([EVERYTHING], [one], **config)
    result = await pruner.prune(force=True)
    assert reasons(result) == {"it": protection.value}
    assert left(pruner) == ["it"]
    assert result.success

    pruner.add_rule(rule("all", match_all=True, ignore_protections={protection}))

    assert taken(await pruner.prune()) == ["it"]


async def test_an_exempt_session_stays_unless_forced() -> None:
    pruner = manager([EVERYTHING], [*items(2, "a"), *items(1, "b")])
    pruner.set_session_config("a", exempt=True)

    result = await pruner.prune()
    assert taken(result) == ["b0000"]
    assert reasons(result) == {"a0000": "exempt", "a0001": "exempt"}

    assert taken(await pruner.prune(force=True)) == ["a0000", "a0001"]


async def test_force_overrides_nothing_but_the_exemption() -> None:
    stored = [item("pinned", 9, pinned=True), call("call", 9, "c")]
    pruner = manager([EVERYTHING], stored, enabled=True)
    pruner.set_session_config("s", exempt=True)

    assert taken(await pruner.prune(force=True)) == []


async def test_another_turn_of_a_live_session_is_not_protected() -> None:
    stored = [item("before", 9, metadata={"turn_id": "t0"}), item("now", metadata={"turn_id": "t"})]
    pruner = manager([EVERYTHING], stored, live_turns=lambda: {"s": "t"})

    assert taken(await pruner.prune()) == ["before"]


async def test_the_newest_are_those_of_each_session_without_the_future() -> None:
    stored = [*items(3, "a"), *items(3, "b"), item("later", -100, "a")]
    pruner = manager([EVERYTHING], stored, protections=Protections(keep_newest=2))

    assert sorted(taken(await pruner.prune())) == ["a0000", "b0000", "later"]


async def test_the_floor_is_strict() -> None:
    pruner = manager(
        [EVERYTHING], [item("at", 10), item("below", 9.9)], protections=Protections(min_age_s=10)
    )

    assert taken(await pruner.prune()) == ["at"]


async def test_a_call_and_its_results_go_together() -> None:
    stored = [call("call", 9, "x", "y"), answer("one", 8, "x"), answer("two", 2, "y")]
    pruner = manager([rule("age", AgeCondition(5))], stored)
    result = await pruner.prune()
    assert reasons(result) == {"call": "tool_pair", "one": "tool_pair"}
    assert left(pruner) == ["call", "one", "two"]

    pruner.add_rule(rule("age", AgeCondition(1)))
    plan = await pruner.plan()

    assert [[one.item_id for one in unit] for unit in plan.units] == [["call", "one", "two"]]
    assert taken(await pruner.apply(plan)) == ["call", "one", "two"]


async def test_a_surplus_that_ends_within_a_pair_takes_all_of_it() -> None:
    stored = [item("first", 9), call("call", 8, "x"), answer("result", 7, "x"), *items(2)]
    pruner = manager([limit(3)], stored)

    assert taken(await pruner.prune()) == ["first", "call", "result"]
    assert taken(await pruner.prune()) == []


async def test_a_pair_with_a_protected_half_is_passed_over() -> None:
    stored = [call("call", 9, "x"), answer("result", 8, "x", pinned=True), *items(3)]
    pruner = manager([limit(3)], stored)

    result = await pruner.prune()

    assert taken(result) == ["s0000", "s0001"]
    assert reasons(result) == {"call": "tool_pair", "result": "pinned"}


async def test_a_rule_for_results_alone_makes_them_shorter_and_deletes_none() -> None:
    stored = [call("call", 9, "x"), answer("result", 8, "x", content="x" * 100)]
    results = TypeCondition(include=frozenset({ItemType.TOOL_RESULT}))
    pruner = manager([rule("gone", results)], stored)
    assert taken(await pruner.prune()) == []

    pruner.add_rule(rule("short", results, action=CompactAction(0.5)))

    assert taken(await pruner.prune()) == ["result"]
    assert left(pruner) == ["call", "result"]


async def test_a_result_whose_call_is_no_more_is_on_its_own() -> None:
    pruner = manager([EVERYTHING], [answer("orphan", 9, "x")])

    assert taken(await pruner.prune()) == ["orphan"]


async def test_calls_of_another_turn_or_session_with_the_same_id_are_others() -> None:
    stored = [
        item("call", 9, metadata={"tool_calls": ["x"], "turn_id": "t1"}),
        item("result", 8, metadata={"tool_call_id": "x", "turn_id": "t1"}),
        item("again", 2, metadata={"tool_calls": ["x"], "turn_id": "t2"}),
        item("elsewhere", 1, "other", metadata={"tool_call_id": "x", "turn_id": "t1"}),
    ]
    pruner = manager([rule("age", AgeCondition(5))], stored)

    assert taken(await pruner.prune()) == ["call", "result"]


async def test_what_came_back_from_the_archive_is_left_alone_for_a_while() -> None:
    pruner = manager([rule("age", AgeCondition(5), action=ArchiveAction())], [item("a", 9)])
    await pruner.prune()
    assert pruner.restore_item("a") is not None

    assert reasons(await pruner.prune()) == {"a": "restored"}


async def test_nothing_newer_goes_for_the_sake_of_what_came_back() -> None:
    pruner = manager([rule("count", CountCondition(2), action=ArchiveAction())], items(5))
    before = taken(await pruner.prune())
    for name in before:
        pruner.restore_item(name)

    result = await pruner.prune()

    assert len(before) == 3
    assert taken(result) == []
    assert reasons(result) == dict.fromkeys(before, "restored")
