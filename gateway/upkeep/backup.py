"""A copy of a state directory from which a gateway starts, made while its daemon runs or not.

Order: `sessions.json` is opened, for an open file stays what it is whatever takes its name; then a
read transaction begins on the database, and the two are compared. Everything that was acknowledged
before is in the one or the other. Archive files are copied before as well, for a daemon takes them
away after the row that names them; those that came since are copied within the transaction. Not
copied are the lock, the quarantine and `.prev`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.durable.assembling import assembled
from gateway.durable.copying import copy_database
from gateway.durable.directory import check_directory, read_holder
from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.durable.files import storage_errors
from gateway.durable.inspecting import Footprint, reading
from gateway.errors import DamagedDataError, StorageBusyError
from gateway.sessions.position import LogPosition, read_position
from gateway.sessions.recovery import SNAPSHOT
from gateway.sessions.snapshot import open_snapshot
from gateway.upkeep.archive_files import FOLDER, ArchiveCopies, Content, archives_of, copy_file
from gateway.upkeep.place_files import copy_places
from gateway.upkeep.snapshot_file import copy_snapshot, sequence_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gateway.clock import Clock
    from gateway.durable.connection import Connection

DATABASE: Final = "gateway.db"
TRIES: Final = 20
"""How often the snapshot may be replaced twice while it is being opened."""


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
        # Before the database: what was read up to a place is then in it.
        copy_places(state_dir, aside, disk)
        copied = None
        archives = ArchiveCopies(state_dir / FOLDER, aside / FOLDER, disk)
        for _ in range(TRIES):
            archives.copy_all()
            copied = _Attempt(state_dir, aside, archives, disk).copy()
            if copied is not None:
                break
        if copied is None:
            raise StorageBusyError(f"{state_dir}: its files are replaced faster than they are read")

        copy_token(state_dir, aside, disk)
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


class _Attempt:
    """One attempt to copy what belongs together, beside a daemon that goes on."""

    def __init__(self, state_dir: Path, aside: Path, archives: ArchiveCopies, disk: Disk) -> None:
        self._state_dir = state_dir
        self._aside = aside
        self._archives = archives
        self._disk = disk
        self._live = read_holder(state_dir) is not None
        self._before = self._look()

    def copy(self) -> _Copied | None:
        """Copy snapshot and database as they belong together; None where they changed meanwhile."""
        try:
            copied = self._copy_store()
        except DamagedDataError:
            # Read without a lock beside a daemon that has just begun, anything looks damaged.
            if self._live or not self._moved_on():
                raise
            return None

        return copied if self._live or not self._moved_on() else None

    def _look(self) -> Footprint:
        names = (SNAPSHOT, DATABASE, f"{DATABASE}-wal")
        return Footprint.of([self._state_dir / name for name in names])

    def _moved_on(self) -> bool:
        return self._look() != self._before

    def _copy_store(self) -> _Copied | None:
        path, database = self._state_dir / SNAPSHOT, self._state_dir / DATABASE
        source = open_snapshot(path, self._disk)
        try:
            sequence = 0 if source is None else sequence_of(path, source)
            if not database.exists() and not self._live:
                if source is None:
                    raise DamagedDataError(path, "missing, and there is no database either")

                self._archives.copy_named({})
                entries = copy_snapshot(path, source, self._aside / SNAPSHOT, {}, self._disk)
                return _Copied(entries, sequence, messages=0, live=self._live)

            with reading(database, live=self._live, disk=self._disk) as connection:
                position = read_position(connection)
                if source is None and position.used:
                    raise DamagedDataError(path, "missing beside a database that was in use")

                if not position.covers(sequence):
                    # Beside a daemon, its next two snapshots may have come between.
                    if self._live:
                        return None
                    raise DamagedDataError(path, _apart(sequence, position))

                if not self._copy_archives(archives_of(connection)):
                    return None

                changed = _changes(connection, sequence)
                rows = connection.execute("SELECT count(*) FROM messages").fetchall()
                copy_database(connection, database, self._aside / DATABASE, self._disk)
            # Last, for without it a used database does not start.
            entries = 0
            if source is not None:
                copy = self._aside / SNAPSHOT
                entries = copy_snapshot(path, source, copy, changed, self._disk)
            newest = max(position.last, sequence)
            return _Copied(entries, newest, messages=int(str(rows[0][0])), live=self._live)
        finally:
            if source is not None:
                source.close()

    def _copy_archives(self, named: Mapping[str, Content]) -> bool:
        """Copy the archive files that are named; False where one went meanwhile."""
        try:
            self._archives.copy_named(named)
        except DamagedDataError:
            # A daemon takes a file away after the commit that says so.
            if self._live and self._moved_on():
                return False
            raise

        return True


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


def copy_token(state_dir: Path, aside: Path, disk: Disk) -> None:
    """Copy the token of the API, if there is one."""
    if (state_dir / "token").exists():
        copy_file(state_dir / "token", aside / "token", disk)
