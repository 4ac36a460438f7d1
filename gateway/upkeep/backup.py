"""A copy of a state directory from which a gateway starts, made while its daemon runs or not.

Order: `sessions.json` is opened, for an open file stays what it is whatever takes its name; then a
read transaction begins on the database, and the two are compared. Everything that was acknowledged
before is in the one or the other. Not copied are the lock, the quarantine and `.prev`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.durable.assembling import assembled
from gateway.durable.copying import copy_database
from gateway.durable.directory import check_directory, read_holder
from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.durable.files import Replacement, storage_errors
from gateway.durable.inspecting import Footprint, reading
from gateway.errors import DamagedDataError, StorageBusyError
from gateway.sessions.position import LogPosition, read_position
from gateway.sessions.recovery import SNAPSHOT
from gateway.sessions.snapshot import open_snapshot
from gateway.upkeep.snapshot_file import copy_snapshot, sequence_of

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.clock import Clock
    from gateway.durable.connection import Connection

DATABASE: Final = "gateway.db"
TRIES: Final = 20
"""How often the snapshot may be replaced twice while it is being opened."""
_PIECE_BYTES: Final = 1_048_576
_ALSO: Final = "token"
_FOLDERS: Final = ("archive",)


@dataclass(frozen=True, slots=True)
class BackedUp:
    """What a backup holds."""

    path: str
    entries: int
    """Sessions there are: those of the snapshot with the logged changes after it."""
    sequence: int
    """The newest change in it."""
    messages: int
    """Rows of all transcripts."""
    bytes: int
    """All its files."""
    duration_ms: float
    beside_daemon: bool
    """Whether a daemon held the state directory."""


@dataclass(frozen=True, slots=True)
class _Copied:
    entries: int
    sequence: int
    messages: int
    live: bool


def back_up(
    state_dir: Path, target: Path, clock: Clock, *, mode: int = 0o700, disk: Disk = SYSTEM_DISK
) -> BackedUp:
    """Copy a state directory to a new one.

    Durability: on return the copy survives power loss; before, there is nothing of its name.

    Args:
        state_dir: What is copied; its daemon may run.
        target: A name that is free, or an empty directory.
        clock: Tells the duration.
        mode: What the state directory may be open to.
        disk: Where both are.

    Raises:
        DamagedDataError: the state is damaged; no copy was made.
        ConflictError: the target is not free.
        UnsafeStateDirectoryError: the state directory is another user's.
        StorageBusyError: the snapshot is replaced faster than it can be opened.
    """
    began = clock.monotonic()
    with storage_errors(state_dir):
        check_directory(state_dir, allowed=mode)
    with assembled(target, state_dir, disk) as aside:
        copied = None
        for _ in range(TRIES):
            copied = _attempt(state_dir, aside, disk)
            if copied is not None:
                break
        if copied is None:
            raise StorageBusyError(f"{state_dir / SNAPSHOT}: replaced too often while it was read")

        copy_others(state_dir, aside, disk)
        size = sum(path.stat().st_size for path in aside.rglob("*") if path.is_file())
    return BackedUp(
        path=str(target.absolute()),
        entries=copied.entries,
        sequence=copied.sequence,
        messages=copied.messages,
        bytes=size,
        duration_ms=round((clock.monotonic() - began) * 1000, 3),
        beside_daemon=copied.live,
    )


def _attempt(state_dir: Path, aside: Path, disk: Disk) -> _Copied | None:
    """Copy snapshot and database as they belong together; None where they changed meanwhile."""
    paths = [state_dir / name for name in (SNAPSHOT, DATABASE, f"{DATABASE}-wal")]
    live = read_holder(state_dir) is not None
    before = Footprint.of(paths)
    try:
        copied = _copy_store(state_dir, aside, disk, live=live)
    except DamagedDataError:
        # Read without a lock beside a daemon that has just begun, anything looks damaged.
        if live or Footprint.of(paths) == before:
            raise
        return None

    return copied if live or Footprint.of(paths) == before else None


def _copy_store(state_dir: Path, aside: Path, disk: Disk, *, live: bool) -> _Copied | None:
    path, database = state_dir / SNAPSHOT, state_dir / DATABASE
    source = open_snapshot(path, disk)
    try:
        sequence = 0 if source is None else sequence_of(path, source)
        if not database.exists() and not live:
            if source is None:
                raise DamagedDataError(path, "missing, and there is no database either")

            entries = copy_snapshot(path, source, aside / SNAPSHOT, {}, disk)
            return _Copied(entries, sequence, messages=0, live=live)

        with reading(database, live=live, disk=disk) as connection:
            position = read_position(connection)
            if source is None and position.used:
                raise DamagedDataError(path, "missing beside a database that was in use")

            if not position.covers(sequence):
                # Beside a daemon, its next two snapshots may have come between.
                if live:
                    return None
                raise DamagedDataError(path, _apart(sequence, position))

            changed = _changes(connection, sequence)
            rows = connection.execute("SELECT count(*) FROM messages").fetchall()
            copy_database(connection, database, aside / DATABASE, disk)
        # Last, for without it a used database does not start.
        entries = 0
        if source is not None:
            entries = copy_snapshot(path, source, aside / SNAPSHOT, changed, disk)
        newest = max(position.last, sequence)
        return _Copied(entries, newest, messages=int(str(rows[0][0])), live=live)
    finally:
        if source is not None:
            source.close()


def _apart(sequence: int, position: LogPosition) -> str:
    return (
        f"sequence {sequence} does not fit the database beside it, which covers "
        f"{position.floor} to {position.last}; `gateway store check` says more"
    )


def _changes(connection: Connection, sequence: int) -> dict[str, bool]:
    """Return each key that was changed after a sequence, and whether it has an entry."""
    rows = connection.execute(
        "SELECT session_key, member IS NOT NULL FROM session_log "
        "WHERE sequence > ? ORDER BY sequence",
        (sequence,),
    )
    return {str(key): bool(there) for key, there in rows}


def copy_others(state_dir: Path, aside: Path, disk: Disk) -> None:
    """Copy what stands beside snapshot and database: the token, and what was archived."""
    if (state_dir / _ALSO).exists():
        _copy_file(state_dir / _ALSO, aside / _ALSO, disk)
    for name in _FOLDERS:
        if (state_dir / name).is_dir():
            _copy_folder(state_dir / name, aside / name, disk)


def _copy_file(path: Path, target: Path, disk: Disk) -> None:
    """Copy a file, readable by its owner only."""
    replacement = Replacement(target, disk=disk)
    try:
        with storage_errors(path):
            descriptor = disk.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with disk.reader(descriptor) as file:
                while piece := file.read(_PIECE_BYTES):
                    replacement.write(piece)
        replacement.commit()
    finally:
        replacement.discard()


def _copy_folder(path: Path, target: Path, disk: Disk) -> None:
    """Copy a folder of files."""
    with storage_errors(target):
        disk.mkdir(target, 0o700)
        inside = sorted(path.iterdir())
    for one in inside:
        if one.is_dir() and not one.is_symlink():
            _copy_folder(one, target / one.name, disk)
        elif one.is_file():
            _copy_file(one, target / one.name, disk)
