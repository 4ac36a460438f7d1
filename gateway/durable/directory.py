"""The state directory: made private, checked, and held by one process.

state/        0700 (0710 with a dashboard group), files 0600
lock        flock held for life; JSON with pid, start time and URL of its holder, whose first byte
            is locked as well (by the open file, not the process) once it is the holder's own
quarantine/ whatever was set aside, with the reason beside it
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from gateway.durable.disk import SYSTEM_DISK, Disk, exists
from gateway.durable.files import storage_errors, sync_directory, write_whole
from gateway.errors import (
    AlreadyRunningError,
    ConfigurationError,
    StorageError,
    UnsafeStateDirectoryError,
)

if TYPE_CHECKING:
    from collections.abc import Generator
    from datetime import datetime
    from pathlib import Path

_ATTEMPTS: Final = 10_000
"""How often the lock is tried while those who only ask for its holder are in the way."""
_FLOCK: Final = "hhqqi0q"
"""`struct flock`: kind, whence, start, length, pid."""


@dataclass(frozen=True, slots=True)
class LockHolder:
    """Who holds a state directory, as the lock file says."""

    pid: int
    started_at: str
    url: str
    """Where its API listens; empty before it is ready and for command-line work."""


_UNKNOWN: Final = LockHolder(0, "", "")
"""One that has not said yet who it is, or that must not write into the directory."""


class StateDirectory:
    """A state directory held by this process."""

    def __init__(self, path: Path, descriptor: int, started_at: datetime, disk: Disk) -> None:
        """Use `hold`."""
        self.path = path
        self.disk = disk
        self._descriptor = descriptor
        self._started_at = started_at

    def announce(self, url: str) -> None:
        """Write into the lock file where the holder's API listens."""
        content = orjson.dumps(
            {"pid": os.getpid(), "started_at": _stamp(self._started_at), "url": url}
        )
        with storage_errors(self.path / "lock"):
            os.pwrite(self._descriptor, content + b"\n", 0)
            os.ftruncate(self._descriptor, len(content) + 1)
            # Until now it may have told of a holder before, who was killed.
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _first_byte(fcntl.F_WRLCK))

    def set_aside(self, name: str, data: bytes, *, reason: str, at: datetime) -> Path:
        """Keep data that is not used in `quarantine/`, with the reason beside it.

        Durability: on return both survive power loss.
        """
        target = self._quarantine(name, at)
        write_whole(target, data, disk=self.disk)
        self._explain(target, reason)
        return target

    def set_aside_link(self, path: Path, *, reason: str, at: datetime) -> Path:
        """Keep a file that is about to be replaced in `quarantine/`; it stays in place as well."""
        target = self._quarantine(path.name, at)
        with storage_errors(target):
            self.disk.link(path, target)
        self._explain(target, reason)
        return target

    def _explain(self, target: Path, reason: str) -> None:
        path = target.with_name(target.name + ".reason")
        write_whole(path, reason.encode() + b"\n", disk=self.disk)

    def _quarantine(self, name: str, at: datetime) -> Path:
        folder = self.path / "quarantine"
        with storage_errors(folder):
            with suppress(FileExistsError):
                self.disk.mkdir(folder, 0o700)
            sync_directory(self.path, self.disk)
            target = folder / f"{at:%Y%m%dT%H%M%S.%fZ}-{name}"
            number = 1
            while exists(self.disk, target):
                number += 1
                target = folder / f"{at:%Y%m%dT%H%M%S.%fZ}-{number}-{name}"
        return target


@contextmanager
def hold(
    path: Path,
    *,
    started_at: datetime,
    dashboard_group_id: int | None = None,
    disk: Disk = SYSTEM_DISK,
) -> Generator[StateDirectory]:
    """Create the directory if need be, check it, and hold its lock.

    Raises:
        UnsafeStateDirectoryError: a link, another owner, or open to others.
        ConfigurationError: this process may not give it to the dashboard group.
        AlreadyRunningError: another process holds it.
        StorageError: it cannot be created or written.
    """
    with storage_errors(path):
        _make(disk, path)
        check_directory(path, allowed=0o710 if dashboard_group_id is not None else 0o700)
        if dashboard_group_id is not None:
            _give(disk, path, dashboard_group_id)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path / "lock", flags, 0o600)
        # Whoever may open it could hold it.
        os.fchmod(descriptor, 0o600)
    try:
        _take_lock(path, descriptor)
        directory = StateDirectory(path, descriptor, started_at, disk)
        directory.announce("")
        yield directory
    finally:
        os.close(descriptor)


