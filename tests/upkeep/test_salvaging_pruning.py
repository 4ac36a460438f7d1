"""Laws of a salvage of what pruning took: rows by themselves, files with their check."""

from __future__ import annotations

import shutil
from contextlib import closing
from typing import TYPE_CHECKING, Final

import apsw
import orjson
import pytest

from gateway.durable.pages import open_checked
from gateway.durable.salvaging import add_row, columns_of, new_database
from gateway.errors import DamagedDataError
from gateway.model import Message, Role, SessionId
from gateway.transcripts.gone import AUDIT_CUT, LAST_ENTRY, LAST_MESSAGE
from gateway.transcripts.writing import append_messages
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from gateway.upkeep.salvage import HOMELESS
from tests.support.state import open_state
from tests.support.upkeep import change, used_state
from tests.upkeep.pruning import (
    ARCHIVED,
    CONTENT,
    FILE,
    HELD,
    PURGED,
    PURGED_FILE,
    RESTORED,
    ROWS,
    SHORTENED,
    by_first,
    files_in,
    pruned_state,
    rows_of,
    states,
)
from tests.upkeep.salvaging import ruined_and_salvaged, salvaged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEPT_SUMS: Final = (
    "SELECT session_id, type, items, size_bytes, tokens FROM item_totals ORDER BY 1, 2"
)
SUMS: Final = (
    "SELECT session_id, CASE role WHEN 'tool' THEN 'tool_result' ELSE 'message' END, count(*), "
    "sum(size_bytes), sum(tokens) FROM messages GROUP BY 1, 2 ORDER BY 1, 2"
)


def totals(path: Path) -> list[tuple[object, ...]]:
    return rows_of(path, KEPT_SUMS)


@pytest.mark.parametrize(
    ("killed", "statement"),
    [
        pytest.param(False, "", id="stopped"),
        pytest.param(True, "", id="killed"),
        pytest.param(False, "PRAGMA user_version = 1000000", id="its-version-damaged"),
    ],
)
async def test_what_pruning_took_is_kept_as_it_was(
    tmp_path: Path, statement: str, *, killed: bool
) -> None:
    path = await pruned_state(tmp_path / "state", killed=killed)
    if statement:
        change(path, statement)
    tables = {
        table: rows_of(path, f"SELECT * FROM {table} ORDER BY 1")  # noqa: S608 - names of ours
        for table in (*ROWS, "summaries", "projections")
    }

    made = await salvaged(path, tmp_path / "new")

    assert made.complete, made
    assert {table: made.rows[table] for table in ROWS} == ROWS
    for table, rows in tables.items():
        assert rows_of(tmp_path / "new", f"SELECT * FROM {table} ORDER BY 1") == rows  # noqa: S608 - names of ours
    assert totals(tmp_path / "new") == rows_of(path, SUMS)
    assert (tmp_path / "new" / "archive" / FILE).read_bytes() == CONTENT
    assert files_in(tmp_path / "new" / "archive") == {FILE}
    assert {one.level for one in check_store(tmp_path / "new").findings} == {Level.OK}


async def test_sums_are_made_anew_whatever_they_were(tmp_path: Path) -> None:
    path = await pruned_state(tmp_path / "state")
    change(path, "UPDATE item_totals SET items = 0, size_bytes = -1")

    made = await salvaged(path, tmp_path / "new")

    assert made.complete
    assert totals(tmp_path / "new") == rows_of(tmp_path / "new", SUMS)


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        pytest.param(
            f"UPDATE pruned_items SET {change_it} WHERE item = {item}",  # noqa: S608 - texts of ours
            "pruned_items",
            id=change_it,
        )
        for item, change_it in (
            (ARCHIVED, "state = 'lost'"),
            (PURGED, "action = 'shred'"),
            (PURGED, "record = '['"),
            (PURGED, "due_at = 'soon'"),
            (ARCHIVED, "archive = '../token'"),
            (PURGED, "at = ''"),
            (RESTORED, "run_id = ''"),
            (RESTORED, "item = 0"),
        )
    ]
    + [
        pytest.param("UPDATE pruning_runs SET record = '' WHERE position = 1", "pruning_runs"),
        pytest.param("UPDATE pruning_runs SET cause = 'x' WHERE position = 1", "pruning_runs"),
        pytest.param("UPDATE pruning_runs SET pruned = -1 WHERE position = 1", "pruning_runs"),
    ],
)
async def test_a_damaged_row_loses_itself_alone(tmp_path: Path, statement: str, table: str) -> None:
    path = await pruned_state(tmp_path / "state")
    change(path, statement)

    made = await salvaged(path, tmp_path / "new")

    assert {loss.place: loss.count for loss in made.given_up} == {f"gateway.db: {table}": 1}
    assert {name: made.rows[name] for name in ROWS} == ROWS | {table: ROWS[table] - 1}


