"""Laws of databases that an older gateway wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw
import pytest

from gateway.clock import FakeClock
from gateway.durable.connection import create_private
from gateway.durable.database import Database
from gateway.durable.disk import SYSTEM_DISK
from gateway.durable.pages import open_checked
from gateway.durable.schema import APPLICATION_ID, CHECKED_FROM, MIGRATIONS
from gateway.model import SessionId
from gateway.transcripts import accounts, inbox, outbox, summaries, usage
from gateway.transcripts.usage import Spent, UsageBy, UsageRow
from tests.support.messages import inbox_row
from tests.support.state import key_of

if TYPE_CHECKING:
    from pathlib import Path

KEY = key_of()


def _old(path: Path, version: int) -> apsw.Connection:
    if version < CHECKED_FROM:
        path.touch(0o600)
    else:
        create_private(path, SYSTEM_DISK)
    connection = open_checked(path, apsw.SQLITE_OPEN_READWRITE)
    connection.execute("PRAGMA journal_mode = WAL")
    for script in MIGRATIONS[:version]:
        connection.execute(script).fetchall()
    connection.pragma("application_id", APPLICATION_ID)
    connection.pragma("user_version", version)
    return connection


async def test_version_1_keeps_what_is_owed_and_what_was_answered(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    owed, answered = inbox_row(1), inbox_row(2)
    source = '{"platform":"telegram","chat_id":"alice","chat_type":"dm"}'
    connection = _old(path, 1)
    for row, finished_at in ((owed, None), (answered, "2026-11-20T00:00:00Z")):
        connection.execute(
            "INSERT INTO inbox (session_key, message_id, turn_id, agent, source, text, "
            "accepted_at, finished_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (KEY, row.message_id, row.turn_id, row.agent, source, row.text, "x", finished_at),
        )
    for turn_id in (answered.turn_id, "without a message"):
        connection.execute(
            "INSERT INTO outbox (turn_id, session_key, platform, reply, created_at, sent_at) "
            "VALUES (?, ?, 'http', ?, 'x', 'x')",
            (turn_id, KEY, f"to {turn_id}"),
        )
    connection.close()

    async with Database.open(path, FakeClock()) as database:
        rows = await database.read(inbox.unfinished)
        replies = [
            await database.read(lambda conn, one=one: outbox.reply_to(conn, KEY, one))  # type: ignore[misc]
            for one in (owed.message_id, answered.message_id, "without a message")
        ]
    assert [(row.turn_id, row.text) for row in rows] == [(owed.turn_id, owed.text)]
    assert replies == [None, f"to {answered.turn_id}", "to without a message"]


async def test_every_older_version_comes_to_the_same_tables(tmp_path: Path) -> None:
    found = []
    for version in range(len(MIGRATIONS) + 1):
        path = tmp_path / f"{version}.db"
        if version:
            _old(path, version).close()
        async with Database.open(path, FakeClock()) as database:
            found.append(
                await database.read(
                    lambda conn: conn.execute(
                        "SELECT name, sql FROM sqlite_schema ORDER BY name"
                    ).fetchall()
                )
            )
    assert all(schema == found[0] for schema in found)


FOURTH = 4
"""The last version without sums of what was used."""
SIXTH = 6
"""The last version whose messages had no sizes."""
CALL = (
    "INSERT INTO model_calls (session_id, turn_id, agent, model, started_at, input_tokens, "
    "output_tokens, cache_read_tokens, cache_write_tokens) VALUES (?, 't', ?, ?, ?, ?, ?, ?, ?)"
)
ACCOUNT = (
    "INSERT INTO context_accounts (session_id, model, request_tokens, overhead_tokens, "
    "cache_verdict, rounds, trimmed, cleared, saved_tokens) VALUES ('s1', 'm', 7, 0, 'hit', 1, 2, "
    "3, 4)"
)


def _calls(connection: apsw.Connection) -> None:
    """Record calls of two sessions, days and agents, and some that were never counted."""
    counted = (100, 20, 1_000, 300)
    for session_id, agent, day, counts in (
        ("s1", "main", "2026-01-01", counted),
        ("s1", "main", "2026-01-01", counted),
        ("s1", "other", "2026-01-02", counted),
        ("s2", "main", "2026-01-02", (5, 0, 0, 0)),
        ("s3", "echo", "2026-01-02", (None,) * 4),
    ):
        connection.execute(CALL, (session_id, agent, "m", f"{day}T23:59:59.5Z", *counts))


@pytest.mark.parametrize("version", [1, 2, 3, FOURTH])
async def test_what_an_older_version_counted_is_summed_up_in_nobodys_name(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "gateway.db"
    connection = _old(path, version)
    _calls(connection)
    connection.close()

    async with Database.open(path, FakeClock()) as database:
        days = await database.read(usage.read)
        agents = await database.read(lambda conn: usage.read(conn, by=UsageBy.AGENT))
        users = await database.read(lambda conn: usage.read(conn, by=UsageBy.USER))
        spent = [
            await database.read(lambda conn, one=one: usage.spent_by_session(conn, SessionId(one)))  # type: ignore[misc]
            for one in ("s1", "s2", "s3")
        ]
    assert days == [
        UsageRow("2026-01-02", 2, 105, 20, 1_000, 300, 1_425, 0.0, 2),
        UsageRow("2026-01-01", 2, 200, 40, 2_000, 600, 2_840, 0.0, 2),
    ]
    assert [(row.name, row.calls) for row in agents] == [("main", 3), ("other", 1)]
    assert [(row.name, row.calls) for row in users] == [("", 4)]
    assert spent == [Spent(4_260, 0.0, 3), Spent(5, 0.0, 1), Spent()]


async def test_the_fifth_version_keeps_accounts_and_calls_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    connection = _old(path, FOURTH)
    connection.execute(ACCOUNT)
    _calls(connection)
    connection.close()

    async with Database.open(path, FakeClock()) as database:
        account = await database.read(lambda conn: accounts.read(conn, SessionId("s1")))
        calls = await database.read(
            lambda conn: conn.execute(
                "SELECT count(*), count(usd), min(purpose), max(purpose) FROM model_calls"
            ).fetchall()
        )
        made = await database.read(lambda conn: summaries.newest(conn, SessionId("s1")))
    assert (account.model, account.request_tokens, account.saved_tokens) == ("m", 7, 4)
    assert calls == [(5, 0, "turn", "turn")]
    assert made is None


async def test_damaged_counts_keep_no_gateway_from_starting(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    connection = _old(path, FOURTH)
    for number in range(3):
        connection.execute(CALL, ("s1", "main", "m", "2026-01-01T00:00:00Z", *(2**63 - 1,) * 4))
        connection.execute(CALL, ("s2", "main", "m", "2026-01-02T00:00:00Z", *(-(2**62),) * 4))
        connection.execute(CALL, ("s1", "main", "m", f"{number} days ago", 1, 1, 1, 1))
    connection.close()

    async with Database.open(path, FakeClock()) as database:
        rows = await database.read(usage.read)

    assert [row.name for row in rows] == ["2026-01-02", "2026-01-01"]
    assert [row.total_tokens for row in rows] == [0, 4 * 10**15]


SAID = (
    # Session, role, text, tool calls, tool call, images; how large it is, and its tokens.
    (("s1", "user", "hello", None, None, None), 5, 2),
    (("s1", "assistant", "", '[{"call_id":"c1"}]', None, None), 18, 5),
    (("s1", "tool", "ä€😀", None, "c1", None), 9, 2),
    (("s1", "notice", "stopped", None, None, None), 7, 0),
    (("s2", "user", "what a picture", None, None, '[{"media_type":"","data":"aGk="}]'), 47, 2004),
)
"""Messages as older versions have them; four characters are a token, a picture is 2,000."""
ADD = (
    "INSERT INTO messages (session_id, turn_id, role, text, created_at) "
    "VALUES ('s3', 't', 'tool', '12345678', '')"
)
BY_TYPE = "SELECT session_id, type, items, size_bytes, tokens FROM item_totals ORDER BY 1, 2"
SUMS = (
    "SELECT session_id, CASE role WHEN 'tool' THEN 'tool_result' ELSE 'message' END, count(*), "
    "sum(size_bytes), sum(tokens) FROM messages GROUP BY 1, 2 ORDER BY 1, 2"
)


def _say(connection: apsw.Connection, version: int, *said: tuple[object, ...]) -> None:
    """Store messages as a version has them; before the fourth there are no images."""
    columns = ["session_id", "role", "text", "tool_calls", "tool_call_id", "images"]
    if version < FOURTH:
        columns.remove("images")
    marks = ", ".join("?" * len(columns))
    for row in said:
        connection.execute(
            f"INSERT INTO messages ({', '.join(columns)}, turn_id, created_at) "  # noqa: S608 - names of ours
            f"VALUES ({marks}, 't', '2026-01-01T00:00:00Z')",
            row[: len(columns)],
        )


@pytest.mark.parametrize("version", range(1, SIXTH + 1))
async def test_what_was_said_before_has_its_size_and_counts_in_the_totals(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "gateway.db"
    rows = SAID if version >= FOURTH else SAID[:-1]
    connection = _old(path, version)
    _say(connection, version, *(row for row, _, _ in rows))
    connection.close()

    async with Database.open(path, FakeClock()) as database:
        kept = await database.read(
            lambda conn: conn.execute(
                "SELECT session_id, role, text, tool_calls, tool_call_id, images, size_bytes, "
                "tokens, version, marks FROM messages ORDER BY position"
            ).fetchall()
        )
        totals = await database.read(lambda conn: conn.execute(BY_TYPE).fetchall())

    assert kept == [(*row, size, tokens, 1, None) for row, size, tokens in rows]
    picture = [("s2", "message", 1, 47, 2004)] if version >= FOURTH else []
    assert totals == [("s1", "message", 3, 30, 7), ("s1", "tool_result", 1, 9, 2), *picture]


async def test_totals_go_on_from_what_an_older_version_had(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    connection = _old(path, SIXTH)
    _say(connection, SIXTH, *(row for row, _, _ in SAID))
    connection.close()

    async with Database.open(path, FakeClock()) as database:
        for statement in (
            "DELETE FROM messages WHERE role = 'tool'",
            "DELETE FROM messages WHERE session_id = 's2'",
            "UPDATE messages SET text = 'ä', version = version + 1 WHERE role = 'user'",
            ADD,
        ):
            await database.write(lambda tx, one=statement: tx.execute(one))  # type: ignore[misc]
        totals = await database.read(lambda conn: conn.execute(BY_TYPE).fetchall())
        sums = await database.read(lambda conn: conn.execute(SUMS).fetchall())

    assert totals == [("s1", "message", 3, 27, 6), ("s3", "tool_result", 1, 8, 2)]
    assert totals == sums


DAMAGED = (
    ("s1", "user", "x", None, None, "["),
    ("s1", "user", "x", "{{{", None, None),
    ("s1", "ghost", "x", None, None, '{"data":'),
    ("", "tool", "", "", "", ""),
    ("s1", "tool", "a\0b", None, None, None),
)
"""Rows that mean nothing; each has a size all the same."""


@pytest.mark.parametrize("version", range(1, SIXTH + 1))
async def test_damaged_messages_keep_no_gateway_from_starting(tmp_path: Path, version: int) -> None:
    path = tmp_path / "gateway.db"
    connection = _old(path, version)
    _say(connection, version, *DAMAGED)
    connection.execute("UPDATE messages SET created_at = 'yesterday' WHERE position = 1")
    connection.execute("UPDATE messages SET text = CAST(x'ff41' AS TEXT) WHERE position = 2")
    connection.close()

    async with Database.open(path, FakeClock()) as database:
        totals = await database.read(lambda conn: conn.execute(BY_TYPE).fetchall())
        sums = await database.read(lambda conn: conn.execute(SUMS).fetchall())

    assert totals == sums
    images = 9 if version >= FOURTH else 0
    assert [row[:4] for row in totals] == [
        ("", "tool_result", 1, 0),
        ("s1", "message", 3, 7 + images),
        ("s1", "tool_result", 1, 3),
    ]
