"""Opening SQLite safely, migrating it, and translating its errors.

Settings: WAL with `synchronous=FULL`, so that a commit survives power loss; no memory mapping; the
schema is not trusted; checkpoints are made by the writer alone.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import apsw

from gateway.durable.schema import APPLICATION_ID, MIGRATIONS
from gateway.errors import (
    DamagedDataError,
    DatabaseTooNewError,
    StorageBusyError,
    StorageError,
    StorageFullError,
    UnsafeStateDirectoryError,
)

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

_PRAGMAS = """
PRAGMA busy_timeout = 5000;
PRAGMA foreign_keys = ON;
PRAGMA mmap_size = 0;
PRAGMA trusted_schema = OFF;
PRAGMA wal_autocheckpoint = 0;
"""


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
    except apsw.FullError as exc:
        raise StorageFullError(f"{path}: no space left on the disk") from exc
    except (apsw.BusyError, apsw.LockedError) as exc:
        raise StorageBusyError(f"{path}: another program holds the database ({exc})") from exc
    except (apsw.CorruptError, apsw.NotADBError) as exc:
        reason = f"the database is damaged ({exc}); restore the state directory from a backup"
        raise DamagedDataError(path, reason) from exc
    except (apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError) as exc:
        raise StorageError(f"{path}: the storage failed ({exc})") from exc


def open_writer(path: Path) -> apsw.Connection:
    """Open or create the database for writing, migrated to the newest version."""
    _create_private(path)
    with translated(path):
        connection = apsw.Connection(
            str(path), flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        )
        try:
            connection.execute(_PRAGMAS).fetchall()
            _check_ours(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            # What is deleted is overwritten with zeros, long before anybody asks to erase it.
            connection.execute("PRAGMA secure_delete = ON")
            _migrate(connection, path)
            _checkpoint(connection)
        except BaseException:
            connection.close()
            raise

    return connection


def _checkpoint(connection: apsw.Connection) -> None:
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.BusyError:
        # Somebody reads, a backup perhaps: what they need stays in the WAL, which is as good.
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)


def open_reader(path: Path) -> apsw.Connection:
    """Open the database for reading; it never checkpoints."""
    with translated(path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        connection.execute(_PRAGMAS).fetchall()
        connection.execute("PRAGMA query_only = ON")

    return connection


def _create_private(path: Path) -> None:
    """Create the file readable by its owner only; SQLite gives its WAL the same mode."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StorageError(f"{path}: cannot be opened for writing ({exc.strerror})") from exc

    mode = os.fstat(descriptor).st_mode
    os.close(descriptor)
    if mode & 0o077:
        raise UnsafeStateDirectoryError(f"{path}: mode {mode & 0o777:04o}, accepted is 0600")


def _check_ours(connection: apsw.Connection, path: Path) -> None:
    found = connection.pragma("application_id")
    version = connection.pragma("user_version")
    if found not in {0, APPLICATION_ID} or (found == 0 and connection.pragma("schema_version")):
        raise DamagedDataError(path, "a SQLite database of another program")

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
