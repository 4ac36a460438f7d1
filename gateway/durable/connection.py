"""Opening SQLite safely, migrating it, and translating its errors.

Settings: WAL with `synchronous=FULL`, so that a commit survives power loss; no memory mapping; the
schema is not trusted; checkpoints are made by the writer alone.
"""

from __future__ import annotations

import os
import stat
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

import apsw

from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.durable.files import storage_errors, write_whole
from gateway.durable.pages import (
    gives_pages_back,
    has_check_sums,
    open_checked,
    rewrite_pages,
    set_up_pages,
    with_check_sum,
)
from gateway.durable.schema import APPLICATION_ID, CHECKED_FROM, MIGRATIONS
from gateway.durable.wal import (
    WAY_OUT,
    Counted,
    check_not_emptied,
    check_room,
    check_wal,
    read_count,
    reserve_index,
)
from gateway.errors import (
    DamagedDataError,
    DatabaseTooNewError,
    GatewayError,
    StorageBusyError,
    StorageError,
    StorageFullError,
    UnsafeStateDirectoryError,
)

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

PRAGMAS = """
PRAGMA busy_timeout = 5000;
PRAGMA foreign_keys = ON;
PRAGMA mmap_size = 0;
PRAGMA trusted_schema = OFF;
PRAGMA wal_autocheckpoint = 0;
"""


MAX_CHECKED_BYTES: Final = 4_294_967_296
"""The largest database that is checked before it is served after an end that was not orderly."""
_ALTERED: Final = (
    "a page is not as it was written: its check sum is wrong, or another program has written it"
)
Connection = apsw.Connection
"""What work and queries are handed; only its `execute` is used outside this room."""


STORAGE_ERRORS: Final = (
    apsw.FullError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.IOError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.PermissionsError,
)
"""What SQLite raises for the storage's sake and not for the statement's."""


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Raise SQLite's storage errors as ours.

    Raises:
        StorageFullError: no space left; the transaction can be rolled back and tried again later.
        StorageBusyError: another program has held the database for longer than `busy_timeout`.
        DamagedDataError: the file is damaged or is no database.
        StorageError: anything else the disk or its permissions refused.
    """
    try:
        yield
    except (*STORAGE_ERRORS, UnicodeDecodeError) as exc:
        raise as_ours(path, exc) from exc


def as_ours(path: Path, error: Exception) -> GatewayError:
    """Return one of SQLite's storage errors as ours; see `translated`."""
    if isinstance(error, apsw.FullError):
        return StorageFullError(f"{path}: no space left on the disk")

    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return StorageBusyError(f"{path}: another program holds the database ({error})")

    if getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA:
        return DamagedDataError(path, f"the database is damaged ({_ALTERED}); {WAY_OUT}")

    if isinstance(error, apsw.CorruptError | apsw.NotADBError | UnicodeDecodeError):
        return DamagedDataError(path, f"the database is damaged ({error}); {WAY_OUT}")

    return StorageError(f"{path}: the storage failed ({error})")


def open_writer(path: Path, disk: Disk = SYSTEM_DISK) -> apsw.Connection:
    """Open or create the database for writing, migrated to the newest version.

    One of an older gateway is rewritten once, for the check sums of its pages and for giving free
    ones back; about 10 s for each GB, and as much space again.
    """
    check_room(path)
    check_not_emptied(path, disk)
    counted = read_count(path)
    create_private(path, disk)
    with translated(path):
        connection = _opened(path, counted, disk)
        if not (has_check_sums(connection) and gives_pages_back(connection)):
            with closing(connection):
                rewrite_pages(connection)
            connection = _opened(path, None, disk)
        try:
            _migrate(connection, path)
            reserve_index(path)
            _checkpoint(connection)
        except BaseException:
            connection.close()
            raise

    return connection


def _opened(path: Path, counted: Counted | None, disk: Disk) -> apsw.Connection:
    """Open a database that is whole and ours, with a WAL."""
    connection = open_checked(path, apsw.SQLITE_OPEN_READWRITE, disk)
    try:
        # Until it is known to be whole, everything stays as it is, the WAL too.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.execute(PRAGMAS).fetchall()
        check_ours(connection, path)
        _check_whole(connection, path, counted, disk)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        _use_wal(connection, path)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        # What is deleted is overwritten with zeros, long before anybody asks to erase it.
        connection.execute("PRAGMA secure_delete = ON")
    except BaseException:
        connection.close()
        raise

    return connection


