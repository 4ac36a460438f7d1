"""Laws of the watcher: its times, the isolation of its duties, and its mailbox."""

from __future__ import annotations

import threading
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from gateway.access.pairing import Pairing
from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.errors import StorageError, StorageFullError
from gateway.model import ContextSource, SessionId
from gateway.retention.discarding import discard_old
from gateway.sessions.entry import encode_member
from gateway.watcher import PROBE_S, PRUNE_INTERVAL_S, RETRY_S, ExpiryWatcher, RetentionLimits
from tests.support.state import (
    START,
    create_all,
    entry,
    import_file,
    key_of,
    open_state,
    shown,
)
from tests.support.turns import full_disk, running_turns
from tests.support.watching import Discard, measured, watching

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.sessions.entry import SessionEntry

OLD = START - timedelta(days=91)


def poisoned_state(path: Path, *good: SessionEntry) -> Path:
    """Make a state directory whose snapshot is right but for one entry without its fields."""
    members = [b'"agent:main:http::dm:poison::":{"updated_at":"2025-01-01T00:00:00Z"}']
    members += map(encode_member, good)
    head = b'{"version":1,"sequence":0,"written_at":"2025-01-01T00:00:00Z","sessions":{\n'
    body = head + b",\n".join(members) + b"\n"
    check = b'},"check":{"entries":%d,"crc32":"%08x"}}\n' % (len(members), zlib.crc32(body))
    return import_file(path, body + check)


async def test_the_first_prune_comes_at_once_and_the_next_after_an_hour(tmp_path: Path) -> None:
    async with watching(tmp_path / "state", entry("old", updated_at=OLD)) as watched:
        assert watched.watcher.statistics().pruned == 1
        assert shown(tmp_path / "state") == {}

        await create_all(watched.state.store, [entry("older", updated_at=OLD)])
        await watched.pass_by(PRUNE_INTERVAL_S - 1)
        assert watched.watcher.statistics().next_prune_in_s == 1
        assert len(watched.state.store) == 1

        await watched.pass_by(1)
        await watched.pruned(2)
        assert watched.watcher.statistics().pruned == 2
        await watched.pass_by(PRUNE_INTERVAL_S)
        await watched.pruned(3)
        assert watched.watcher.statistics().last_prune_at == START + timedelta(hours=2)


_JUMPS = [
    timedelta(seconds=3_601),
    timedelta(hours=2),
    timedelta(days=3),
    timedelta(days=400),
    timedelta(days=50 * 365),
]


@pytest.mark.parametrize("step", [sign * jump for jump in _JUMPS for sign in (1, -1)], ids=str)
async def test_a_jump_of_the_wall_clock_puts_the_prune_off_by_exactly_one_tick(
    tmp_path: Path, step: timedelta
) -> None:
    async with watching(tmp_path / "state", entry("fresh")) as watched:
        with capture_logs() as logs:
            watched.clock.step_wall(step)
            await watched.pass_by(PRUNE_INTERVAL_S)
            # It may be at a snapshot yet.
            await watched.until(lambda: watched.watcher.statistics().clock_steps > 0)
            statistics = watched.watcher.statistics()
            assert (statistics.prunes, statistics.clock_steps) == (1, 1)
            assert statistics.next_prune_in_s == PRUNE_INTERVAL_S
            assert len(watched.state.store) == 1

            await watched.pass_by(PRUNE_INTERVAL_S)
            await watched.pruned(2)

        assert watched.watcher.statistics().clock_steps == 1
        assert len(watched.state.store) == (0 if step > timedelta(days=90) else 1)
        told = [line for line in logs if line["event"] == "clock.step"]
        assert [(line["log_level"], line["step_s"]) for line in told] == [
            ("warning", step.total_seconds())
        ]


@pytest.mark.parametrize("step", [timedelta(minutes=59), timedelta(minutes=-59)], ids=str)
async def test_a_small_step_of_the_wall_clock_puts_nothing_off(
    tmp_path: Path, step: timedelta
) -> None:
    async with watching(tmp_path / "state") as watched:
        watched.clock.step_wall(step)
        await watched.pass_by(PRUNE_INTERVAL_S)

        await watched.pruned(2)
        assert watched.watcher.statistics().clock_steps == 0


