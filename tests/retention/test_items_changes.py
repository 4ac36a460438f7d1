"""Changes of items in a database: whole or not at all, audited, told, and always counted right."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.pruning import (
    AgeCondition,
    ArchiveAction,
    CompactAction,
    CountCondition,
    DeleteAction,
    PruningRule,
    SummarizeAction,
)
from gateway.pruning.items import Marks, with_marks
from gateway.pruning.records import RunStarted
from gateway.transcripts import items, pruned
from tests.retention.telling import (
    GRACE_S,
    NOW,
    calls,
    change,
    removal,
    result,
    says,
    stored,
    sums_agree,
    user,
)

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from gateway.pruning import PrunableItem
    from gateway.pruning.rules import Action
    from tests.retention.telling import Stored

LIMIT = PruningRule("count", "count", 0, (CountCondition(3),), DeleteAction())


async def _three(one: Stored) -> list[PrunableItem]:
    """Store three messages and the newest of all; return the three."""
    await one.tell(user("first"), says("second"), user("third"))
    await one.tell(user("last"), session="last", age_s=0)
    return list((await one.items.find(["1", "2", "3"])).values())


@pytest.mark.parametrize("action", [DeleteAction(), ArchiveAction()], ids=["delete", "archive"])
async def test_what_goes_is_held_whole_beside_the_audit(tmp_path: Path, action: Action) -> None:
    async with stored(tmp_path) as one:
        await one.tell(user("größer"), calls("c"), result("c"), says())
        await one.tell(user(), age_s=0)
        before = [
            await one.database.read(lambda place, at=at: items.original(place, at))  # type: ignore[misc]
            for at in range(1, 5)
        ]
        found = list((await one.items.find(["1", "2", "3", "4"])).values())

        assert not (await one.items.commit([removal(item, action) for item in found])).stale

        assert await one.rows("SELECT position FROM messages") == [(5,)]
        entries = await one.database.read(lambda place: pruned.page(place, limit=10))
        assert await one.originals() == before
    newest = entries[0]
    assert (newest.item, newest.run_id, newest.session_id) == (4, "run", "s")
    assert (newest.action, newest.state, newest.archive) == (action.kind, "held", None)
    assert newest.due_at == pruned.instant(NOW + timedelta(seconds=GRACE_S))
    assert newest.record is not None
    assert newest.record["before"] == {"items": 1, "size_bytes": 6, "tokens": 2}
    assert newest.record["after"] == {"items": 0, "size_bytes": 0, "tokens": 0}
    assert (newest.record["rule_id"], newest.record["reason"]) == ("rule", "age 2d > 1d")


@pytest.mark.parametrize(
    "action", [CompactAction(0.5), SummarizeAction()], ids=lambda one: one.kind
)
async def test_what_is_made_shorter_keeps_its_place_and_is_measured(
    tmp_path: Path, action: Action
) -> None:
    async with stored(tmp_path) as one:
        item, *_ = await _three(one)
        # What a caller believes it comes to is not what counts.
        after = with_marks(
            replace(item, content="fi", size_bytes=2, tokens=99), Marks("rule", NOW, ratio=0.5)
        )

        assert not (await one.items.commit([change(item, after, action)])).stale

        shorter = await one.item("1")
        assert (shorter.content, shorter.size_bytes, shorter.version) == ("fi", 2, 2)
        assert shorter.metadata["pruning"] == after.metadata["pruning"]
        assert shorter.created_at == item.created_at
        (entry,) = await one.database.read(lambda place: pruned.page(place, limit=10))
        assert entry.record is not None
        assert entry.record["after"] == {"items": 1, "size_bytes": 2, "tokens": shorter.tokens}
        held = await one.database.read(lambda place: pruned.original(place, entry.position))
        assert held is not None
        assert (held["text"], held["version"]) == ("first", 1)
        await sums_agree(one)


async def test_where_one_does_not_fit_nothing_is_done(tmp_path: Path) -> None:
    told: list[Collection[str]] = []
    async with stored(tmp_path) as one:
        one.items.on_changed = told.append
        first, second, third = await _three(one)
        gone = replace(third, id="000000000099")
        for wrong in (replace(second, version=7), gone, replace(second, id="x")):
            changes = [removal(item) for item in (first, wrong, third)]
            assert (await one.items.commit(changes)).stale == {wrong.id}
            assert (await one.items.commit(changes[::-1])).stale == {wrong.id}

        assert len(await one.rows("SELECT 1 FROM messages")) == 4
        assert await one.rows("SELECT 1 FROM pruned_items") == []
        assert await one.rows("SELECT 1 FROM pruning_runs") == []
        assert told == []


async def test_where_one_fails_nothing_is_done(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        first, second, third = await _three(one)
        without = replace(second, content=None)

        with pytest.raises(ValueError, match="without its content"):
            await one.items.commit(
                [removal(first), change(second, without, CompactAction(0.5)), removal(third)]
            )

        assert len(await one.rows("SELECT 1 FROM messages")) == 4
        assert await one.rows("SELECT 1 FROM pruned_items") == []
        await sums_agree(one)


async def test_marks_alone_are_no_matter_of_the_audit(tmp_path: Path) -> None:
    told: list[Collection[str]] = []
    async with stored(tmp_path) as one:
        one.items.on_changed = told.append
        item, *_ = await _three(one)
        after = with_marks(item, Marks("rule", NOW, summary="refused"))
        marked = replace(change(item, after, SummarizeAction()), record=None)

        assert not (await one.items.commit([marked])).stale

        found = await one.item("1")
        assert (found.version, found.content) == (2, "first")
        assert found.metadata["pruning"]["summary"] == "refused"
        assert await one.rows("SELECT 1 FROM pruned_items") == []
        assert await one.rows("SELECT 1 FROM pruning_runs") == []
        assert told == []


async def test_the_first_change_of_a_run_makes_its_row(tmp_path: Path) -> None:
    started = RunStarted("r1", NOW, "due", dry_run=False, force=False, session_id=None)
    async with stored(tmp_path) as one:
        first, second, third = await _three(one)
        runs = [one.items.run_id]
        for begun in (replace(started, run_id="dry", dry_run=True), started):
            one.items.begin_run(begun)
            runs.append(one.items.run_id)
        assert runs == [None, None, "r1"]
        assert await one.rows("SELECT 1 FROM pruning_runs") == []

        await one.items.commit([removal(first, run_id="r1")])
        await one.items.commit([removal(second, run_id="r1")])
        one.items.end_run()
        await one.items.commit([removal(third, run_id="r2")])

        rows = await one.database.read(lambda place: pruned.runs(place, limit=10))
        assert [(row.run_id, row.cause, row.status) for row in rows] == [
            ("r2", "apply", "running"),
            ("r1", "due", "running"),
        ]
        counted = await one.database.read(lambda place: pruned.sums_of_run(place, "r1"))
        assert (counted[0], one.items.run_id) == (2, None)


async def test_who_uses_a_session_is_told_once_its_change_is_there(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        await one.tell(user(), session="p")
        await one.tell(user(), session="q")
        await one.tell(user(), session="last")
        found = list((await one.items.find(["1", "2"])).values())
        told: list[Collection[str]] = []
        one.items.on_changed = told.append

        await one.items.commit([removal(item) for item in found])

        assert told == [{"p", "q"}]
        assert await one.rows("SELECT position FROM messages") == [(3,)]


async def test_who_is_cancelled_meanwhile_has_it_done_and_told(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        first, *_ = await _three(one)
        told: list[Collection[str]] = []
        one.items.on_changed = told.append

        async with anyio.create_task_group() as group:
            group.start_soon(one.items.commit, [removal(first)])
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

        assert told == [{"s"}]
        assert await one.rows("SELECT 1 FROM messages WHERE position = 1") == []


async def test_an_original_goes_back_to_where_it_was(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        await one.tell(user("größer"), calls("c"), result("c"), says())
        await one.tell(user(), age_s=0)
        before = await one.rows("SELECT * FROM messages")
        found = list((await one.items.find(["1", "2", "3", "4"])).values())
        await one.items.commit([removal(item) for item in found])

        for row in await one.originals():
            await one.put_back(row)

        assert await one.rows("SELECT * FROM messages") == before
        await sums_agree(one)


async def test_sums_are_right_after_every_kind_of_write(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        for turn in range(5):
            await one.tell(
                user("x" * turn), calls("c"), result("c", "ü" * turn), turn=f"t{turn}", age_s=99
            )
            await sums_agree(one)
        await one.tell(user(), session="other", age_s=50)
        await one.tell(user(), session="last", age_s=0)
        shortening = PruningRule("r", "r", 0, (AgeCondition(9),), CompactAction(0.5))
        pruner = one.manager(LIMIT, shortening)
        while (await pruner.prune(confirmed=True)).pruned_items:
            await sums_agree(one)
        there = {row[0] for row in await one.rows("SELECT position FROM messages")}
        held = await one.originals()
        gone = [row for row in held if row["position"] not in there]
        assert gone
        assert len(held) > len(gone)
        for row in gone:
            await one.put_back(row)
            await sums_agree(one)
        await one.run("DELETE FROM messages WHERE session_id = 's'")
        await sums_agree(one)

        assert await one.rows("SELECT session_id FROM item_totals ORDER BY 1") == [
            ("last",),
            ("other",),
        ]


async def test_what_is_said_between_plan_and_apply_stays(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        await one.tell(*[user() for _ in range(6)])
        await one.tell(user(), session="last", age_s=0)
        pruner = one.manager(LIMIT)
        plan = await pruner.plan()
        assert [action.item_id for action in plan.actions] == [f"{n:012}" for n in (1, 2, 3)]
        await one.tell(user(), user(), age_s=0)

        await pruner.apply(plan, confirmed=True)

        positions = await one.rows("SELECT position FROM messages WHERE session_id = 's'")
        assert positions == [(4,), (5,), (6,), (8,), (9,)]


async def test_what_changed_between_plan_and_apply_stays(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        await one.tell(*[user() for _ in range(6)])
        await one.tell(user(), session="last", age_s=0)
        pruner = one.manager(LIMIT)
        plan = await pruner.plan()
        await one.database.write(lambda tx: items.shorten(tx, 2, "less", "{}"))
        await one.run("DELETE FROM messages WHERE position = 3")

        done = await pruner.apply(plan, confirmed=True)

        assert [record.item_id for record in done.pruned_items] == ["000000000001"]
        assert {skip.item_id: skip.reason.value for skip in done.skipped_items} == {
            "000000000002": "changed",
            "000000000003": "gone",
        }
        await sums_agree(one)


async def test_turns_that_end_while_a_run_goes_on_are_not_touched(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        for turn in range(40):
            await one.tell(user(), calls("c"), result("c"), says(), turn=f"t{turn}")
        old = PruningRule("old", "old", 0, (AgeCondition(50),), DeleteAction())
        pruner = one.manager(old)
        async with anyio.create_task_group() as group:

            async def talk() -> None:
                for turn in range(40):
                    await one.tell(user(), says(), turn=f"new{turn}", age_s=0)

            group.start_soon(talk)
            await pruner.prune(confirmed=True)

        left = await one.rows("SELECT DISTINCT turn_id FROM messages")
        assert {row[0] for row in left} == {f"new{turn}" for turn in range(40)}
        await sums_agree(one)


async def test_a_second_run_takes_nothing_and_makes_no_row(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        await one.tell(*[user() for _ in range(6)])
        await one.tell(user(), session="last", age_s=0)
        pruner = one.manager(LIMIT)
        assert len((await pruner.prune(confirmed=True)).pruned_items) == 3

        again = await pruner.prune()

        assert again.pruned_items == ()
        assert len(await one.rows("SELECT 1 FROM pruning_runs")) == 1


async def test_what_has_no_content_is_found_out_once(tmp_path: Path) -> None:
    short = PruningRule("short", "short", 0, (AgeCondition(9),), CompactAction(0.5))
    async with stored(tmp_path) as one:
        await one.tell(calls("c"), result("c", ""), says(""))
        await one.tell(user(), age_s=0)
        pruner = one.manager(short)

        first, second = await pruner.prune(), await pruner.prune()

        assert first.stats.skipped_by_reason == {"no_gain": 3}
        assert second.stats.skipped_by_reason == {"already_applied": 3}
        assert await one.rows("SELECT 1 FROM pruned_items") == []
