"""Laws of the check sums of a database's pages."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import anyio
import apsw
import pytest

from gateway.clock import FakeClock
from gateway.durable.connection import open_writer
from gateway.durable.database import Database
from gateway.durable.inspecting import integrity_problems, opened
from gateway.durable.pages import damaged_pages, has_check_sums, open_checked
from gateway.durable.schema import APPLICATION_ID, MIGRATIONS
from gateway.errors import DamagedDataError

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 4096
TEXT = "x" * 300
OTHER = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1])
print(other.execute("SELECT count(*) FROM messages").fetchone()[0])
other.execute("DELETE FROM messages WHERE position > 5")
other.commit()
other.close()
"""


def filled(path: Path, rows: int = 200) -> None:
    """Make a database with messages, all of it in the file and not in the WAL."""
    with closing(open_writer(path)) as writer:
        say(writer, rows)


def say(writer: apsw.Connection, rows: int) -> None:
    for number in range(rows):
        writer.execute(
            "INSERT INTO messages (session_id, turn_id, role, text, created_at) "
            "VALUES ('s', 't', 'user', ?, '')",
            (f"{number} {TEXT}",),
        )


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


async def test_one_flipped_bit_in_a_text_is_never_served(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    filled(path)
    place = path.read_bytes().index(b"100 xxx") + 50
    flip(path, place)

    assert damaged_pages(path) == [place // PAGE + 1]
    with anyio.fail_after(30):
        async with Database.open(path, FakeClock()) as database:
            with pytest.raises(DamagedDataError, match="a page is not as it was written"):
                await database.read(lambda one: one.execute("SELECT text FROM messages").fetchall())


def test_every_page_has_its_check_sum_also_those_that_came_out_of_the_wal(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    filled(path)
    filled(path)

    count = path.stat().st_size // PAGE
    assert count > 20
    assert damaged_pages(path) == []
    for number in range(count):
        flip(path, number * PAGE + 2000)
    assert damaged_pages(path) == list(range(1, count + 1))
    assert damaged_pages(path, newer={1, count}) == list(range(2, count))


def test_a_header_that_has_lost_the_check_sums_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    filled(path)
    with path.open("r+b") as file:
        file.seek(20)
        file.write(b"\x00")

    with pytest.raises(DamagedDataError, match="header"):
        open_writer(path)


def test_pages_of_an_older_gateway_get_theirs_once_with_every_row_kept(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    path.touch(0o600)
    with closing(apsw.Connection(str(path))) as old:
        old.execute("PRAGMA journal_mode = WAL").fetchall()
        for script in MIGRATIONS[:2]:
            old.execute(script)
        old.pragma("application_id", APPLICATION_ID)
        old.pragma("user_version", 2)
        say(old, 200)
    assert damaged_pages(path) is None

    with closing(open_writer(path)) as writer:
        assert has_check_sums(writer)
        found = writer.execute("SELECT count(*), sum(length(text)) FROM messages").fetchall()
    assert found == [(200, 200 * (len(TEXT) + 1) + 10 + 90 * 2 + 100 * 3)]
    assert damaged_pages(path) == []


# In a process of its own: a second SQLite within this one would drop the first one's locks.
def test_another_program_may_read_and_write_beside_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with closing(open_writer(path)) as writer:
        say(writer, 10)
        told = subprocess.run(
            [sys.executable, "-c", OTHER, str(path)], capture_output=True, text=True, check=True
        )
        assert told.stdout == "10\n"
        say(writer, 1)

    assert damaged_pages(path) == []
    with closing(open_checked(path, apsw.SQLITE_OPEN_READWRITE)) as reader:
        assert reader.execute("SELECT count(*) FROM messages").fetchall() == [(6,)]


def test_what_another_program_wrote_while_no_daemon_ran_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    filled(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE messages SET text = 'other' WHERE position = 100")
        other.commit()

    assert damaged_pages(path)
    with opened(path, live=False) as connection:
        (problem,) = integrity_problems(connection, path)
    assert problem.startswith("pages that are not as they were written: ")