async def test_damaged_notes_on_a_message_do_not_lose_it(tmp_path: Path) -> None:
    path = await pruned_state(tmp_path / "state")
    change(
        path,
        "UPDATE messages SET marks = '[' WHERE position = 7",
        "UPDATE messages SET version = -3 WHERE position = 8",
    )

    made = await salvaged(path, tmp_path / "new")

    assert made.rows["messages"] == ROWS["messages"]
    kept = rows_of(tmp_path / "new", "SELECT marks, version FROM messages WHERE position IN (7, 8)")
    assert kept == [(None, 2), (None, 1)]


async def test_items_that_are_in_two_places_are_in_one_afterwards(tmp_path: Path) -> None:
    """As where one page is older than another: of a held item the message, or an older entry."""
    path = await pruned_state(tmp_path / "state")
    columns = ", ".join(
        str(row[1])
        for row in rows_of(path, "PRAGMA table_info(pruned_items)")
        if row[1] != "position"
    )
    change(
        path,
        f"INSERT INTO pruned_items ({columns}) SELECT {columns} FROM pruned_items "  # noqa: S608 - names of ours
        f"WHERE item = {HELD}",
        "INSERT INTO pruned_originals SELECT max(position), original FROM pruned_items, "
        "pruned_originals WHERE entry = 1",
        "INSERT INTO messages (position, session_id, turn_id, role, text, created_at) SELECT "  # noqa: S608 - texts of ours
        f"{PURGED}, session_id, turn_id, role, text, created_at FROM messages WHERE position = 8",
    )

    made = await salvaged(path, tmp_path / "new")

    assert made.complete
    assert len([note for note in made.notes if "pruned_items" in note]) == 2
    entries = rows_of(
        tmp_path / "new",
        "SELECT item, state, original IS NULL FROM pruned_items "
        "LEFT JOIN pruned_originals ON entry = position ORDER BY position",
    )
    assert entries == [
        (HELD, "restored", True),
        (ARCHIVED, "archived", True),
        (PURGED, "restored", True),
        (PURGED_FILE, "purged", True),
        (RESTORED, "restored", True),
        (SHORTENED, "held", False),
        (HELD, "held", False),
    ]


async def test_items_of_nobody_are_told_and_what_was_held_is_kept_in_a_file(
    tmp_path: Path,
) -> None:
    path = await pruned_state(tmp_path / "state")
    change(
        path,
        "UPDATE pruned_originals SET original = "
        "CAST(json_set(original, '$.session_id', 'lost') AS BLOB) WHERE entry = 1",
        "UPDATE pruned_items SET session_id = 'lost' WHERE item IN (1, 2, 3)",
    )

    made = await salvaged(path, tmp_path / "new")

    assert {loss.place: loss.count for loss in made.given_up} == {"gateway.db: pruned_items": 2}
    (line,) = (tmp_path / "new" / HOMELESS).read_bytes().splitlines()
    assert orjson.loads(line)["text"] == "hello 0"
    kept = states(tmp_path / "new")
    assert (kept[HELD], kept[ARCHIVED], kept[PURGED]) == ("purged", "purged", "purged")


