"""Laws of the salvage: what can be read is kept, the rest is told, and the result starts."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from gateway.clock import FakeClock
from gateway.durable.directory import hold
from gateway.errors import AlreadyRunningError, ConflictError, DamagedDataError, DatabaseTooNewError
from gateway.transcripts import inbox
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from gateway.upkeep.salvage import salvage
from tests.support.messages import inbox_row
from tests.support.state import START, create_all, entry, key_of, open_state, power_cut
from tests.support.turns import running_turns
from tests.support.upkeep import change, edit, overwrite, shown_entries, used_state
from tests.upkeep.salvaging import ruined_and_salvaged, salvaged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ALL = {
    "sessions": 5,
    "messages": 12,
    "model_calls": 6,
    "projections": 0,
    "context_accounts": 0,
    "summaries": 0,
    "session_users": 0,
    "usage": 0,
    "inbox": 0,
    "broken_starts": 0,
    "processes": 0,
    "outbox": 6,
    "outbox_chats": 0,
    "pairing_requests": 0,
    "pairing_locks": 0,
    "paired_users": 0,
    "pruning_runs": 0,
    "pruned_items": 0,
    "pruned_originals": 0,
    "archives": 0,
    "api_tokens": 0,
    "webhook_events": 0,
}


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
async def test_of_a_sound_state_nothing_is_given_up(tmp_path: Path, *, killed: bool) -> None:
    path = await used_state(tmp_path / "state", killed=killed)
    (path / "token").write_text("secret")

    made = await salvaged(path, tmp_path / "new")

    assert made.complete
    assert made.rows == ALL
    assert made.sequence == 12
    assert (tmp_path / "new" / "token").read_text() == "secret"
    assert {one.level for one in check_store(tmp_path / "new").findings} == {Level.OK}
    assert await shown_entries(tmp_path / "new") == await shown_entries(path)


def ruin_snapshot(path: Path) -> None:
    os.truncate(path / "sessions.json", 900)


def ruin_both_snapshots(path: Path) -> None:
    for name in ("sessions.json", "sessions.json.prev"):
        overwrite(path / name, (path / name).read_bytes().index(b'"turns":'), b"#####")


def drop_both_snapshots(path: Path) -> None:
    for name in ("sessions.json", "sessions.json.prev"):
        (path / name).unlink()


def nonsense_database(path: Path) -> None:
    (path / "gateway.db").write_bytes(random.Random(1).randbytes(20_000))


def page_of(path: Path, table: str, offset: int = 0) -> None:
    """Destroy the page at the root of a table, or one after it."""
    with closing(sqlite3.connect(path / "gateway.db")) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)
        ).fetchone()
    overwrite(path / "gateway.db", (root - 1 + offset) * 4096, b"\xa5" * 4096)


@pytest.mark.parametrize(
    ("damage", "given_up", "left"),
    [
        pytest.param(ruin_snapshot, [], {"ann", "bob", "cid"}, id="snapshot-the-log-makes-up"),
        pytest.param(
            ruin_both_snapshots,
            ["sessions.json", "sessions.json.prev"],
            {"ann", "bob", "cid"},
            id="both-snapshots-ruined",
        ),
        pytest.param(
            drop_both_snapshots,
            ["sessions.json", "entries"],
            {"ann", "bob", "cid"},
            id="both-snapshots-gone",
        ),
        pytest.param(
            lambda path: (path / "gateway.db").unlink(),
            ["gateway.db"],
            {"ann", "bob", "cid"},
            id="no-database",
        ),
        pytest.param(nonsense_database, ["gateway.db"], {"ann", "bob", "cid"}, id="nonsense"),
        pytest.param(
            lambda path: os.truncate(path / "gateway.db", 0),
            ["gateway.db"],
            {"ann", "bob", "cid"},
            id="empty-database",
        ),
        pytest.param(
            lambda path: page_of(path, "messages"),
            ["gateway.db: messages"],
            {"ann", "bob", "cid"},
            id="messages",
        ),
        pytest.param(
            lambda path: page_of(path, "sessions"),
            ["gateway.db: sessions"],
            {"ann", "bob", "cid"},
            id="sessions",
        ),
        pytest.param(
            lambda path: page_of(path, "outbox"),
            ["gateway.db: outbox"],
            {"ann", "bob", "cid"},
            id="outbox",
        ),
        pytest.param(
            lambda path: page_of(path, "session_log"),
            ["gateway.db: session_log"],
            {"ann", "bob", "cid"},
            id="log",
        ),
        pytest.param(
            lambda path: page_of(path, "sessions_by_key"), [], {"ann", "bob", "cid"}, id="index"
        ),
        pytest.param(
            lambda path: page_of(path, "store_state"), [], {"ann", "bob", "cid"}, id="state"
        ),
        pytest.param(
            lambda path: change(path, "DROP TABLE outbox"),
            ["gateway.db: outbox"],
            {"ann", "bob", "cid"},
            id="no-table",
        ),
        pytest.param(
            lambda path: change(path, "PRAGMA application_id = 7"),
            [],
            {"ann", "bob", "cid"},
            id="mark",
        ),
        pytest.param(
            lambda path: change(path, "PRAGMA user_version = 1000000"),
            [],
            {"ann", "bob", "cid"},
            id="version",
        ),
        pytest.param(
            lambda path: change(path, "UPDATE messages SET role = 'ghost' WHERE role = 'user'"),
            ["gateway.db: messages"],
            {"ann", "bob", "cid"},
            id="roles",
        ),
        pytest.param(
            lambda path: edit(path, lambda raw: raw["sessions"].update({"x": {}})),  # type: ignore[attr-defined]
            ["sessions.json"],
            {"ann", "bob", "cid"},
            id="bad-entry",
        ),
    ],
)
async def test_what_is_left_is_kept_and_the_rest_is_told(
    tmp_path: Path, damage: Callable[[Path], None], given_up: list[str], left: set[str]
) -> None:
    path = await used_state(tmp_path / "state")
    damage(path)

    made = await salvaged(path, tmp_path / "new")

    places = {loss.place for loss in made.given_up if not loss.what.startswith("certainty")}
    assert places - {"entries"} == set(given_up) - {"entries"}, made.given_up
    assert {key.split(":")[5] for key in await shown_entries(tmp_path / "new")} == left
    lost = {place.partition(": ")[2] for place in given_up}
    whole = dict.fromkeys(ALL, 0) | {"sessions": 3} if "gateway.db" in given_up else ALL
    assert {t: n for t, n in made.rows.items() if t not in lost} == {
        t: n for t, n in whole.items() if t not in lost
    }


async def test_the_newest_valid_entry_of_a_key_wins(tmp_path: Path) -> None:
    """Of two ruined snapshots and a ruined log, each key has its newest entry that can be read."""
    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, [entry(name) for name in ("a", "b", "c", "d")])
        await state.store.snapshots.write()
        for name in ("a", "b", "c"):
            await state.store.update(key_of(name), lambda one: one.changed(display_name="second"))
        await state.store.snapshots.write()
        for name in ("a", "b"):
            await state.store.update(key_of(name), lambda one: one.changed(display_name="third"))
        await state.store.remove(key_of("d"))
        path = power_cut(state, tmp_path / "left")
    lines = (path / "sessions.json").read_bytes().splitlines(keepends=True)
    broken = [
        line.replace(b'"turns":0', b'"turns":#') if b":c::" in line else line for line in lines
    ]
    (path / "sessions.json").write_bytes(b"".join(broken))
    (path / "sessions.json.prev").unlink()
    change(path, "UPDATE session_log SET member = x'00' WHERE sequence = 8")

    made = await salvaged(path, tmp_path / "new")

    async with open_state(tmp_path / "new") as state:
        names = {one.source.chat_id: one.display_name for one in state.store.entries()}
    # The third of a is ruined; the line of c is, but the log has that change as well; d is removed.
    assert names == {"a": "second", "b": "third", "c": "second"}
    assert {loss.place for loss in made.given_up} >= {"sessions.json", "gateway.db: session_log"}


async def test_rows_that_vanish_without_an_error_are_not_passed_over(tmp_path: Path) -> None:
    """A page says how many rows it has; where it says too few, SQLite reads on without a word."""
    path = await used_state(tmp_path / "state")
    with closing(sqlite3.connect(path / "gateway.db")) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'messages'"
        ).fetchone()
    overwrite(path / "gateway.db", (root - 1) * 4096 + 3, b"\0\4")

    made = await salvaged(path, tmp_path / "new")

    assert made.rows["messages"] == 4
    assert any("rows may be missing" in loss.what for loss in made.given_up)


async def test_a_removed_session_does_not_come_back(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        await bench.say("one", "ann")
        await bench.say("one", "bob")
        await bench.state.store.snapshots.write()
        await bench.state.store.remove(key_of("bob"))
        path = power_cut(bench.state, tmp_path / "left")
    drop_both_snapshots(path)

    await salvaged(path, tmp_path / "new")

    assert set(await shown_entries(tmp_path / "new")) == {key_of("ann")}


async def test_an_entry_without_any_copy_is_rebuilt_from_its_transcript(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    entries = await shown_entries(path)
    drop_both_snapshots(path)
    change(path, "DELETE FROM session_log")

    made = await salvaged(path, tmp_path / "new")

    assert made.entries_rebuilt == 3
    assert await shown_entries(tmp_path / "new") == entries
    assert [loss.count for loss in made.given_up if loss.place == "entries"] == [3]


async def test_a_message_that_waits_for_its_answer_is_still_answered(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    async with open_state(path) as state:
        await state.database.write(lambda tx: inbox.accept(tx, inbox_row(7, "ann", text="owed")))
    ruin_snapshot(path)

    made = await salvaged(path, tmp_path / "new")

    assert made.rows["inbox"] == 1
    async with running_turns(tmp_path / "new") as bench:
        await bench.turns.drain()
        assert ("assistant", "re: owed") in await bench.said(chat="ann")


async def test_without_its_wal_a_database_is_read_as_of_its_last_checkpoint(
    tmp_path: Path,
) -> None:
    path = await used_state(tmp_path / "state", killed=True)
    wal = path / "gateway.db-wal"
    overwrite(wal, wal.stat().st_size // 2, b"\xff" * 64)

    made = await salvaged(path, tmp_path / "new")

    assert [loss.place for loss in made.given_up if "-wal" in loss.place] == ["gateway.db-wal"]
    assert made.rows["messages"] >= 2


async def test_nothing_readable_is_never_an_empty_store(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    nonsense_database(path)
    drop_both_snapshots(path)

    with pytest.raises(DamagedDataError, match="nothing in it can be read"):
        await salvage(path, tmp_path / "new", FakeClock())

    assert not list(tmp_path.glob("new*"))


async def test_a_held_state_and_a_taken_name_and_a_newer_version_are_refused(
    tmp_path: Path,
) -> None:
    path = await used_state(tmp_path / "state")
    with hold(path, started_at=START), pytest.raises(AlreadyRunningError):
        await salvage(path, tmp_path / "new", FakeClock())
    with pytest.raises(ConflictError):
        await salvage(path, path, FakeClock())
    change(path, "PRAGMA user_version = 99")
    with pytest.raises(DatabaseTooNewError):
        await salvage(path, tmp_path / "new", FakeClock())

    assert not list(tmp_path.glob("new*"))


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_is_ruined_the_result_starts(tmp_path: Path, seed: int) -> None:
    path = await used_state(tmp_path / "state", killed=bool(seed % 2))

    await ruined_and_salvaged(path, tmp_path / "new", seed)


@pytest.mark.torture
@pytest.mark.parametrize("hundred", range(10, 20))
async def test_whatever_is_ruined_the_result_starts_many_times(
    tmp_path: Path, torture_count: Callable[[str, int], None], hundred: int
) -> None:
    states = [await used_state(tmp_path / f"s{n}", killed=bool(n)) for n in (0, 1)]
    for seed in range(hundred * 100, (hundred + 1) * 100):
        path = shutil.copytree(states[seed % 2], tmp_path / "ruined")
        try:
            await ruined_and_salvaged(path, tmp_path / "new", seed)
        except DamagedDataError as error:
            # Seldom nothing is left at all; that is told, and nothing is made.
            assert "nothing in it can be read" in str(error), f"seed {seed}"  # noqa: PT017 - either is right
            assert not (tmp_path / "new").exists()
        shutil.rmtree(path)
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        torture_count("ruined states salvaged", 1)
