"""Laws of what becomes of pruned items, removed conversations and the audit when time passes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from gateway.durable.pages import RESERVE_PAGES
from gateway.errors import DamagedDataError
from gateway.model import AgentId, ModelCall, SessionId, TurnId, Usage
from gateway.retention.keeping import STEP_ROWS, SWEEP_STEPS
from gateway.retention.removing import LISTED, LISTS, RULE_ID, STEP_ITEMS
from gateway.retention.settings import KeepSettings
from gateway.sessions.history import stamp
from gateway.transcripts import gone, pruned, usage
from gateway.transcripts.pruned import RunRow
from gateway.transcripts.usage import UsageBy
from gateway.transcripts.writing import append_model_calls
from tests.support.kept import DAY_S, KEEP, Store, disagreements, store

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

FOR_EVER = replace(KEEP, archive_s=None, audit_s=None, removed_sessions_s=None)
FILLED = {
    "projections": "item mode max_chars head_chars tail_chars placeholder made_at",
    "context_accounts": (
        "model request_tokens overhead_tokens cache_verdict rounds trimmed cleared saved_tokens"
    ),
    "summaries": "through_turn turns text agent model tokens_before tokens_after made_at",
    "session_users": "user",
}
OF_SESSIONS = (*FILLED, "model_calls", "sessions")


@pytest.mark.parametrize("action", ["delete", "compact", "summarize"])
async def test_an_original_goes_when_its_grace_is_over_and_not_before(
    tmp_path: Path, action: str
) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 3)
        await one.take(said[0], action=action)
        one.later(6.999)
        assert (await one.sweep()).is_idle
        one.later(0.001)

        kept = await one.sweep()

        assert (kept.purged_items, kept.archived_items) == (1, 0)
        rows = await one.rows("SELECT state, due_at, archive FROM pruned_items")
        assert rows == [("purged", None, None)]
        assert await one.rows("SELECT * FROM pruned_originals") == []
        assert (await one.sweep()).is_idle
    assert disagreements(one.path, one.texts, swept=True) == []


async def test_what_the_grace_held_leaves_whole_pages_behind(tmp_path: Path) -> None:
    """Half-empty ones would stay until the audit goes, which is kept for much longer."""
    pages = "SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count"
    async with store(tmp_path / "state") as one:
        ((empty,),) = await one.rows(pages)
        said = await one.say("s", 600, chars=3_000)
        ((full,),) = await one.rows(pages)
        await one.take(*said[::2])
        await one.take(*said[1::2], action="archive")
        one.later(7)
        await one.sweep()
        ((left,),) = await one.rows(pages)
        assert set((await one.states()).values()) == {"purged", "archived"}

    # Of each item some 400 bytes are left, that say what was done and why.
    assert left - empty < (full - empty) / 5


async def test_a_sweep_is_bounded_and_tells_that_there_is_more(tmp_path: Path) -> None:
    many = STEP_ROWS * SWEEP_STEPS + 1
    async with store(tmp_path / "state") as one:
        await one.say("s")
        await one.run(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO pruned_items (run_id, item, session_id, action, state, at, due_at, "
            "record) SELECT 'r', i + 9, 's', 'delete', 'held', ?, ?, '{}' FROM n",
            many,
            *[pruned.instant(one.clock.now())] * 2,
        )

        kept = [await one.keeping.work() for _ in range(3)]

    assert [(one.purged_items, one.more) for one in kept] == [
        (many - 1, True),
        (1, False),
        (0, False),
    ]


async def test_others_write_between_the_steps_of_a_sweep(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 2_001, chars=1_000)
        await one.take(*said[:1_000], action="delete")
        await one.take(*said[1_000:2_000], action="archive")
        one.later(7)
        done = anyio.Event()
        writes = 0

        async def sweep() -> None:
            await one.sweep()
            done.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sweep)
            while not done.is_set():
                await one.run("UPDATE sessions SET end_reason = ?", str(writes))
                writes += 1
    # There are some 30 steps, and one write at least beside each.
    assert writes > 30


async def test_what_is_said_in_a_conversation_that_ended_long_ago_goes_to_the_archive(
    tmp_path: Path,
) -> None:
    async with store(tmp_path / "state") as one:
        old, recent, running = [await one.say(name, 60) for name in ("old", "recent", "running")]
        await one.end("old")
        one.later(1)
        await one.end("recent")
        told: list[Collection[str]] = []
        one.keeping.on_changed = told.append
        one.later(364)
        assert (await one.sweep()).is_idle
        one.later(0.1)

        kept = await one.sweep()

        assert (kept.moved_items, kept.archived_items) == (60, 0)
        assert {name for names in told for name in names} == {"old"}
        assert await one.present() == [*recent, *running]
        (run,) = await one.database.read(lambda place: pruned.runs(place, limit=9))
        sizes = sum(len(one.texts[item].encode()) for item in old)
        assert (run.cause, run.status, run.pruned) == ("retention", "ok", 60)
        assert run.freed_bytes == sizes
        (entry, *_) = await one.database.read(lambda place: pruned.page(place, limit=1))
        assert (entry.action, entry.state, entry.run_id) == ("archive", "held", run.run_id)
        assert entry.record is not None
        assert entry.record["rule_id"] == RULE_ID
        assert entry.record["after"] == {"items": 0, "size_bytes": 0, "tokens": 0}
        assert entry.record["before"]["size_bytes"] == len(one.texts[old[-1]].encode())

        one.later(7)
        kept = await one.sweep()
        # By now the other is old enough as well.
        assert (kept.moved_items, kept.archived_items) == (60, 60)
        assert len((await one.give_back(session="old")).items) == 60
    assert disagreements(one.path, one.texts, swept=True) == []


async def test_positions_of_moved_messages_are_not_given_out_again(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("old", 3)
        await one.end("old")
        one.later(366)
        assert (await one.sweep()).moved_items == 3
        assert await one.present() == []

        assert await one.say("new") == [said[-1] + 1]
        assert await one.database.read(gone.audit_cut) is None


async def test_a_conversation_that_goes_on_again_is_left_alone(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 5)
        await one.end("s")
        one.later(366)
        await one.run("UPDATE sessions SET ended_at = NULL")

        assert (await one.sweep()).is_idle
        assert await one.present() == said


async def test_a_conversation_that_goes_on_while_it_is_moved_keeps_the_rest(
    tmp_path: Path,
) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 400)
        await one.end("s")
        one.later(366)

        async def take_up() -> None:
            # After the first of its messages went.
            if len(await one.present()) < len(said):
                await one.run("UPDATE sessions SET ended_at = NULL")

        kept = await one.keeping.work(take_up)

        assert 0 < kept.moved_items < len(said)
        assert len(await one.present()) == len(said) - kept.moved_items
        assert (await one.sweep()).is_idle
    assert disagreements(one.path, one.texts, swept=True) == []


async def test_what_came_back_from_a_removed_conversation_counts_its_time_from_then(
    tmp_path: Path,
) -> None:
    async with store(tmp_path / "state", keep=replace(KEEP, audit_s=None)) as one:
        said = await one.say("s", 5)
        await one.end("s")
        one.later(366)
        await one.sweep()
        await one.give_back(said[1], said[2])

        assert (await one.sweep()).is_idle
        one.later(364)
        await one.sweep()
        assert await one.present() == said[1:3]
        one.later(2)
        assert (await one.sweep()).moved_items == 2
    assert disagreements(one.path, one.texts, swept=True) == []


async def _fill(one: Store, session: str, user: str) -> None:
    """Store something about a session in every table that has anything by session."""
    for table, columns in FILLED.items():
        names = columns.split()
        quoted = ", ".join(f'"{name}"' for name in names)
        await one.run(
            f"INSERT INTO {table} (session_id, {quoted}) "  # noqa: S608 - names of ours
            f"VALUES ({', '.join('?' * (len(names) + 1))})",
            session,
            *[user if name == "user" else 1 if _is_number(name) else "x" for name in names],
        )
    call = ModelCall("m", one.clock.now(), Usage(1, 2, 3, 4))
    await one.database.write(
        lambda tx: append_model_calls(
            tx, SessionId(session), TurnId("t"), AgentId("a"), [call], ["hit"]
        )
    )


def _is_number(name: str) -> bool:
    return (
        name in {"turns", "rounds", "trimmed", "cleared"}
        or "tokens" in name
        or name.endswith("_chars")
    )


async def _left(one: Store) -> dict[str, list[str]]:
    """Return the sessions that each table knows."""
    return {
        table: [
            row[0]
            for row in await one.rows(f"SELECT session_id FROM {table} ORDER BY 1")  # noqa: S608 - names of ours
        ]
        for table in OF_SESSIONS
    }


async def test_of_a_conversation_whose_last_item_is_gone_nothing_is_left(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        for name in ("old", "stays"):
            await one.say(name, 3)
            await _fill(one, name, f"of {name}")
        await one.end("old")
        day = stamp(one.clock.now())[:10]
        for name in ("old", "stays"):
            await one.run(
                "INSERT INTO usage VALUES (NULL, ?, 'a', 'm', ?, 1, 1, 1, 1, 1, 1.0, 0)",
                day,
                f"of {name}",
            )
        both = {table: ["old", "stays"] for table in OF_SESSIONS}
        for days in (366, 7, 364):
            one.later(days)
            await one.sweep()
            assert await _left(one) == both

        one.later(1)
        kept = await one.sweep()

        assert (kept.purged_items, kept.forgotten_sessions) == (3, 1)
        await one.sweep()
        assert await _left(one) == {table: ["stays"] for table in OF_SESSIONS}
        users = await one.database.read(lambda place: usage.read(place, by=UsageBy.USER))
        # What was used stays, in nobody's name.
        assert {(row.name, row.calls) for row in users} == {("", 1), ("of stays", 1)}


async def test_a_user_with_another_conversation_keeps_the_name(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        for name in ("old", "new"):
            await _fill(one, name, "ann")
            await one.say(name)
        await one.run("DELETE FROM messages WHERE session_id = 'old'")
        await one.run(
            "INSERT INTO usage VALUES (NULL, '2026-01-01', 'a', 'm', 'ann', 1, 1, 1, 1, 1, 1.0, 0)"
        )
        await one.end("old")
        one.later(366)

        assert (await one.sweep()).forgotten_sessions == 1
        users = await one.database.read(lambda place: usage.read(place, by=UsageBy.USER))
        assert [row.name for row in users] == ["ann"]


async def test_conversations_are_kept_for_ever_where_the_settings_say_so(tmp_path: Path) -> None:
    async with store(tmp_path / "state", keep=FOR_EVER) as one:
        said = await one.say("s", 3)
        await one.end("s")
        await one.take(said[0])
        one.later(7)
        await one.sweep()
        one.later(5_000)

        assert (await one.sweep()).is_idle
        assert await one.present() == said[1:]
        assert len(await one.rows("SELECT * FROM pruned_items")) == 1
        assert len(await one.rows("SELECT * FROM pruning_runs")) == 1


async def test_the_audit_goes_in_its_time_as_far_as_nothing_can_be_given_back(
    tmp_path: Path,
) -> None:
    async with store(tmp_path / "state", keep=replace(KEEP, archive_s=None)) as one:
        said = await one.say("s", 8)
        await one.take(said[0], said[1], action="delete", run="gone")
        await one.take(said[2], action="delete", run="kept")
        await one.take(said[3], action="archive", run="kept")
        await one.take(said[4], action="archive", run="back")
        await one.take(said[5], action="delete", run="back")
        refused = RunRow("refused", "due", pruned.instant(one.clock.now()), None, "refused")
        await one.database.write(lambda tx: pruned.end_run(tx, refused))
        await one.give_back(said[5])
        one.later(7)
        await one.sweep()
        await one.give_back(said[4])
        one.later(358)
        assert (await one.sweep()).is_idle
        one.later(0.1)

        kept = await one.sweep()

        runs = await one.rows("SELECT run_id FROM pruning_runs ORDER BY 1")
        assert [row[0] for row in runs] == ["back", "kept"]
        # A file has a copy of what came back: it must be found until the file goes.
        assert await one.states() == {said[3]: "archived", said[4]: "restored"}
        assert kept.forgotten_records == 6
        cut = await one.database.read(gone.audit_cut)
        assert cut is not None
        assert timedelta(0) <= cut - (one.clock.now() - timedelta(days=365)) < timedelta(seconds=1)
        assert (await one.sweep()).is_idle


async def test_the_file_of_the_database_gets_smaller_by_what_went(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 1_001, chars=20_000)
        path = one.path / "gateway.db"
        full = (await one.rows("PRAGMA page_count"))[0][0] * 4096
        await one.take(*said[:-1], action="delete")
        one.later(7)

        kept = await one.sweep()

        assert kept.purged_items == 1_000
        assert kept.freed_bytes > 0.7 * full
        assert path.stat().st_size < RESERVE_PAGES * 4096 + 2_000_000
        assert (await one.sweep()).is_idle
    assert disagreements(one.path, {said[-1]: one.texts[said[-1]]} | one.texts, swept=True) == []


SAY_MANY = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
    "INSERT INTO messages (session_id, turn_id, role, text, created_at) "
    "SELECT 's', 't-' || i, CASE i % 2 WHEN 0 THEN 'tool' ELSE 'user' END, 'said', ? FROM n"
)


async def test_a_long_conversation_is_moved_in_several_sweeps(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        await one.say("s")
        await one.end("s")
        await one.run(SAY_MANY, STEP_ITEMS * SWEEP_STEPS, stamp(one.clock.now()))
        one.later(366)

        kept = [await one.keeping.work() for _ in range(3)]

        assert [(one.moved_items, one.more) for one in kept] == [
            (STEP_ITEMS * SWEEP_STEPS, True),
            (1, False),
            (0, False),
        ]
        types = await one.rows(
            "SELECT record ->> '$.type', count(*) FROM pruned_items GROUP BY 1 ORDER BY 1"
        )
        assert types == [("message", 2_501), ("tool_result", 2_500)]
        runs = await one.rows("SELECT pruned, status FROM pruning_runs ORDER BY position")
        assert runs == [(5_000, "ok"), (1, "ok")]


async def test_many_conversations_are_forgotten_in_several_sweeps(tmp_path: Path) -> None:
    many = LISTED * LISTS + 1
    async with store(tmp_path / "state") as one:
        at = stamp(one.clock.now())
        # Those that ended first have something that can be given back.
        await one.run(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO sessions (session_id, session_key, started_at, ended_at) "
            "SELECT 's' || i, 'k', ?, ? FROM n",
            many,
            at,
            at,
        )
        await one.run(
            "INSERT INTO pruned_items (run_id, item, session_id, action, state, at, due_at, "
            "record) SELECT 'r', position, session_id, 'delete', 'held', "
            "'9999', '9999', '{}' FROM sessions WHERE position < ?",
            many - SWEEP_STEPS,
        )
        one.later(366)

        first = await one.keeping.work()
        rest = await one.keeping.work()

        assert (first.forgotten_sessions, first.more) == (SWEEP_STEPS, True)
        assert rest.forgotten_sessions == 1
        assert (await one.sweep()).is_idle


async def test_times_longer_than_there_is_time_are_for_ever(tmp_path: Path) -> None:
    endless = KeepSettings(1e9, 1e15, 1e15, 1e15)
    async with store(tmp_path / "state", keep=endless) as one:
        said = await one.say("s", 3)
        await one.end("s")
        await one.take(said[0], action="archive")
        one.later(1e9 / DAY_S)

        assert (await one.sweep()).archived_items == 1
        assert await one.rows("SELECT purge_at FROM archives") == [(None,)]
        one.later(100_000)
        assert (await one.sweep()).is_idle


async def test_a_message_that_cannot_be_read_is_passed_over_and_told(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 4)
        await one.end("s")
        await one.run("UPDATE messages SET tool_name = CAST(x'ff' AS TEXT) WHERE position = 2")
        one.later(366)

        kept = await one.sweep()

        assert kept.moved_items == 3
        assert kept.problems == (f"{one.path / 'gateway.db'}: messages 2: cannot be read",)
        assert await one.present() == [said[1]]


async def test_a_damaged_database_is_never_just_told(tmp_path: Path) -> None:
    path = tmp_path / "state"
    async with store(path) as one:
        await one.say("s", 300, chars=3_000)
        await one.end("s")
    data = bytearray((path / "gateway.db").read_bytes())
    place = data.index(b"s 200 ") + 50
    data[place] ^= 1
    (path / "gateway.db").write_bytes(data)
    async with store(path) as one:
        one.later(366)
        with pytest.raises(DamagedDataError, match=r"gateway\.db"):
            await one.sweep()


async def test_a_sweep_that_is_cancelled_anywhere_leaves_everything_in_one_place(
    tmp_path: Path,
) -> None:
    keep = replace(KEEP, grace_s=0.0, audit_s=None, removed_sessions_s=DAY_S)
    for yields in range(0, 120, 7):
        path = tmp_path / f"state-{yields}"
        async with store(path, keep=keep) as one:
            said = await one.say("s", 120)
            await one.say("old", 60)
            await one.end("old")
            await one.take(*said[:40], action="delete")
            await one.take(*said[40:100], action="archive")
            one.later(1.1)

            async def cancel(scope: anyio.CancelScope, yields: int = yields) -> None:
                for _ in range(yields):
                    await anyio.lowlevel.checkpoint()
                scope.cancel()

            async with anyio.create_task_group() as tasks:
                with anyio.CancelScope() as scope:
                    tasks.start_soon(cancel, scope)
                    await one.keeping.work()
            assert disagreements(path, one.texts, live=True) == []
            # What was moved by one sweep is archived by the next.
            for _ in range(2):
                await one.sweep()
            assert disagreements(path, one.texts, live=True, swept=True) == []
            assert "held" not in set((await one.states()).values())