async def test_a_clock_that_jumps_at_every_tick_stalls_prunes_but_nothing_else(
    tmp_path: Path,
) -> None:
    async with watching(tmp_path / "state") as watched:
        for _ in range(5):
            watched.clock.step_wall(timedelta(days=1))
            await watched.pass_by(PRUNE_INTERVAL_S)
        assert watched.watcher.statistics().clock_steps == 5
        assert watched.watcher.alive

        written = watched.state.store.statistics().snapshot.written
        await create_all(watched.state.store, [entry("bob")])
        await watched.pass_by(1)
        await watched.until(lambda: watched.state.store.statistics().snapshot.written > written)
        await watched.pass_by(PRUNE_INTERVAL_S)
        await watched.pruned(2)


async def test_a_duty_that_raises_is_told_and_tried_again_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    async with watching(tmp_path / "state") as watched:
        watched.discard.failures = [RuntimeError("the shelf is stuck")]
        await create_all(watched.state.store, [entry("old", updated_at=OLD)])
        with capture_logs() as logs:
            await watched.pass_by(PRUNE_INTERVAL_S)
            await watched.pruned(2)
            await watched.until(lambda: bool(watched.watcher.statistics().failures))
            written = watched.state.store.statistics().snapshot.written
            await create_all(watched.state.store, [entry("bob")])
            await watched.pass_by(1)
            await watched.until(lambda: watched.state.store.statistics().snapshot.written > written)
            await watched.pass_by(PRUNE_INTERVAL_S)
            await watched.pruned(3)

        assert watched.watcher.statistics().failures == {"retention": 1}
        told = [line for line in logs if line["event"] == "watcher.duty_failed"]
        assert [(line["log_level"], line["duty"]) for line in told] == [("warning", "retention")]
        assert "the shelf is stuck" in told[0]["error"]
        assert watched.watcher.statistics().pruned == 1


async def test_a_prune_that_fails_is_tried_again_in_an_hour(tmp_path: Path) -> None:
    async with watching(tmp_path / "state") as watched:
        old = [entry(f"chat-{number}", updated_at=OLD) for number in range(200)]
        await create_all(watched.state.store, old)
        async with full_disk(watched.state.database):
            await watched.pass_by(PRUNE_INTERVAL_S)
            await watched.until(lambda: watched.discard.runs == 2)
            assert watched.watcher.statistics().failures["prune"] == 1
            assert watched.watcher.statistics().prunes == 1

        await watched.pass_by(PRUNE_INTERVAL_S)
        await watched.until(lambda: watched.watcher.statistics().prunes == 2)
        assert len(watched.state.store) == 0


async def test_a_callback_that_raises_protects_its_session_and_stops_nothing(
    tmp_path: Path,
) -> None:
    async with watching(tmp_path / "state") as watched:
        old = [entry(chat, updated_at=OLD) for chat in ("a", "b", "c")]
        await create_all(watched.state.store, old)

        def ask(key: str) -> bool:
            if key == key_of("b"):
                raise OSError("cannot list processes")
            return False

        watched.state.store.has_active_processes = ask
        await watched.pass_by(PRUNE_INTERVAL_S)
        await watched.pruned(2)

        assert [one.session_key for one in watched.state.store.entries()] == [key_of("b")]
        report = watched.state.store.statistics().last_prune
        assert report is not None
        assert report.kept_by_reason == {"callback_error": 1}
        assert watched.watcher.statistics().failures == {}


async def test_a_poisoned_entry_stops_neither_prune_nor_snapshot_nor_measurements(
    tmp_path: Path,
) -> None:
    path = poisoned_state(tmp_path / "state", entry("old", updated_at=OLD), entry("fresh"))
    async with watching(path) as watched:
        assert watched.watcher.statistics().pruned == 1
        assert watched.watcher.statistics().failures == {}

        watched.post("fresh", "main-fresh", 1)
        await watched.until(lambda: watched.watcher.statistics().measurements_pending == 0)
        watched.post("fresh", "main-fresh", 10, 2)
        watched.post("poison", "any", 20)
        watched.post("fresh", "main-fresh", 30, 3)
        await watched.until(lambda: watched.watcher.statistics().measurements_pending == 0)

        assert watched.entry("fresh").context_tokens == 30
        await watched.pass_by(1)
        await watched.until(lambda: shown(path)[key_of("fresh")].get("context_tokens") == 30)
        assert key_of("poison") in shown(path)


