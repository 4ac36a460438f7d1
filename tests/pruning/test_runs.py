"""Carrying plans out: what is done, what is looked at again, what is measured and told."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import orjson
import pytest
from typing_extensions import override

from gateway.clock import FakeClock
from gateway.errors import BadRequestError, ConflictError, StorageError, StorageFullError
from gateway.pruning import (
    AgeCondition,
    ArchiveAction,
    Change,
    CompactAction,
    CustomCondition,
    DeleteAction,
    MemoryItemStore,
    Plan,
    Protections,
    PrunableItem,
    PruningManager,
    PruningResult,
    RunStatus,
    SizeCondition,
    read_plan,
)
from gateway.pruning.applying import BATCH
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

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.pruning.store import Changes, Committed

COMPACT = rule("short", SizeCondition(100), action=CompactAction(0.25))
LONG = "x" * 1_000


class Failing(MemoryItemStore):
    """A store whose changes fail as often as it is told to."""

    def __init__(self, stored: Iterable[PrunableItem], *errors: Exception, only: str = "") -> None:
        super().__init__(stored)
        self.errors = list(errors)
        self.only = only
        self.commits = 0

    @override
    async def commit(self, changes: Changes) -> Committed:
        self.commits += 1
        await anyio.lowlevel.checkpoint()
        if self.errors and self.only in {"", *(one.item_id for one in changes)}:
            raise self.errors.pop(0)
        return await super().commit(changes)


def _note(told: list[str], event: str, _payload: object) -> None:
    told.append(event)


def _note_all(told: list[tuple[str, Any]], event: str, payload: object) -> None:
    told.append((event, payload))


async def test_compacting_a_thousand_bytes_to_a_quarter_frees_750() -> None:
    pruner = manager([COMPACT], [item("a", content=LONG, tokens=200)])

    result = await pruner.prune()

    record = result.pruned_items[0]
    stored = pruner.get_item("a")
    assert stored is not None
    assert stored.content == "x" * 250
    assert (record.before.size_bytes, record.after.size_bytes, record.freed_bytes) == (
        1_000,
        250,
        750,
    )
    assert (stored.size_bytes, stored.tokens) == (250, 50)
    assert result.stats.freed_bytes == 750
    assert result.stats.freed_tokens == 150
    assert (record.rule_id, record.rule_name, record.action) == ("short", "short", COMPACT.action)
    assert record.reason == "size 1000B > 100B"


async def test_what_an_item_takes_beside_its_content_stays() -> None:
    pruner = manager([COMPACT], [item("a", content=LONG, size_bytes=1_500)])

    assert (await pruner.prune()).stats.freed_bytes == 750


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        pytest.param("é" * 200, "é" * 50, id="two-bytes"),
        pytest.param("a" + "é" * 200, "a" + "é" * 49, id="cut-within-a-letter"),
        pytest.param("👨‍👩‍👧" * 40, "👨‍👩‍👧" * 10, id="joined"),
        pytest.param("👍🏽" * 41, "👍🏽" * 10, id="skin-tone"),
    ],
)
async def test_no_character_is_cut_in_two(content: str, kept: str) -> None:
    pruner = manager([COMPACT], [item("a", content=content)])

    await pruner.prune()

    stored = pruner.get_item("a")
    assert stored is not None
    assert stored.content == kept
    assert stored.size_bytes == len(kept.encode())


async def test_what_was_compacted_is_not_compacted_again() -> None:
    pruner = manager([COMPACT], [item("a", content="x" * 10_000)])
    await pruner.prune()

    result = await pruner.prune()

    assert taken(result) == []
    assert reasons(result) == {"a": "already_applied"}


async def test_a_stronger_rule_compacts_further_by_what_the_content_was_at_first() -> None:
    pruner = manager([COMPACT], [item("a", content="x" * 10_000)])
    await pruner.prune()
    pruner.add_rule(rule("more", SizeCondition(100), action=CompactAction(0.1), priority=1))

    result = await pruner.prune()

    assert result.pruned_items[0].after.size_bytes == 1_000
    assert taken(await pruner.prune()) == []


async def test_what_has_no_content_is_left_to_the_rules_after() -> None:
    stored = [item("none", 9, size_bytes=500), item("empty", 9, content="", size_bytes=500)]
    pruner = manager([replace(COMPACT, priority=1), rule("age", AgeCondition(5))], stored)
    assert (await pruner.plan()).freed.size_bytes == 1_000

    result = await pruner.prune()

    assert {one.rule_id for one in result.pruned_items} == {"age"}


async def test_a_rule_made_shorter_a_moment_ago_is_left_to_nobody_after_it() -> None:
    clock = FakeClock()
    rules = [replace(COMPACT, priority=1), rule("age", AgeCondition(5))]
    pruner = manager(rules, [item("a", 9, content=LONG)], clock=clock)
    assert [one.rule_id for one in (await pruner.prune()).pruned_items] == ["short"]
    assert reasons(await pruner.prune()) == {"a": "already_applied"}
    pruner.update_config(protections=Protections(settle_s=100))
    assert left(pruner) == ["a"]

    await clock.advance(101)

    assert [one.rule_id for one in (await pruner.prune()).pruned_items] == ["age"]


async def test_what_is_archived_can_be_given_back_once() -> None:
    pruner = manager([rule("r", AgeCondition(5), action=ArchiveAction("cold"))], [item("a", 9)])
    await pruner.prune()
    (archived,) = pruner.get_archived_items()
    assert (archived.item.id, archived.destination, archived.rule_id) == ("a", "cold", "r")
    stats = pruner.get_stats().global_stats
    assert (stats.total_items, stats.archived_items, stats.archived_bytes) == (0, 1, 100)

    back = pruner.restore_item("a")

    assert back is not None
    assert back.version > archived.item.version
    assert left(pruner) == ["a"]
    assert pruner.restore_item("a") is None
    assert pruner.get_stats().global_stats.archived_items == 0


async def test_an_item_in_the_archive_does_not_take_the_place_of_a_new_one() -> None:
    pruner = manager([rule("r", AgeCondition(5), action=ArchiveAction())], [item("a", 9)])
    await pruner.prune()
    pruner.add_item(item("a"))

    with pytest.raises(ConflictError, match="again"):
        pruner.restore_item("a")

    assert len(pruner.get_archived_items()) == 1


async def test_one_id_archived_twice_is_in_the_archive_twice() -> None:
    pruner = manager([rule("r", AgeCondition(5), action=ArchiveAction())], [item("a", 9)])
    await pruner.prune()
    pruner.add_item(item("a", 8))
    await pruner.prune()
    assert [one.item.created_at for one in pruner.get_archived_items()] == [
        item("a", age).created_at for age in (9, 8)
    ]

    back = pruner.restore_item("a")

    assert back is not None
    assert back.created_at == item("a", 8).created_at


async def test_a_dry_run_is_the_same_plan_and_changes_nothing() -> None:
    stored = [*items(5), item("long", 9, content=LONG)]
    pruner = manager([limit(3), COMPACT], stored)
    told: list[str] = []
    for event in ("start", "progress", "item-pruned", "item-skipped", "error", "complete"):
        pruner.on(event, partial(_note, told, event))
    before = pruner.get_all_items()

    dry = await pruner.prune(dry_run=True)
    assert pruner.get_all_items() == before
    assert "item-pruned" not in told
    real = await pruner.prune()

    assert dry.dry_run
    assert not real.dry_run
    assert [replace(one, run_id="", dry_run=False) for one in dry.pruned_items] == [
        replace(one, run_id="", reason=f"{one.reason} (dry run)") for one in real.pruned_items
    ]
    assert dry.stats == real.stats
    assert dry.plan_id == real.plan_id


async def test_a_dry_run_may_be_configured_and_overridden() -> None:
    pruner = manager([limit(1)], items(3), dry_run=True)
    assert (await pruner.prune()).dry_run
    assert (await pruner.apply(await pruner.plan())).dry_run
    assert len(left(pruner)) == 3

    assert len(taken(await pruner.prune(dry_run=False))) == 2
    assert len(left(pruner)) == 1


async def test_a_plan_is_pure_and_survives_being_stored() -> None:
    stored = [*items(5), call("c", 99, "x"), answer("r", 98, "x"), item("p", 97, pinned=True)]
    pruner = manager([limit(3), COMPACT], [*stored, item("long", 9, content=LONG)])
    pruner.set_session_config("s", exempt=False)
    before = pruner.get_all_items()

    plan = await pruner.plan()
    again = read_plan(orjson.loads(orjson.dumps(plan.plain())))

    assert again == plan == await pruner.plan()
    assert plan.actions
    assert plan.skipped
    assert pruner.get_all_items() == before
    assert taken(await pruner.apply(again)) == [one.item_id for one in plan.actions]


@pytest.mark.parametrize(
    "damage",
    [
        {"format": 2},
        {"units": [[{}]]},
        {"made_at": "soon"},
        {"force": 1},
        {"scanned": [1, 2]},
        {"id": None},
        {"skipped_by_reason": {"x": "y"}},
        {"skipped": [["a", "b", "c", "whim", ""]]},
    ],
)
async def test_what_is_no_plan_is_refused(damage: dict[str, Any]) -> None:
    plan = (await manager([limit(1)], items(2)).plan()).plain()

    with pytest.raises(BadRequestError, match="the plan"):
        read_plan({**plan, **damage})


async def test_an_action_of_a_stored_plan_is_checked_like_one_of_a_rule() -> None:
    tree = (await manager([limit(1)], items(2)).plan()).plain()
    tree["units"][0][0]["action"] = {"type": "compact", "ratio": 7}

    with pytest.raises(BadRequestError, match="ratio"):
        read_plan(tree)


async def _changed(pruner: PruningManager, name: str, change: str) -> None:
    if change == "changed":
        pruner.add_item(item(name, 99, tokens=11))
    elif change == "gone":
        pruner.remove_item(name)
    else:
        pruner.remove_item(name)
        pruner.add_item(item(name, 99))


@pytest.mark.parametrize(
    ("change", "reason"),
    [("changed", "changed"), ("gone", "gone"), ("another under its id", "changed")],
)
async def test_what_is_not_as_it_was_planned_stays(change: str, reason: str) -> None:
    pruner = manager([limit(2)], items(4))
    plan = await pruner.plan()
    await _changed(pruner, "s0000", change)

    result = await pruner.apply(plan)

    assert taken(result) == ["s0001"]
    assert reasons(result) == {"s0000": reason}
    assert result.success


async def test_of_a_pair_one_half_of_which_has_changed_nothing_goes() -> None:
    pruner = manager([limit(1)], [call("c", 9, "x"), answer("r", 8, "x"), item("new")])
    plan = await pruner.plan()
    pruner.add_item(answer("r", 8, "x", tokens=11))

    result = await pruner.apply(plan)

    assert taken(result) == []
    assert reasons(result) == {"r": "changed", "c": "changed"}


async def test_protections_are_looked_at_again_before_an_item_is_touched() -> None:
    live: dict[str, str] = {}
    pruner = manager([limit(0)], [item("a", 9, "a"), item("b", 8, "b")], live_turns=lambda: live)
    plan = await pruner.plan()
    live["a"] = ""
    assert len(plan.actions) == 2

    result = await pruner.apply(plan)

    assert taken(result) == ["b"]
    assert reasons(result) == {"a": "live_turn"}


async def test_an_exemption_made_during_a_run_counts() -> None:
    pruner = manager([limit(0)], items(BATCH + 2))
    pruner.on("item-pruned", lambda _: pruner.set_session_config("s", exempt=True))

    result = await pruner.prune()

    assert len(taken(result)) == BATCH
    assert reasons(result) == dict.fromkeys(("s0100", "s0101"), "exempt")


async def test_a_plan_made_under_other_rules_is_refused() -> None:
    pruner = manager([limit(1)], items(3))
    plan = await pruner.plan()
    pruner.add_rule(limit(2))

    with pytest.raises(ConflictError, match="other rules"):
        await pruner.apply(plan)

    assert len(left(pruner)) == 3


async def test_a_second_run_is_empty() -> None:
    pruner = manager([limit(3), rule("age", AgeCondition(2))], items(9))
    assert taken(await pruner.prune())

    assert taken(await pruner.prune()) == []


async def test_a_disabled_manager_plans_and_changes_nothing() -> None:
    pruner = manager([limit(1)], items(3), enabled=False)
    assert len((await pruner.plan()).actions) == 2
    assert len(taken(await pruner.prune(dry_run=True))) == 2

    result = await pruner.prune(force=True)

    assert (result.status, result.detail) == (RunStatus.REFUSED, "pruning is switched off")
    assert not result.success
    assert len(left(pruner)) == 3


@pytest.mark.parametrize(("share", "stopped"), [(0.5, False), (0.49, True)])
async def test_the_breaker_stops_a_run_that_would_take_too_much(
    share: float,
    stopped: bool,  # noqa: FBT001 - a column
) -> None:
    pruner = manager([limit(2)], items(4), max_share=share)

    result = await pruner.prune(force=True)

    assert (result.status is RunStatus.REFUSED) is stopped
    assert len(left(pruner)) == (4 if stopped else 2)
    if stopped:
        assert set(reasons(result).values()) == {"breaker"}
        assert "2 of 4 items, more than max_share (49%)" in result.detail
        assert len(taken(await pruner.prune(confirmed=True))) == 2


async def test_the_breaker_looks_at_bytes_as_well() -> None:
    pruner = manager([limit(3)], [item("huge", 99, size_bytes=10**6), *items(3)], max_share=0.5)

    assert (await pruner.prune()).status is RunStatus.REFUSED
    assert "bytes" in (await pruner.plan()).breaker


async def test_an_item_that_fails_three_times_is_left_alone_until_asked_for() -> None:
    # Once where it is changed together with another, and once by itself in each run.
    store = Failing(items(3), *[RuntimeError("secret")] * 4, only="s0000")
    pruner = manager([limit(1)], store)
    for round_ in range(3):
        result = await pruner.prune()
        assert [(one.item_id, one.error) for one in result.errors] == [("s0000", "RuntimeError")]
        assert taken(result) == (["s0001"] if round_ == 0 else [])
        assert result.status is RunStatus.PARTIAL

    result = await pruner.prune()
    assert reasons(result) == {"s0000": "quarantined"}
    assert pruner.get_stats().quarantined == 1
    assert pruner.get_failing()["s0000"].tries == 3

    assert pruner.retry("s0000") == 1

    assert taken(await pruner.prune()) == ["s0000"]
    assert pruner.get_failing() == {}


async def test_an_item_whose_evaluator_fails_is_left_alone_after_three_runs() -> None:
    asked: list[str] = []

    def broken(one: PrunableItem, _context: object) -> bool:
        asked.append(one.id)
        raise RuntimeError

    pruner = manager(
        [rule("r", CustomCondition("broken"))], items(1), evaluators={"broken": broken}
    )
    for _ in range(3):
        await pruner.plan()
        await pruner.prune(dry_run=True)
        assert pruner.get_stats().quarantined == 0
        assert reasons(await pruner.prune()) == {"s0000": "failed"}

    assert pruner.get_stats().quarantined == 1
    assert len(asked) == 9


async def test_a_full_disk_ends_the_run_and_is_no_fault_of_the_item() -> None:
    store = Failing(items(4), StorageFullError())
    pruner = manager([limit(1)], store)

    result = await pruner.prune()

    assert (result.status, result.detail) == (RunStatus.PARTIAL, "StorageFullError")
    assert set(reasons(result).values()) == {"stopped"}
    assert pruner.get_failing() == {}
    assert store.commits == 1
    assert len(taken(await pruner.prune())) == 3


async def test_a_broken_storage_is_the_callers() -> None:
    pruner = manager([limit(1)], Failing(items(4), StorageError()))

    with pytest.raises(StorageError):
        await pruner.prune()

    assert pruner.get_stats().failures == 1
    assert not pruner.get_stats().is_running
    assert len(taken(await pruner.prune())) == 3


async def test_events_tell_of_a_run_from_start_to_end() -> None:
    pruner = manager([limit(1)], [*items(3), item("p", 99, pinned=True)])
    told: list[tuple[str, Any]] = []
    for event in ("start", "progress", "item-pruned", "item-skipped", "error", "complete"):
        pruner.on(event, partial(_note_all, told, event))

    result = await pruner.prune()

    assert [event for event, _ in told] == [
        "start",
        "item-skipped",
        *["item-pruned", "progress"] * 3,
        "complete",
    ]
    progress = [payload for event, payload in told if event == "progress"]
    assert [(one.scanned, one.current, one.total, one.percent) for one in progress] == [
        (4, 1, 3, 33),
        (4, 2, 3, 66),
        (4, 3, 3, 100),
    ]
    assert told[0][1].run_id == result.id
    assert told[-1][1] == result


async def test_a_throwing_handler_harms_nothing() -> None:
    pruner = manager([limit(1)], [*items(3), item("p", 99, pinned=True)])

    def throw(_: object) -> None:
        raise RuntimeError

    async def throw_later(_: object) -> None:
        await anyio.lowlevel.checkpoint()
        raise RuntimeError

    for event in ("start", "progress", "item-pruned", "item-skipped", "complete"):
        pruner.on(event, throw)
        pruner.on(event, throw_later)

    result = await pruner.prune()

    assert result.success
    assert len(taken(result)) == 3
    assert result.errors == ()
    assert pruner.get_stats().handler_failures == 2 * (1 + 1 + 3 + 3 + 1)


async def test_a_handler_may_leave_and_an_unknown_event_is_refused() -> None:
    pruner = manager([limit(0)], items(1))
    told: list[object] = []
    off = pruner.on("complete", told.append)
    off()
    off()
    await pruner.prune()
    assert told == []

    with pytest.raises(BadRequestError, match="accepted are start, progress"):
        pruner.on("finish", told.append)


async def test_a_handler_that_hangs_is_left_after_a_while() -> None:
    clock = FakeClock()
    pruner = manager([limit(0)], items(1), clock=clock)
    pruner.on("complete", lambda _: anyio.sleep_forever())
    results: list[PruningResult] = []

    async def prune() -> None:
        results.append(await pruner.prune())

    async with anyio.create_task_group() as group:
        group.start_soon(prune)
        await clock.advance(4.9)
        assert results == []
        await clock.advance(0.2)

    assert results[0].success
    assert pruner.get_stats().handler_failures == 1


async def test_what_was_freed_is_told_by_rule_and_by_action() -> None:
    rules = [
        rule("gone", AgeCondition(50), priority=3),
        rule("kept", AgeCondition(5), action=ArchiveAction(), priority=2),
        replace(COMPACT, priority=1),
    ]
    stored = [item("a", 99), item("b", 9), item("c", 8), item("d", 0, content=LONG)]
    store = MemoryItemStore(stored)

    result = await manager(rules, store).prune()

    stats = result.stats
    assert {name: (one.count, one.freed_bytes) for name, one in stats.by_rule.items()} == {
        "gone": (1, 100),
        "kept": (2, 200),
        "short": (1, 750),
    }
    assert {name: one.freed_bytes for name, one in stats.by_action.items()} == {
        "delete": 100,
        "archive": 200,
        "compact": 750,
    }
    assert stats.freed_bytes == 1_050
    assert tuple(store.audit) == result.pruned_items


async def test_a_change_and_its_record_are_one_and_all_of_a_unit_or_none() -> None:
    store = MemoryItemStore([item("a"), item("b")])
    changes = [
        Change(name, version, DeleteAction(), None, None, item("a").created_at, "run")
        for name, version in (("a", 1), ("b", 7))
    ]

    assert (await store.commit(changes)).stale == {"b"}

    assert [one.id for one in store.all()] == ["a", "b"]
    assert not store.audit


async def test_a_plan_is_named_by_what_it_says() -> None:
    pruner = manager([limit(1)], items(3))
    plans: list[Plan] = [await pruner.plan(), await pruner.plan(), await pruner.plan(force=True)]
    pruner.add_item(item("new"))
    plans.append(await pruner.plan())

    assert plans[0].id == plans[1].id
    assert len({one.id for one in plans}) == 3
