"""While a run goes on others have their turn: between changes, and beside summaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from typing_extensions import override

from gateway.clock import FakeClock
from gateway.errors import StorageError
from gateway.pruning import (
    MemoryItemStore,
    PruningBudgets,
    PruningResult,
    SizeCondition,
    SummarizeAction,
)
from gateway.pruning.applying import BATCH, BATCH_BYTES
from tests.pruning.making import Summaries, item, items, left, manager, reasons, rule, taken

if TYPE_CHECKING:
    from gateway.pruning.store import Changes, Committed

ALL = rule("all", match_all=True)
SUMMARIZE = rule("sum", SizeCondition(500), action=SummarizeAction())


class Sizes(MemoryItemStore):
    """Notes how large each change is, in items and bytes."""

    changes: list[tuple[int, int]]

    @override
    async def commit(self, changes: Changes) -> Committed:
        size_bytes = sum(self._items[one.item_id].size_bytes for one in changes)
        self.changes = [*getattr(self, "changes", []), (len(changes), size_bytes)]
        return await super().commit(changes)


async def test_changes_are_small_in_bytes_as_well_but_for_one_large_item() -> None:
    large = [item(f"i{n:03}", 500 - n, size_bytes=BATCH_BYTES // 4) for n in range(10)]
    store = Sizes([*large, item("whole", 1, size_bytes=5 * BATCH_BYTES)])

    assert BATCH_BYTES == 1_024**2
    assert (await manager([ALL], store).prune()).stats.pruned_count == 11

    assert [number for number, _ in store.changes] == [4, 4, 2, 1]
    assert all(number == 1 or size <= BATCH_BYTES for number, size in store.changes)


async def test_who_is_live_is_asked_for_a_few_times_and_not_for_each_item() -> None:
    asked = 0

    def live() -> dict[str, str]:
        nonlocal asked
        asked += 1
        return {}

    pruner = manager([ALL], items(5 * BATCH), live_turns=live)

    await pruner.prune()

    assert left(pruner) == []
    assert asked <= 2 * 5 + 1


async def test_a_turn_that_begins_while_a_change_is_made_ready_counts() -> None:
    asked = 0

    def live() -> dict[str, str]:
        nonlocal asked
        asked += 1
        return {"b": ""} if asked > 2 else {}

    pruner = manager([ALL], [item("a1", 9, "a"), item("b1", 8, "b")], live_turns=live)

    result = await pruner.prune()

    assert asked == 3, "by the plan, before the change is made ready, and after"
    assert (taken(result), reasons(result)) == (["a1"], {"b1": "live_turn"})


async def test_between_changes_others_have_their_turn_however_long_it_takes() -> None:
    clock, at, over = FakeClock(), list[float](), list[int]()
    pruner = manager(
        [ALL], items(3 * BATCH), clock=clock, budgets=PruningBudgets(max_duration_s=10)
    )
    results = list[PruningResult]()

    async def between() -> None:
        at.append(clock.monotonic())
        await clock.sleep(60)
        over.append(len(left(pruner)))

    async def prune() -> None:
        results.append(await pruner.prune())

    pruner.between = between
    async with anyio.create_task_group() as group:
        group.start_soon(prune)
        await clock.advance(200)

    assert over == [2 * BATCH, BATCH, 0]
    assert results[0].stats.pruned_count == 3 * BATCH, "its time is no time of the run"
    assert results[0].stats.duration_ms == 0


async def test_beside_a_summary_others_have_their_turn_every_second() -> None:
    clock, begun, ended = FakeClock(), list[float](), list[float]()
    start = clock.monotonic()
    summaries = Summaries(gate=anyio.Event())
    pruner = manager(
        [SUMMARIZE], [item("i", 9, content="x" * 600)], summarizer=summaries, clock=clock
    )
    results = list[PruningResult]()

    async def between() -> None:
        begun.append(clock.monotonic() - start)
        await clock.sleep(2)
        ended.append(clock.monotonic() - start)

    async def prune() -> None:
        results.append(await pruner.prune())

    pruner.between = between
    async with anyio.create_task_group() as group:
        group.start_soon(prune)
        await summaries.begun.wait()
        await clock.advance(4.5)
        assert summaries.gate is not None
        summaries.gate.set()
        for _ in range(10):
            await clock.advance(1)

    # The second turn goes on to its end, though the summary is there; the last one comes after.
    assert (begun[:2], ended[:2]) == ([1, 4], [3, 6])
    assert (len(begun), len(ended)) == (3, 3)
    assert taken(results[0]) == ["i"]
    assert results[0].stats.duration_ms == 4_500


async def test_what_others_fail_at_beside_a_summary_is_no_fault_of_the_item() -> None:
    clock = FakeClock()
    summaries = Summaries(gate=anyio.Event())
    pruner = manager(
        [SUMMARIZE], [item("i", 9, content="x" * 600)], summarizer=summaries, clock=clock
    )

    async def between() -> None:
        raise StorageError("broken")

    async def prune() -> None:
        with pytest.raises(StorageError, match="broken"):
            await pruner.prune()

    pruner.between = between
    async with anyio.create_task_group() as group:
        group.start_soon(prune)
        await summaries.begun.wait()
        await clock.advance(3)
        assert summaries.gate is not None
        summaries.gate.set()

    assert pruner.get_all_items()[0].content == "short"
    assert pruner.get_failing() == {}
    assert not pruner.is_running


async def test_a_confirmed_run_that_takes_much_ends_without_a_complaint() -> None:
    pruner = manager([ALL], items(10), max_share=0.5)

    shown = await pruner.prune(dry_run=True)
    refused = await pruner.prune()
    done = await pruner.prune(confirmed=True)

    assert "max_share" in shown.detail
    assert "max_share" in refused.detail
    assert (done.success, done.detail) == (True, "")
