"""Reading a database as it is, without changing a file: beside its writer or where nobody writes.

Beside a writer this is a reader like any other, and sees one instant. Where nobody writes, the WAL
is indexed in memory of our own: nothing is locked, made or changed, so that it works on a read-only
file system as well. A writer that comes meanwhile is not kept away; `Footprint` tells of it.
"""

from __future__ import annotations

import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import apsw

from gateway.durable.connection import PRAGMAS, check_ours, translated
from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.durable.files import storage_errors
from gateway.durable.pages import damaged_pages, open_checked
from gateway.durable.schema import MIGRATIONS
from gateway.durable.wal import check_wal, count_frames, pages_in
from gateway.errors import DamagedDataError, GatewayError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from pathlib import Path

    from gateway.durable.connection import Connection

MAX_PROBLEMS: Final = 20
"""Most findings of `PRAGMA integrity_check` that are told."""
NEWEST: Final = len(MIGRATIONS)
"""The version of the tables that this gateway works with."""
_WITHOUT_LOCKS: Final = "unix-none"
"""SQLite's VFS that never locks: what it opens must not be written by anybody."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What some files looked like at one instant; two that are equal saw the same content."""

    files: tuple[tuple[str, int, int, int], ...]
    """Name, inode, size in bytes and time of the last change in ns of each that is there."""

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Footprint:
        """Look at files; those that are not there are part of the picture as well."""
        seen = []
        for path in paths:
            with suppress(OSError):
                status = path.lstat()
                seen.append((path.name, status.st_ino, status.st_size, status.st_mtime_ns))
        return cls(tuple(seen))


@contextmanager
def reading(path: Path, *, live: bool, disk: Disk = SYSTEM_DISK) -> Generator[Connection]:
    """Open a database and read it as of one instant, from the first query to the end.

    Args:
        path: The database.
        live: Whether somebody may be writing it. Where nobody can, nothing is locked.
        disk: Where it is.

    Raises:
        DamagedDataError: it is damaged, or no database of ours.
        DatabaseTooNewError: a newer gateway wrote it.
    """
    with translated(path), opened(path, live=live, disk=disk) as connection:
        check_ours(connection, path)
        if not live:
            # Beside its writer the end of the WAL moves, and its writer has looked already.
            check_wal(path, readable_frames(connection, path, disk), disk)
        try:
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            yield connection
        except apsw.SQLError as exc:
            raise DamagedDataError(path, f"not the tables of a gateway ({exc})") from exc


@contextmanager
def opened(
    path: Path, *, live: bool, with_wal: bool = True, disk: Disk = SYSTEM_DISK
) -> Generator[Connection]:
    """Open a database for reading, whatever is in it; see `reading`.

    `with_wal` False reads the file alone, as of its last checkpoint.
    """
    with storage_errors(path):
        status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise DamagedDataError(path, "not a regular file")

    if not status.st_size:
        # SQLite would take it for a new database, and remove the WAL beside it.
        raise DamagedDataError(path, "the file is empty")

    connection = _connect(path, disk, live=live, with_wal=with_wal)
    try:
        # The last one to close must not checkpoint: that would write.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.execute(PRAGMAS).fetchall()
        connection.execute("PRAGMA query_only = ON")
        if not live:
            # Before the first read: the index of the WAL then stays out of shared memory.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        yield connection
    finally:
        connection.close()


def _connect(path: Path, disk: Disk, *, live: bool, with_wal: bool) -> Connection:
    if live:
        return open_checked(path, apsw.SQLITE_OPEN_READWRITE, disk)

    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    wal = path.with_name(path.name + "-wal")
    # Opened as usual, a WAL that is not there would be made.
    alone = not with_wal or not wal.exists() or not wal.stat().st_size
    uri = f"{path.absolute().as_uri()}?{'immutable=1' if alone else 'mode=ro'}"
    return apsw.Connection(uri, flags=flags, vfs=_WITHOUT_LOCKS)


def readable_frames(connection: Connection, path: Path, disk: Disk) -> int:
    """Return how many frames of the WAL SQLite reads, once it has read something."""
    try:
        return max(0, connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)[0])
    except (apsw.ReadOnlyError, apsw.LockedError):
        # On a read-only file system, and within a transaction, SQLite does not say.
        return count_frames(path, disk)


def version_of(connection: Connection) -> int:
    """Return the version of a database's tables; see `NEWEST`."""
    return int(str(connection.pragma("user_version")))


def integrity_problems(connection: Connection, path: Path, disk: Disk = SYSTEM_DISK) -> list[str]:
    """Return what the check sums and SQLite's own check of every page find wrong."""
    problems = page_problems(connection, path, disk)
    try:
        with translated(path):
            rows = connection.execute(f"PRAGMA integrity_check({MAX_PROBLEMS})").fetchall()
    except GatewayError as error:
        return [*problems, str(error)]

    found = [line for row in rows for line in str(row[0]).splitlines()]
    return problems + ([] if found == ["ok"] else found)


def page_problems(connection: Connection, path: Path, disk: Disk = SYSTEM_DISK) -> list[str]:
    """Return which pages fail their check sum; of an open database of ours that nobody writes.

    Beside its writer every page is checked as it is read, and nothing is to be looked for here.
    """
    if connection.pragma("checksum_verification") is not None:
        return []

    pages = damaged_pages(path, pages_in(path, readable_frames(connection, path, disk), disk), disk)
    if not pages:
        return []

    named = ", ".join(map(str, pages[:MAX_PROBLEMS])) + (", ..." if pages[MAX_PROBLEMS:] else "")
    return [f"pages that are not as they were written: {len(pages)} (number {named})"]