async def test_a_snapshot_is_written_when_something_changed_and_not_otherwise(
    tmp_path: Path,
) -> None:
    async with watching(tmp_path / "state", entry("alice")) as watched:
        store, path = watched.state.store, tmp_path / "state"

        def written() -> int:
            return store.statistics().snapshot.written

        await watched.pass_by(1)
        await watched.until(lambda: store.statistics().snapshot.sequence == 1)
        before = written()
        for prunes in (2, 3, 4):
            await watched.pass_by(PRUNE_INTERVAL_S)
            await watched.pruned(prunes)
        assert written() == before

        await store.update(key_of("alice"), lambda one: replace(one, turns=7))
        await watched.pass_by(0)
        await watched.until(lambda: written() > before)
        assert shown(path)[key_of("alice")]["turns"] == 7

        await store.update(key_of("alice"), lambda one: replace(one, turns=8))
        await store.update(key_of("alice"), lambda one: replace(one, turns=9))
        await watched.pass_by(0.5)
        assert written() == before + 1
        await watched.pass_by(0.5)
        await watched.until(lambda: written() > before + 1)
        assert shown(path)[key_of("alice")]["turns"] == 9
        assert written() == before + 2


async def test_a_snapshot_that_fails_is_counted_and_written_later(tmp_path: Path) -> None:
    path = tmp_path / "state"
    async with watching(path, entry("alice")) as watched:
        (path / "sessions.json.tmp").mkdir()
        with capture_logs() as logs:
            await watched.pass_by(1)
            await watched.until(lambda: "snapshot" in watched.watcher.statistics().failures)
        assert [line["log_level"] for line in logs if line.get("duty") == "snapshot"] == ["warning"]
        assert watched.watcher.alive

        (path / "sessions.json.tmp").rmdir()
        await watched.pass_by(1)
        await watched.until(lambda: set(shown(path)) == {key_of("alice")})


async def test_a_measurement_shows_at_once_and_is_durable_soon(tmp_path: Path) -> None:
    async with watching(tmp_path / "state", entry("alice")) as watched:
        before, release = watched.entry(), threading.Event()
        watched.state.database.submit(lambda _: release.wait(30))
        watched.post("alice", before.session_id, 1_234)

        assert watched.entry() == before
        seen = watched.watcher.view(before)
        assert (seen.context_tokens, seen.context_source) == (1_234, ContextSource.USAGE)

        release.set()
        await watched.until(lambda: watched.entry().context_tokens == 1_234)
        after = watched.entry()
        assert after == seen
        assert after.updated_at == before.updated_at
        assert after.total_tokens >= after.context_tokens
        assert watched.watcher.view(after) == after

    async with open_state(tmp_path / "state") as state:
        assert state.store.get(key_of()) == after


async def test_the_latest_of_many_measurements_wins(tmp_path: Path) -> None:
    async with watching(tmp_path / "state", entry("alice")) as watched:
        session_id = watched.entry().session_id
        for step in range(1, 1_001):
            watched.post("alice", session_id, 10 * step, step)
        assert watched.watcher.view(watched.entry()).context_tokens == 10_000

        await watched.until(lambda: watched.watcher.statistics().measurements_pending == 0)

        assert watched.entry().context_tokens == 10_000
        assert watched.entry().context_step == 1_000
        # The first went alone, all others together.
        assert watched.watcher.statistics().measurements_written == 2


async def test_an_older_measurement_changes_nothing(tmp_path: Path) -> None:
    async with watching(tmp_path / "state", entry("alice"), entry("bob")) as watched:
        session_id = watched.entry().session_id
        watched.post("bob", "main-bob", 1)  # keeps the writer at work, so that the others wait
        watched.post("alice", session_id, 500, 5)
        watched.post("alice", session_id, 400, 4)
        watched.post("alice", session_id, 501, 5)
        await watched.until(lambda: watched.watcher.statistics().measurements_pending == 0)
        watched.post("alice", session_id, 300, 3)
        assert watched.watcher.view(watched.entry()).context_tokens == 500
        await watched.until(lambda: watched.watcher.statistics().measurements_pending == 0)

        assert watched.entry().context_tokens == 500


