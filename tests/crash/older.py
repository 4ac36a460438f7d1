"""State directories as a gateway left them whose databases had no check sums yet.

Their content is that of a store of today; tables and pages are those of version 2.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

import apsw

from gateway.durable.connection import open_writer
from gateway.durable.pages import (
    CHECK_SUM_BYTES,
    damaged_pages,
    gives_pages_back,
    has_check_sums,
    open_checked,
)
from gateway.durable.schema import APPLICATION_ID, CHECKED_FROM, MIGRATIONS
from gateway.sessions.entry import encode_member
from tests.crash.recording import read_folder
from tests.crash.recovering import recovered, write_out
from tests.crash.workloads import prepare
from tests.support.state import entry, key_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.expectation import Outcome

Rows = dict[str, list[tuple[object, ...]]]

VERSION: Final = CHECKED_FROM - 1
DATABASE: Final = "gateway.db"
KEPT: Final = ("sessions", "messages", "model_calls", "inbox", "outbox")
"""The tables whose rows a start leaves as they are."""
_TURNS: Final = 12
_AT: Final = "2025-12-01T00:00:00Z"


async def prepare_older(path: Path, *, killed: bool = False) -> Outcome:
    """Make a state directory of version 2, and return what it holds.

    One of today with the same content is left beside it, as `today`.

    Args:
        path: The state directory.
        killed: Whether the older gateway was killed: its last changes are in the WAL then.
    """
    await prepare(path)
    with closing(open_writer(path / DATABASE)) as writer:
        for number in range(_TURNS):
            _say(writer, number)
        _owe(writer)
    today = path.with_name("today")
    write_out(read_folder(path), today)
    held = await recovered(today)
    _make_older(path, killed=killed)
    return held


def rows_of(path: Path) -> Rows:
    """Return the rows of a state directory whose store is stopped, as version 2 has them."""
    with closing(open_checked(path / DATABASE, apsw.SQLITE_OPEN_READWRITE)) as connection:
        return {
            table: connection.execute(
                f"SELECT {', '.join(_columns(table))} FROM {table} ORDER BY position"  # noqa: S608 - names of ours
            ).fetchall()
            for table in KEPT
        }


def not_rewritten(path: Path, before: Rows) -> list[str]:
    """Return what keeps the database of a stopped store from being a whole one of today."""
    damaged = damaged_pages(path / DATABASE)
    if damaged is None or damaged:
        return [f"pages without a right check sum: {damaged}"]

    found = []
    with closing(open_checked(path / DATABASE, apsw.SQLITE_OPEN_READWRITE)) as connection:
        version = connection.pragma("user_version")
        if version != len(MIGRATIONS):
            found.append(f"version {version}")
        if not has_check_sums(connection):
            found.append(f"other than {CHECK_SUM_BYTES} bytes are kept free")
        if not gives_pages_back(connection):
            found.append("free pages cannot be given back")
    rows = rows_of(path)
    return found + [f"rows of {table} differ" for table in KEPT if rows[table] != before[table]]


def _say(connection: apsw.Connection, number: int) -> None:
    """Add a turn to a session that has ended; what is said takes up to two pages."""
    ended = entry("gone", agent="older").changed(turns=_TURNS)
    if not number:
        connection.execute(
            "INSERT INTO sessions (session_id, session_key, started_at, ended_at, end_reason, "
            "member) VALUES (?, ?, ?, ?, 'idle', ?)",
            (ended.session_id, ended.session_key, _AT, _AT, encode_member(ended)),
        )
    turn = f"older-{number}"
    for role, text in (("user", f"{number}?\0"), ("assistant", f"{number} ä€😀 " * 25 * number)):
        connection.execute(
            "INSERT INTO messages (session_id, turn_id, role, text, created_at) "
            "VALUES (?, ?, ?, ?, ?)",
            (ended.session_id, turn, role, text, _AT),
        )
    connection.execute(
        "INSERT INTO model_calls (session_id, turn_id, agent, model, started_at, input_tokens) "
        "VALUES (?, ?, 'older', 'model', ?, ?)",
        (ended.session_id, turn, _AT, number),
    )
    connection.execute(
        "INSERT INTO outbox (session_key, message_id, turn_id, platform, reply, created_at) "
        "VALUES (?, ?, ?, 'http', ?, ?)",
        (ended.session_key, f"m{number}", turn, f"reply {number}", _AT),
    )


def _owe(connection: apsw.Connection) -> None:
    """Add messages that wait for their answers."""
    source = '{"platform":"http","chat_id":"a","chat_type":"dm"}'
    for number in range(3):
        connection.execute(
            "INSERT INTO inbox (session_key, message_id, turn_id, agent, source, text, "
            "accepted_at) VALUES (?, ?, ?, 'main', ?, ?, ?)",
            (key_of("a"), f"owed-{number}", f"owed-{number}", source, f"{number} " * 900, _AT),
        )


def _make_older(path: Path, *, killed: bool) -> None:
    """Put the content of a database into one of version 2, in its place."""
    today = (path / DATABASE).rename(path.with_name("today.db"))
    (path / DATABASE).touch(mode=0o600)
    with closing(apsw.Connection(str(path / DATABASE))) as older:
        older.execute("PRAGMA wal_autocheckpoint = 0; PRAGMA journal_mode = WAL").fetchall()
        for script in MIGRATIONS[:VERSION]:
            older.execute(script)
        older.pragma("application_id", APPLICATION_ID)
        older.pragma("user_version", VERSION)
        older.execute("ATTACH ? AS today", (str(today),))
        _copy(older, "store_state", "session_log", *KEPT[:2])
        # Pages that are free: the rewritten database has fewer.
        older.execute("CREATE TABLE erased (x); INSERT INTO erased VALUES (zeroblob(12000))")
        older.execute("DROP TABLE erased; PRAGMA main.wal_checkpoint(TRUNCATE)").fetchall()
        _copy(older, *KEPT[2:])
        older.execute("DETACH today")
        files = read_folder(path)
    if killed:
        write_out(files, path)
    today.unlink()


def _copy(older: apsw.Connection, *tables: str) -> None:
    with older:
        for table in tables:
            columns = ", ".join(_columns(table))
            older.execute(
                f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM today.{table}"  # noqa: S608 - names of ours
            )


def _columns(table: str) -> list[str]:
    """Return the columns that a table has in version 2."""
    with closing(apsw.Connection(":memory:")) as connection:
        for script in MIGRATIONS[:VERSION]:
            connection.execute(script)
        return [str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")]
