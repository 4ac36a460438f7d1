"""Rules over the transcripts of a gateway: when they run, what is kept of runs, who is told."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from gateway.clock import FakeClock
from gateway.errors import BadRequestError, ConflictError, NotFoundError, StorageError
from gateway.retention.pruning import ItemPruning
from gateway.retention.runs import note_end
from gateway.retention.settings import ItemPruningSettings
from gateway.retention.surroundings import TurnHooks
from gateway.transcripts.pruned import RunRow
from gateway.watcher import ExpiryWatcher, RetentionLimits
from tests.retention.telling import NOW, Stored, says, stored, user
from tests.support.state import open_state

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection
    from pathlib import Path

    from gateway.pruning import PruningProgress, PruningResult

KEY = "agent:main:http::dm:ann::"
OTHER = "agent:main:http::dm:bob::"
NO_PROTECTION = {"keep_newest": 0, "min_age": "0s", "restored": "0s", "settle": "0s"}
OLD = {
    "id": "old",
    "name": "What is old",
    "priority": 1,
    "conditions": [{"type": "age", "max_age": "1h"}],
    "action": {"type": "delete"},
}
MANY = {
    "id": "many",
    "name": "More than two",
    "priority": 1,
    "conditions": [{"type": "count", "max_count": 2}],
    "action": {"type": "archive"},
}


def rules(*some: dict[str, Any], **more: Any) -> ItemPruningSettings:  # noqa: ANN401 - settings
    given = {"protections": NO_PROTECTION, "max_share": 1.0, "rules": list(some)}
    return ItemPruningSettings.model_validate(given | more)


@dataclass
class Gateway:
    """A gateway's transcripts and the rules over them."""

    one: Stored
    pruning: ItemPruning
    changed: list[frozenset[str]] = field(default_factory=list)
    """Sessions, as they were told of."""
    live: dict[str, str] = field(default_factory=dict)

    async def conversation(self, session: str, key: str = KEY, *, age_s: float, turns: int) -> None:
        """Store a conversation of so many turns, two messages each."""
        await self.one.run(
            "INSERT OR IGNORE INTO sessions (session_id, session_key, started_at) VALUES (?, ?, ?)",
            session,
            key,
            NOW.isoformat(),
        )
        for turn in range(turns):
            name = f"{session}-{turn}"
            await self.one.tell(user(), says(), session=session, turn=name, age_s=age_s)

    async def left(self, session: str) -> int:
        rows = await self.one.rows("SELECT count(*) FROM messages WHERE session_id = ?", session)
        return int(rows[0][0])

    async def after(self, seconds: float) -> None:
        """Let time pass, and do what the watcher does."""
        await self.one.clock.advance(seconds)
        assert self.pruning.next_in_s() >= 0
        await self.pruning.work()


@asynccontextmanager
async def gateway(tmp_path: Path, settings: ItemPruningSettings) -> AsyncGenerator[Gateway]:
    async with stored(tmp_path) as one:
        told: list[frozenset[str]] = []
        live: dict[str, str] = {}

        def note(session_ids: Collection[str]) -> None:
            told.append(frozenset(session_ids))

        pruning = ItemPruning(
            one.database,
            one.clock,
            settings,
            tmp_path / "archive",
            turns=TurnHooks(lambda: live, note),
        )
        yield Gateway(one, pruning, told, live)


async def test_the_watcher_prunes_at_once_and_when_something_comes_due(tmp_path: Path) -> None:
    async with gateway(tmp_path, rules(OLD)) as here:
        await here.conversation("a", age_s=7_200, turns=1)
        await here.conversation("b", age_s=0, turns=1)
        assert here.pruning.next_in_s() == 0
        await here.pruning.work()
        first = await here.left("a"), await here.left("b")
        # Its age is over in an hour; looked is at least every five minutes.
        for _ in range(13):
            await here.after(here.pruning.next_in_s())

        assert first == (0, 3 - 1)
        assert await here.left("b") == 0


async def test_without_rules_nothing_is_ever_pruned(tmp_path: Path) -> None:
    async with gateway(tmp_path, ItemPruningSettings()) as here:
        await here.conversation("a", age_s=9_000_000, turns=3)
        for _ in range(5):
            await here.after(here.pruning.next_in_s())

        assert await here.left("a") == 6
        assert await here.pruning.runs(limit=10) == []


