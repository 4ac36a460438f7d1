"""Laws of the database: what is durable, in which order, and whom an error hurts."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio
import apsw
import pytest

from gateway.clock import FakeClock
from gateway.durable.database import MAX_BATCH, Database, Transaction
from gateway.errors import ConflictError, StorageError, StorageFullError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

ADD = "INSERT INTO store_state (name, value) VALUES (?, ?)"


def _add(name: str, value: int = 0) -> Callable[[Transaction], int]:
    def work(transaction: Transaction) -> int:
        transaction.execute(ADD, (name, value))
        return value

    return work


async def _names(database: Database) -> list[str]:
    """Return what a reader sees, in order of insertion."""
    rows = await database.read(
        lambda conn: conn.execute("SELECT name FROM store_state ORDER BY value, name").fetchall()
    )
    return [str(row[0]) for row in rows]


@asynccontextmanager
async def _opened(tmp_path: Path) -> AsyncGenerator[Database]:
    with anyio.fail_after(20):
        async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
            yield database


class _Gate:
    """Holds the writer thread, so that everything submitted meanwhile waits together."""

    def __init__(self, database: Database) -> None:
        self._open, self._entered = threading.Event(), threading.Event()
        self._waiting = database.submit(self._hold)
        assert self._entered.wait(5)

    def _hold(self, _: Transaction) -> None:
        self._entered.set()
        assert self._open.wait(5)

    async def open(self) -> None:
        self._open.set()
        await self._waiting


async def test_a_result_comes_back_and_what_was_written_is_read(tmp_path: Path) -> None:
    async with _opened(tmp_path) as database:
        assert await database.write(_add("a", 7)) == 7
        assert await _names(database) == ["a"]


async def test_a_reopened_database_has_what_was_written(tmp_path: Path) -> None:
    async with _opened(tmp_path) as database:
        await database.write(_add("a"))
    async with _opened(tmp_path) as database:
        assert await _names(database) == ["a"]


async def test_waiting_work_shares_one_commit(tmp_path: Path) -> None:
    async with _opened(tmp_path) as database:
        gate = _Gate(database)
        futures = [database.submit(_add(f"n{n}", n)) for n in range(MAX_BATCH + 10)]
        assert database.statistics().waiting == MAX_BATCH + 10
        await gate.open()
        assert [await one for one in futures] == list(range(MAX_BATCH + 10))

        found = database.statistics()
        assert (found.commits, found.largest_batch) == (3, MAX_BATCH)
        assert (found.transactions, found.waiting) == (MAX_BATCH + 11, 0)


async def test_work_runs_in_the_order_it_was_submitted(tmp_path: Path) -> None:
    async with _opened(tmp_path) as database:
        order: list[int] = []

        def noted(number: int) -> Callable[[Transaction], None]:
            return lambda _: order.append(number)

        for future in [database.submit(noted(n)) for n in range(1000)]:
            await future

    assert order == list(range(1000))


async def test_work_sees_the_work_before_it(tmp_path: Path) -> None:
    def count(transaction: Transaction) -> object:
        return transaction.execute("SELECT count(*) FROM store_state").fetchall()[0][0]

    async with _opened(tmp_path) as database:
        gate = _Gate(database)
        database.submit(_add("a"))
        seen = database.submit(count)
        await gate.open()
        assert await seen == 1


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("error", [ValueError("mine"), StopIteration("mine")])
async def test_an_error_of_work_is_its_own_alone(
    tmp_path: Path, error: Exception, *, together: bool
) -> None:
    def fail(transaction: Transaction) -> None:
        transaction.execute(ADD, ("half", 0))
        raise error

    async with _opened(tmp_path) as database:
        gate = _Gate(database) if together else None
        before = database.submit(_add("before", 1)) if together else None
        failing = database.submit(fail)
        after = database.submit(_add("after", 2)) if together else None
        if gate is not None and before is not None and after is not None:
            await gate.open()
            assert (await before, await after) == (1, 2)
        with pytest.raises((ValueError, RuntimeError), match="mine"):
            await failing

        assert await _names(database) == (["before", "after"] if together else [])
        assert not database.statistics().failed
        assert await database.write(_add("later", 3)) == 3


async def test_a_wrong_statement_is_the_error_of_its_work(tmp_path: Path) -> None:
    async with _opened(tmp_path) as database:
        with pytest.raises(apsw.SQLError):
            await database.write(lambda tx: tx.execute("SELECT nonsense"))
        await database.write(_add("a"))
        with pytest.raises(apsw.ConstraintError):
            await database.write(_add("a"))

        assert await _names(database) == ["a"]


def _staging(
    said: list[str], name: str, *, writes: bool = False, error: BaseException | None = None
) -> Callable[[Transaction], None]:
    def work(transaction: Transaction) -> None:
        for step in "12":
            transaction.on_commit(partial(said.append, f"{name} committed {step}"))
            transaction.on_abort(partial(said.append, f"{name} aborted {step}"))
        if writes:
            transaction.execute(ADD, (name, 0))
        if error is not None:
            raise error

    return work


@pytest.mark.parametrize("writes", [False, True])
async def test_memory_follows_what_became_of_the_work(tmp_path: Path, *, writes: bool) -> None:
    said: list[str] = []
    async with _opened(tmp_path) as database:
        gate = _Gate(database)
        futures = [
            database.submit(_staging(said, "a")),
            database.submit(_staging(said, "b", writes=writes, error=ValueError())),
            database.submit(_staging(said, "c")),
        ]
        await gate.open()
        await futures[0]
        await futures[2]
        with pytest.raises(ValueError):  # noqa: PT011 - it has no text
            await futures[1]

    # What failed is undone at once, newest first; the others follow once they are durable.
    b_undone = ["b aborted 2", "b aborted 1"]
    # Where it had written, all of the batch is undone and done again.
    again = ["a aborted 2", "a aborted 1", *b_undone] if writes else []
    assert said == [
        *(*b_undone, *again),
        *("a committed 1", "a committed 2", "c committed 1", "c committed 2"),
    ]


async def test_what_is_undone_is_undone_once(tmp_path: Path) -> None:
    said: list[str] = []
    full = iter([False, True])

    def full_at_the_second_time(_: Transaction) -> None:
        if next(full):
            raise apsw.FullError

    async with _opened(tmp_path) as database:
        gate = _Gate(database)
        futures = [
            database.submit(full_at_the_second_time),
            database.submit(_staging(said, "a")),
            database.submit(_staging(said, "b", writes=True, error=ValueError())),
        ]
        await gate.open()
        for future in futures:
            with pytest.raises((StorageFullError, ValueError)):
                await future

    assert said == ["b aborted 2", "b aborted 1", "a aborted 2", "a aborted 1"]


async def test_memory_is_told_only_of_what_readers_see(tmp_path: Path) -> None:
    seen: list[object] = []

    async with _opened(tmp_path) as database:
        reader = apsw.Connection(str(database.path), flags=apsw.SQLITE_OPEN_READWRITE)

        def count() -> None:
            seen.append(reader.execute("SELECT count(*) FROM store_state").fetchall()[0][0])

        def work(transaction: Transaction) -> None:
            transaction.execute(ADD, ("a", 0))
            count()
            transaction.on_commit(count)

        await database.write(work)
        reader.close()

    assert seen == [0, 1]


async def test_what_a_cancelled_waiter_wrote_stays(tmp_path: Path) -> None:
    async with _opened(tmp_path) as database:
        gate = _Gate(database)
        async with anyio.create_task_group() as group:
            group.start_soon(database.write, _add("a"))
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        await gate.open()
        await database.ping()

        assert await _names(database) == ["a"]


async def test_closing_waits_for_the_work_that_waits(tmp_path: Path) -> None:
    futures: list[asyncio.Future[int]] = []
    async with _opened(tmp_path) as database:
        gate = _Gate(database)
        futures += [database.submit(_add(f"n{n}", n)) for n in range(MAX_BATCH * 2)]
        async with anyio.create_task_group() as group:
            group.start_soon(gate.open)

    assert [await one for one in futures] == list(range(MAX_BATCH * 2))
    async with _opened(tmp_path) as database:
        assert len(await _names(database)) == MAX_BATCH * 2


async def test_a_closed_database_takes_nothing(tmp_path: Path) -> None:
    async with _opened(tmp_path) as database:
        pass

    with anyio.fail_after(5), pytest.raises(StorageError, match="closed"):
        await database.write(_add("a"))
    with anyio.fail_after(5), pytest.raises(StorageError, match="closed"):
        await _names(database)


async def test_readers_cannot_write(tmp_path: Path) -> None:
    async with _opened(tmp_path) as database:
        with pytest.raises(StorageError):
            await database.read(lambda conn: conn.execute(ADD, ("a", 0)).fetchall())

        assert await _names(database) == []


async def test_more_readers_than_connections_all_get_their_answer(tmp_path: Path) -> None:
    answers: list[list[str]] = []

    async with _opened(tmp_path) as database:
        await database.write(_add("a"))

        async def read() -> None:
            answers.append(await _names(database))

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(read)

    assert answers == [["a"]] * 20


async def test_a_ping_reaches_the_writer_and_writes_nothing(tmp_path: Path) -> None:
    async with _opened(tmp_path) as database:
        before = database.statistics()
        await database.ping()
        after = database.statistics()

        assert after.transactions == before.transactions + 1
        assert after.wal_pages == before.wal_pages
        assert (tmp_path / "gateway.db-wal").stat().st_size == 0


async def test_the_settings_of_both_kinds_of_connection_are_in_force(tmp_path: Path) -> None:
    names = ("foreign_keys", "mmap_size", "trusted_schema", "busy_timeout")
    async with _opened(tmp_path) as database:
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
    async with _opened(tmp_path) as database:
        for n in range(20):
            await database.write(_add("x" * 200_000 + str(n)))
        # An idle writer checkpoints; while a ping waits it is not idle.
        while database.statistics().wal_pages:
            await database.ping()
        # 20 values of 49 pages; the WAL is used again from its beginning.
        size = wal.stat().st_size
        assert size > 1_000 * 4096
        await database.write(_add("a"))
        assert wal.stat().st_size == size


async def test_a_compacted_database_holds_what_there_is_and_nothing_else(tmp_path: Path) -> None:
    async with _opened(tmp_path) as database:
        for n in range(200):
            await database.write(_add(f"{n} " + "gone" * 200, n))
        await database.compact()
        before = database.path.stat().st_size
        await database.write(lambda tx: tx.execute("DELETE FROM store_state WHERE value % 2"))
        await database.write(_add("last", 999))

        await database.compact()

        assert (tmp_path / "gateway.db-wal").stat().st_size == 0
        assert database.statistics().wal_pages == 0
        assert database.path.read_bytes().count(b"gone" * 200) == 100
        assert database.path.stat().st_size < before
        assert len(await _names(database)) == 101
        await database.write(_add("after"))


async def test_a_reader_that_stays_prevents_compacting_and_hurts_nothing(tmp_path: Path) -> None:
    async with _opened(tmp_path) as database:
        await database.write(_add("a"))
        await database.write(lambda tx: tx.connection.set_busy_timeout(1))
        other = apsw.Connection(str(database.path), flags=apsw.SQLITE_OPEN_READWRITE)
        other.execute("BEGIN; SELECT * FROM store_state").fetchall()
        await database.write(_add("b"))

        with pytest.raises(ConflictError, match="in use"):
            await database.compact()
        other.close()
        await database.compact()

        assert await _names(database) == ["a", "b"]
        assert not database.statistics().failed


async def test_compacting_among_writers_loses_nothing(tmp_path: Path) -> None:
    async with _opened(tmp_path) as database:
        async with anyio.create_task_group() as group:
            for n in range(300):
                group.start_soon(database.write, _add(f"n{n}", n))
                if n % 100 == 50:
                    group.start_soon(database.compact)

        assert len(await _names(database)) == 300
