"""Laws of what the database refuses, and of disks that are full or broken."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import anyio
import apsw
import pytest

from gateway.clock import FakeClock
from gateway.durable.connection import open_writer
from gateway.durable.database import Database
from gateway.durable.schema import APPLICATION_ID, MIGRATIONS
from gateway.errors import (
    DamagedDataError,
    DatabaseTooNewError,
    StorageBusyError,
    StorageError,
    StorageFullError,
    UnsafeStateDirectoryError,
)
from tests.support.disk import fill, small_disk

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.batch import Transaction

ADD = "INSERT INTO store_state (name, value) VALUES (?, ?)"
BROKEN_DISK = """
import pathlib, resource, sys
import anyio
from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.errors import StorageError

async def main():
    said = []
    with anyio.fail_after(60):
        async with Database.open(pathlib.Path(sys.argv[1]), FakeClock()) as database:
            def add(name, abort=None):
                def work(tx):
                    tx.on_abort(lambda: said.append("undone " + name))
                    tx.execute("INSERT INTO store_state (name, value) VALUES (?, 0)", (name,))
                return database.write(work)

            await add("good")
            size = max(p.stat().st_size for p in pathlib.Path(sys.argv[1]).parent.iterdir())
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50_000, hard))
            try:
                await add("x" * 2_000_000)
            except StorageError as error:
                said.append(type(error).__name__)
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            try:
                await add("later")
            except StorageError as error:
                said.append("later " + type(error).__name__)
            said.append(type(await database.wait_failed()).__name__)
            said.append("failed" if database.statistics().failed else "works")
            names = await database.read(
                lambda c: c.execute("SELECT name FROM store_state").fetchall()
            )
            said.append(names)
    print(str(said).replace("x" * 2_000_000, "big"))