async def test_what_a_run_did_is_kept_and_told(tmp_path: Path) -> None:
    async with gateway(tmp_path, rules(MANY)) as here:
        await here.conversation("a", age_s=50, turns=2)
        await here.conversation("b", OTHER, age_s=40, turns=1)
        await here.pruning.work()

        (run,) = await here.pruning.runs(limit=10)
        rows = await here.pruning.history(limit=10, run=run.run_id)
        by_session = await here.pruning.history(limit=10, session=KEY)
        of_other = await here.pruning.history(limit=10, session=OTHER)
        of_item = await here.pruning.history(limit=10, item="1")
        with pytest.raises(NotFoundError, match="was pruned at 2026-01-01"):
            await here.pruning.explain("1")

    assert (run.cause, run.status, run.pruned) == ("due", "ok", 2)
    assert run.freed_bytes == sum(
        row.record["before"]["size_bytes"] for row in rows if row.record is not None
    )
    assert [(row.item, row.action, row.state) for row in rows] == [
        (2, "archive", "held"),
        (1, "archive", "held"),
    ]
    assert by_session == rows
    assert of_other == []
    assert [row.item for row in of_item] == [1]
    assert here.changed == [{"a"}]


async def test_a_run_that_was_cut_off_says_so(tmp_path: Path) -> None:
    async with gateway(tmp_path, rules(MANY)) as here:
        await here.conversation("a", age_s=50, turns=2)
        await here.one.run(
            "CREATE TEMP TRIGGER no_end BEFORE UPDATE ON pruning_runs BEGIN "
            "SELECT raise(ABORT, 'cut off'); END"
        )
        with pytest.raises(Exception, match="cut off"):
            await here.pruning.work()
        await here.one.run("DROP TRIGGER no_end")
        again = ItemPruning(here.one.database, here.one.clock, rules(MANY), tmp_path / "archive")

        (run,) = await again.runs(limit=10)

    assert (run.status, run.ended_at, run.pruned) == ("interrupted", None, 2)
    assert (run.freed_bytes, run.freed_tokens) == (len("questionanswer"), 4)


async def test_a_run_that_takes_too_much_is_refused_once_and_waits_for_a_yes(
    tmp_path: Path,
) -> None:
    async with gateway(tmp_path, rules(OLD, max_share=0.5)) as here:
        await here.conversation("a", age_s=7_200, turns=5)
        for _ in range(4):
            await here.after(here.pruning.next_in_s())
        runs = await here.pruning.runs(limit=10)
        left = await here.left("a")
        for _ in range(2):
            await here.pruning.prune()
        by_hand = await here.pruning.runs(limit=10)
        result = await here.pruning.prune(confirmed=True)

        assert [one.cause for one in by_hand] == ["apply", "apply", "due"]
        assert [(one.status, one.pruned) for one in runs] == [("refused", 0)]
        assert "max_share" in runs[0].detail
        assert left == 10
        assert result.stats.pruned_count == 10
        assert await here.left("a") == 0


async def test_a_session_of_its_own_rules_is_found_by_its_key(tmp_path: Path) -> None:
    settings = rules(MANY, sessions={KEY: {"exempt": True}})
    async with gateway(tmp_path, settings) as here:
        await here.conversation("a", age_s=50, turns=2)
        await here.conversation("b", OTHER, age_s=40, turns=2)
        await here.pruning.work()
        # Begun anew, it is another conversation of the same key.
        await here.conversation("c", age_s=10, turns=2)
        await here.conversation("d", OTHER, age_s=5, turns=2)
        await here.after(300)

        assert [await here.left(one) for one in "abcd"] == [4, 2, 4, 2]


async def test_what_is_held_goes_soon_after_its_grace(tmp_path: Path) -> None:
    async with gateway(tmp_path, rules(MANY, grace="7m")) as here:
        await here.conversation("a", age_s=50, turns=2)
        await here.pruning.work()
        await here.after(300)
        (run,) = await here.pruning.runs(limit=1)
        during = {row.state for row in await here.pruning.history(limit=9, run=run.run_id)}
        await here.after(300)
        after = {row.state for row in await here.pruning.history(limit=9, run=run.run_id)}

    assert (during, after) == ({"held"}, {"archived"})


