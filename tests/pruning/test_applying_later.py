"""A plan that is carried out some time after it was made takes no more than is too much by then."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import FakeClock
from gateway.pruning import (
    AgeCondition,
    CountCondition,
    CustomCondition,
    Protections,
    PruningBudgets,
    RuleScope,
    RunStatus,
    TotalSizeCondition,
)
from tests.pruning.making import item, items, left, limit, manager, reasons, rule, taken

if TYPE_CHECKING:
    from gateway.pruning import (
        EvaluationContext,
        PrunableItem,
        PruningManager,
        PruningProgress,
        PruningResult,
    )


async def applied_after(pruner: PruningManager, *gone: str) -> PruningResult:
    """Carry out a plan that was made before these items went."""
    plan = await pruner.plan()
    for name in gone:
        assert pruner.remove_item(name)
    return await pruner.apply(plan)


@given(
    st.lists(st.sampled_from("pq"), max_size=25),
    st.integers(0, 8),
    st.sampled_from([1.0, 0.5]),
    st.sampled_from(list(RuleScope)),
    st.data(),
)
def test_no_set_is_brought_below_its_limit(
    sessions: list[str], most: int, low: float, scope: RuleScope, data: st.DataObject
) -> None:
    stored = [item(f"i{place:02}", 99 - place, name) for place, name in enumerate(sessions)]
    ids = st.sampled_from([one.id for one in stored])
    gone = data.draw(st.sets(ids)) if stored else set()
    pruner = manager([rule("count", CountCondition(most, low), scope=scope)], stored)

    done = asyncio.run(applied_after(pruner, *gone))

    for name in "pq" if scope is RuleScope.SESSION else [None]:
        there = [one.id for one in stored if name in {None, one.session_id}]
        before = [one for one in there if one not in gone]
        over = max(0, len(before) - int(most * low)) if len(before) > most else 0
        # Only what was shown may go, so that less than the surplus does; never more.
        assert set(before[over:]) <= set(left(pruner))
        assert len([one for one in taken(done) if one in there]) <= over


async def test_a_session_that_has_shrunk_loses_no_more_than_its_surplus() -> None:
    pruner = manager([limit(6)], items(10))

    done = await applied_after(pruner, "s0007", "s0008", "s0009")

    assert taken(done) == ["s0000"]
    assert left(pruner) == [f"s000{place}" for place in range(1, 7)]
    assert reasons(done) == dict.fromkeys(("s0001", "s0002", "s0003"), "spared")
    assert (done.status, done.stats.skipped_count) == (RunStatus.OK, 3)


async def test_of_a_size_no_more_goes_than_is_too_much_by_then() -> None:
    pruner = manager([rule("size", TotalSizeCondition(500))], items(10))

    done = await applied_after(pruner, "s0008", "s0009")

    assert taken(done) == ["s0000", "s0001", "s0002"]


async def test_what_a_rule_before_it_takes_counts_as_gone() -> None:
    rules = [rule("old", AgeCondition(8), priority=1), rule("all", CountCondition(7), scope="all")]
    pruner = manager(rules, [*items(5, "a"), *items(5, "b", pinned=False), item("old", 9, "c")])

    done = await applied_after(pruner, "a0004", "b0004")

    # Without `old` there are eight, and one of them is too much.
    assert sorted(taken(done)) == ["a0000", "old"]


async def test_what_is_among_the_newest_by_then_stays() -> None:
    kept = Protections(keep_newest=3)
    pruner = manager([rule("old", AgeCondition(0))], items(6), protections=kept)

    done = await applied_after(pruner, "s0004", "s0005")

    assert taken(done) == ["s0000"]
    assert reasons(done)["s0001"] == "spared"


async def test_a_pair_that_has_grown_a_half_stays_whole() -> None:
    made = item("call", 9, metadata={"role": "assistant", "tool_calls": ["x"]})
    told = item("told", 8, metadata={"role": "tool", "tool_call_id": "x"})
    pruner = manager([limit(1)], [made, told, item("new")])
    plan = await pruner.plan()
    pruner.add_item(item("more", 7, pinned=True, metadata=dict(told.metadata)))

    done = await pruner.apply(plan)

    assert (taken(done), len(left(pruner))) == ([], 4)


async def test_a_dry_run_of_a_plan_tells_what_would_go_by_then() -> None:
    pruner = manager([limit(2)], items(4))
    plan = await pruner.plan()
    pruner.remove_item("s0003")

    dry = await pruner.apply(plan, dry_run=True)

    assert (taken(dry), reasons(dry)) == (["s0000"], {"s0001": "spared"})
    assert taken(await pruner.apply(plan)) == ["s0000"]


async def test_budgets_of_the_plan_are_those_of_its_run() -> None:
    pruner = manager([limit(2)], items(9), budgets=PruningBudgets(max_items=3))

    done = await applied_after(pruner, "s0008")

    assert taken(done) == ["s0000", "s0001", "s0002"]
    assert done.stats.skipped_by_reason == {"budget_items": 4}


async def test_the_share_is_that_of_what_is_there_by_then() -> None:
    pruner = manager([rule("old", AgeCondition(4))], items(10), max_share=0.6)
    plan = await pruner.plan()
    for place in range(6, 10):
        pruner.remove_item(f"s000{place}")

    refused = await pruner.apply(plan)
    done = await pruner.apply(plan, confirmed=True)

    assert (plan.breaker, refused.status) == ("", RunStatus.REFUSED)
    assert refused.detail == "the rules would take 6 of 6 items, more than max_share (60%)"
    assert len(taken(done)) == 6


@pytest.mark.parametrize("fails", [True, False])
async def test_functions_are_asked_again(fails: bool) -> None:  # noqa: FBT001 - a parameter
    later = False

    async def says(one: PrunableItem, _: EvaluationContext) -> bool:
        if later and one.id == "s0000":
            if fails:
                raise ValueError
            return False
        return True

    pruner = manager([rule("asked", CustomCondition("f"))], items(3), evaluators={"f": says})
    plan = await pruner.plan()
    later = True

    done = await pruner.apply(plan)

    assert (taken(done), reasons(done)) == (["s0001", "s0002"], {"s0000": "spared"})
    assert [one.item_id for one in done.errors] == (["s0000"] if fails else [])


async def test_a_refused_run_gets_nowhere() -> None:
    pruner = manager([limit(0)], items(250), max_share=0.5)
    told: list[PruningProgress] = []
    pruner.on("progress", told.append)

    await pruner.prune()
    await pruner.prune(confirmed=True)

    refused, done = told[:3], told[3:]
    assert {(one.current, one.total, one.percent) for one in refused} == {(0, 250, 0)}
    assert (done[-1].current, done[-1].percent) == (250, 100)


async def test_a_run_that_is_ended_gets_no_further() -> None:
    pruner = manager([limit(0)], items(250), budgets=PruningBudgets(max_duration_s=0.0))
    told: list[PruningProgress] = []
    pruner.on("progress", told.append)

    done = await pruner.prune()

    assert (done.pruned_items, done.stats.skipped_by_reason) == ((), {"budget_seconds": 250})
    assert {one.percent for one in told} == {0}


@pytest.mark.parametrize("size", [100, 10])
async def test_a_small_plan_is_not_refused_because_of_what_it_does_not_hold(size: int) -> None:
    """Much comes due between plan and run: that is for the next plan, which may be refused."""
    clock = FakeClock()
    stored = [item("old", 7_300, size_bytes=size), *items(10, "b")]
    pruner = manager([rule("old", AgeCondition(7_200))], stored, clock=clock, max_share=0.5)
    plan = await pruner.plan()
    await clock.advance(7_200)

    done = await pruner.apply(plan)

    assert (plan.breaker, done.status, taken(done)) == ("", RunStatus.OK, ["old"])
    assert (await pruner.prune()).status is RunStatus.REFUSED


async def test_a_plan_that_is_too_much_is_refused_however_little_its_budgets_leave_of_it() -> None:
    pruner = manager([limit(0)], items(10), budgets=PruningBudgets(max_items=1), max_share=0.5)
    plan = await pruner.plan()

    refused = await pruner.apply(plan)

    assert plan.breaker
    assert (refused.status, refused.detail) == (RunStatus.REFUSED, plan.breaker)


@pytest.mark.parametrize("why", ["changed", "gone", "exempt", "live_turn"])
async def test_a_dry_run_of_an_older_plan_looks_at_items_as_the_run_does(why: str) -> None:
    live = dict[str, str]()
    pruner = manager([rule("old", AgeCondition(0))], items(3), live_turns=lambda: live)
    plan = await pruner.plan()

    def change() -> None:
        if why == "changed":
            pruner.add_item(item("s0000", 3, content="other"))
        elif why == "gone":
            pruner.remove_item("s0000")
        elif why == "live_turn":
            live["s"] = ""

    change()
    # What is asked of each item right before it is touched, and was not so when rules were held.
    if why == "exempt":
        pruner.set_session_config("s", exempt=True)
        plan = replace(plan, config_version=(await pruner.plan()).config_version)
    dry = await pruner.apply(plan, dry_run=True)
    done = await pruner.apply(plan)

    assert (taken(dry), reasons(dry)) == (taken(done), reasons(done))
    assert reasons(dry)["s0000"] == why


async def test_what_it_takes_to_check_a_plan_is_no_time_of_its_run() -> None:
    clock, later = FakeClock(), False

    async def says(*_: object) -> bool:
        if later:
            await clock.advance(1)
        return True

    budgets = PruningBudgets(max_duration_s=5)
    pruner = manager(
        [rule("asked", CustomCondition("f"))],
        items(10),
        clock=clock,
        evaluators={"f": says},
        budgets=budgets,
    )
    plan = await pruner.plan()
    later = True

    done = await pruner.apply(plan)

    assert (len(taken(done)), done.stats.skipped_by_reason) == (10, {})
