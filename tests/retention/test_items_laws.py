"""Laws of the rules over a database: all is as over the same items in memory.

What rules take in memory is held against a naive model in tests/pruning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from gateway.clock import FakeClock
from gateway.model import Message, Role, ToolCall
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
from gateway.pruning.store import Page
from gateway.retention.items import SqliteItemStore
from tests.pruning.making import Summaries
from tests.retention.telling import stored, sums_agree

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import pytest

    from gateway.pruning import ItemQuery, ItemStore, Plan, PrunableItem, PruningResult
    from gateway.pruning.conditions import Condition
    from gateway.pruning.items import Position
    from gateway.pruning.rules import Action
    from tests.retention.telling import Stored

SMALL = st.integers(0, 30)
TYPES = st.frozensets(st.sampled_from(list(ItemType)[:3]), min_size=1)
CONDITIONS: st.SearchStrategy[Condition] = st.one_of(
    st.builds(AgeCondition, st.sampled_from([0.0, 3.0, 3.2, 10.5, 20.0, 40.0])),
    st.builds(SizeCondition, SMALL),
    st.builds(TokensCondition, st.integers(0, 8)),
    st.builds(TypeCondition, include=TYPES),
    st.builds(TypeCondition, exclude=TYPES),
    st.builds(CountCondition, st.integers(0, 12), st.sampled_from([1.0, 0.5])),
    st.builds(TotalTokensCondition, SMALL, st.sampled_from([1.0, 0.5])),
    st.builds(TotalSizeCondition, st.integers(0, 120), st.sampled_from([1.0, 0.5])),
)
ACTIONS: st.SearchStrategy[Action] = st.one_of(
    st.sampled_from([DeleteAction(), ArchiveAction()]),
    st.builds(CompactAction, st.sampled_from([0.2, 0.5, 0.8])),
    st.just(SummarizeAction(1)),
)
RULES = st.lists(
    st.builds(
        PruningRule,
        st.sampled_from("abcd"),
        st.just("rule"),
        st.integers(0, 2),
        st.lists(CONDITIONS, min_size=1, max_size=3).map(tuple),
        ACTIONS,
        scope=st.sampled_from(list(RuleScope)),
        enabled=st.sampled_from([True, True, True, False]),
        ignore_protections=st.frozensets(st.sampled_from(list(Protection)), max_size=2),
    ),
    max_size=4,
    unique_by=lambda one: one.id,
)


@dataclass(frozen=True, slots=True)
class _Turn:
    session: str
    wait_s: float
    """After the turn before it."""
    messages: list[Message]


TEXTS = st.integers(0, 25).map("z".__mul__) | st.sampled_from(["größer als ß", "漢字" * 3])
PLAIN = st.builds(Message, st.sampled_from([Role.USER, Role.ASSISTANT, Role.NOTICE]), TEXTS)
CALLS = st.builds(
    lambda names: Message(
        Role.ASSISTANT, "I look.", tuple(ToolCall(one, "look", "{}") for one in names)
    ),
    st.sampled_from([("x",), ("y",), ("x", "y")]),
)
RESULTS = st.builds(Message, st.just(Role.TOOL), TEXTS, tool_call_id=st.sampled_from(["x", "y"]))


def _turns(waits: st.SearchStrategy[float]) -> st.SearchStrategy[list[_Turn]]:
    told = st.lists(PLAIN | CALLS | RESULTS, min_size=1, max_size=4)
    return st.lists(st.builds(_Turn, st.sampled_from("pqr"), waits, told), max_size=8)


BUDGETS = st.builds(PruningBudgets, st.none() | st.integers(1, 6), st.none() | st.integers(1, 90))
PROTECTIONS = st.builds(Protections, st.integers(0, 2), st.sampled_from([0.0, 0.0, 5.0]))


class _InMemory(MemoryItemStore):
    """Gives contents where they are needed, as databases.

    What is left of one that is made shorter is estimated without its content.
    """

    gives_content = False

    @override
    async def page(self, query: ItemQuery, *, after: Position | None, limit: int) -> Page:
        found = await super().page(query, after=after, limit=limit)
        return Page(self._offered(found.items), found.next)

    @override
    async def halves(self, items: Collection[PrunableItem]) -> Sequence[PrunableItem]:
        return self._offered(await super().halves(items))

    def _offered(self, items: Sequence[PrunableItem]) -> list[PrunableItem]:
        return [replace(one, content=None) for one in items]


class _SmallPages(SqliteItemStore):
    """Gives few items at a time."""

    size = 100

    @override
    async def page(self, query: ItemQuery, *, after: Position | None, limit: int) -> Page:
        return await super().page(query, after=after, limit=min(limit, self.size))


async def _tell(one: Stored, turns: Sequence[_Turn]) -> None:
    age_s = 40.0
    for number, turn in enumerate(turns):
        await one.tell(*turn.messages, session=turn.session, turn=f"t{number}", age_s=age_s)
        age_s -= turn.wait_s


async def _contents(one: Stored) -> list[PrunableItem]:
    rows = await one.rows("SELECT position FROM messages")
    return list((await one.items.find([str(row[0]) for row in rows])).values())


def _manager(
    rules: Sequence[PruningRule], store: ItemStore, kept: Protections, budgets: PruningBudgets
) -> PruningManager:
    config = PruningConfig(
        rules=tuple(rules),
        protections=kept,
        budgets=budgets,
        session_configs={"r": SessionPruningConfig(exempt=True)},
    )
    clock = FakeClock()
    return PruningManager(config, store, Summaries("s", 1), clock, live_turns=lambda: {"q": "t1"})


def _planned(plan: Plan) -> Any:  # noqa: ANN401 - to be compared alone
    skipped = sorted(map(repr, plan.skipped))
    return plan.units, skipped, dict(plan.skipped_by_reason), plan.scanned, plan.selected


def _done(result: PruningResult) -> Any:  # noqa: ANN401 - to be compared alone
    # What is left of a shorter one is measured by the database, and estimated in memory.
    return [replace(one, run_id="", after=one.before) for one in result.pruned_items]


async def _hold_against_memory(
    one: Stored,
    rules: Sequence[PruningRule],
    kept: Protections,
    budgets: PruningBudgets,
    pages: int,
) -> None:
    items = _SmallPages(one.database, one.clock, lambda: 0.0)
    items.size = pages
    memory = _InMemory(await _contents(one))
    here, there = (_manager(rules, store, kept, budgets) for store in (items, memory))
    plans = await here.plan(), await there.plan()
    assert _planned(plans[0]) == _planned(plans[1])

    done = await here.apply(plans[0], confirmed=True), await there.apply(plans[1], confirmed=True)

    assert _done(done[0]) == _done(done[1])
    left = {item.id: (item.content, item.version) for item in await _contents(one)}
    assert left == {item.id: (item.content, item.version) for item in memory.all()}
    await sums_agree(one)
    audit = await one.rows("SELECT item FROM pruned_items ORDER BY position")
    assert [row[0] for row in audit] == [int(record.item_id) for record in done[0].pruned_items]
    # How much shorter something gets is estimated, so that after that there may be more to do.
    if budgets == PruningBudgets() and all(rule.action.removes for rule in rules):
        assert (await here.plan()).units == ()


@settings(max_examples=50)
@given(
    RULES,
    _turns(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.5])),
    PROTECTIONS,
    st.just(PruningBudgets()) | BUDGETS,
)
async def test_a_plan_over_a_database_is_that_over_the_same_items_in_memory(
    tmp_path_factory: pytest.TempPathFactory,
    rules: list[PruningRule],
    turns: list[_Turn],
    kept: Protections,
    budgets: PruningBudgets,
) -> None:
    async with stored(tmp_path_factory.mktemp("laws")) as one:
        await _tell(one, turns)
        await _hold_against_memory(one, rules, kept, budgets, 100)


@settings(max_examples=30)
@given(
    RULES,
    _turns(st.sampled_from([1.0, 1.25, 2.5])),
    PROTECTIONS,
    st.integers(1, 7),
)
async def test_how_many_items_a_page_has_is_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    rules: list[PruningRule],
    turns: list[_Turn],
    kept: Protections,
    pages: int,
) -> None:
    async with stored(tmp_path_factory.mktemp("laws")) as one:
        await _tell(one, turns)
        await _hold_against_memory(one, rules, kept, PruningBudgets(), pages)


@settings(max_examples=30)
@given(RULES, _turns(st.sampled_from([0.0, 0.25, 1.0, 2.5])), PROTECTIONS)
async def test_something_is_due_wherever_a_run_takes_something(
    tmp_path_factory: pytest.TempPathFactory,
    rules: list[PruningRule],
    turns: list[_Turn],
    kept: Protections,
) -> None:
    async with stored(tmp_path_factory.mktemp("laws")) as one:
        await _tell(one, turns)
        pruner = _manager(rules, one.items, kept, PruningBudgets())
        for _ in range(3):
            due_at = await pruner.next_due()
            taken = (await pruner.plan()).actions
            if taken:
                assert due_at is not None
                assert due_at <= one.clock.now()
            await pruner.prune(confirmed=True)
