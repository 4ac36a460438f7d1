"""Summaries: asked for once, stored only where they are smaller, and never in the way."""

from __future__ import annotations

import anyio
import pytest
from typing_extensions import override

from gateway.clock import FakeClock
from gateway.pruning import (
    AgeCondition,
    CompactAction,
    ItemSummary,
    PrunableItem,
    PruningBudgets,
    PruningConfigError,
    PruningResult,
    RunStatus,
    SizeCondition,
    SummarizeAction,
)
from tests.pruning.making import Summaries, item, left, manager, reasons, rule, taken
from tests.pruning.test_runs import LONG, Failing

SUMMARIZE = rule("sum", SizeCondition(100), action=SummarizeAction(5))


def long(number: int) -> list[PrunableItem]:
    return [item(f"i{place}", number - place, content=LONG) for place in range(number)]


async def test_a_summary_takes_the_place_of_the_content() -> None:
    summaries = Summaries("  In short.  ", 3)
    pruner = manager([SUMMARIZE], [item("a", content=LONG, size_bytes=1_200)], summarizer=summaries)

    result = await pruner.prune()

    stored = pruner.get_item("a")
    assert stored is not None
    assert (stored.content, stored.size_bytes, stored.tokens) == ("In short.", 209, 3)
    assert stored.metadata["pruning"]["summary"] == "made"
    assert (result.stats.freed_bytes, result.stats.freed_tokens) == (991, 7)


async def test_a_summary_is_never_made_twice() -> None:
    summaries = Summaries("y" * 500, 1)
    pruner = manager([SUMMARIZE], long(1), summarizer=summaries)
    await pruner.prune()
    pruner.add_rule(rule("other", SizeCondition(10), action=SummarizeAction()))

    result = await pruner.prune()

    assert summaries.asked == ["i0"]
    assert reasons(result) == {"i0": "already_applied"}


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("z" * 1_000, 1), ("z" * 1_001, 1), ("short", 11)],
    ids=["as-long", "longer", "more-tokens"],
)
async def test_a_summary_that_is_not_smaller_is_not_stored_nor_asked_for_again(
    text: str, tokens: int
) -> None:
    summaries = Summaries(text, tokens)
    pruner = manager([SUMMARIZE], long(1), summarizer=summaries)
    result = await pruner.prune()
    assert reasons(result) == {"i0": "no_gain"}
    assert result.stats.pruned_count == result.stats.freed_bytes == 0

    assert reasons(await pruner.prune()) == {"i0": "no_gain"}

    stored = pruner.get_item("i0")
    assert stored is not None
    assert stored.content == LONG
    assert summaries.asked == ["i0"]


@pytest.mark.parametrize("summary", [ItemSummary("  "), ItemSummary("x", -1), "text", None])
async def test_what_is_no_summary_is_a_failure_and_changes_nothing(summary: object) -> None:
    class Odd(Summaries):
        @override
        async def summarize(self, *_: object, **__: object) -> ItemSummary:
            return summary  # type: ignore[return-value]

    pruner = manager([SUMMARIZE], long(1), summarizer=Odd())

    result = await pruner.prune()

    assert result.errors[0].error in {"ValueError", "TypeError"}
    stored = pruner.get_item("i0")
    assert stored is not None
    assert stored.content == LONG


async def test_a_plan_and_a_dry_run_ask_for_no_summary() -> None:
    summaries = Summaries()
    pruner = manager([SUMMARIZE], long(2), summarizer=summaries)
    await pruner.plan()
    await pruner.prune(dry_run=True)
    await pruner.explain("i0")

    assert summaries.asked == []


async def test_without_a_summarizer_there_is_no_such_rule() -> None:
    with pytest.raises(PruningConfigError, match="there is no summarizer"):
        manager([SUMMARIZE])


async def test_an_item_that_changes_while_it_is_summarized_keeps_the_change() -> None:
    summaries = Summaries(gate=anyio.Event())
    pruner = manager([SUMMARIZE], long(1), summarizer=summaries)
    results: list[PruningResult] = []

    async def prune() -> None:
        results.append(await pruner.prune())

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(prune)
            await summaries.begun.wait()
            pruner.add_item(item("i0", content="new" * 100))
            assert summaries.gate is not None
            summaries.gate.set()

    assert reasons(results[0]) == {"i0": "changed"}
    stored = pruner.get_item("i0")
    assert stored is not None
    assert stored.content == "new" * 100


async def test_a_summary_whose_change_failed_is_kept_for_the_next_try() -> None:
    summaries = Summaries()
    store = Failing(long(1), RuntimeError())
    pruner = manager([SUMMARIZE], store, summarizer=summaries)
    assert (await pruner.prune()).status is RunStatus.PARTIAL

    assert taken(await pruner.prune()) == ["i0"]
    assert summaries.asked == ["i0"]


async def test_a_summarizer_that_keeps_failing_is_left_alone_for_the_run() -> None:
    summaries = Summaries(failures=[RuntimeError()] * 3)
    pruner = manager([SUMMARIZE], long(6), summarizer=summaries)

    result = await pruner.prune()

    assert len(summaries.asked) == len(result.errors) == 3
    assert reasons(result) == dict.fromkeys(("i3", "i4", "i5"), "summarizer")
    assert taken(await pruner.prune()) == [f"i{place}" for place in range(6)]


async def test_a_summary_that_takes_too_long_is_a_failure() -> None:
    clock = FakeClock()
    summaries = Summaries(gate=anyio.Event())
    pruner = manager(
        [SUMMARIZE], long(1), summarizer=summaries, clock=clock, summarizer_timeout_s=30
    )
    results: list[PruningResult] = []

    async def prune() -> None:
        results.append(await pruner.prune())

    async with anyio.create_task_group() as group:
        group.start_soon(prune)
        await clock.advance(30)

    assert [one.error for one in results[0].errors] == ["TimeoutError"]


async def test_a_run_out_of_time_gives_a_summary_up_without_blame() -> None:
    clock = FakeClock()
    summaries = Summaries(gate=anyio.Event())
    pruner = manager(
        [SUMMARIZE],
        long(2),
        summarizer=summaries,
        clock=clock,
        budgets=PruningBudgets(max_duration_s=10),
    )
    results: list[PruningResult] = []

    async def prune() -> None:
        results.append(await pruner.prune())

    async with anyio.create_task_group() as group:
        group.start_soon(prune)
        await clock.advance(10)

    assert results[0].errors == ()
    assert reasons(results[0]) == dict.fromkeys(("i0", "i1"), "budget_seconds")
    assert results[0].success


async def test_a_summary_may_be_compacted_and_removed_when_it_is_due() -> None:
    clock = FakeClock()
    summaries = Summaries("y" * 400, 2)
    rules = [
        rule("age", AgeCondition(50), priority=3),
        rule("short", SizeCondition(300), AgeCondition(20), action=CompactAction(0.5), priority=2),
        rule("sum", SizeCondition(100), action=SummarizeAction()),
    ]
    pruner = manager(rules, [item("a", content=LONG)], summarizer=summaries, clock=clock)
    await pruner.prune()
    await clock.advance(21)
    assert (await pruner.prune()).pruned_items[0].after.size_bytes == 200
    assert taken(await pruner.prune()) == []
    await clock.advance(30)
    await pruner.prune()

    assert left(pruner) == []
    assert summaries.asked == ["a"]
