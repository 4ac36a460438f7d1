"""Laws of databases that an older gateway wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw

from gateway.clock import FakeClock
from gateway.durable.connection import create_private
from gateway.durable.database import Database
from gateway.durable.disk import SYSTEM_DISK
from gateway.durable.pages import open_checked
from gateway.durable.schema import APPLICATION_ID, CHECKED_FROM, MIGRATIONS
from gateway.transcripts import inbox, outbox
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
