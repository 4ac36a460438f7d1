"""One run at a time, when it is due, until it is stopped."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest
from typing_extensions import override

from gateway.clock import FakeClock
from gateway.errors import ConflictError, StorageError
from gateway.pruning import (
    DEFAULT_PRUNING_CONFIG,
    AgeCondition,
    CustomCondition,
    ItemQuery,
    MemoryItemStore,
    Protections,
    PruningBudgets,
    PruningConfig,
    PruningManager,
    PruningResult,
    RuleScope,
    RunStatus,
    SizeCondition,
    SummarizeAction,
    get_pruning_manager,
    reset_pruning_manager,
)
from tests.pruning.making import (
    DAY_S,
    NOW,
    Summaries,
    item,
    items,
    left,
    limit,
    manager,
    reasons,
    rule,
    taken,
)
from tests.pruning.test_runs import Failing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from gateway.pruning import Totals
    from gateway.pruning.conditions import SetCondition
    from gateway.pruning.items import Position
    from gateway.pruning.store import Page

AGE = rule("age", AgeCondition(100))


class Held:
    """A manager whose run waits in the middle for a summary."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.summaries = Summaries(gate=anyio.Event())
        self.manager = manager(
            [rule("sum", SizeCondition(500), action=SummarizeAction())],
            [item(f"i{n}", 9 - n, content="x" * 600) for n in range(3)],
            summarizer=self.summaries,
            clock=clock,
        )
        self.results: list[PruningResult] = []

    async def prune(self) -> None:
        self.results.append(await self.manager.prune())

    def let_go(self) -> None:
        assert self.summaries.gate is not None
        self.summaries.gate.set()


async def test_two_callers_make_one_run() -> None:
    held = Held()
    starts: list[object] = []
    held.manager.on("start", starts.append)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(held.prune)
            group.start_soon(held.prune)
            await held.summaries.begun.wait()
            held.let_go()

    assert held.results[0] is held.results[1]
    assert len(starts) == 1
    assert held.summaries.asked == ["i0", "i1", "i2"]
    assert held.manager.get_stats().runs == 1


async def test_who_asks_for_something_else_is_told() -> None:
    held = Held()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(held.prune)
            await held.summaries.begun.wait()
            with pytest.raises(ConflictError, match="another run is in progress"):
                await held.manager.prune(session_id="s")
            assert (await held.manager.plan()).actions
            assert await held.manager.prune_if_due() is None
            assert held.manager.get_stats().is_running
            held.let_go()


async def test_who_joined_a_run_that_was_cancelled_makes_one_of_their_own() -> None:
    held = Held()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group, anyio.create_task_group() as first:
            first.start_soon(held.prune)
            await held.summaries.begun.wait()
            group.start_soon(held.prune)
            await anyio.wait_all_tasks_blocked()
            held.let_go()
            first.cancel_scope.cancel()

    assert [taken(one) for one in held.results] == [["i0", "i1", "i2"]]


async def test_who_joined_a_run_that_failed_is_told_as_well() -> None:
    store = Failing(items(2), StorageError())
    pruner = manager([limit(1)], store)
    raised: list[Exception] = []

    async def prune() -> None:
        try:
            await pruner.prune()
        except StorageError as error:
            raised.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(prune)
        group.start_soon(prune)

    assert len(raised) == 2
    assert store.commits == 1


async def test_stop_waits_for_the_run_in_progress() -> None:
    held = Held()
    order: list[str] = []

    async def stop() -> None:
        await held.manager.stop()
        order.append("stopped")

    held.manager.on("complete", lambda _: order.append("complete"))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(held.prune)
            await held.summaries.begun.wait()
            group.start_soon(stop)
            await anyio.wait_all_tasks_blocked()
            assert order == []
            assert await held.manager.prune_if_due() is None
            held.let_go()

    assert order == ["complete", "stopped"]
    assert taken(held.results[0]) == ["i0", "i1", "i2"]
    assert (await held.manager.prune()).success


@pytest.mark.parametrize("grace_s", [0, 3])
async def test_after_its_grace_a_run_gives_up_the_summary_that_is_being_written(
    grace_s: float,
) -> None:
    clock = FakeClock()
    held = Held(clock)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(held.prune)
            await held.summaries.begun.wait()
            group.start_soon(lambda: held.manager.stop(grace_s=grace_s))
            await clock.advance(grace_s)

    assert left(held.manager) == ["i0", "i1", "i2"]
    assert reasons(held.results[0]) == dict.fromkeys(("i0", "i1", "i2"), "stopped")
    assert held.results[0].status is RunStatus.PARTIAL
    assert held.manager.get_failing() == {}


async def test_after_stop_nothing_is_due_until_it_goes_on() -> None:
    pruner = manager([AGE], [item("old", 200)])

    await pruner.stop()
    assert await pruner.prune_if_due() is None
    pruner.resume()
    result = await pruner.prune_if_due()

    assert result is not None
    assert taken(result) == ["old"]


