"""Laws of the rows of a salvage: every table is looked at, and what has no place is told."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final

import apsw
import orjson
import pytest

from gateway.durable.salvaging import add_row, new_database
from gateway.durable.schema import MIGRATIONS
from gateway.model import Image
from gateway.transcripts import accounts, projections, summaries, usage
from gateway.transcripts.reading import read_transcript, sessions_of
from gateway.transcripts.usage import Spent, UsageBy
from gateway.upkeep.salvage import HOMELESS
from gateway.upkeep.salvage_rows import LOG, TABLES
from tests.support.state import key_of, open_state
from tests.support.upkeep import change, used_state
from tests.upkeep.salvaging import salvaged

if TYPE_CHECKING:
    from pathlib import Path

OLDER: Final = {
    "store_state": "name, value",
    "session_log": "sequence, session_key, member",
    "sessions": "position, session_id, session_key, started_at, ended_at, end_reason, member",
    "messages": "position, session_id, turn_id, role, text, created_at",
    "outbox": "position, session_key, message_id, turn_id, platform, reply, created_at",
}
"""Tables of version 2 that are used, and their columns."""
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

    # The log becomes part of the snapshot, where the store stands is made anew, and sums over
    # items come with the messages.
    assert {*TABLES, LOG, "store_state", "item_totals"} == names


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


PROJECTION: Final = (
    "INSERT INTO projections (session_id, item, mode, max_chars, head_chars, tail_chars, "
    "placeholder, made_at) VALUES ({session}, '{item}', '{mode}', {chars}, 0, 0, 'gone', '')"
)
ACCOUNT: Final = (
    "INSERT INTO context_accounts (session_id, model, request_tokens, overhead_tokens, "
    "cache_verdict, rounds, trimmed, cleared, saved_tokens, saved_usd, last_round_at) "
    "VALUES ({session}, 'm', 7, -3, '{verdict}', {rounds}, 2, 3, 4, 0.5, NULL)"
)
ANN: Final = "(SELECT max(session_id) FROM sessions WHERE session_key LIKE '%:ann::')"
BOB: Final = "(SELECT max(session_id) FROM sessions WHERE session_key LIKE '%:bob::')"


async def test_what_contexts_hold_is_kept(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    change(
        path,
        PROJECTION.format(session=ANN, item="t/c", mode="clear", chars=0),
        PROJECTION.format(session=ANN, item="t/d", mode="trim", chars=4000),
        PROJECTION.format(session=BOB, item="t", mode="omit", chars=0),
        ACCOUNT.format(session=ANN, verdict="hit", rounds=1),
        'UPDATE messages SET images = \'[{"media_type":"image/png","data":"aGk="}]\'',
    )

    made = await salvaged(path, tmp_path / "new")

    assert made.complete
    assert (made.rows["projections"], made.rows["context_accounts"]) == (3, 1)
    assert made.rows["messages"] == MESSAGES
    async with open_state(tmp_path / "new") as state:
        session_id = (await sessions_of(state.database, key_of("ann")))[0].session_id
        kept = await state.database.read(lambda conn: projections.read(conn, session_id))
        account = await state.database.read(lambda conn: accounts.read(conn, session_id))
        (row, *_) = await read_transcript(state.database, session_id)
    assert {one.item: one.mode.value for one in kept} == {"t/c": "clear", "t/d": "trim"}
    assert (account.overhead_tokens, account.cache_verdict, account.saved_usd) == (-3, "hit", 0.5)
    assert row.message.images == (Image("image/png", "aGk="),)


async def test_what_contexts_hold_and_cannot_mean_anything_is_given_up(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    change(
        path,
        PROJECTION.format(session=ANN, item="t/c", mode="fold", chars=0),
        PROJECTION.format(session=ANN, item="", mode="clear", chars=0),
        PROJECTION.format(session=ANN, item="t/d", mode="trim", chars=-1),
        PROJECTION.format(session=ANN, item="t/e", mode="trim", chars=1),
        ACCOUNT.format(session=ANN, verdict="maybe", rounds=1),
        ACCOUNT.format(session=BOB, verdict="hit", rounds=-1),
        "UPDATE messages SET images = '[' WHERE text = 'last'",
        "UPDATE messages SET images = '[{\"data\":\"\"}]' WHERE text = 're: last'",
        'UPDATE messages SET images = \'[{"media_type":1,"data":""}]\' WHERE text = \'more\'',
    )

    made = await salvaged(path, tmp_path / "new")

    told = {loss.place: loss.count for loss in made.given_up}
    assert told["gateway.db: projections"] == 3
    assert told["gateway.db: context_accounts"] == 2
    assert told["gateway.db: messages"] == 3
    assert (made.rows["projections"], made.rows["context_accounts"]) == (1, 0)


async def test_what_contexts_hold_goes_with_its_session_and_is_told(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    change(
        path,
        PROJECTION.format(session="'lost'", item="t/c", mode="clear", chars=0),
        PROJECTION.format(session="'lost'", item="t/d", mode="clear", chars=0),
        ACCOUNT.format(session="'lost'", verdict="hit", rounds=1),
    )

    made = await salvaged(path, tmp_path / "new")

    told = {loss.place: loss.count for loss in made.given_up}
    assert told == {"gateway.db: projections": 2, "gateway.db: context_accounts": 1}
    assert (made.rows["projections"], made.rows["context_accounts"]) == (0, 0)


USAGE: Final = (
    "INSERT INTO usage (day, agent, model, user, calls, input_tokens, output_tokens, "
    "cache_read_tokens, cache_write_tokens, usd, unpriced_calls) "
    "VALUES ('{day}', 'main', 'm', '{user}', {calls}, 100, 20, 3, 4, 0.5, 1)"
)
USER: Final = "INSERT INTO session_users (session_id, user) VALUES ({session}, '{user}')"
SUMMARY: Final = (
    "INSERT INTO summaries (session_id, through_turn, turns, text, agent, model, tokens_before, "
    "tokens_after, made_at) VALUES ({session}, '{turn}', {turns}, '{text}', 'main', 'm', 9, 4, '')"
)
SPENT: Final = "UPDATE context_accounts SET spent_tokens = {tokens}, spent_usd = 0.25"


async def test_what_was_used_and_summaries_are_kept(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    change(
        path,
        USAGE.format(day="2026-01-01", user="http::chat:ann", calls=1),
        USAGE.format(day="2026-01-01", user="", calls=2),
        USER.format(session=ANN, user="http::chat:ann"),
        SUMMARY.format(session=ANN, turn="t", turns=2, text="They talked."),
        ACCOUNT.format(session=ANN, verdict="hit", rounds=1),
        SPENT.format(tokens=77),
    )

    made = await salvaged(path, tmp_path / "new")

    assert made.complete
    assert [made.rows[table] for table in ("usage", "session_users", "summaries")] == [2, 1, 1]
    async with open_state(tmp_path / "new") as state:
        session_id = (await sessions_of(state.database, key_of("ann")))[0].session_id
        users = await state.database.read(lambda conn: usage.read(conn, by=UsageBy.USER))
        spent = await state.database.read(lambda conn: usage.spent_by_session(conn, session_id))
        kept = await state.database.read(lambda conn: summaries.newest(conn, session_id))
    assert {row.name: (row.calls, row.total_tokens, row.usd) for row in users} == {
        "": (2, 127, 0.5),
        "http::chat:ann": (1, 127, 0.5),
    }
    assert spent == Spent(77, 0.25, 0)
    assert kept is not None
    assert (kept.text, kept.turns) == ("They talked.", 2)


async def test_sums_and_summaries_that_cannot_mean_anything_are_given_up(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    change(
        path,
        USAGE.format(day="yesterday", user="u", calls=1),
        USAGE.format(day="2026-01-01", user="u", calls=-1),
        USAGE.format(day="2026-01-02", user="u", calls=1),
        USER.format(session=ANN, user=""),
        SUMMARY.format(session=ANN, turn="", turns=2, text="of no turn"),
        SUMMARY.format(session=ANN, turn="t", turns=2, text=" "),
        SUMMARY.format(session=ANN, turn="t", turns=-2, text="of less than nothing"),
        ACCOUNT.format(session=ANN, verdict="hit", rounds=1),
        SPENT.format(tokens=-1),
        "UPDATE model_calls SET purpose = 'fun' WHERE position = 1",
    )

    made = await salvaged(path, tmp_path / "new")

    told = {loss.place.partition(": ")[2]: loss.count for loss in made.given_up}
    assert told == {
        "usage": 2,
        "session_users": 1,
        "summaries": 3,
        "context_accounts": 1,
        "model_calls": 1,
    }
    assert (made.rows["usage"], made.rows["model_calls"]) == (1, CALLS - 1)


async def test_names_and_summaries_go_with_their_session_and_sums_stay(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    change(
        path,
        USAGE.format(day="2026-01-01", user="u", calls=1),
        USER.format(session="'lost'", user="u"),
        SUMMARY.format(session="'lost'", turn="t", turns=1, text="x"),
    )

    made = await salvaged(path, tmp_path / "new")

    told = {loss.place: loss.count for loss in made.given_up}
    assert told == {"gateway.db: session_users": 1, "gateway.db: summaries": 1}
    assert made.rows["usage"] == 1


@pytest.mark.parametrize("damaged", [False, True], ids=["sound", "its-version-damaged"])
async def test_a_database_of_the_version_before_is_summed_up(
    tmp_path: Path, *, damaged: bool
) -> None:
    path = await used_state(tmp_path / "state")
    columns = "position, session_id, turn_id, agent, model, started_at"
    with closing(apsw.Connection(str(path / "gateway.db"))) as source:
        calls = source.execute(f"SELECT {columns} FROM model_calls").fetchall()  # noqa: S608 - names of ours
        sessions = source.execute(f"SELECT {OLDER['sessions']} FROM sessions").fetchall()  # noqa: S608 - names of ours
    (path / "gateway.db").unlink()
    with new_database(path / "gateway.db", 4) as older:
        for row in calls:
            add_row(older, "model_calls", [*columns.split(", "), "input_tokens"], (*row, 10))
        for row in sessions:
            add_row(older, "sessions", OLDER["sessions"].split(", "), row)
    if damaged:
        change(path, "PRAGMA user_version = 1000000")

    made = await salvaged(path, tmp_path / "new")

    assert made.rows["model_calls"] == CALLS
    async with open_state(tmp_path / "new") as state:
        total = await state.database.read(usage.total)
    assert (total.calls, total.total_tokens) == (CALLS, 10 * CALLS)


@pytest.mark.parametrize("damaged", [False, True], ids=["sound", "its-version-damaged"])
async def test_a_database_of_an_older_gateway_lacks_nothing(
    tmp_path: Path, *, damaged: bool
) -> None:
    path = await used_state(tmp_path / "state")
    with closing(apsw.Connection(str(path / "gateway.db"))) as source:
        rows = {
            table: source.execute(f"SELECT {columns} FROM {table}").fetchall()  # noqa: S608 - names of ours
            for table, columns in OLDER.items()
        }
    (path / "gateway.db").unlink()
    with new_database(path / "gateway.db", 2) as older:
        for table, columns in OLDER.items():
            for row in rows[table]:
                add_row(older, table, columns.split(", "), row)
    if damaged:
        change(path, "PRAGMA user_version = 1000000")

    made = await salvaged(path, tmp_path / "new")

    assert made.given_up == []
    assert made.rows["messages"] == MESSAGES
    assert (made.rows["projections"], made.rows["context_accounts"]) == (0, 0)


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
