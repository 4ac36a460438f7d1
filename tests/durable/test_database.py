"""Laws of the database: what is durable, in which order, and whom an error hurts."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

import anyio
import apsw
import pytest

from gateway.durable.database import MAX_BATCH, Database
from gateway.errors import StorageError, StorageFullError
from tests.support.database import ADD, add, names, opened_database

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from pathlib import Path

    from gateway.durable.batch import Transaction


class _Gate:
    """Holds the writer thread, so that everything submitted meanwhile waits together."""

    def __init__(self, database: Database) -> None:
        self._open, self._entered = threading.Event(), threading.Event()
        self._waiting = database.submit(self._hold)
        assert self._entered.wait(30)

    def _hold(self, _: Transaction) -> None:
        self._entered.set()
        assert self._open.wait(30)

    async def open(self) -> None:
        self._open.set()
        await self._waiting


async def test_a_result_comes_back_and_what_was_written_is_read(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        assert await database.write(add("a", 7)) == 7
        assert await names(database) == ["a"]


async def test_a_reopened_database_has_what_was_written(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        await database.write(add("a"))
    async with opened_database(tmp_path) as database:
        assert await names(database) == ["a"]


async def test_waiting_work_shares_one_commit(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        gate = _Gate(database)
        futures = [database.submit(add(f"n{n}", n)) for n in range(MAX_BATCH + 10)]
        assert database.statistics().waiting == MAX_BATCH + 10
        await gate.open()
        assert [await one for one in futures] == list(range(MAX_BATCH + 10))

        found = database.statistics()
        assert (found.commits, found.largest_batch) == (3, MAX_BATCH)
        assert (found.transactions, found.waiting) == (MAX_BATCH + 11, 0)


async def test_work_runs_in_the_order_it_was_submitted(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        order: list[int] = []

        def noted(number: int) -> Callable[[Transaction], None]:
            return lambda _: order.append(number)

        for future in [database.submit(noted(n)) for n in range(1000)]:
            await future

    assert order == list(range(1000))


async def test_work_sees_the_work_before_it(tmp_path: Path) -> None:
    def count(transaction: Transaction) -> object:
        return transaction.execute("SELECT count(*) FROM store_state").fetchall()[0][0]

    async with opened_database(tmp_path) as database:
        gate = _Gate(database)
        database.submit(add("a"))
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

    async with opened_database(tmp_path) as database:
        gate = _Gate(database) if together else None
        before = database.submit(add("before", 1)) if together else None
        failing = database.submit(fail)
        after = database.submit(add("after", 2)) if together else None
        if gate is not None and before is not None and after is not None:
            await gate.open()
            assert (await before, await after) == (1, 2)
        with pytest.raises((ValueError, RuntimeError), match="mine"):
            await failing

        assert await names(database) == (["before", "after"] if together else [])
        assert not database.statistics().failed
        assert await database.write(add("later", 3)) == 3


async def test_a_wrong_statement_is_the_error_of_its_work(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        with pytest.raises(apsw.SQLError):
            await database.write(lambda tx: tx.execute("SELECT nonsense"))
        await database.write(add("a"))
        with pytest.raises(apsw.ConstraintError):
            await database.write(add("a"))

        assert await names(database) == ["a"]


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
    async with opened_database(tmp_path) as database:
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

    async with opened_database(tmp_path) as database:
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

    async with opened_database(tmp_path) as database:
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
    async with opened_database(tmp_path) as database:
        gate = _Gate(database)
        async with anyio.create_task_group() as group:
            group.start_soon(database.write, add("a"))
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        await gate.open()
        await database.ping()

        assert await names(database) == ["a"]


async def test_who_writes_through_learns_the_result_before_being_cancelled(
    tmp_path: Path,
) -> None:
    learnt: list[object] = []
    async with opened_database(tmp_path) as database:
        gate = _Gate(database)

        async def write(scope: anyio.CancelScope) -> None:
            with scope:
                learnt.append(await database.write_through(add("a", 7)))
                await anyio.lowlevel.checkpoint()
                learnt.append("not cancelled")

        scope = anyio.CancelScope()
        async with anyio.create_task_group() as group:
            group.start_soon(write, scope)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await gate.open()

    assert learnt == [7]
    assert scope.cancelled_caught


async def test_closing_waits_for_the_work_that_waits(tmp_path: Path) -> None:
    futures: list[asyncio.Future[int]] = []
    async with opened_database(tmp_path) as database:
        gate = _Gate(database)
        futures += [database.submit(add(f"n{n}", n)) for n in range(MAX_BATCH * 2)]
        async with anyio.create_task_group() as group:
            group.start_soon(gate.open)

    assert [await one for one in futures] == list(range(MAX_BATCH * 2))
    async with opened_database(tmp_path) as database:
        assert len(await names(database)) == MAX_BATCH * 2


async def test_a_closed_database_takes_nothing(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        pass

    with anyio.fail_after(30), pytest.raises(StorageError, match="closed"):
        await database.write(add("a"))
    with anyio.fail_after(30), pytest.raises(StorageError, match="closed"):
        await names(database)


async def test_readers_cannot_write(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        with pytest.raises(StorageError):
            await database.read(lambda conn: conn.execute(ADD, ("a", 0)).fetchall())

        assert await names(database) == []


async def test_more_readers_than_connections_all_get_their_answer(tmp_path: Path) -> None:
    answers: list[list[str]] = []

    async with opened_database(tmp_path) as database:
        await database.write(add("a"))

        async def read() -> None:
            answers.append(await names(database))

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(read)

    assert answers == [["a"]] * 20


async def test_a_ping_reaches_the_writer_and_writes_nothing(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        before = database.statistics()
        await database.ping()
        after = database.statistics()

        assert after.transactions == before.transactions + 1
        assert after.wal_pages == before.wal_pages
        assert (tmp_path / "gateway.db-wal").stat().st_size == 0


async def test_an_action_that_raises_ends_the_database_and_leaves_nobody_waiting(
    tmp_path: Path,
) -> None:
    def boom() -> None:
        raise ZeroDivisionError

    async with opened_database(tmp_path) as database:
        with pytest.raises(StorageError, match="ZeroDivisionError"):
            await database.write(lambda tx: tx.on_commit(boom))
        with pytest.raises(StorageError):
            await database.write(add("later"))
        assert isinstance(await database.wait_failed(), StorageError)