async def test_a_stop_while_it_is_found_out_what_is_due_counts() -> None:
    class Slow(MemoryItemStore):
        @override
        async def page(self, query: ItemQuery, *, after: Position | None, limit: int) -> Page:
            await pruner.stop()
            return await super().page(query, after=after, limit=limit)

    pruner = manager([AGE], Slow([item("old", 200)]))

    assert await pruner.prune_if_due() is None
    assert not pruner.is_running


async def test_what_is_stored_while_a_run_looks_is_looked_at_in_the_next_one() -> None:
    class Busy(MemoryItemStore):
        @override
        async def sessions_over(
            self, query: ItemQuery, condition: SetCondition
        ) -> AsyncGenerator[Mapping[str, Totals]]:
            async for over in super().sessions_over(query, condition):
                yield over
            if self.get("more") is None:
                self.add(item("more", 40))

    clock = FakeClock()
    pruner = manager([limit(1)], Busy([item("first", 50)]), clock=clock)

    assert (await pruner.prune()).pruned_items == ()

    assert await pruner.next_due() == clock.now()


async def test_a_cancelled_run_leaves_every_item_whole() -> None:
    held = Held()

    async with anyio.create_task_group() as group:
        group.start_soon(held.prune)
        await held.summaries.begun.wait()
        group.cancel_scope.cancel()

    assert left(held.manager) == ["i0", "i1", "i2"]
    assert not held.manager.get_stats().is_running
    held.let_go()
    assert len(taken(await held.manager.prune())) == 3


@asynccontextmanager
async def started(pruner: PruningManager) -> AsyncGenerator[list[PruningResult]]:
    runs: list[PruningResult] = []
    pruner.on("complete", runs.append)
    async with anyio.create_task_group() as group:
        pruner.start(group)
        pruner.start(group)
        await anyio.wait_all_tasks_blocked()
        yield runs
        await pruner.stop()
        assert not pruner.is_started


async def test_the_first_look_comes_at_once_and_ages_are_looked_for_when_they_are_due() -> None:
    clock = FakeClock()
    stored = [item("old", 101), item("soon", 20), item("later", 10)]
    pruner = manager([AGE], stored, clock=clock, min_prune_interval_s=1)

    async with started(pruner) as runs:
        assert [taken(one) for one in runs] == [["old"]]
        await clock.advance(79.9)
        assert len(runs) == 1
        await clock.advance(0.2)
        assert [taken(one) for one in runs[1:]] == [["soon"]]
        await clock.advance(10)
        assert [taken(one) for one in runs[2:]] == [["later"]]
        await clock.advance(3_000)
        assert len(runs) == 3


async def test_what_grows_too_large_is_seen_at_the_next_look() -> None:
    clock = FakeClock()
    pruner = manager([limit(3)], items(3), clock=clock)

    async with started(pruner) as runs:
        pruner.add_item(item("new"))
        await clock.advance(299)
        assert runs == []
        await clock.advance(2)
        assert [taken(one) for one in runs] == [["s0000"]]


async def test_an_interval_that_is_changed_counts_at_once() -> None:
    clock = FakeClock()
    pruner = manager([limit(3)], items(3), clock=clock)

    async with started(pruner) as runs:
        pruner.add_item(item("new"))
        pruner.update_config(check_interval_s=10)
        await anyio.wait_all_tasks_blocked()
        assert [taken(one) for one in runs] == [["s0000"]]


async def test_runs_that_are_due_keep_their_distance() -> None:
    clock = FakeClock()
    pruner = manager([AGE], items(5), clock=clock, budgets=PruningBudgets(max_items=1))
    await clock.advance(200)

    async with started(pruner) as runs:
        assert len(runs) == 1
        await clock.advance(59)
        assert len(runs) == 1
        await clock.advance(2)
        assert len(runs) == 2


async def test_a_run_that_found_nothing_is_not_repeated_for_nothing() -> None:
    clock = FakeClock()
    pruner = manager([AGE, limit(0, priority=-1)], [item("p", 200, pinned=True)], clock=clock)

    async with started(pruner) as runs:
        await clock.advance(3_000)
        assert len(runs) == 1
        pruner.add_item(item("p", 200))
        await clock.advance(301)
        assert [taken(one) for one in runs[1:]] == [["p"]]


async def test_what_only_a_live_turn_protects_is_looked_at_again() -> None:
    clock = FakeClock()
    live = {"s": ""}
    pruner = manager([AGE], [item("a", 200)], clock=clock, live_turns=lambda: live)

    async with started(pruner) as runs:
        assert [taken(one) for one in runs] == [[]]
        live.clear()
        await clock.advance(301)
        assert taken(runs[-1]) == ["a"]


async def test_while_switched_off_nothing_is_due() -> None:
    pruner = manager([AGE], [item("a", 200)], enabled=False)

    assert await pruner.prune_if_due() is None
    pruner.update_config(enabled=True)
    result = await pruner.prune_if_due()

    assert result is not None
    assert result.trigger == "due"
    assert taken(result) == ["a"]


async def test_a_look_that_fails_is_counted_and_the_next_one_comes() -> None:
    clock = FakeClock()
    live: list[dict[str, str]] = []
    pruner = manager([AGE], [item("a", 200)], clock=clock, live_turns=lambda: live[0])

    async with started(pruner) as runs:
        assert pruner.get_stats().failures == 1
        live.append({})
        await clock.advance(301)
        assert [taken(one) for one in runs] == [["a"]]


