"""A copy of a database as of one instant, made while others write it.

Page by page with SQLite's backup interface inside one read transaction, and not with `VACUUM INTO`:
that would build every index anew and so hide damage, which a copy of the pages shows to the
integrity check. The read transaction is what keeps the instant: without it each step would see the
latest commit, and a writer in another process would make the copy begin again for ever. Writers are
not held up; what they write meanwhile stays in the WAL until the copy is done.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import apsw

from gateway.durable.connection import empty_database, translated
from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.durable.files import storage_errors, write_whole
from gateway.durable.inspecting import integrity_problems, opened, page_problems
from gateway.durable.pages import open_checked
from gateway.errors import DamagedDataError, StorageFullError

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.connection import Connection

STEP_PAGES: Final = 256
"""Pages copied between two syncs (4 KiB each): no other sync of the disk waits long for ours."""


UNFINISHED_ID: Final = 0x53474B3F
"""Marks the file of a copy that is not whole yet (`PRAGMA application_id`): nobody starts on it."""


def copy_database(source: Connection, path: Path, target: Path, disk: Disk = SYSTEM_DISK) -> int:
    """Copy what an open read transaction sees to a new file; return its size in bytes.

    Durability: on return the copy survives power loss, its name once the directory is synced.

    Args:
        source: A connection inside a read transaction.
        path: Its file, named where the source turns out damaged.
        target: Where the copy goes; nothing has this name yet.
        disk: Where both are.

    Raises:
        DamagedDataError: a page cannot be read, or the copy does not pass the integrity check.
    """
    # Written anew, a page gets a check sum that says nothing of what it was read from.
    if problems := page_problems(source, path, disk):
        raise DamagedDataError(path, f"the database is damaged ({problems[0]})")

    # From its header SQLite knows that each page is to get its check sum.
    write_whole(target, empty_database(UNFINISHED_ID), disk=disk)
    with storage_errors(target):
        descriptor = disk.open(target, os.O_RDWR | os.O_NOFOLLOW)
    try:
        with translated(path), storage_errors(target):
            _copy_pages(source, target, descriptor, disk)
        with storage_errors(target):
            disk.sync(descriptor)
            size = disk.stat(descriptor).st_size
    finally:
        # Closing tells nothing that the sync has not.
        with suppress(OSError):
            disk.close(descriptor)
    with translated(path), opened(target, live=False, disk=disk) as copy:
        problems = integrity_problems(copy, target, disk)
    if problems:
        raise DamagedDataError(path, f"the database is damaged ({'; '.join(problems[:3])})")

    return size


def _copy_pages(source: Connection, target: Path, descriptor: int, disk: Disk) -> None:
    copy = open_checked(target, apsw.SQLITE_OPEN_READWRITE, disk)
    try:
        # A half-done copy is thrown away as a whole, so it needs no journal.
        copy.execute("PRAGMA journal_mode = OFF; PRAGMA cache_size = -1024").fetchall()
        with copy.backup("main", source, "main") as backup:
            while not backup.done:
                backup.step(STEP_PAGES)
                disk.sync_data(descriptor)
    except apsw.FullError as exc:
        raise StorageFullError(f"{target}: no space left on the disk") from exc
    finally:
        copy.close()