async def test_a_measurement_of_another_session_id_changes_nothing(tmp_path: Path) -> None:
    async with watching(tmp_path / "state", entry("alice")) as watched:
        old = watched.entry()
        fresh = await watched.state.store.reset(old.session_key)

        watched.post("alice", old.session_id, 9_999, 9)
        assert watched.watcher.view(fresh) == fresh
        await watched.until(lambda: watched.watcher.statistics().measurements_pending == 0)

        assert watched.entry() == fresh


async def test_a_late_measurement_of_the_conversation_before_does_not_push_the_new_one_aside(
    tmp_path: Path,
) -> None:
    async with watching(tmp_path / "state", entry("alice"), entry("bob")) as watched:
        old = watched.entry()
        fresh = await watched.state.store.reset(old.session_key)
        watched.post("bob", "main-bob", 1)  # keeps the writer at work, so that both others wait
        watched.post("alice", fresh.session_id, 100, 1)
        watched.post("alice", old.session_id, 9_999, 9)
        await watched.until(lambda: watched.watcher.statistics().measurements_pending == 0)

        assert watched.entry().context_tokens == 100


async def test_a_number_of_one_agent_never_reaches_another_agents_entry(tmp_path: Path) -> None:
    entries = [entry("alice", agent=agent) for agent in ("main", "other")]
    async with watching(tmp_path / "state", *entries) as watched:
        other = watched.entry(agent="other")
        watched.post("alice", "main-alice", 1_111)
        watched.post("alice", "other-alice", 2_222, 2)
        await watched.until(lambda: watched.watcher.statistics().measurements_pending == 0)

        assert watched.entry(agent="main").context_tokens == 1_111
        assert watched.entry(agent="other") == other
        assert watched.watcher.view(other) == other


async def test_a_measurement_never_makes_an_entry(tmp_path: Path) -> None:
    async with watching(tmp_path / "state", entry("alice")) as watched:
        await watched.state.store.remove(key_of("alice"))
        watched.post("alice", "main-alice", 100)
        watched.post("nobody", "main-nobody", 100)
        await watched.until(lambda: watched.watcher.statistics().measurements_pending == 0)

        assert len(watched.state.store) == 0


async def test_a_write_that_fails_is_counted_told_and_tried_again(tmp_path: Path) -> None:
    chats = [f"chat-{number}" for number in range(200)]
    async with watching(tmp_path / "state", *map(entry, chats)) as watched:
        async with full_disk(watched.state.database):
            with capture_logs() as logs:
                for chat in chats:
                    watched.post(chat, f"main-{chat}", 100)
                await watched.until(lambda: "context" in watched.watcher.statistics().failures)
            told = [line for line in logs if line.get("duty") == "context"]
            assert [line["log_level"] for line in told] == ["warning"]
            watched.post("chat-7", "main-chat-7", 200, 2)
            assert watched.watcher.view(watched.entry("chat-7")).context_tokens == 200
            assert watched.watcher.view(watched.entry("chat-8")).context_tokens == 100
            assert watched.entry("chat-8").context_tokens == 0

        await watched.pass_by(RETRY_S)
        await watched.until(lambda: watched.watcher.statistics().measurements_pending == 0)
        assert watched.entry("chat-7").context_tokens == 200
        assert {watched.entry(chat).context_tokens for chat in chats[:7]} == {100}
        assert watched.watcher.statistics().failures == {"context": 1}


