"""Laws of sweeps beside others: what each leaves alone, how it goes on, and who gets a turn."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from gateway.model import AgentId, ModelCall, SessionId, TurnId
from gateway.retention.archiving import condemn_sessions, forget_sessions
from gateway.retention.keeping import LOOKED_AT, SWEEP_STEPS
from gateway.retention.removing import STEP_BYTES, STEP_ITEMS
from gateway.retention.settings import ItemPruningSettings
from gateway.sessions.history import stamp
from gateway.transcripts import archives, gone, graces, removed
from gateway.transcripts.graces import Due
from gateway.transcripts.pruned import instant
from gateway.transcripts.writing import append_model_calls
from tests.support.kept import KEEP, Store, disagreements, store

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.batch import Transaction

AN_HOUR = timedelta(hours=1)
KEY = "agent:main:http::dm:s::"


async def _entries(one: Store) -> list[tuple[int, str]]:
    return await one.rows("SELECT position, run_id FROM pruned_items ORDER BY 1")


async def test_the_position_of_an_entry_does_not_come_again_after_an_erasure(
    tmp_path: Path,
) -> None:
    async with store(tmp_path / "state") as one:
        erased, other = await one.say("erased"), await one.say("other", 2)
        await one.take(other[0], run="first")
        await one.take(*erased, run="second")
        await forget_sessions(one.archives, ["erased"])

        await one.take(other[1], run="third")

        assert await _entries(one) == [(1, "first"), (3, "third")]


async def test_the_position_of_an_entry_does_not_come_again_after_its_time(
    tmp_path: Path,
) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 3)
        await one.take(said[0], said[1], run="old")
        for days in (7, 400):
            one.later(days)
            await one.sweep()
        assert await _entries(one) == []

        await one.take(said[2], run="new")

        assert await _entries(one) == [(3, "new")]


async def test_the_position_of_an_entry_does_not_come_again_where_its_file_left_it_last(
    tmp_path: Path,
) -> None:
    async with store(tmp_path / "state") as one:
        erased, other = await one.say("erased"), await one.say("other", 2)
        await one.take(other[0], run="first")
        await one.take(*erased, action="archive", run="second")
        one.later(7)
        await one.sweep()
        await forget_sessions(one.archives, ["erased"])

        await one.take(other[1], run="third")

        assert await _entries(one) == [(1, "first"), (3, "third")]


async def test_what_is_due_is_let_go_only_where_the_entry_is_the_same(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 2)
        await one.take(said[0])
        one.later(8)
        now = instant(one.clock.now())
        due = await one.database.read(
            lambda place: graces.due_to_go(place, now, after=Due(), limit=9, max_bytes=1)
        )
        await one.run("DELETE FROM pruned_items")
        await one.take(said[1])
        await one.run("UPDATE pruned_items SET position = ?", due[0].position)

        assert await one.database.write(lambda tx: graces.purge(tx, due)) == 0
        assert await one.states() == {said[1]: "held"}
        assert len((await one.give_back(said[1])).items) == 1


async def test_an_entry_and_a_run_are_forgotten_only_where_they_are_the_same(
    tmp_path: Path,
) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 3)
        await one.take(said[0], run="old")
        one.later(400)
        await one.sweep()
        await one.take(said[1], run="new")
        await one.run("UPDATE pruned_items SET position = 1 WHERE run_id = 'new'")
        await one.run("UPDATE pruning_runs SET position = 1 WHERE run_id = 'new'")
        before = one.clock.now() - timedelta(days=365)

        def forget(transaction: Transaction) -> tuple[int, int]:
            entries = graces.forget(transaction, [1], before)
            return entries, graces.forget_runs(transaction, [1], one.clock.now() + AN_HOUR)

        # The run is old enough, but has an item.
        assert await one.database.write(forget) == (0, 0)
        assert await one.states() == {said[1]: "held"}
        held = one.clock.now() + AN_HOUR
        assert await one.database.write(lambda tx: graces.forget(tx, [1], held)) == 0
        await one.run("DELETE FROM pruned_items")
        assert await one.database.write(lambda tx: graces.forget_runs(tx, [1], before)) == 0
        assert await one.database.write(lambda tx: graces.forget_runs(tx, [1], held)) == 1


async def test_an_entry_of_another_file_stays_in_it(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 2)
        await one.take(said[0], action="archive")
        one.later(7)
        await one.sweep()

        gone_for_good = await one.database.write(lambda tx: archives.purge(tx, "other", [1]))

        assert gone_for_good == 0
        assert await one.states() == {said[0]: "archived"}
        assert len((await one.give_back(said[0])).items) == 1


async def test_a_model_call_goes_only_where_it_is_old_and_its_conversation_is_forgotten(
    tmp_path: Path,
) -> None:
    async with store(tmp_path / "state") as one:
        await one.say("s")
        for session, days in (("s", 0), ("forgotten", 0), ("forgotten", 9)):
            call = ModelCall("m", one.clock.now() + timedelta(days=days), None)
            write = partial(
                append_model_calls,
                session_id=SessionId(session),
                turn_id=TurnId("t"),
                agent=AgentId("a"),
                calls=[call],
                verdicts=["hit"],
            )
            await one.database.write(write)
        before = stamp(one.clock.now() + timedelta(days=1))

        went = await one.database.write(lambda tx: removed.forget_calls(tx, [1, 2, 3], before))

        assert went == 1
        assert await one.rows("SELECT position FROM model_calls") == [(1,), (3,)]


async def test_calls_stamped_in_the_future_do_not_keep_older_ones(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        await one.run(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600) "
            "INSERT INTO model_calls (session_id, turn_id, agent, model, started_at, "
            "cache_verdict, purpose) SELECT 'x', 't', 'a', 'm', "
            "CASE WHEN i <= 500 THEN '2999-01-01T00:00:00Z' ELSE ? END, 'hit', 'turn' FROM n",
            stamp(one.clock.now()),
        )
        one.later(366)

        assert (await one.sweep()).forgotten_records == 100


def _settings(**tree: object) -> ItemPruningSettings:
    return ItemPruningSettings.model_validate(tree)


@pytest.mark.parametrize(
    ("settings", "goes"),
    [
        pytest.param(_settings(), True, id="by default"),
        pytest.param(_settings(sessions={KEY: {}}), True, id="named"),
        pytest.param(_settings(enabled=False), False, id="off"),
        pytest.param(_settings(sessions={KEY: {"exempt": True}}), False, id="exempt"),
        pytest.param(
            _settings(sessions={"agent:main:http::dm:t::": {"exempt": True}}), True, id="another"
        ),
    ],
)
async def test_an_ended_conversation_goes_to_the_archive_unless_the_settings_exempt_it(
    tmp_path: Path, settings: ItemPruningSettings, *, goes: bool
) -> None:
    async with store(tmp_path / "state", keep=settings.keep) as one:
        said = await one.say("s", 3)
        await one.end("s")
        await one.say("empty")
        await one.run("DELETE FROM messages WHERE session_id = 'empty'")
        one.later(366)

        kept = await one.sweep()

        assert kept.moved_items == (3 if goes else 0)
        assert await one.present() == ([] if goes else said)


async def test_an_exempt_conversation_of_which_nothing_is_left_is_not_forgotten(
    tmp_path: Path,
) -> None:
    keep = replace(KEEP, exempt_keys=frozenset({KEY}))
    async with store(tmp_path / "state", keep=keep) as one:
        for name in ("s", "t"):
            await one.say(name)
            await one.end(name)
        await one.run("DELETE FROM messages")
        one.later(366)

        assert (await one.sweep()).forgotten_sessions == 1
        assert await one.rows("SELECT session_id FROM sessions") == [("s",)]


@pytest.mark.parametrize(
    ("count", "chars"),
    [
        pytest.param(STEP_ITEMS * SWEEP_STEPS + 1, 10, id="many"),
        pytest.param(SWEEP_STEPS + 1, STEP_BYTES, id="large"),
    ],
)
async def test_a_conversation_that_came_back_does_not_hold_up_the_next(
    tmp_path: Path, count: int, chars: int
) -> None:
    async with store(tmp_path / "state", keep=replace(KEEP, audit_s=None)) as one:
        back, later = await one.say("back", count, chars=chars), await one.say("later", 3)
        await one.say("live")
        await one.end("back")
        one.later(1 / 24)
        await one.end("later")
        marks = f'{{"restored_at": "{instant(one.clock.now() + timedelta(days=300))}"}}'
        await one.run("UPDATE messages SET marks = ? WHERE session_id = 'back'", marks)
        one.later(366)

        kept = [await one.keeping.work() for _ in range(3)]

        assert sum(sweep.moved_items for sweep in kept) == len(later)
        # Nothing is more to do where nothing was done.
        assert [sweep.more for sweep in kept if not sweep.moved_items] == [False] * 2
        assert (await one.present())[:count] == back
        one.later(300)
        # The first goes on where the last one ended, the second begins anew.
        assert sum([(await one.sweep()).moved_items for _ in range(2)]) == count


async def test_the_place_within_a_conversation_is_of_that_one_alone(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        low = await one.say("low", 3)
        high = await one.say("high", STEP_ITEMS * SWEEP_STEPS + 1, chars=10)
        await one.say("live")
        await one.end("high")
        one.later(1 / 24)
        await one.end("low")
        one.later(366)
        assert (await one.keeping.work()).moved_items == len(high) - 1
        await one.run("UPDATE sessions SET ended_at = NULL WHERE session_id = 'high'")

        assert (await one.keeping.work()).moved_items == len(low)


async def test_others_get_their_turn_while_a_file_is_written(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 1_001, chars=4_000)
        await one.take(*said[:-1], action="archive")
        one.later(7)
        seen: list[tuple[int, int]] = []

        async def between() -> None:
            ((files, archived),) = await one.rows(
                "SELECT (SELECT count(*) FROM archives), "
                "(SELECT count(*) FROM pruned_items WHERE state = 'archived')"
            )
            seen.append((files, archived))

        kept = await one.keeping.work(between)

        assert kept.archived_items == 1_000
        # Before the file is there, and again and again while its items move over to it.
        assert seen.count((0, 0)) > 10
        assert len({archived for files, archived in seen if files}) >= 20
    assert disagreements(one.path, one.texts, swept=True) == []


async def test_others_get_their_turn_in_all_that_a_sweep_does(tmp_path: Path) -> None:
    async with store(tmp_path / "state", keep=replace(KEEP, archive_s=10 * 86_400.0)) as one:
        said, calls = await one.say("s", 700), 0
        await one.say("live")
        await one.end("s")

        async def between() -> None:
            nonlocal calls
            calls += 1

        async def turns() -> int:
            nonlocal calls
            calls = 0
            await one.keeping.work(between)
            return calls

        await one.take(*said[:300])
        await one.take(*said[300:600], action="archive")
        one.later(7)
        assert await turns() >= 3 + 5 + 6
        one.later(10)
        # The file goes, fifty items at a time.
        assert await turns() >= 6
        one.later(350)
        # What is left of the conversation is moved, and most of the audit goes.
        assert await turns() >= 2 + 6
        assert len(await one.rows("SELECT 1 FROM pruned_items")) == 100


async def test_entries_stamped_in_the_future_do_not_keep_older_ones(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        await one.say("s")
        many = LOOKED_AT * SWEEP_STEPS + 50
        await one.run(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) "
            "INSERT INTO pruned_items (run_id, item, session_id, action, state, at, record) "
            "SELECT 'r', i + 9, 's', 'delete', 'purged', "
            "CASE WHEN i <= ?1 - 50 AND i > 150 THEN '2999' WHEN i <= 100 THEN '2999' ELSE ?2 END, "
            "'{}' FROM n",
            many,
            instant(one.clock.now()),
        )
        one.later(366)

        kept = [await one.keeping.work() for _ in range(3)]

        # A sweep looks at so many, and the next goes on from there.
        assert [(sweep.forgotten_records, sweep.more) for sweep in kept] == [
            (50, True),
            (50, False),
            (0, False),
        ]
        assert await one.rows("SELECT count(*), min(at) FROM pruned_items") == [
            (many - 100, "2999")
        ]
        assert await one.database.read(gone.audit_cut) is not None


async def test_an_entry_that_is_condemned_lets_no_other_have_its_position(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        first, second = await one.say("first"), await one.say("second", 2)
        await one.take(*first)
        await one.database.write(lambda tx: condemn_sessions(tx, ["first"]))

        await one.take(second[0])

        assert await one.rows("SELECT position, item FROM pruned_items") == [(2, second[0])]