anyio.run(main)
"""


def _modes(folder: Path) -> dict[str, int]:
    return {one.name: one.stat().st_mode & 0o777 for one in folder.iterdir()}


async def test_the_database_and_its_companions_are_private(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    before = os.umask(0)
    try:
        async with Database.open(path, FakeClock()) as database:
            await database.write(lambda tx: tx.execute(ADD, ("a", 0)).fetchall())
            modes = _modes(tmp_path)
    finally:
        os.umask(before)

    assert modes == dict.fromkeys(("gateway.db", "gateway.db-wal", "gateway.db-shm"), 0o600)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o602])
def test_a_database_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "gateway.db"
    path.touch()
    path.chmod(mode)

    with pytest.raises(UnsafeStateDirectoryError, match=f"mode {mode:04o}, accepted is 0600"):
        open_writer(path)

    assert path.stat().st_size == 0


def test_a_database_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gateway.db").symlink_to(tmp_path / "other")

    with pytest.raises(StorageError, match=r"gateway\.db"):
        open_writer(tmp_path / "gateway.db")

    assert not (tmp_path / "other").exists()


def test_a_database_of_a_newer_gateway_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    connection = open_writer(path)
    connection.pragma("user_version", len(MIGRATIONS) + 1)
    connection.close()
    before = path.read_bytes()

    with pytest.raises(
        DatabaseTooNewError, match=f"version {len(MIGRATIONS) + 1} was written by a newer gateway"
    ):
        open_writer(path)

    assert path.read_bytes() == before


@pytest.mark.parametrize("application_id", [0, 7])
def test_another_programs_database_is_refused_and_left_alone(
    tmp_path: Path, application_id: int
) -> None:
    path = tmp_path / "gateway.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE theirs (x)")
    connection.pragma("application_id", application_id)
    connection.close()
    path.chmod(0o600)
    before = path.read_bytes()

    with pytest.raises(DamagedDataError, match="a SQLite database of another program"):
        open_writer(path)

    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"x" * 5000, b"SQLite format 3\0" + b"\xff" * 4080])
def test_garbage_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "gateway.db"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(DamagedDataError, match=r"gateway\.db") as refused:
        open_writer(path)

    assert refused.value.path == path
    assert path.read_bytes() == content


def test_a_migration_is_done_wholly_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    connection = apsw.Connection(str(path))
    # The last table of the first migration is in its way.
    connection.execute("CREATE TABLE outbox (x)")
    connection.pragma("application_id", APPLICATION_ID)
    connection.close()
    path.chmod(0o600)

    with pytest.raises(DamagedDataError, match="cannot be brought to version 1"):
        open_writer(path)

    connection = apsw.Connection(str(path))
    tables = connection.execute("SELECT name FROM sqlite_schema").fetchall()
    assert (tables, connection.pragma("user_version")) == ([("outbox",)], 0)
    connection.close()


def test_a_new_database_is_marked_as_ours_with_its_version(tmp_path: Path) -> None:
    for _ in range(2):
        connection = open_writer(tmp_path / "gateway.db")
        assert connection.pragma("application_id") == APPLICATION_ID
        assert connection.pragma("user_version") == len(MIGRATIONS)
        assert connection.pragma("journal_mode") == "wal"
        connection.close()


async def test_damage_met_in_service_is_final(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    connection = open_writer(path)
    connection.execute(
        "INSERT INTO inbox (session_key, message_id, turn_id, agent, source, text, accepted_at) "
        "VALUES ('k', 'm', 't', 'a', '{}', '', '')"
    )
    asked = "SELECT rootpage FROM sqlite_schema WHERE name = 'inbox'"
    page = int(str(connection.execute(asked).fetchall()[0][0]))
    connection.close()
    content = path.read_bytes()
    before, behind = content[: 4096 * (page - 1)], content[4096 * page :]
    path.write_bytes(before + b"\xff" * 4096 + behind)

    with anyio.fail_after(30):
        async with Database.open(path, FakeClock()) as database:
            with pytest.raises(DamagedDataError, match="damaged"):
                await database.write(lambda tx: tx.execute("SELECT * FROM inbox").fetchall())
            assert isinstance(await database.wait_failed(), DamagedDataError)
            with pytest.raises(DamagedDataError):
                await database.ping()


async def test_what_waits_behind_a_storage_failure_is_refused(tmp_path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    def fail(_: Transaction) -> None:
        entered.set()
        assert leave.wait(30)
        raise apsw.IOError

    with anyio.fail_after(30):
        async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
            failing = database.submit(fail)
            assert entered.wait(30)
            waiting = [database.submit(fail) for _ in range(3)]
            leave.set()
            for future in (failing, *waiting, database.submit(fail)):
                with pytest.raises(StorageError, match="the storage failed"):
                    await future
            assert isinstance(await database.wait_failed(), StorageError)


async def test_another_program_that_writes_refuses_changes_until_it_is_done(
    tmp_path: Path,
) -> None:
    with anyio.fail_after(30):
        async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
            await database.write(lambda tx: tx.connection.set_busy_timeout(1))
            other = apsw.Connection(str(database.path), flags=apsw.SQLITE_OPEN_READWRITE)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageBusyError, match="another program holds the database"):
                await database.ping()
            other.close()
            await database.ping()
            assert not database.statistics().failed


def test_a_storage_failure_is_final_though_the_disk_recovers(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", BROKEN_DISK, str(tmp_path / "gateway.db")],
        capture_output=True,
        check=False,
        text=True,
    )

    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout == (
        "['undone big', 'StorageError', 'later StorageError', 'StorageError', 'failed', "
        "[('good',)]]\n"
    )


async def test_a_full_disk_refuses_changes_whole_and_serves_again_once_there_is_room(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    with anyio.fail_after(60), small_disk(tmp_path / "disk") as disk:
        async with Database.open(disk / "gateway.db", FakeClock()) as database:

            async def add(name: str) -> None:
                def work(transaction: Transaction) -> None:
                    transaction.on_abort(lambda: said.append(f"undone {name}"))
                    transaction.execute(ADD, (name + "x" * 50_000, 0))

                await database.write(work)

            async def names() -> list[str]:
                rows = await database.read(
                    lambda conn: conn.execute("SELECT name FROM store_state").fetchall()
                )
                return [str(row[0])[:2] for row in rows]

            await add("a ")
            ballast = disk / "ballast"
            fill(ballast)

            for name in ("b ", "c "):
                with pytest.raises(StorageFullError, match="no space left"):
                    await add(name)
                assert database.statistics().full
            with pytest.raises(StorageFullError, match="no space left"):
                await database.compact(2**30)
            # A ping writes nothing, so it says nothing of the space.
            await database.ping()
            assert database.statistics().full
            assert not database.statistics().failed
            assert (await names(), said) == (["a "], ["undone b ", "undone c "])

            ballast.unlink()
            await add("d ")
            assert not database.statistics().full
            await database.compact(2**30)
            assert await names() == ["a ", "d "]
