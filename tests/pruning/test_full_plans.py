"""Plans that are full: what they do not hold is counted, and is for the plans after them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from math import ceil
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import FakeClock
from gateway.pruning import MemoryItemStore, PruningBudgets, PruningConfig, RuleScope
from gateway.pruning.judging import Situation
from gateway.pruning.plan import MAX_PLANNED
from gateway.pruning.planner import Planner
from gateway.pruning.rulebook import Rulebook
from tests.pruning.making import NOW, answer, call, item, items, limit, manager, rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.pruning import Plan, PrunableItem, PruningRule

ALL = rule("all", match_all=True)
SESSIONS = st.lists(st.integers(0, 12), min_size=1, max_size=8)
RULES = st.sampled_from(
    [
        [ALL],
        [limit(2)],
        [limit(5, scope=RuleScope.ALL)],
        [limit(4, priority=3), limit(3, scope=RuleScope.ALL, priority=2), ALL],
    ]
)


async def _no_pause(_: int) -> None:
    """Let nobody else run."""


async def _no_functions(*_: object) -> bool:
    raise NotImplementedError


def _plan(
    stored: MemoryItemStore,
    rules: Sequence[PruningRule],
    most: int,
    cursor: str = "",
    budgets: PruningBudgets | None = None,
) -> Plan:
    config = PruningConfig(rules=tuple(rules), budgets=budgets or PruningBudgets(), max_share=0.3)
    situation = Situation(NOW, cursor=cursor)
    planner = Planner(Rulebook(config), stored, situation, _no_functions, _no_pause, most=most)
    return asyncio.run(planner.plan())


def _stored(sizes: list[int]) -> list[PrunableItem]:
    return [one for name, size in zip("abcdefgh", sizes, strict=False) for one in items(size, name)]


def _by_session(plan: Plan) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in plan.actions:
        found.setdefault(one.session_id, []).append(one.item_id)
    return found


@given(SESSIONS, RULES, st.integers(1, 9))
def test_what_a_plan_has_no_room_for_is_counted(
    sizes: list[int], rules: list[PruningRule], most: int
) -> None:
    store = MemoryItemStore(_stored(sizes))
    whole, full = _plan(store, rules, 10_000), _plan(store, rules, most)

    assert len(full.units) == min(most, len(whole.units))
    assert full.more == len(whole.actions) - len(full.actions)
    assert (full.selected, full.scanned, full.breaker) == (
        whole.selected,
        whole.scanned,
        whole.breaker,
    )
    assert whole.more == 0


@given(SESSIONS, RULES, st.integers(1, 9))
def test_of_each_session_the_first_are_planned_and_no_session_is_left_out_for_another(
    sizes: list[int], rules: list[PruningRule], most: int
) -> None:
    store = MemoryItemStore(_stored(sizes))
    whole = _by_session(_plan(store, rules, 10_000))
    planned = _by_session(_plan(store, rules, most))

    for session_id, names in whole.items():
        mine = planned.get(session_id, [])
        assert mine == names[: len(mine)]
        assert len(mine) >= min(len(names), most // len(whole))


@given(SESSIONS, RULES, st.integers(1, 9))
def test_plan_after_plan_everything_has_its_turn(
    sizes: list[int], rules: list[PruningRule], most: int
) -> None:
    store = MemoryItemStore(_stored(sizes))
    whole = _plan(store, rules, 10_000)
    cursor, gone = "", list[str]()
    for _ in range(ceil(len(whole.units) / most)):
        plan = _plan(store, rules, most, cursor)
        cursor = plan.cursor
        for one in plan.actions:
            gone.append(one.item_id)
            store.remove(one.item_id)

    assert sorted(gone) == sorted(one.item_id for one in whole.actions)
    assert not _plan(store, rules, most).selected.items


def test_sessions_beyond_the_first_full_plan_come_first_in_the_next() -> None:
    store = MemoryItemStore(_stored([9] * 8))
    first = _plan(store, [ALL], 3)
    for one in first.actions:
        store.remove(one.item_id)

    second = _plan(store, [ALL], 3, first.cursor)

    assert [list(_by_session(one)) for one in (first, second)] == [["a", "b", "c"], ["d", "e", "f"]]


def test_a_pair_counts_whole_where_there_is_no_room_for_it() -> None:
    pair = [call("c", 9, "x"), answer("r", 8, "x")]
    store = MemoryItemStore([item("first", 99), *pair, item("last", 2)])

    plan = _plan(store, [ALL], 1)

    assert [one.item_id for one in plan.actions] == ["first"]
    assert (plan.more, plan.selected.items) == (3, 4)


def test_what_budgets_have_no_room_for_is_skipped_and_no_part_of_what_is_beyond() -> None:
    store = MemoryItemStore(_stored([9] * 8))

    plan = _plan(store, [ALL], 5, budgets=PruningBudgets(max_items=2))

    assert len(plan.actions) == 2
    assert plan.more + plan.skipped_by_reason["budget_items"] == 70


@pytest.mark.slow
async def test_a_full_plan_is_carried_out_and_the_next_look_goes_on() -> None:
    number = 2 * MAX_PLANNED + 7
    clock = FakeClock()
    stored = [item(f"i{place:06}", 9, f"s{place % 1_000}") for place in range(number)]
    pruner = manager([ALL], stored, clock=clock)
    done: list[tuple[int, int]] = []

    while (result := await pruner.prune_if_due()) is not None:
        done.append((result.stats.pruned_count, result.more))
        await clock.advance(60)

    assert done == [(MAX_PLANNED, number - MAX_PLANNED), (MAX_PLANNED, 7), (7, 0)]


_MEASURED = """
import asyncio, resource
from gateway.clock import FakeClock
from gateway.pruning import MemoryItemStore
from tests.pruning.making import item, manager, rule

def used_kb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

async def main():
    store = MemoryItemStore(
        item(f"i{place:07}", 9, f"s{place % 10_000}") for place in range(1_000_000)
    )
    pruner = manager([rule("all", match_all=True)], store)
    before = used_kb()
    plan = await pruner.plan()
    assert plan.selected.items == 1_000_000 and len(plan.units) == 100_000, plan.selected
    print((used_kb() - before) // 1024)

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_plan_over_a_million_items_that_are_all_taken_stays_below_200_mb() -> None:
    measured = subprocess.run(
        [sys.executable, "-c", _MEASURED], capture_output=True, text=True, check=True, timeout=900
    )

    assert int(measured.stdout) < 200