async def test_settings_change_while_it_runs(tmp_path: Path) -> None:
    async with gateway(tmp_path, ItemPruningSettings()) as here:
        await here.conversation("a", age_s=50, turns=2)
        await here.pruning.work()
        here.pruning.reconfigure(rules(MANY))
        assert here.pruning.next_in_s() == 0
        await here.pruning.work()
        after_rules = await here.left("a")
        here.pruning.reconfigure(rules(OLD, enabled=False))
        await here.after(9_000)

        assert after_rules == 2
        assert await here.left("a") == 2
        assert not here.pruning.statistics().enabled


async def test_a_plan_is_applied_as_it_is(tmp_path: Path) -> None:
    async with gateway(tmp_path, rules(MANY)) as here:
        await here.conversation("a", age_s=50, turns=3)
        plan = await here.pruning.plan(session=KEY)
        heard: list[PruningProgress] = []
        result = await here.pruning.prune(plan=plan, on_progress=heard.append)
        again = await here.pruning.plan()

        planned = [one.item_id for unit in plan.units for one in unit]
        assert planned == [one.item_id for one in result.pruned_items]
        assert len(planned) == 4
        assert heard[-1].current == heard[-1].total == 4
        assert again.units == ()


async def test_a_key_means_the_conversation_that_runs(tmp_path: Path) -> None:
    async with gateway(tmp_path, rules(MANY)) as here:
        await here.conversation("a", age_s=50, turns=2)
        await here.conversation("b", age_s=40, turns=2)
        # As after an undo.
        await here.one.run("UPDATE sessions SET ended_at = '2026' WHERE session_id = 'b'")
        plan = await here.pruning.plan(session=KEY)

    assert plan.session_id == "a"


async def test_of_a_run_whose_row_is_lost_the_items_tell(tmp_path: Path) -> None:
    async with gateway(tmp_path, rules(MANY)) as here:
        await here.conversation("a", age_s=50, turns=2)
        result = await here.pruning.prune()
        await here.one.run("DELETE FROM pruning_runs")

        assert len(await here.pruning.history(limit=9, run=result.id)) == 2


async def test_a_dry_run_leaves_no_trace(tmp_path: Path) -> None:
    async with gateway(tmp_path, rules(MANY)) as here:
        await here.conversation("a", age_s=50, turns=3)
        result = await here.pruning.prune(dry_run=True)

        assert result.dry_run
        assert result.stats.pruned_count == 4
        assert await here.left("a") == 6
        assert await here.pruning.runs(limit=10) == []
        assert here.changed == []


async def test_a_session_with_a_turn_under_way_is_left_alone(tmp_path: Path) -> None:
    async with gateway(tmp_path, rules(MANY)) as here:
        await here.conversation("a", age_s=50, turns=2)
        await here.conversation("b", OTHER, age_s=40, turns=2)
        here.live["a"] = ""
        await here.pruning.work()
        during = await here.left("a"), await here.left("b")
        here.live.clear()
        await here.after(300)

        assert during == (4, 2)
        assert await here.left("a") == 2


async def test_who_asks_and_leaves_does_not_end_the_run(tmp_path: Path) -> None:
    async with gateway(tmp_path, rules(MANY)) as here:
        await here.conversation("a", age_s=50, turns=60)
        results: list[PruningResult] = []
        with anyio.CancelScope() as scope:
            results.append(await here.pruning.prune(on_progress=lambda _: scope.cancel()))

        assert await here.left("a") == 2
        (run,) = await here.pruning.runs(limit=10)
        assert (run.status, run.pruned) == ("ok", 118)


async def test_what_is_asked_wrongly_is_refused(tmp_path: Path) -> None:
    async with gateway(tmp_path, rules(MANY)) as here:
        await here.conversation("a", age_s=50, turns=1)
        with pytest.raises(NotFoundError, match="no session"):
            await here.pruning.plan(session="agent:main:http::dm:nobody::")
        with pytest.raises(NotFoundError):
            await here.pruning.explain("99")
        with pytest.raises(NotFoundError, match="no run 'nope'"):
            await here.pruning.history(limit=1, run="nope")
        with pytest.raises(BadRequestError):
            await here.pruning.explain("first")
        old = await here.pruning.plan()
        here.pruning.reconfigure(rules(OLD))
        with pytest.raises(ConflictError, match="other rules"):
            await here.pruning.prune(plan=old)


