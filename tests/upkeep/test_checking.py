"""Laws of the check: what is sound passes, each kind of damage is named, and nothing changes."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.durable.directory import hold
from gateway.errors import ExitCode
from gateway.model import Message, Projection, ProjectionMode, Usage
from gateway.retention.erasing import erase
from gateway.sessions.adopting import adopt
from gateway.transcripts import projections
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from tests.support.state import START, create_all, entry, import_file, key_of, open_state
from tests.support.turns import PlayedAgent, answer, running_turns
from tests.support.upkeep import change, edit, found, look, overwrite, used_state

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
async def test_a_sound_state_passes_and_nothing_of_it_changes(
    tmp_path: Path, *, killed: bool
) -> None:
    path = await used_state(tmp_path / "state", killed=killed)
    assert ((path / "gateway.db-wal").exists()) is killed
    before = look(path)

    report = check_store(path)

    assert look(path) == before
    assert {finding.level for finding in report.findings} == {Level.OK}, report
    assert report.exit_code() == ExitCode.OK
    assert report.facts == {"entries": 3, "sequence": 12, "messages": 12}


async def test_a_wal_without_its_shared_memory_is_read_all_the_same(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state", killed=True)
    (path / "gateway.db-shm").unlink()
    before = look(path)

    report = check_store(path)

    assert look(path) == before
    assert report.facts["messages"] == 12


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
async def test_a_read_only_file_system_is_checked(tmp_path: Path, *, killed: bool) -> None:
    path = await used_state(tmp_path / "state", killed=killed)

    with read_only(path):
        report = check_store(path)

    assert {finding.level for finding in report.findings} == {Level.OK}, report
    assert report.facts["messages"] == 12


async def test_beside_a_store_in_use_there_is_no_false_alarm(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        for number in range(20):
            await bench.say(f"hello {number}", f"chat{number % 3}")
            if number % 4 == 3:
                await bench.state.store.snapshots.write()
            report = check_store(bench.state.path)
            assert not found(report, Level.WRONG), report
            assert not found(report, Level.WARNING), report
            assert report.facts["messages"] == 2 * number + 2


async def test_a_check_in_the_middle_of_snapshots_gives_no_false_alarm(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        await bench.say("first")
        stop = anyio.Event()
        written = bench.state.store.statistics().snapshot.written

        async def work() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                await bench.say(f"hello {number}", f"chat{number % 3}")
                await bench.state.store.snapshots.write()

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(work)
                while bench.state.store.statistics().snapshot.written < written + 12:
                    report = await anyio.to_thread.run_sync(check_store, bench.state.path)
                    assert not found(report, Level.WRONG), report
                stop.set()


async def counting(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
    """Answer with a call that was counted."""
    for event in answer(f"re: {messages[-1].text}", Usage(100, 20, 3, 4)):
        yield event


async def test_what_operators_do_is_no_damage(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    async with running_turns(path, PlayedAgent(counting)) as bench:
        store, database = bench.state.store, bench.state.database
        for chat in ("ann", "bob"):
            await bench.say("counted", chat)
        skipped = Projection("t", ProjectionMode.SKIP)
        session_id = bench.entry("bob").session_id
        await database.write(lambda tx: projections.keep(tx, session_id, [skipped], at="x"))
        await store.remove(key_of("bob"))
        await store.remove(key_of("ann"))
        await erase(database, store, key_of("ann"))
        await bench.say("back", "bob")
        await store.undo(key_of("bob"))
        await store.suspend(key_of("bob"))
        await store.prune_old_entries(1.0)
        report = check_store(path)

    assert {finding.level for finding in report.findings} == {Level.OK}, report
    assert any(one.text.startswith("2 sums, none below") for one in report.findings)


async def test_an_import_is_no_damage_before_and_after_its_first_start(tmp_path: Path) -> None:
    donor = await used_state(tmp_path / "donor")
    path = import_file(tmp_path / "state", (donor / "sessions.json").read_bytes())
    before = check_store(path)
    async with running_turns(path) as bench:
        await bench.say("here", "ann")
        await bench.state.store.reset(key_of("ann"))
        await bench.state.store.undo(key_of("ann"))

    after = check_store(path)

    for report in (before, after):
        assert report.exit_code() == ExitCode.OK, report
        assert found(report, Level.WARNING)


async def test_an_adopted_file_is_no_damage(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    old = (path / "sessions.json").read_bytes()
    async with running_turns(path) as bench:
        await bench.say("newer", "ann")
        await bench.state.store.create(entry("dan"))
    (path / "sessions.json").write_bytes(old)
    with hold(path, started_at=START) as directory:
        async with Database.open(path / "gateway.db", FakeClock()) as database:
            await adopt(directory, database, START)
    async with open_state(path):
        pass

    report = check_store(path)

    assert report.exit_code() == ExitCode.OK, report
    (fewer,) = [text for text in found(report, Level.WARNING) if text.startswith("turns")]
    assert "fewer turns" in fewer
    assert "neither ended nor an entry" in "".join(found(report, Level.WARNING))


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        pytest.param(
            "DELETE FROM messages WHERE position = (SELECT max(position) FROM messages)",
            "",
            id="half-a-turn-is-not-seen",
        ),
        pytest.param(
            "DELETE FROM messages WHERE turn_id = (SELECT max(turn_id) FROM messages)",
            "turns: 1 entries count more turns",
            id="turn-without-messages",
        ),
        pytest.param(
            "INSERT INTO messages (session_id, turn_id, role, text, created_at) SELECT session_id,"
            " 'x', 'user', '', started_at FROM sessions WHERE session_key LIKE '%:ann::'",
            "turns: 1 entries count fewer turns",
            id="turn-without-count",
        ),
        pytest.param(
            "DELETE FROM sessions WHERE session_key LIKE '%:ann::'",
            "turns: 1 entries are of sessions that the database has never had",
            id="session-without-row",
        ),
        pytest.param(
            "UPDATE sessions SET session_key = 'agent:main:http::dm:x::' "
            "WHERE session_key LIKE '%:ann::'",
            "session ids: 1 session ids belong to two keys",
            id="session-of-another-key",
        ),
        pytest.param(
            "UPDATE sessions SET ended_at = started_at WHERE session_key LIKE '%:ann::'",
            "turns: 1 entries go on with a session that has ended",
            id="ended-and-running",
        ),
        pytest.param(
            "UPDATE sessions SET ended_at = NULL",
            "sessions: 2 sessions have neither ended nor an entry",
            id="open-without-entry",
        ),
        pytest.param(
            "UPDATE sessions SET member = x'00' WHERE member IS NOT NULL",
            "ended sessions: 2 ended sessions have an entry that cannot be read",
            id="bad-ended-entry",
        ),
        pytest.param(
            "UPDATE messages SET session_id = 'nobody' WHERE role = 'assistant'",
            "transcripts: 1 sessions are known by their messages",
            id="orphans",
        ),
        pytest.param(
            "UPDATE messages SET role = 'ghost' WHERE role = 'user'",
            "transcripts: 6 messages cannot be read",
            id="role",
        ),
        pytest.param(
            "UPDATE messages SET tool_calls = '[' WHERE role = 'user'",
            "transcripts: 6 messages cannot be read",
            id="tool-calls",
        ),
        pytest.param(
            "UPDATE messages SET images = '[' WHERE role = 'user'",
            "transcripts: 6 messages cannot be read",
            id="images",
        ),
        pytest.param(
            "INSERT INTO projections (session_id, item, mode, max_chars, head_chars, tail_chars,"
            " placeholder, made_at) VALUES ('nobody', 't/c', 'clear', 0, 0, 0, 'gone', '')",
            "transcripts: 1 sessions are known by their messages, model calls or contexts only: "
            "nobody (projections)",
            id="projection-of-nobody",
        ),
        pytest.param(
            "INSERT INTO context_accounts (session_id, model, request_tokens, overhead_tokens,"
            " cache_verdict, rounds, trimmed, cleared, saved_tokens)"
            " VALUES ('nobody', '', 0, 0, '', 0, 0, 0, 0)",
            "transcripts: 1 sessions are known by their messages, model calls or contexts only: "
            "nobody (context_accounts)",
            id="account-of-nobody",
        ),
        pytest.param(
            "INSERT INTO projections (session_id, item, mode, max_chars, head_chars, tail_chars,"
            " placeholder, made_at) SELECT session_id, 't/c', 'fold', 0, 0, 0, '', ''"
            " FROM sessions LIMIT 1",
            "contexts: 1 projections cannot be read: position 1 (fold)",
            id="unknown-projection",
        ),
        pytest.param(
            "INSERT INTO session_users (session_id, user) VALUES ('nobody', 'u')",
            "transcripts: 1 sessions are known by their messages, model calls or contexts only: "
            "nobody (session_users)",
            id="user-of-no-session",
        ),
        pytest.param(
            "INSERT INTO summaries (session_id, through_turn, turns, text, agent, model,"
            " tokens_before, tokens_after, made_at)"
            " VALUES ('nobody', 't', 1, 'x', '', '', 0, 0, '')",
            "transcripts: 1 sessions are known by their messages, model calls or contexts only: "
            "nobody (summaries)",
            id="summary-of-no-session",
        ),
        pytest.param(
            "INSERT INTO summaries (session_id, through_turn, turns, text, agent, model,"
            " tokens_before, tokens_after, made_at)"
            " SELECT session_id, 't', 1, ' ', '', '', 0, 0, '' FROM sessions LIMIT 1",
            "contexts: 1 summaries say nothing, or of no turn: position 1 (",
            id="empty-summary",
        ),
        pytest.param(
            "UPDATE model_calls SET input_tokens = 10 WHERE position > 4",
            "usage: 1 days count fewer model calls than were recorded: "
            "2026-01-01 (main, played: 0 of 2)",
            id="calls-without-a-sum",
        ),
        pytest.param(
            "INSERT INTO usage (day, agent, model, user, calls, input_tokens, output_tokens,"
            " cache_read_tokens, cache_write_tokens, usd, unpriced_calls)"
            " VALUES ('2026-01-01', 'main', 'm', 'u', 1, 0, 0, -1, 0, 0, 0)",
            "usage: 1 sums of what was used cannot be right: 2026-01-01 (main, m)",
            id="sum-below-0",
        ),
        pytest.param(
            "INSERT INTO usage (day, agent, model, user, calls, input_tokens, output_tokens,"
            " cache_read_tokens, cache_write_tokens, usd, unpriced_calls)"
            " VALUES ('2 days ago', 'main', 'm', 'u', 1, 0, 0, 0, 0, 0, 0)",
            "usage: 1 sums of what was used cannot be right: 2 days ago (main, m)",
            id="sum-of-no-day",
        ),
        pytest.param(
            "INSERT INTO inbox (session_key, message_id, turn_id, agent, source, text, accepted_at)"
            " SELECT session_key, message_id, 'x', 'main',"
            """ '{"platform":"http","chat_id":"ann","chat_type":"dm"}', '', '' FROM outbox""",
            "inbox: 6 messages are answered, and still wait",
            id="answered-and-waiting",
        ),
        pytest.param(
            "INSERT INTO inbox (session_key, message_id, turn_id, agent, source, text, accepted_at)"
            " VALUES ('k', 'm', 't', 'main', '{', '', '')",
            "inbox: unanswered messages cannot be read",
            id="unreadable-inbox",
        ),
        pytest.param(
            "UPDATE outbox SET turn_id = 'nobody' WHERE message_id = 'last'",
            "outbox: 1 replies belong to turns that are in no transcript",
            id="reply-without-turn",
        ),
        pytest.param(
            "UPDATE outbox SET reply = '{' WHERE message_id = 'last'",
            "outbox: 1 stored replies cannot be read",
            id="reply",
        ),
        pytest.param(
            "UPDATE session_log SET member = x'7b' WHERE member IS NOT NULL",
            "session log: 2 rows of the session log cannot be read",
            id="log-row",
        ),
        pytest.param(
            "UPDATE session_log SET session_key = 'nokey'",
            "session log: 2 rows of the session log cannot be read",
            id="log-key",
        ),
        pytest.param(
            "UPDATE store_state SET value = 100 WHERE name = 'floor'",
            "sequence: sessions.json (12) is older",
            id="older",
        ),
        pytest.param(
            "DELETE FROM session_log",
            "sequence: sessions.json (12) is newer",
            id="log-without-its-newest-changes",
        ),
        pytest.param(
            "DROP TABLE outbox", "database: {path}/gateway.db: not the tables", id="no-table"
        ),
        pytest.param(
            "PRAGMA application_id = 7",
            "database: {path}/gateway.db: a SQLite database of another program",
            id="foreign",
        ),
    ],
)
async def test_what_does_not_fit_together_is_named(
    tmp_path: Path, statement: str, finding: str
) -> None:
    path = await used_state(tmp_path / "state")
    change(path, statement)

    report = check_store(path)

    wrong = found(report, Level.WRONG)
    if finding:
        assert any(text.startswith(finding.format(path=path)) for text in wrong), wrong
        assert report.exit_code() == ExitCode.DAMAGED_DATA
    else:
        assert not wrong


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        pytest.param(
            lambda path: overwrite(path / "sessions.json", 700, b"#"),
            "sessions.json: {path}/sessions.json: ",
            id="flipped",
        ),
        pytest.param(
            lambda path: (path / "sessions.json").write_bytes(b""),
            "sessions.json: {path}/sessions.json: byte 0: the file is empty",
            id="empty",
        ),
        pytest.param(
            lambda path: (path / "sessions.json").unlink(),
            "sequence: sessions.json is missing beside a database that was in use",
            id="missing",
        ),
        pytest.param(
            lambda path: overwrite(path / "sessions.json.prev", 700, b"#"),
            "sessions.json.prev: {path}/sessions.json.prev: ",
            id="prev",
        ),
        pytest.param(
            lambda path: edit(path, lambda raw: raw["sessions"].update({"x": {}})),  # type: ignore[attr-defined]
            "sessions.json: {path}/sessions.json: 1 entries are not valid: x",
            id="bad-entry",
        ),
        pytest.param(
            lambda path: overwrite(path / "gateway.db", 4096 * 3, bytes(4096)),
            "database: ",
            id="page",
        ),
        pytest.param(
            lambda path: overwrite(path / "gateway.db", 0, bytes(100)),
            "database: {path}/gateway.db: the database is damaged",
            id="header",
        ),
        pytest.param(
            lambda path: os.truncate(path / "gateway.db", 20_480),
            "database: {path}/gateway.db: the database is damaged",
            id="truncated",
        ),
        pytest.param(
            lambda path: os.truncate(path / "gateway.db", 0),
            "database: {path}/gateway.db: the file is empty",
            id="empty-database",
        ),
    ],
)
async def test_a_damaged_file_is_named(
    tmp_path: Path, damage: Callable[[Path], None], finding: str
) -> None:
    path = await used_state(tmp_path / "state")
    damage(path)
    before = look(path)

    report = check_store(path)

    assert look(path) == before
    wrong = found(report, Level.WRONG)
    assert any(text.startswith(finding.format(path=path)) for text in wrong), wrong
    assert report.exit_code() == ExitCode.DAMAGED_DATA


async def test_commits_lost_from_the_middle_of_the_wal_are_noticed(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state", killed=True)
    wal = path / "gateway.db-wal"
    overwrite(wal, wal.stat().st_size // 2, b"\xff" * 64)

    report = check_store(path)

    assert any("cannot be read any more" in text for text in found(report, Level.WRONG)), report


@pytest.mark.parametrize("name", ["lock", "token", "gateway.db", "."])
async def test_what_others_can_read_is_unsafe(tmp_path: Path, name: str) -> None:
    path = await used_state(tmp_path / "state")
    (path / "token").write_text("t")
    (path / "token").chmod(0o600)
    (path / name).chmod(0o750 if name == "." else 0o640)

    report = check_store(path)

    assert len(found(report, Level.UNSAFE)) == 1, report
    assert report.exit_code() == ExitCode.CONFIGURATION


async def test_a_dashboard_group_may_read_the_snapshot(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    path.chmod(0o710)
    (path / "sessions.json").chmod(0o640)

    assert found(check_store(path), Level.UNSAFE)
    assert {one.level for one in check_store(path, dashboard=True).findings} == {Level.OK}


async def test_a_database_of_a_newer_gateway_is_told_and_not_read(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    change(path, "PRAGMA user_version = 99")

    report = check_store(path)

    assert not found(report, Level.WRONG)
    assert "newer gateway" in found(report, Level.UNSAFE)[0]
    assert report.exit_code() == ExitCode.CONFIGURATION


async def test_many_places_are_counted_and_few_are_shown(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, [entry(f"chat{n}", turns=1) for n in range(50)])

    (text,) = found(check_store(tmp_path / "state"), Level.WRONG)

    assert text.startswith("turns: 50 entries count more turns than their transcript has: agent:")
    assert text.count("agent:") == 3
    assert text.endswith(", ...")


@contextmanager
def read_only(path: Path) -> Generator[None]:
    """Mount a directory read-only onto itself; skip, aloud, where that is not permitted."""
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "--bind", path, path], check=False).returncode:
        pytest.skip("NOT SHOWN: mounting is not permitted here")
    try:
        subprocess.run([mount, "-o", "remount,ro,bind", path], check=True)
        yield
    finally:
        subprocess.run(["umount", path], check=True)
