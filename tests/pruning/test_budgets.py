"""Budgets of a run, and how sessions share them."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import FakeClock
from gateway.pruning import (
    AgeCondition,
    CountCondition,
    PruningBudgets,
    SizeCondition,
    SummarizeAction,
)
from gateway.pruning.applying import BATCH
from tests.pruning.making import (
    Summaries,
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

ALL = rule("all", match_all=True)


async def test_no_more_items_are_taken_than_the_budget_has() -> None:
    pruner = manager([ALL], items(5), budgets=PruningBudgets(max_items=2))

    result = await pruner.prune()

    assert taken(result) == ["s0000", "s0001"]
    assert reasons(result) == dict.fromkeys(("s0002", "s0003", "s0004"), "budget_items")
    assert result.success
    assert taken(await pruner.prune()) == ["s0002", "s0003"]


async def test_bytes_are_counted_by_what_the_items_take_before() -> None:
    stored = [item("a", 9, size_bytes=60), item("b", 8, size_bytes=60), item("c", 7, size_bytes=1)]
    pruner = manager([ALL], stored, budgets=PruningBudgets(max_bytes=100))

    result = await pruner.prune()

    assert taken(result) == ["a"]
    assert set(reasons(result).values()) == {"budget_bytes"}
    assert taken(await pruner.prune()) == ["b", "c"]


async def test_what_no_run_has_room_for_is_told_and_holds_nobody_up() -> None:
    stored = [item("huge", 9, size_bytes=101), item("small", 8)]
    pruner = manager([ALL], stored, budgets=PruningBudgets(max_bytes=100))

    result = await pruner.prune()

    assert taken(result) == ["small"]
    assert reasons(result) == {"huge": "budget_bytes"}


async def test_sessions_are_served_in_turn_beginning_after_the_last() -> None:
    stored = [*items(6, "a"), *items(2, "b"), *items(2, "c")]
    pruner = manager([ALL], stored, budgets=PruningBudgets(max_items=2))

    runs = [taken(await pruner.prune()) for _ in range(5)]

    assert runs == [
        ["a0000", "b0000"],
        ["c0000", "a0001"],
        ["b0001", "c0001"],
        ["a0002", "a0003"],
        ["a0004", "a0005"],
    ]


async def test_a_plan_and_a_dry_run_do_not_move_the_turn() -> None:
    pruner = manager([ALL], [*items(2, "a"), *items(2, "b")], budgets=PruningBudgets(max_items=1))
    await pruner.plan()
    await pruner.prune(dry_run=True)

    assert taken(await pruner.prune()) == ["a0000"]
    assert taken(await pruner.prune()) == ["b0000"]


async def test_within_a_session_the_highest_priority_goes_first() -> None:
    rules = [rule("big", SizeCondition(500), priority=2), rule("age", AgeCondition(1))]
    stored = [item("old", 9), item("big", 2, size_bytes=600)]
    pruner = manager(rules, stored, budgets=PruningBudgets(max_items=1))

    assert taken(await pruner.prune()) == ["big"]


async def test_a_pair_is_never_parted_by_a_budget() -> None:
    stored = [item("first", 9), call("c", 8, "x"), answer("r", 7, "x")]
    pruner = manager([ALL], stored, budgets=PruningBudgets(max_items=2))

    assert taken(await pruner.prune()) == ["first"]
    assert taken(await pruner.prune()) == ["c", "r"]


async def test_seconds_are_looked_at_between_changes() -> None:
    clock = FakeClock()
    stored = items(2 * BATCH + 1)
    pruner = manager([ALL], stored, clock=clock, budgets=PruningBudgets(max_duration_s=10))

    async def slow(_: object) -> None:
        await clock.sleep(0)
        clock._move_to(clock.monotonic() + 6 / BATCH)  # noqa: SLF001 - a run that takes its time

    pruner.on("item-pruned", slow)

    result = await pruner.prune()

    assert taken(result) == [one.id for one in stored[: 2 * BATCH]]
    assert reasons(result) == {"s0200": "budget_seconds"}
    assert (result.success, result.detail) == (True, "the time of the run is over")


async def test_summaries_have_a_budget_of_their_own_that_holds_nothing_else_up() -> None:
    summaries = Summaries()
    rules = [
        rule("sum", SizeCondition(500), action=SummarizeAction(), priority=2),
        limit(3, priority=1),
    ]
    stored = [item(f"big{n}", 50 - n, content="x" * 600) for n in range(3)] + items(4)
    pruner = manager(rules, stored, summarizer=summaries, budgets=PruningBudgets(max_summaries=1))

    result = await pruner.prune()

    assert summaries.asked == ["big0"]
    assert reasons(result) == dict.fromkeys(("big1", "big2"), "budget_summaries")
    assert [one for one in taken(result) if one.startswith("s")]
    assert "big1" in left(pruner)


@given(st.integers(0, 60), st.integers(0, 30), st.sampled_from([1.0, 0.9, 0.5]), st.integers(1, 40))
def test_a_run_goes_down_to_the_low_water_as_far_as_its_budget_lets_it(
    number: int, most: int, ratio: float, budget: int
) -> None:
    """The next one begins again only where the limit is exceeded."""
    low = int(most * ratio)

    async def prune() -> None:
        there = number
        pruner = manager(
            [rule("count", CountCondition(most, ratio))],
            items(number),
            budgets=PruningBudgets(max_items=budget),
        )
        while there > most:
            there -= min(budget, there - low)
            await pruner.prune()
            assert len(left(pruner)) == there
        assert (await pruner.prune()).pruned_items == ()
        assert (await pruner.next_due() is None) == (there <= most)

    asyncio.run(prune())