async def test_a_broken_storage_ends_the_loop() -> None:
    pruner = manager([AGE], Failing([item("a", 200)], StorageError()))

    with pytest.raises(ExceptionGroup) as raised:
        async with anyio.create_task_group() as group:
            group.start_soon(pruner.run)

    assert raised.group_contains(StorageError)
    assert not pruner.is_started


@pytest.mark.parametrize(
    ("rules", "due_in_s"),
    [
        pytest.param([AGE], 50, id="age"),
        pytest.param([rule("r", AgeCondition(100), SizeCondition(100))], 80, id="age-of-the-big"),
        pytest.param([rule("r", AgeCondition(10))], 0, id="already"),
        pytest.param([rule("r", SizeCondition(100))], 0, id="size"),
        pytest.param([rule("r", SizeCondition(1_000))], None, id="no-size"),
        pytest.param([limit(1)], 0, id="count"),
        pytest.param([limit(2)], None, id="no-count"),
        pytest.param([limit(1, scope=RuleScope.ALL)], 0, id="count-of-all"),
        pytest.param([limit(2, scope=RuleScope.ALL)], None, id="no-count-of-all"),
        pytest.param([AGE, rule("r", AgeCondition(70))], 20, id="the-first-of-two"),
        pytest.param([rule("off", AgeCondition(10), enabled=False)], None, id="off"),
        pytest.param([rule("r", CustomCondition("yes"))], 0, id="custom"),
        pytest.param([], None, id="no-rules"),
    ],
)
async def test_it_knows_when_something_is_due(rules: list[object], due_in_s: float | None) -> None:
    stored = [item("a", 50), item("b", 20, size_bytes=200)]
    pruner = manager(rules, stored, evaluators={"yes": lambda *_: True})  # type: ignore[arg-type]

    due_at = await pruner.next_due()

    if due_in_s is None:
        assert due_at is None
    else:
        assert due_at is not None
        moment = timedelta(microseconds=1 if due_in_s else 0)
        assert due_at == NOW + timedelta(seconds=due_in_s) + moment
    assert pruner.get_stats().next_due_at == due_at


async def test_the_floor_puts_off_what_is_due() -> None:
    pruner = manager([AGE], [item("a", 50)], protections=Protections(min_age_s=150))

    assert await pruner.next_due() == NOW + timedelta(seconds=100, microseconds=1)


async def test_statistics_say_what_there_is_and_what_was_done() -> None:
    pruner = manager([limit(2)], [*items(3, "a"), *items(2, "b")])
    await pruner.prune(dry_run=True)
    result = await pruner.prune()

    stats = pruner.get_stats()

    assert (stats.global_stats.total_items, stats.global_stats.total_sessions) == (4, 2)
    assert (stats.global_stats.total_bytes, stats.global_stats.total_tokens) == (400, 40)
    assert {name: one.items for name, one in stats.sessions.items()} == {"a": 2, "b": 2}
    assert (stats.runs, stats.dry_runs, stats.failures) == (2, 1, 0)
    assert (stats.pruned_items, stats.freed_bytes) == (1, 100)
    assert stats.runs_by_status == {"ok": 2}
    assert stats.last_run is not None
    assert (stats.last_run.id, stats.last_run.stats) == (result.id, result.stats)


async def test_what_is_shipped_archives_and_deletes_nothing() -> None:
    pruner = PruningManager(items=[*items(1_001), item("old", DAY_S + 1)], clock=FakeClock())

    result = await pruner.prune()

    assert set(result.stats.by_action) == {"archive"}
    assert set(taken(result)) == {"old", "s0000"}
    assert pruner.get_config() == DEFAULT_PRUNING_CONFIG


def test_managers_share_nothing() -> None:
    rules = [limit(1)]
    one, two = PruningManager(), PruningManager(PruningConfig(rules=tuple(rules)))
    one.add_rule(limit(5))
    two.add_rule(AGE)

    assert [each.id for each in DEFAULT_PRUNING_CONFIG.rules] == [
        "default-tokens",
        "default-count",
        "default-age",
    ]
    assert rules == [limit(1)]
    assert two.remove_rule("age")
    assert not two.remove_rule("age")
    assert not two.set_rule_enabled("age", enabled=True)
    assert two.get_config().rules == (limit(1),)


async def test_the_process_shares_one_manager_until_it_is_reset() -> None:
    reset_pruning_manager()
    config = PruningConfig(rules=(limit(1),))
    shared = get_pruning_manager(config)
    assert get_pruning_manager() is get_pruning_manager(config) is shared
    with pytest.raises(ConflictError, match="another configuration"):
        get_pruning_manager(PruningConfig())

    async with anyio.create_task_group() as group:
        shared.start(group)
        with pytest.raises(ConflictError, match="stop it first"):
            reset_pruning_manager()
        await anyio.wait_all_tasks_blocked()
        await shared.stop()

    reset_pruning_manager()
    assert get_pruning_manager() is not shared
    reset_pruning_manager()
