"""Plans are carried out many units at a time; each unit stays as exact as by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from typing_extensions import override

from gateway.clock import FakeClock
from gateway.errors import StorageFullError
from gateway.pruning import (
    AgeCondition,
    CompactAction,
    MemoryItemStore,
    PrunableItem,
    PruningProgress,
    PruningResult,
    RunStatus,
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
    manager,
    reasons,
    rule,
    taken,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from gateway.pruning.store import Changes, Committed

ALL = rule("all", match_all=True)


class Watched(MemoryItemStore):
    """Counts what it is asked, refuses changes of some items, and may hold changes up."""

    def __init__(self, stored: Iterable[PrunableItem], *, refused: Collection[str] = ()) -> None:
        super().__init__(stored)
        self.refused = refused
        self.finds = 0
        self.commits: list[list[str]] = []
        self.gate: anyio.Event | None = None

    @override
    async def find(self, item_ids: Collection[str]) -> Mapping[str, PrunableItem]:
        self.finds += 1
        return await super().find(item_ids)

    @override
    async def commit(self, changes: Changes) -> Committed:
        self.commits.append([one.item_id for one in changes])
        if self.gate is not None:
            await self.gate.wait()
        if any(one.item_id in self.refused for one in changes):
            raise RuntimeError
        return await super().commit(changes)


async def test_a_thousand_deletions_are_few_changes_of_the_store() -> None:
    store = Watched(items(1_000))

    result = await manager([ALL], store).prune()

    assert result.stats.pruned_count == 1_000
    assert len(store.commits) <= 20
    assert store.finds <= 20
    assert tuple(store.audit) == result.pruned_items


async def test_of_many_together_a_bad_one_costs_itself_alone() -> None:
    store = Watched(items(250), refused={"s0003", "s0120"})
    pruner = manager([ALL], store)

    result = await pruner.prune()

    assert left(pruner) == ["s0003", "s0120"]
    assert [(one.item_id, one.error) for one in result.errors] == [
        ("s0003", "RuntimeError"),
        ("s0120", "RuntimeError"),
    ]
    assert (result.stats.pruned_count, result.status) == (248, RunStatus.PARTIAL)
    assert {name: one.tries for name, one in pruner.get_failing().items()} == {
        "s0003": 1,
        "s0120": 1,
    }
    assert tuple(store.audit) == result.pruned_items


async def test_what_is_told_is_told_once_and_in_order_also_where_many_are_tried_again() -> None:
    stored = items(150)
    pruner = manager([ALL], Watched(stored, refused={"s0003"}))
    told: list[Any] = []
    for event in ("item-pruned", "error", "progress"):
        pruner.on(event, told.append)

    await pruner.prune()

    assert [one.current if isinstance(one, PruningProgress) else one.item_id for one in told] == [
        part for place, one in enumerate(stored, 1) for part in (one.id, place)
    ]


async def test_of_many_together_one_that_has_changed_stays_alone() -> None:
    class Busy(Watched):
        @override
        async def commit(self, changes: Changes) -> Committed:
            if not self.commits:
                self.add(item("s0007", 999, tokens=11))
            return await super().commit(changes)

    store = Busy(items(120))
    pruner = manager([ALL], store)

    result = await pruner.prune()

    assert left(pruner) == ["s0007"]
    assert reasons(result) == {"s0007": "changed"}
    assert result.success


async def test_a_pair_is_in_one_change() -> None:
    pairs = [
        half
        for place in range(120)
        for half in (
            call(f"c{place:03}", 900 - place, f"x{place}"),
            answer(f"r{place:03}", 899.5 - place, f"x{place}"),
        )
    ]
    store = Watched([*items(1, "a"), *pairs])

    assert len(taken(await manager([ALL], store).prune())) == 241
    for names in store.commits:
        assert {one[1:] for one in names if one[0] == "c"} == {
            one[1:] for one in names if one[0] == "r"
        }
        assert len(names) <= BATCH


async def test_a_unit_larger_than_a_batch_is_done_whole() -> None:
    calls = [f"x{place}" for place in range(BATCH + 5)]
    store = Watched(
        [call("c", 999, *calls), *(answer(f"r{n}", 900 - n, one) for n, one in enumerate(calls))]
    )

    assert len(taken(await manager([ALL], store).prune())) == BATCH + 6
    assert len(store.commits) == 1


async def test_a_disk_that_gets_full_keeps_what_was_done_before() -> None:
    class Full(Watched):
        @override
        async def commit(self, changes: Changes) -> Committed:
            if len(self.commits) == 1:
                raise StorageFullError
            return await super().commit(changes)

    store = Full(items(BATCH + 30))
    pruner = manager([ALL], store)

    result = await pruner.prune()

    assert result.stats.pruned_count == BATCH
    assert result.stats.skipped_by_reason == {"stopped": 30}
    assert tuple(store.audit) == result.pruned_items
    assert pruner.get_failing() == {}


async def test_a_stop_takes_effect_at_the_next_change() -> None:
    clock, store = FakeClock(), Watched(items(2 * BATCH))
    store.gate = anyio.Event()
    pruner = manager([ALL], store, clock=clock)
    results: list[PruningResult] = []

    async def prune() -> None:
        results.append(await pruner.prune())

    async with anyio.create_task_group() as group:
        group.start_soon(prune)
        group.start_soon(lambda: pruner.stop(grace_s=3))
        await clock.advance(3)
        store.gate.set()

    assert results[0].stats.pruned_count == BATCH
    assert results[0].stats.skipped_by_reason == {"stopped": BATCH}
    assert results[0].status is RunStatus.PARTIAL


@pytest.mark.parametrize("refused", [(), ("i010",)], ids=["all-well", "one-is-refused"])
async def test_summaries_among_other_changes_keep_the_order_of_the_plan(
    refused: tuple[str, ...],
) -> None:
    rules = [
        rule("sum", SizeCondition(800), action=SummarizeAction()),
        rule("short", SizeCondition(400), action=CompactAction(0.5)),
        rule("gone", AgeCondition(1)),
    ]
    stored = [
        item(f"i{place:03}", 300 - place, content="x" * size)
        for place, size in enumerate([10, 900, 500, 10] * 30)
    ]
    store = Watched(stored, refused=refused)
    pruner = manager(rules, store, summarizer=Summaries())
    plan = await pruner.plan()

    result = await pruner.apply(plan)

    planned = [one.item_id for one in plan.actions if one.item_id not in refused]
    assert taken(result) == planned
    assert tuple(store.audit) == result.pruned_items
    assert len(result.pruned_items) == len(stored) - len(refused)


async def test_a_turn_that_begins_while_a_summary_is_written_protects_its_item() -> None:
    live: dict[str, str] = {}

    class Slow(Summaries):
        @override
        async def summarize(self, *args: Any, **fields: Any) -> Any:
            live["s"] = ""
            return await super().summarize(*args, **fields)

    summaries = Slow()
    pruner = manager(
        [rule("sum", SizeCondition(100), action=SummarizeAction())],
        [item("a", content="x" * 600)],
        summarizer=summaries,
        live_turns=lambda: live,
    )

    assert reasons(await pruner.prune()) == {"a": "live_turn"}
    live.clear()
    assert taken(await pruner.prune()) == ["a"]
    assert summaries.asked == ["a"]