async def test_a_closed_database_harms_no_caller(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_state(tmp_path / "state", clock) as state:
        await create_all(state.store, [entry("alice")])
        async with Database.open(tmp_path / "other.db", clock) as closed:
            pass
        watcher = ExpiryWatcher(state.store, closed, clock, RetentionLimits(90, 0), Discard())
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                await group.start(watcher.run)
                watcher.post_context(key_of(), SessionId("main-alice"), measured(100))
                for failures, wait_s in ((1, 0), (2, RETRY_S), (3, RETRY_S), (4, RETRY_S)):
                    await clock.advance(wait_s)
                    # It may be at a snapshot yet.
                    while watcher.statistics().failures != {"context": failures}:
                        await anyio.lowlevel.checkpoint()
                assert watcher.statistics().measurements_pending == 1
                group.cancel_scope.cancel()


async def test_pending_measurements_are_durable_when_the_watcher_has_ended(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_state(tmp_path / "state", clock) as state:
        await create_all(state.store, [entry("alice"), entry("bob")])
        watcher = ExpiryWatcher(
            state.store, state.database, clock, RetentionLimits(90, 0), Discard()
        )
        async with anyio.create_task_group() as group:
            await group.start(watcher.run)
            for step in range(1, 100):
                watcher.post_context(key_of("alice"), SessionId("main-alice"), measured(step, step))
                watcher.post_context(key_of("bob"), SessionId("main-bob"), measured(step, step))
            group.cancel_scope.cancel()
        assert watcher.statistics().measurements_pending == 0

    async with open_state(tmp_path / "state") as state:
        for chat in ("alice", "bob"):
            found = state.store.get(key_of(chat))
            assert found is not None
            assert found.context_tokens == 99


async def test_a_fresh_wall_clock_of_any_year_prunes_by_age_alone(tmp_path: Path) -> None:
    clock = FakeClock(datetime(2999, 12, 31, tzinfo=UTC))
    fresh = entry("fresh", updated_at=clock.now() - timedelta(days=90))
    async with watching(tmp_path / "state", fresh, entry("old"), clock=clock) as watched:
        assert [one.session_key for one in watched.state.store.entries()] == [key_of("fresh")]


async def test_replies_leave_the_outbox_a_week_after_their_answer(tmp_path: Path) -> None:
    path = tmp_path / "state"
    async with running_turns(path) as bench:
        await bench.say("hello", message_id="m1")

    assert await _left_in_the_outbox(path, timedelta(days=7)) == 1
    assert await _left_in_the_outbox(path, timedelta(days=7, seconds=1)) == 0

    async with running_turns(path) as bench:
        assert not (await bench.submit("hello", message_id="m1")).duplicate


async def _left_in_the_outbox(path: Path, later: timedelta) -> int:
    """Return the rows of the outbox after the first tick of a watcher that starts then."""
    clock, discarded = FakeClock(START + later), anyio.Event()
    async with running_turns(path, clock=clock) as bench:
        store, database = bench.state.store, bench.state.database

        async def discard() -> int:
            count = await discard_old(database, clock, await Pairing.load(database, clock))
            discarded.set()
            return count

        watcher = ExpiryWatcher(store, database, clock, RetentionLimits(90, 0), discard)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                await group.start(watcher.run)
                await discarded.wait()
                group.cancel_scope.cancel()
        return await bench.count("outbox")


async def test_a_full_disk_is_asked_until_it_has_space_again(tmp_path: Path) -> None:
    async with watching(tmp_path / "state", entry("alice")) as watched:
        database = watched.state.database
        async with full_disk(database):
            for _ in range(2):
                # What first asks does so at once, and finds room for its own small row.
                await watched.until(lambda: not database.statistics().full)
                with pytest.raises(StorageFullError):
                    await database.write(
                        lambda tx: tx.execute(
                            "INSERT INTO session_log (session_key, member) "
                            "VALUES ('k', zeroblob(100000))"
                        )
                    )
            assert database.statistics().full

        await watched.pass_by(PROBE_S)
        await watched.until(lambda: not database.statistics().full)


async def test_a_prune_that_an_error_ends_still_tells_what_it_dropped(tmp_path: Path) -> None:
    path = tmp_path / "state"
    async with open_state(path) as state:
        await create_all(state.store, [entry("alice", updated_at=OLD), entry("bob")])
        (path / "sessions.json.tmp").mkdir()
        with capture_logs() as logs, pytest.raises(StorageError):
            await state.store.prune_old_entries(90)
        (path / "sessions.json.tmp").rmdir()

        (told,) = [line for line in logs if line["event"] == "session.pruned"]
        assert (told["pruned"], told["complete"]) == (1, False)
        assert state.store.statistics().last_prune is not None
        assert len(state.store) == 1
