"""Laws of the files of the database: its settings, the WAL, and what deleted rows leave behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import apsw
import pytest

from gateway.errors import StorageBusyError
from tests.support.database import add, names, opened_database

if TYPE_CHECKING:
    from pathlib import Path


async def test_the_settings_of_both_kinds_of_connection_are_in_force(tmp_path: Path) -> None:
    names = ("foreign_keys", "mmap_size", "trusted_schema", "busy_timeout")
    async with opened_database(tmp_path) as database:
        wanted = {"foreign_keys": 1, "mmap_size": 0, "trusted_schema": 0, "busy_timeout": 5000}
        writer = await database.write(lambda tx: {n: tx.connection.pragma(n) for n in names})
        reader = await database.read(lambda conn: {n: conn.pragma(n) for n in names})
        # 2: each commit is synced; 1: what is deleted is overwritten.
        durable = await database.write(
            lambda tx: [tx.connection.pragma(n) for n in ("synchronous", "secure_delete")]
        )

    assert (writer, reader) == (wanted, wanted)
    assert durable == [2, 1]


async def test_an_idle_writer_moves_the_wal_into_the_database(tmp_path: Path) -> None:
    wal = tmp_path / "gateway.db-wal"
    async with opened_database(tmp_path) as database:
        for n in range(15):
            await database.write(add("x" * 200_000 + str(n)))
        # Only this one brings it over the limit, and nothing is left in the WAL after it.
        await database.write(add("x" * 1_000_000))
        # An idle writer checkpoints; while a ping waits it is not idle.
        while database.statistics().wal_pages:
            await database.ping()
        # The WAL is used again from its beginning.
        size = wal.stat().st_size
        assert size > 1_000 * 4096
        await database.write(add("a"))
        assert wal.stat().st_size == size


async def test_a_compacted_database_holds_what_there_is_and_nothing_else(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        for n in range(200):
            await database.write(add(f"{n} " + "gone" * 200, n))
        await database.compact(2**30)
        before = database.path.stat().st_size
        await database.write(lambda tx: tx.execute("DELETE FROM store_state WHERE value % 2"))
        await database.write(add("last", 999))

        await database.compact(2**30)

        assert (tmp_path / "gateway.db-wal").stat().st_size == 0
        assert database.statistics().wal_pages == 0
        assert database.path.read_bytes().count(b"gone" * 200) == 100
        assert database.path.stat().st_size < before
        assert len(await names(database)) == 101
        await database.write(add("after"))


async def test_a_reader_that_stays_prevents_compacting_and_hurts_nothing(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        await database.write(add("a"))
        await database.write(lambda tx: tx.connection.set_busy_timeout(1))
        other = apsw.Connection(str(database.path), flags=apsw.SQLITE_OPEN_READWRITE)
        other.execute("BEGIN; SELECT * FROM store_state").fetchall()
        await database.write(add("b"))

        with pytest.raises(StorageBusyError, match="another program holds the database"):
            await database.compact(2**30)
        other.close()
        await database.compact(2**30)

        assert await names(database) == ["a", "b"]
        assert not database.statistics().failed


async def test_compacting_among_writers_loses_nothing(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        async with anyio.create_task_group() as group:
            for n in range(300):
                group.start_soon(database.write, add(f"n{n}", n))
                if n % 100 == 50:
                    group.start_soon(database.compact, 2**30)

        assert len(await names(database)) == 300