@pytest.mark.parametrize(
    ("statement", "last"),
    [
        pytest.param("UPDATE pruned_items SET item = 500 WHERE item = 3", 500, id="taken"),
        pytest.param(
            "INSERT INTO summaries (session_id, through_turn, turns, text, agent, model, "
            "tokens_before, tokens_after, made_at, through) SELECT session_id, 't', 1, 'x', '', "
            "'', 0, 0, '', 600 FROM sessions LIMIT 1",
            600,
            id="summary",
        ),
        pytest.param(
            "INSERT INTO store_state (name, value) VALUES ('last_message', 700)", 700, id="known"
        ),
        pytest.param(
            "INSERT INTO store_state (name, value) VALUES ('last_message', 9e18)", 12, id="damaged"
        ),
    ],
)
async def test_a_position_that_anything_tells_of_is_not_given_out_again(
    tmp_path: Path, statement: str, last: int
) -> None:
    path = await pruned_state(tmp_path / "state")
    change(path, statement)

    await salvaged(path, tmp_path / "new")

    async with open_state(tmp_path / "new") as state:
        said = [Message(Role.USER, "next"), Message(Role.ASSISTANT, "one after")]
        await state.database.write(
            lambda tx: append_messages(tx, SessionId("new"), said, at="2026-01-01T00:00:00Z")
        )
        rows = await state.database.read(
            lambda conn: conn.execute(
                "SELECT position FROM messages WHERE session_id = 'new' ORDER BY position"
            ).fetchall()
        )
    assert rows == [(last + 1,), (last + 2,)]


async def test_that_the_audit_was_cut_is_still_known(tmp_path: Path) -> None:
    path = await pruned_state(tmp_path / "state")
    change(path, f"INSERT INTO store_state (name, value) VALUES ('{AUDIT_CUT}', 1767225600)")  # noqa: S608 - a name of ours

    await salvaged(path, tmp_path / "new")

    known = by_first(tmp_path / "new", "SELECT name, value FROM store_state")
    assert known[AUDIT_CUT] == 1767225600
    assert known[LAST_MESSAGE] == 12


@pytest.mark.parametrize("known", [0, 900])
async def test_the_position_of_an_entry_is_not_given_out_again(tmp_path: Path, known: int) -> None:
    path = await pruned_state(tmp_path / "state")
    if known:
        change(path, f"INSERT INTO store_state (name, value) VALUES ('{LAST_ENTRY}', {known})")  # noqa: S608 - a name of ours
    (last,) = by_first(path, "SELECT max(position), 0 FROM pruned_items")
    assert isinstance(last, int)

    await salvaged(path, tmp_path / "new")

    state = by_first(tmp_path / "new", "SELECT name, value FROM store_state")
    assert state[LAST_ENTRY] == max(last, known)


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_is_ruined_of_what_was_pruned_the_result_starts(
    tmp_path: Path, seed: int
) -> None:
    path = await pruned_state(tmp_path / "state", killed=bool(seed % 2))

    await ruined_and_salvaged(path, tmp_path / "new", seed)


@pytest.mark.torture
@pytest.mark.parametrize("hundred", range(1, 5))
async def test_whatever_is_ruined_of_what_was_pruned_the_result_starts_many_times(
    tmp_path: Path, torture_count: Callable[[str, int], None], hundred: int
) -> None:
    states = [await pruned_state(tmp_path / f"s{n}", killed=bool(n)) for n in (0, 1)]
    for seed in range(hundred * 100, (hundred + 1) * 100):
        path = shutil.copytree(states[seed % 2], tmp_path / "ruined")
        try:
            await ruined_and_salvaged(path, tmp_path / "new", seed)
        except DamagedDataError as error:
            # Seldom nothing is left at all; that is told, and nothing is made.
            assert "nothing in it can be read" in str(error), f"seed {seed}"  # noqa: PT017 - either is right
        shutil.rmtree(path)
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        torture_count("ruined states of pruning salvaged", 1)


@pytest.mark.parametrize("damaged", [False, True], ids=["sound", "its-version-damaged"])
async def test_a_database_of_the_version_before_is_brought_to_this_one(
    tmp_path: Path, *, damaged: bool
) -> None:
    path = await used_state(tmp_path / "state")
    with (
        closing(open_checked(path / "gateway.db", apsw.SQLITE_OPEN_READWRITE)) as source,
        new_database(path / "older.db", 6) as older,
    ):
        for table in ("sessions", "messages", "outbox", "session_log", "store_state"):
            columns = columns_of(older, table)
            for row in source.execute(f"SELECT {', '.join(columns)} FROM {table}"):  # noqa: S608 - names of ours
                assert add_row(older, table, columns, row)
    (path / "older.db").rename(path / "gateway.db")
    if damaged:
        change(path, "PRAGMA user_version = 1000000")

    made = await salvaged(path, tmp_path / "new")

    assert made.complete
    assert made.rows["messages"] == 12
    assert made.rows["pruned_items"] == 0
    assert totals(tmp_path / "new") == rows_of(tmp_path / "new", SUMS)