async def test_restored_items_are_told_of(tmp_path: Path) -> None:
    async with gateway(tmp_path, rules(MANY)) as here:
        await here.conversation("a", age_s=50, turns=2)
        await here.pruning.work()
        here.changed.clear()
        (run,) = await here.pruning.runs(limit=1)
        restored = await here.pruning.restore(run=run.run_id)

        assert [one.item_id for one in restored.items] == ["000000000002", "000000000001"] or [
            one.item_id for one in restored.items
        ] == ["000000000001", "000000000002"]
        assert await here.left("a") == 4
        assert here.changed == [{"a"}]
        assert {row.state for row in await here.pruning.history(limit=9)} == {"restored"}


async def test_a_run_that_fails_as_a_whole_is_kept(tmp_path: Path) -> None:
    async with gateway(tmp_path, rules(MANY)) as here:
        await here.conversation("a", age_s=50, turns=2)
        await here.one.run("ALTER TABLE item_totals RENAME TO nowhere")
        with pytest.raises(Exception, match="item_totals"):
            await here.pruning.prune(session="a")
        await here.one.run("ALTER TABLE nowhere RENAME TO item_totals")
        (run,) = await here.pruning.runs(limit=10)

    assert (run.cause, run.status, run.pruned) == ("apply", "failed", 0)
    assert run.ended_at is not None


async def test_of_a_session_that_was_erased_meanwhile_no_run_tells(tmp_path: Path) -> None:
    async with gateway(tmp_path, rules(MANY)) as here:
        await here.conversation("a", age_s=50, turns=2)
        await here.one.database.write(
            lambda tx: note_end(
                tx,
                RunRow(
                    "r",
                    "apply",
                    "2026",
                    "2026",
                    "ok",
                    record={"session_id": "gone", "force": False},
                ),
            )
        )
        await here.pruning.prune(session="a")
        runs = await here.pruning.runs(limit=10)

    assert [run.record["session_id"] for run in runs if run.record] == ["a", None]


async def test_what_is_held_outlives_a_wall_clock_that_steps(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_state(tmp_path, clock) as state:
        pruning = ItemPruning(state.database, clock, rules(MANY), tmp_path / "archive")
        one = Stored(state.database, pruning.items, clock)
        for turn in range(3):
            await one.tell(user(), says(), turn=str(turn))
        watcher = ExpiryWatcher(
            state.store, state.database, clock, RetentionLimits(90, 0), _nothing, pruning
        )
        async with anyio.create_task_group() as group:
            await group.start(watcher.run)
            with anyio.fail_after(30):
                while pruning.next_in_s() == 0:
                    await anyio.lowlevel.checkpoint()
            before = await one.rows("SELECT state FROM pruned_items")
            clock.step_wall(timedelta(days=8))
            for _ in range(13):
                await clock.advance(299)
                await anyio.wait_all_tasks_blocked()
            # An hour later the clock may be right again.
            clock.step_wall(timedelta(days=-8))
            during = await one.rows("SELECT state FROM pruned_items")
            group.cancel_scope.cancel()

    assert before == during == [("held",)] * 4
    assert watcher.statistics().clock_steps == 1


async def _nothing() -> int:
    return 0


async def test_a_broken_store_ends_the_duty_and_not_the_watcher(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_state(tmp_path, clock) as state:
        pruning = ItemPruning(state.database, clock, rules(MANY), tmp_path / "archive")
        calls = 0

        async def fails(_: object = None) -> None:
            nonlocal calls
            calls += 1
            raise StorageError("no")

        pruning.work = fails  # type: ignore[method-assign, assignment]
        watcher = ExpiryWatcher(
            state.store, state.database, clock, RetentionLimits(90, 0), _nothing, pruning
        )
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                await group.start(watcher.run)
                while not calls:
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()

        assert watcher.statistics().failures["items"] >= 1
        assert watcher.alive
