"""Pages of a database: the check sum that each ends with, and how free ones are given back.

By the check sum no altered byte is ever served. SQLite's `cksumvfs` writes it with every page and
looks at it with every page read; it comes with apsw. A page written by a program without it counts
as damaged from then on. Pages in the WAL have check sums of their own. So that free pages can be
given back, every 800th page or so tells who points to the pages after it. Knows no table; below is
the `Disk`.
Source: https://www.sqlite.org/cksumvfs.html, https://www.sqlite.org/pragma.html#pragma_auto_vacuum
"""

from __future__ import annotations

import os
import struct
import threading
from typing import TYPE_CHECKING, Final

import apsw
import apsw.sqlite_extra

from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.durable.files import storage_errors
from gateway.durable.wal import check_sum
from gateway.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

CHECK_SUM_BYTES: Final = 8
"""Room for it at the end of each page; a database of ours says so in its header."""
RESERVE_PAGES: Final = 1_000
"""Free pages that a database keeps for what is written next (4 KiB each)."""
RESERVE_PART: Final = 20
"""Of a larger database a page in so many is kept."""
_INCREMENTAL: Final = 2
"""SQLite's `auto_vacuum` by which free pages go when they are told to."""
_PAGE_SIZE: Final = slice(16, 18)
_RESERVED: Final = 20
"""Where the header says how large a page is, and how much of it is kept free."""
_HEAD_BYTES: Final = 100
_VFS: Final = "cksmvfs"
# Looked up at once: later the process may have given up the rights to read where packages are.
_EXTENSION: Final = apsw.sqlite_extra.path("cksumvfs")
_LAYERING: Final = threading.Lock()
_layered_over: list[str] = []
"""The VFS below the check sums, once there is one."""


def open_checked(path: Path, flags: int, disk: Disk = SYSTEM_DISK) -> apsw.Connection:
    """Open a database whose pages are checked, as far as it has check sums."""
    return apsw.Connection(str(path), flags=flags, vfs=_checked_vfs(disk.vfs or "unix"))


def _checked_vfs(below: str) -> str:
    """Return the VFS of the check sums, over another; there is but one in a process."""
    with _LAYERING:
        if _layered_over != [below]:
            default = apsw.vfs_names()[0]
            connection = apsw.Connection(":memory:")
            try:
                # Loaded, it puts itself over what is the default, once.
                if _layered_over:
                    apsw.unregister_vfs(_VFS)
                apsw.set_default_vfs(below)
                connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1)
                connection.load_extension(_EXTENSION)
            except apsw.ExtensionLoadingError as exc:
                raise StorageError(f"SQLite's cksumvfs cannot be loaded ({exc})") from exc
            finally:
                apsw.set_default_vfs(default)
                connection.close()
            _layered_over[:] = [below]
    return _VFS


def has_check_sums(connection: apsw.Connection) -> bool:
    """Return whether the pages of an open database have room for their check sums."""
    return connection.reserve_bytes("main", -1) == CHECK_SUM_BYTES


def gives_pages_back(connection: apsw.Connection) -> bool:
    """Return whether free pages of an open database can be given back to the disk."""
    return connection.execute("PRAGMA auto_vacuum").fetchall() == [(_INCREMENTAL,)]


def set_up_pages(connection: apsw.Connection) -> None:
    """Let the pages of a database that has none yet have check sums, and be given back."""
    connection.reserve_bytes("main", CHECK_SUM_BYTES)
    connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")


def rewrite_pages(connection: apsw.Connection) -> None:
    """Rewrite a database as `set_up_pages` says; it is to be opened anew after that.

    Where that only would let pages be given back and there is no space for it, it stays as it is.
    """
    checked = has_check_sums(connection)
    set_up_pages(connection)
    try:
        connection.execute("VACUUM")
    except apsw.FullError:
        if not checked:
            raise


def give_back(connection: apsw.Connection, pages: int) -> int:
    """Cut free pages off the end of a database, in the open transaction; return how many bytes.

    What stands there is moved to free pages before. A reserve stays, so that the file does not
    shrink and grow in turn. The next checkpoint cuts the file.

    Args:
        connection: The writer.
        pages: How many at most.
    """
    before, size = _pragma(connection, "page_count"), _pragma(connection, "page_size")
    spare = _pragma(connection, "freelist_count") - max(RESERVE_PAGES, before // RESERVE_PART)
    if spare <= 0 or not gives_pages_back(connection):
        return 0

    # Each page is a step of the statement, which must be run to its end.
    connection.execute(f"PRAGMA incremental_vacuum({min(spare, pages)})").fetchall()
    return (before - _pragma(connection, "page_count")) * size


def _pragma(connection: apsw.Connection, name: str) -> int:
    return int(str(connection.pragma(name)))


def with_check_sum(page: bytes) -> bytes:
    """Return a page, whose last bytes are free, with its check sum."""
    content = page[:-CHECK_SUM_BYTES]
    return content + struct.pack("<2I", *check_sum(content, "<", (0, 0)))


def damaged_pages(
    path: Path, newer: Collection[int] = (), disk: Disk = SYSTEM_DISK
) -> list[int] | None:
    """Return the numbers, from 1, of pages in a database file that fail their check sum.

    Args:
        path: The database; what its WAL holds is not looked at.
        newer: Pages that its WAL holds; a crash may have cut their way into the file.
        disk: Where it is.

    Returns None for a database whose pages have none.
    """
    _checked_vfs(disk.vfs or "unix")
    # Opened after it was loaded, this has its function too.
    checker = apsw.Connection(":memory:")
    try:
        with storage_errors(path), disk.reader(disk.open(path, os.O_RDONLY)) as file:
            head = file.read(_HEAD_BYTES)
            if len(head) < _HEAD_BYTES or head[_RESERVED] != CHECK_SUM_BYTES:
                return None

            size = int.from_bytes(head[_PAGE_SIZE], "big")
            file.seek(0)
            found, number = [], 1
            # A header whose page size is none is damage that SQLite itself tells of.
            while size and len(page := file.read(size)) == size:
                if number not in newer and not _is_whole(checker, page):
                    found.append(number)
                number += 1
            return found
    finally:
        checker.close()


def _is_whole(checker: apsw.Connection, page: bytes) -> bool:
    return checker.execute("SELECT verify_checksum(?)", (page,)).fetchall() == [(1,)]