@contextmanager
def hold_unchanged(path: Path) -> Generator[None]:
    """Keep everybody else from holding a state directory, without writing into it.

    Raises:
        AlreadyRunningError: another process holds it.
    """
    try:
        with storage_errors(path):
            descriptor = os.open(path / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except StorageError as exc:
        if not isinstance(exc.__cause__, FileNotFoundError):
            raise
        # Nobody has ever held it: a copy of a state directory, or a part of one.
        yield
        return

    try:
        _take_lock(path, descriptor)
        yield
    finally:
        os.close(descriptor)


def _make(disk: Disk, path: Path) -> None:
    """Create what is missing of a path; on return all of it survives power loss."""
    missing = [one for one in (path, *path.parents) if not exists(disk, one)]
    for one in reversed(missing):
        with suppress(FileExistsError):
            disk.mkdir(one, 0o700 if one == path else 0o777)
    for one in missing:
        sync_directory(one.parent, disk)


def _give(disk: Disk, path: Path, group_id: int) -> None:
    try:
        disk.give(path, group_id)
    except PermissionError as exc:
        problem = (
            f"store.dashboard_group: this process may not give {path} to the group id {group_id}, "
            "accepted is a group that it belongs to"
        )
        raise ConfigurationError([problem]) from exc

    disk.chmod(path, 0o710)


def _take_lock(path: Path, descriptor: int) -> None:
    for _ in range(_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = read_holder(path)
            if holder is None:
                # Somebody asked who holds it, and shared the lock for that instant: let them end.
                os.sched_yield()
                continue
            raise AlreadyRunningError(path / "lock", _describe(holder)) from None

        return
    raise AlreadyRunningError(path / "lock", _describe(None))


def read_holder(path: Path) -> LockHolder | None:
    """Return who holds a state directory now, or None."""
    try:
        with (path / "lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                # Asked first: what is read then is of a holder that held when it was asked.
                return _parse(file.read(4096)) if _is_announced(file.fileno()) else _UNKNOWN
    except FileNotFoundError:
        return None

    return None


def _is_announced(descriptor: int) -> bool:
    """Tell whether the lock file speaks of the one that holds it, and not of one before."""
    found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _first_byte(fcntl.F_RDLCK))
    (kind, *_) = struct.unpack(_FLOCK, found)
    return bool(kind != fcntl.F_UNLCK)


def _first_byte(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 1, 0)


def _parse(content: bytes) -> LockHolder:
    try:
        fields = orjson.loads(content)
        return LockHolder(int(fields["pid"]), str(fields["started_at"]), str(fields["url"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        # The holder is between truncating and writing.
        return _UNKNOWN


def _describe(holder: LockHolder | None) -> str:
    if holder is None or not holder.pid:
        return "it is starting or ending, or a command"

    where = f", {holder.url}" if holder.url else ""
    return f"pid {holder.pid}, since {holder.started_at}{where}"


def check_directory(path: Path, *, allowed: int) -> None:
    """Refuse a directory that is not this user's alone.

    Raises:
        UnsafeStateDirectoryError: a link, another owner, or a mode beyond `allowed`.
    """
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise UnsafeStateDirectoryError(f"{path}: not a directory (links are not accepted)")

    if status.st_uid != os.geteuid():
        raise UnsafeStateDirectoryError(
            f"{path}: belongs to user id {status.st_uid}, this process is {os.geteuid()}; "
            "run it as the owner"
        )

    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o777 & ~allowed:
        raise UnsafeStateDirectoryError(f"{path}: mode {mode:04o}, accepted is {allowed:04o}")


def _stamp(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