def _check_whole(
    connection: apsw.Connection, path: Path, counted: Counted | None, disk: Disk
) -> None:
    """Look for damage; an orderly end leaves no WAL, and its database is trusted."""
    frames, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
    check_wal(path, frames, disk, counted=counted)
    # 0.4 s for each GB that is in memory, as after a kill; as long as reading it otherwise.
    with storage_errors(path):
        size_bytes = disk.stat(path).st_size
    if frames == 0 and size_bytes % int(str(connection.pragma("page_size"))):
        # SQLite would fill the page up with zeros, and nothing looks at its check sum then.
        raise DamagedDataError(path, f"the database is damaged (its end is cut off); {WAY_OUT}")

    if frames > 0 and size_bytes <= MAX_CHECKED_BYTES:
        found = connection.execute("PRAGMA quick_check(1)").fetchall()
        if found != [("ok",)]:
            raise DamagedDataError(path, f"the database is damaged ({found[0][0]}); {WAY_OUT}")


def _use_wal(connection: apsw.Connection, path: Path) -> None:
    """Keep commits in a WAL; where the disk refuses that, the pragma raises nothing."""
    if connection.execute("PRAGMA journal_mode = WAL").fetchall() != [("wal",)]:
        raise StorageError(f"{path}: the storage failed (it could not be given a WAL)")


def _checkpoint(connection: apsw.Connection) -> None:
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.BusyError:
        # Somebody reads, a backup perhaps: what they need stays in the WAL, which is as good.
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)


def open_reader(path: Path, disk: Disk = SYSTEM_DISK) -> apsw.Connection:
    """Open the database for reading; it never checkpoints."""
    with translated(path):
        connection = open_checked(path, apsw.SQLITE_OPEN_READWRITE, disk)
        connection.execute(PRAGMAS).fetchall()
        connection.execute("PRAGMA query_only = ON")

    return connection


def create_private(path: Path, disk: Disk) -> None:
    """Create the file readable by its owner only; SQLite gives its WAL the same mode.

    It comes into being with a content, so that an empty one is damaged and never a new one.
    """
    try:
        descriptor = disk.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        write_whole(path, empty_database(APPLICATION_ID), disk=disk)
        return
    except OSError as exc:
        raise StorageError(f"{path}: cannot be opened for writing ({exc.strerror})") from exc

    with storage_errors(path):
        try:
            status = disk.stat(descriptor)
        finally:
            disk.close(descriptor)
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise UnsafeStateDirectoryError(f"{path}: mode {mode:04o}, accepted is 0600")

    if not status.st_size:
        raise DamagedDataError(path, f"the file is empty; {WAY_OUT}")


def empty_database(application_id: int) -> bytes:
    """Return the file of a database without tables; see `set_up_pages`."""
    connection = apsw.Connection(":memory:")
    try:
        set_up_pages(connection)
        connection.pragma("application_id", application_id)
        return with_check_sum(connection.serialize("main"))
    finally:
        connection.close()


def check_ours(connection: apsw.Connection, path: Path) -> None:
    """Refuse a database of another program or of a newer gateway."""
    found = connection.pragma("application_id")
    version = connection.pragma("user_version")
    if found not in {0, APPLICATION_ID} or (found == 0 and connection.pragma("schema_version")):
        raise DamagedDataError(path, "a SQLite database of another program")

    if isinstance(version, int) and version >= CHECKED_FROM and not has_check_sums(connection):
        raise DamagedDataError(path, f"the header of the database is not as written; {WAY_OUT}")

    if isinstance(version, int) and version > len(MIGRATIONS):
        raise DatabaseTooNewError(
            f"{path}: version {version} was written by a newer gateway; "
            f"this one knows versions up to {len(MIGRATIONS)}"
        )


def _migrate(connection: apsw.Connection, path: Path) -> None:
    version = int(str(connection.pragma("user_version")))
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        try:
            with connection:
                connection.execute(script)
                connection.pragma("application_id", APPLICATION_ID)
                connection.pragma("user_version", number)
        except apsw.SQLError as exc:
            raise DamagedDataError(path, f"cannot be brought to version {number} ({exc})") from exc
