"""Laws of giving free pages back to the disk."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import anyio
import apsw
import pytest

from gateway.clock import FakeClock
from gateway.durable.connection import open_writer
from gateway.durable.copying import copy_database
from gateway.durable.database import STEP_PAGES, Database
from gateway.durable.inspecting import integrity_problems, opened, reading
from gateway.durable.pages import (
    CHECK_SUM_BYTES,
    RESERVE_PAGES,
    damaged_pages,
    gives_pages_back,
    has_check_sums,
    open_checked,
    with_check_sum,
)
from gateway.durable.salvaging import finish_database, new_database
from gateway.durable.schema import APPLICATION_ID, CHECKED_FROM, MIGRATIONS
from tests.support.database import add, names, opened_database
from tests.support.disk import fill, small_disk

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.batch import Transaction

PAGE = 4096
SAY = (
    "INSERT INTO messages (session_id, turn_id, role, text, created_at) "
    "VALUES ('s', 't', 'user', ?, '')"
)


def _say(transaction: Transaction, rows: int) -> None:
    for number in range(rows):
        transaction.execute(SAY, (f"{number} " + "x" * 8_000,))


def _forget(transaction: Transaction, modulus: int) -> None:
    transaction.execute("DELETE FROM messages WHERE position % ? <> 0", (modulus,))


async def _freed(database: Database) -> tuple[int, int]:
    """Give back all there is; return how many bytes, and in how many steps."""
    total = steps = 0
    while step := await database.give_back():
        # One of the pages that tell of others may go with them.
        assert step <= (STEP_PAGES + 1) * PAGE
        total += step
        steps += 1
    return total, steps


def _pages(connection: apsw.Connection) -> tuple[int, int]:
    return (
        int(str(connection.pragma("page_count"))),
        int(str(connection.pragma("freelist_count"))),
    )


async def test_the_file_shrinks_by_what_was_deleted_but_for_a_reserve(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    async with opened_database(tmp_path) as database:
        await database.write(partial(_say, rows=3_000))
        await database.write(partial(_forget, modulus=10))
        pages, free = await database.read(_pages)
        given, steps = await _freed(database)
        left, still_free = await database.read(_pages)
        size = path.stat().st_size
        texts = await database.read(
            lambda one: one.execute("SELECT count(*), sum(length(text)) FROM messages").fetchall()
        )
        assert await database.give_back() == 0

    assert still_free == RESERVE_PAGES
    # Pages that told of others go as well: one in some 800.
    assert 0 <= given - (free - RESERVE_PAGES) * PAGE <= 10 * PAGE
    assert steps >= given // (STEP_PAGES * PAGE)
    assert size == left * PAGE < pages * PAGE - given + PAGE
    assert texts[0][0] == 300
    assert damaged_pages(path) == []
    with opened(path, live=False) as connection:
        assert integrity_problems(connection, path) == []


async def test_a_small_database_keeps_its_free_pages(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        await database.write(partial(_say, rows=300))
        await database.write(partial(_forget, modulus=1_000))
        before = await database.read(_pages)
        assert before[1] > 500
        assert await database.give_back() == 0
        assert await database.read(_pages) == before


async def test_others_write_between_two_steps(tmp_path: Path) -> None:
    order: list[str] = []
    async with opened_database(tmp_path) as database:
        await database.write(partial(_say, rows=2_500))
        await database.write(partial(_forget, modulus=2_500))

        async def give() -> None:
            while await database.give_back():
                order.append("step")

        async def write() -> None:
            for number in range(5):
                await database.write(add(f"w{number}", number))
                order.append("write")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(give)
            tasks.start_soon(write)
        assert await names(database) == ["w0", "w1", "w2", "w3", "w4"]
    # The writes are through long before the last step.
    assert order.count("step") > 10
    assert "write" not in order[11:]


def _older(path: Path, version: int, rows: int) -> None:
    """Make a database as an older gateway left it."""
    with closing(apsw.Connection(":memory:")) as empty:
        checked = version >= CHECKED_FROM
        empty.reserve_bytes("main", CHECK_SUM_BYTES if checked else 0)
        empty.pragma("application_id", APPLICATION_ID)
        image = empty.serialize("main")
        path.touch(0o600)
        path.write_bytes(with_check_sum(image) if checked else image)
    with closing(open_checked(path, apsw.SQLITE_OPEN_READWRITE)) as old:
        old.execute("PRAGMA journal_mode = WAL").fetchall()
        for script in MIGRATIONS[:version]:
            old.execute(script)
        old.pragma("user_version", version)
        with old:
            for number in range(rows):
                old.execute(SAY, (f"{number} " + "y" * 500,))
        assert not gives_pages_back(old)
        assert has_check_sums(old) == checked


@pytest.mark.parametrize("version", range(1, 8))
async def test_a_database_of_any_older_version_is_rewritten_once(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "gateway.db"
    _older(path, version, rows=50)

    written = []
    for _ in range(3):
        with closing(open_writer(path)) as writer:
            assert gives_pages_back(writer)
            assert has_check_sums(writer)
            assert writer.execute("SELECT count(*) FROM messages").fetchall() == [(50,)]
        written.append(path.read_bytes())
    assert written[0] == written[1] == written[2]
    assert damaged_pages(path) == []


async def test_a_copy_and_a_salvaged_database_can_give_back_too(tmp_path: Path) -> None:
    path, copy, saved = (tmp_path / name for name in ("gateway.db", "copy.db", "saved.db"))
    async with opened_database(tmp_path) as database:
        await database.write(partial(_say, rows=10))
    with reading(path, live=False) as source:
        copy_database(source, path, copy)
    with new_database(saved, 6) as connection:
        connection.execute(SAY, ("kept",))
    with finish_database(saved):
        pass

    for one in (copy, saved):
        assert damaged_pages(one) == []
        with closing(open_writer(one)) as writer:
            assert gives_pages_back(writer)


async def test_a_database_that_there_is_no_space_to_rewrite_is_served_as_it_is(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", size_mb=24) as disk:
        path = disk / "gateway.db"
        _older(path, version=7, rows=8_000)
        assert path.stat().st_size > 4_000_000
        fill(disk / "other", leave_bytes=3_000_000)
        async with Database.open(path, FakeClock()) as database:
            assert not await database.read(gives_pages_back)
            await database.write(partial(_say, rows=1))
            assert await database.give_back() == 0
        (disk / "other").unlink()
        async with Database.open(path, FakeClock()) as database:
            assert await database.read(gives_pages_back)
            assert await database.read(_count) == [(8_001,)]


def _count(connection: apsw.Connection) -> list[tuple[object, ...]]:
    return connection.execute("SELECT count(*) FROM messages").fetchall()
