"""Failures are all counted, and the first are kept: a broken function fills no memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.pruning import CustomCondition, PruningFailure, RunStatus, SizeCondition, read_plan
from gateway.pruning.failures import MAX_FAILING, MAX_FAILURES
from gateway.pruning.judging import Judge
from gateway.pruning.quarantine import TRIES, Quarantine
from gateway.retention.runs import run_row
from tests.pruning.making import items, left, manager, rule

if TYPE_CHECKING:
    from gateway.pruning import PrunableItem, PruningManager

BROKEN = rule("broken", CustomCondition("breaks"))
MANY = 3 * MAX_FAILURES


def breaks(*_: object) -> bool:
    raise RuntimeError("as it happens")


def broken(number: int) -> PruningManager:
    """Return a manager whose rule asks a function that always fails."""
    return manager([BROKEN], items(number), evaluators={"breaks": breaks})


@pytest.mark.parametrize("number", [1, MAX_FAILURES, MAX_FAILURES + 1, MANY])
async def test_all_failures_are_counted_and_the_first_are_kept(number: int) -> None:
    pruner = broken(number)

    plan = await pruner.plan()
    result = await pruner.prune()
    row = run_row(result)

    first = tuple(f"s{place:04}" for place in range(min(number, MAX_FAILURES)))
    assert (tuple(one.item_id for one in plan.failures), plan.failed) == (first, number)
    assert tuple(one.item_id for one in result.errors) == first
    assert (result.status, result.stats.error_count) == (RunStatus.PARTIAL, number)
    assert row.record is not None
    assert [one["item_id"] for one in row.record["errors"]] == list(first)
    assert row.record["stats"]["error_count"] == number
    assert len(left(pruner)) == number


async def test_a_plan_that_is_read_again_knows_how_many_failed() -> None:
    pruner = broken(MANY)

    plan = read_plan((await pruner.plan()).plain())
    result = await pruner.apply(plan)

    assert plan.failed == MANY
    assert (len(result.errors), result.stats.error_count) == (MAX_FAILURES, MANY)


async def test_what_fails_in_a_plan_that_is_applied_later_is_of_that_plan() -> None:
    """Others fail as well when the rules are held against everything again: no matter of it."""
    fails = set[str]()

    def sometimes(item: object, *_: object) -> bool:
        if getattr(item, "id", "") in fails:
            raise RuntimeError
        return getattr(item, "size_bytes", 0) > 100

    stored = [*items(MANY, "a"), *items(MANY, "b", size_bytes=200)]
    pruner = manager(
        [rule("some", SizeCondition(10), CustomCondition("sometimes"))],
        stored,
        evaluators={"sometimes": sometimes},
    )
    plan = await pruner.plan()
    fails |= {one.id for one in stored if one.session_id == "a"} | {"b0007", "b0299"}

    result = await pruner.apply(plan)

    assert {one.item_id for one in result.errors} == {"b0007", "b0299"}
    assert result.stats.error_count == 2
    assert result.stats.pruned_count == MANY - 2


def test_the_quarantine_is_bounded_and_forgets_those_that_failed_longest_ago() -> None:
    quarantine = Quarantine()
    for number in range(MAX_FAILING):
        quarantine.fail(PruningFailure(str(number), "s", "r", "e"))
    for _ in range(TRIES):
        quarantine.fail(PruningFailure("0", "s", "r", "e"))
    quarantine.fail(PruningFailure("new", "s", "r", "e"))

    assert len(quarantine.all()) == MAX_FAILING
    assert quarantine.of("1") is None
    assert quarantine.of("2") is not None
    assert quarantine.ids() == {"0"}


@pytest.mark.parametrize("number", [1, MAX_FAILURES + 1, MANY])
async def test_what_fails_three_times_is_not_asked_any_more(number: int) -> None:
    asked = list[str]()

    def breaks_and_counts(one: PrunableItem, _: object) -> bool:
        asked.append(one.id)
        raise RuntimeError

    pruner = manager([BROKEN], items(number), evaluators={"breaks": breaks_and_counts})
    await pruner.prune(dry_run=True)
    assert pruner.get_failing() == {}

    for tries in range(1, TRIES + 1):
        asked.clear()
        assert (await pruner.prune()).stats.error_count == len(asked) == number
        assert [one.tries for one in pruner.get_failing().values()] == [tries] * number
    asked.clear()
    over = await pruner.prune()

    assert asked == []
    assert (over.status, over.stats.error_count) == (RunStatus.OK, 0)
    assert over.stats.skipped_by_reason == {"quarantined": number}
    assert pruner.get_stats().quarantined == number

    assert pruner.retry() == number
    assert (await pruner.prune()).stats.error_count == len(asked) == number


async def test_failures_of_a_plan_that_is_applied_are_tries_as_well() -> None:
    pruner = broken(MANY)

    for _ in range(TRIES):
        await pruner.apply(await pruner.plan())

    assert pruner.get_stats().quarantined == MANY


async def test_so_many_failures_are_kept_as_the_quarantine_counts() -> None:
    plan = await broken(MAX_FAILING + 7).plan()

    assert len(plan.failures) + len(plan.unlisted) == MAX_FAILING
    assert plan.failed == MAX_FAILING + 7


async def test_what_failed_is_let_go_of_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of all that failed, freed at once, would hold everybody up."""
    judges = list[Judge]()
    made = Judge.__init__

    def noted(self: Judge, *args: Any, **named: Any) -> None:  # noqa: ANN401 - whatever it takes
        made(self, *args, **named)
        judges.append(self)

    monkeypatch.setattr(Judge, "__init__", noted)

    plan = await broken(MANY).plan()

    assert plan.failed == MANY
    assert [len(one.failed) for one in judges] == [0]
