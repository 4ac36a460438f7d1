"""Laws of the rows of a salvage: every table is looked at, and what has no place is told."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final

import orjson

from gateway.durable.schema import MIGRATIONS
from gateway.upkeep.salvage import HOMELESS
from gateway.upkeep.salvage_rows import LOG, TABLES
from tests.support.state import key_of, open_state
from tests.support.upkeep import change, used_state
from tests.upkeep.salvaging import salvaged

if TYPE_CHECKING:
    from pathlib import Path

MESSAGES: Final = 12
CALLS: Final = 6


def test_no_table_is_forgotten() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        for script in MIGRATIONS:
            connection.executescript(script)
        names = {
            name
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
            )
        }

    # The log becomes part of the snapshot, where the store stands is made anew.
    assert {*TABLES, LOG, "store_state"} == names


async def test_readable_messages_of_nobody_are_kept_in_a_file(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    change(
        path,
        "UPDATE messages SET session_id = 'lost' WHERE turn_id = (SELECT max(turn_id) FROM outbox)",
        "DELETE FROM outbox WHERE turn_id = (SELECT max(turn_id) FROM outbox)",
    )

    made = await salvaged(path, tmp_path / "new")

    lines = (tmp_path / "new" / HOMELESS).read_bytes().splitlines()
    assert [orjson.loads(line)["text"] for line in lines] == ["last", "re: last"]
    told = {loss.place: (loss.count, loss.examples) for loss in made.given_up}
    assert told == {"gateway.db: messages": (1, ["lost"])}
    assert made.rows["messages"] == MESSAGES - 2


async def test_model_calls_that_go_with_their_session_are_told(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    change(path, "UPDATE model_calls SET session_id = 'lost' WHERE position > 4")

    made = await salvaged(path, tmp_path / "new")

    told = {loss.place: loss.count for loss in made.given_up}
    assert told == {"gateway.db: model_calls": 2}
    assert made.rows["model_calls"] == CALLS - 2


async def test_a_message_that_waits_though_it_was_answered_is_not_answered_again(
    tmp_path: Path,
) -> None:
    path = await used_state(tmp_path / "state")
    change(
        path,
        "INSERT INTO inbox (session_key, message_id, turn_id, agent, source, text, accepted_at)"
        " SELECT session_key, message_id, 'x', 'main',"
        """ '{"platform":"http","chat_id":"ann","chat_type":"dm"}', '', '2026-01-01T00:00:00Z'"""
        " FROM outbox",
    )

    made = await salvaged(path, tmp_path / "new")

    assert made.complete
    assert made.rows["inbox"] == 0
    assert any("6 messages that waited were answered already" in note for note in made.notes)


async def test_a_conversation_whose_session_is_lost_goes_back_to_its_key(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    change(path, "DELETE FROM sessions WHERE ended_at IS NOT NULL")

    await salvaged(path, tmp_path / "new")

    async with open_state(tmp_path / "new") as state:
        rows = await state.database.read(
            lambda conn: conn.execute(
                "SELECT session_key, end_reason, count(*) FROM sessions "
                "JOIN messages USING (session_id) WHERE ended_at IS NOT NULL GROUP BY 1"
            ).fetchall()
        )
    assert rows == [(key_of("cid"), "salvaged", 2)]
