"""Laws of the check of what pruning took: each item in one place, each archive as written."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import anyio.to_thread
import orjson
import pytest

from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.durable.inspecting import reading
from gateway.errors import ExitCode
from gateway.transcripts.gone import note_audit_cut
from gateway.upkeep import pruning_rows
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from tests.support.pruned import AT
from tests.support.state import open_state
from tests.support.upkeep import change, found, look, overwrite
from tests.upkeep.pruning import CONTENT, FILE, PurgingDisk, pruned_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


LEAVE: Final = (
    "INSERT INTO pruned_originals SELECT {entry}, original FROM pruned_originals WHERE entry = 1"
)
"""Leaves what another item was where it was an original before."""


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
async def test_what_pruning_took_is_no_damage(tmp_path: Path, *, killed: bool) -> None:
    path = await pruned_state(tmp_path / "state", killed=killed)
    before = look(path)

    report = check_store(path)

    assert look(path) == before
    assert {finding.level for finding in report.findings} == {Level.OK}, report
    told = {one.check: one.text for one in report.findings}
    assert told["pruning"].startswith("6 items of 2 runs, each in one place; 1 runs do not say")
    assert told["archive"] == "1 files, each as it was written"
    assert report.facts["messages"] == 8


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        pytest.param(
            "UPDATE item_totals SET size_bytes = size_bytes + 1 "
            "WHERE session_id = (SELECT min(session_id) FROM item_totals)",
            "items: 1 sums over items are not those of the messages: ",
            id="size",
        ),
        pytest.param(
            "UPDATE item_totals SET tokens = 0",
            "items: 3 sums over items are not those of the messages: ",
            id="tokens",
        ),
        pytest.param(
            "DELETE FROM item_totals",
            "items: 3 sums over items are not those of the messages: ",
            id="no-sums",
        ),
        pytest.param(
            "INSERT INTO item_totals VALUES ('nobody', 'message', 3, 0, 0)",
            "items: 1 sums over items are not those of the messages: nobody (message)",
            id="sum-of-nothing",
        ),
        pytest.param(
            "UPDATE pruned_items SET state = 'lost' WHERE item = 3",
            "pruning: 1 rows about pruning cannot be read: pruned_items 3 (not a state)",
            id="state",
        ),
        pytest.param(
            "UPDATE pruned_items SET action = 'shred' WHERE item = 3",
            "pruning: 1 rows about pruning cannot be read: pruned_items 3 (not an action)",
            id="action",
        ),
        pytest.param(
            "UPDATE pruned_items SET record = '[' WHERE item = 3",
            "pruning: 1 rows about pruning cannot be read: pruned_items 3 (a record that is no",
            id="record",
        ),
        pytest.param(
            "UPDATE pruned_items SET session_id = '' WHERE item = 3",
            "pruning: 1 rows about pruning cannot be read: pruned_items 3 (of no run, item or",
            id="of-no-session",
        ),
        pytest.param(
            "UPDATE pruned_items SET due_at = 'soon' WHERE item = 1",
            "pruning: 1 rows about pruning cannot be read: pruned_items 1 (not an instant)",
            id="due",
        ),
        pytest.param(
            "DELETE FROM pruned_originals WHERE entry = 1",
            "pruning: 1 items are held without what they were: pruned_items 1",
            id="held-without-original",
        ),
        pytest.param(
            "UPDATE pruned_originals SET original = x'7b' WHERE entry = 1",
            "pruning: 1 rows about pruning cannot be read: pruned_originals 1 (not a row of",
            id="original",
        ),
        pytest.param(
            "UPDATE pruned_originals SET original = (SELECT original FROM pruned_originals "
            "WHERE entry = 6) WHERE entry = 1",
            "pruning: 1 items are held without what they were: pruned_items 1",
            id="original-of-another",
        ),
        pytest.param(
            "UPDATE pruned_items SET archive = (SELECT name FROM archives) WHERE item = 1",
            "pruning: 1 rows about pruning cannot be read: pruned_items 1 (held, and in an archive",
            id="held-in-an-archive",
        ),
        pytest.param(
            LEAVE.format(entry=3),
            "pruning: 1 originals are there of items that are not held: pruned_originals 3 (purged",
            id="purged-with-original",
        ),
        pytest.param(
            LEAVE.format(entry=2),
            "pruning: 1 originals are there of items that are not held: pruned_originals 2 (arch",
            id="archived-with-original",
        ),
        pytest.param(
            LEAVE.format(entry=5),
            "pruning: 1 originals are there of items that are not held: pruned_originals 5 (rest",
            id="restored-with-original",
        ),
        pytest.param(
            LEAVE.format(entry=99),
            "pruning: 1 originals are there of items that are not held: pruned_originals 99 (no",
            id="original-of-no-entry",
        ),
        pytest.param(
            "UPDATE pruned_items SET archive = '../token' WHERE item = 2",
            "pruning: 1 rows about pruning cannot be read: pruned_items 2 (in no archive)",
            id="another-folder",
        ),
        pytest.param(
            "UPDATE pruned_items SET archive = 'x.zst' WHERE item = 2",
            "pruning: 1 items are in archives that are not known: 1 in x.zst",
            id="unknown-archive",
        ),
        pytest.param(
            "UPDATE pruned_items SET archive = 'x.zst' WHERE item = 5",
            "pruning: 1 items are in archives that are not known: 1 in x.zst",
            id="copy-in-unknown-archive",
        ),
        pytest.param(
            "UPDATE pruned_items SET item = 6 WHERE item = 3",
            "pruning: 1 items are taken out, and in their transcripts: item 6 (purged)",
            id="taken-and-there",
        ),
        pytest.param(
            "INSERT INTO pruned_items (run_id, item, session_id, action, state, at, due_at, "
            "archive, record) SELECT run_id, item, session_id, action, state, at, "
            "due_at, archive, record FROM pruned_items WHERE item = 1",
            "pruning: 1 items are kept in two places: item 1",
            id="twice",
        ),
        pytest.param(
            "UPDATE pruned_items SET session_id = 'nobody' WHERE item = 2",
            "transcripts: 1 sessions are known by their messages, model calls or contexts only: "
            "nobody (pruned_items)",
            id="of-nobody",
        ),
        pytest.param(
            "UPDATE pruning_runs SET cause = 'fun' WHERE run_id = 'run-1'",
            "pruning: 1 rows about pruning cannot be read: pruning_runs 1 (not a run)",
            id="cause",
        ),
        pytest.param(
            "UPDATE pruning_runs SET status = 'ok' WHERE run_id = 'run-2'",
            "pruning: 1 rows about pruning cannot be read: pruning_runs 2 (not an end)",
            id="end",
        ),
        pytest.param(
            "UPDATE pruning_runs SET record = 'x'",
            "pruning: 2 rows about pruning cannot be read: pruning_runs 1 (a record that is no",
            id="run-record",
        ),
        pytest.param(
            "UPDATE archives SET sha256 = 'x'",
            "pruning: 1 rows about pruning cannot be read: archives 1 (not a file)",
            id="sha256",
        ),
        pytest.param(
            "UPDATE archives SET file_bytes = file_bytes + 1",
            f"archive: 1 archives are not as written: {{path}}/archive/{FILE} "
            f"({len(CONTENT)} bytes, {len(CONTENT) + 1} were written)",
            id="file-bytes",
        ),
        pytest.param(
            "UPDATE messages SET marks = '{' WHERE position = 7",
            "transcripts: 1 messages cannot be read: position 7 (user)",
            id="marks",
        ),
    ],
)
async def test_what_does_not_agree_is_named(tmp_path: Path, statement: str, finding: str) -> None:
    path = await pruned_state(tmp_path / "state")
    change(path, statement)

    report = check_store(path)

    wrong = found(report, Level.WRONG)
    assert any(text.startswith(finding.format(path=path)) for text in wrong), wrong
    assert report.exit_code() == ExitCode.DAMAGED_DATA


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        pytest.param(lambda file: file.unlink(), "archives are not there", id="missing"),
        pytest.param(
            lambda file: overwrite(file, 1_500_000, b"#"), "its check sum is wrong", id="flipped"
        ),
        pytest.param(lambda file: os.truncate(file, 9), "9 bytes, 2150000 were", id="truncated"),
        pytest.param(
            lambda file: file.symlink_to(file.rename(file.with_name("x"))),
            "archives are not as written",
            id="link",
        ),
    ],
)
async def test_an_archive_that_is_not_as_written_is_named(
    tmp_path: Path, damage: Callable[[Path], None], finding: str
) -> None:
    path = await pruned_state(tmp_path / "state")
    damage(path / "archive" / FILE)

    (text,) = found(check_store(path), Level.WRONG)

    assert text.startswith("archive: 1 ")
    assert finding in text
    assert FILE in text


async def test_files_that_no_row_names_are_told_and_no_fault(tmp_path: Path) -> None:
    path = await pruned_state(tmp_path / "state")
    for name in ("2026-01-02T000000Z-1.jsonl.zst", "2026-01-03T000000Z-1.jsonl.zst.tmp"):
        (path / "archive" / name).touch(mode=0o600)

    report = check_store(path)

    assert {finding.level for finding in report.findings} == {Level.OK}, report
    (told,) = [one.text for one in report.findings if one.check == "archive"]
    assert told.endswith("; 2 that no row names, which the next sweep takes away")


async def test_copies_of_restored_and_of_erased_items_in_files_are_no_fault(
    tmp_path: Path,
) -> None:
    path = await pruned_state(tmp_path / "state")
    name = "(SELECT name FROM archives)"
    change(path, f"UPDATE pruned_items SET archive = {name} WHERE item IN (3, 5)")  # noqa: S608 - texts of ours

    report = check_store(path)

    assert {finding.level for finding in report.findings} == {Level.OK}, report
    (told,) = [one.text for one in report.findings if one.check == "pruning"]
    assert told.endswith("; 1 of erased sessions wait to leave the archive")


async def test_an_archive_that_others_can_read_is_unsafe(tmp_path: Path) -> None:
    path = await pruned_state(tmp_path / "state")
    (path / "archive" / FILE).chmod(0o644)

    (text,) = found(check_store(path), Level.UNSAFE)

    assert text == f"modes: archive/{FILE}: mode 0644, accepted is 0600"


async def test_replies_of_a_conversation_that_was_forgotten_as_a_whole_are_no_damage(
    tmp_path: Path,
) -> None:
    path = await pruned_state(tmp_path / "state")
    change(
        path,
        "INSERT INTO outbox (session_key, message_id, turn_id, platform, reply, created_at) "
        "VALUES ('agent:main:http::dm:dan::', 'm', 't', 'http', '{\"status\":\"done\"}', "
        "'2026-01-02T00:00:00Z')",
    )
    change(path, "UPDATE pruned_items SET session_id = 'forgotten' WHERE item = 3")
    before = found(check_store(path), Level.WRONG)
    change(path, "UPDATE pruned_items SET at = '2026-01-03T00:00:00.000000Z' WHERE item = 3")

    after = found(check_store(path), Level.WRONG)

    assert before == ["outbox: 1 replies belong to turns that are in no transcript: t"]
    assert after == []


async def test_where_the_audit_is_gone_nobody_says_what_transcripts_lack(tmp_path: Path) -> None:
    path = await pruned_state(tmp_path / "state")
    audit = datetime.fromisoformat(AT)
    change(path, "DELETE FROM pruned_items", "DELETE FROM archives")

    without = found(check_store(path), Level.WRONG)
    async with Database.open(path / "gateway.db", FakeClock()) as database:
        await database.write(lambda tx: note_audit_cut(tx, audit - timedelta(days=1)))
    earlier = found(check_store(path), Level.WRONG)
    async with Database.open(path / "gateway.db", FakeClock()) as database:
        await database.write(lambda tx: note_audit_cut(tx, audit + timedelta(seconds=0.5)))
    noted = found(check_store(path), Level.WRONG)

    assert [text.split(": ")[0] for text in without] == ["turns", "outbox"], without
    assert earlier == without
    assert noted == []


async def test_an_archive_that_a_daemon_takes_away_meanwhile_is_no_false_alarm(
    tmp_path: Path,
) -> None:
    path = await pruned_state(tmp_path / "state")
    async with open_state(path) as state:
        disk = PurgingDisk(state)

        report = await anyio.to_thread.run_sync(partial(check_store, path, disk=disk))

    assert disk.purged
    assert {finding.level for finding in report.findings} == {Level.OK}, report
    assert [one.text for one in report.findings if one.check == "archive"] == [
        "0 files, each as it was written"
    ]


async def test_what_is_held_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contents are the most there is to read."""
    path = await pruned_state(tmp_path / "state")
    parsed = list[object]()

    def loads(text: bytes | str) -> object:
        parsed.append(text)
        return orjson.loads(text)

    double = SimpleNamespace(loads=loads, JSONDecodeError=orjson.JSONDecodeError)
    monkeypatch.setattr(pruning_rows, "orjson", double)

    check_store(path)

    with reading(path / "gateway.db", live=False) as connection:
        held = connection.execute("SELECT original FROM pruned_originals").fetchall()
    assert held
    assert [parsed.count(original) for (original,) in held] == [1] * len(held)
