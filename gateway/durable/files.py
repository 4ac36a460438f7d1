"""Files that are replaced whole, and never seen half written.

The order is always: write aside in the same directory, sync the file, rename, sync the directory.
Without the first sync the name could point at an empty file after power loss, without the second
the rename itself could be lost. Blocking: call it in a thread.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from gateway.durable.disk import SYSTEM_DISK, Disk, exists, remove
from gateway.errors import StorageError, StorageFullError, SyncFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

SYNC_EVERY_BYTES: Final = 1_048_576
"""How much is written between two syncs of a large file: no other sync waits long for it."""
SHRINK_BYTES: Final = 8_388_608
"""How much of a large file is freed at once."""
_NO_SPACE: Final = frozenset({28, 122})
"""ENOSPC, EDQUOT."""


@contextmanager
def storage_errors(path: Path) -> Generator[None]:
    """Raise the operating system's refusals as ours, naming the file."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _NO_SPACE:
            raise StorageFullError(f"{path}: no space left on the disk") from exc

        raise StorageError(f"{path}: {exc.strerror or exc}") from exc


def sync_directory(path: Path, disk: Disk = SYSTEM_DISK) -> None:
    """Make renames and new names in a directory survive power loss."""
    descriptor = disk.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(path, descriptor, disk.sync)
    finally:
        # Closing tells nothing that the sync has not, and must not hide that it failed.
        with suppress(OSError):
            disk.close(descriptor)


def _sync(path: Path, descriptor: int, sync: Callable[[int], None]) -> None:
    try:
        sync(descriptor)
    except OSError as exc:
        if exc.errno in _NO_SPACE:
            raise

        raise SyncFailedError(f"{path}: cannot be synced ({exc.strerror})") from exc


class Replacement:
    """A new content for a file, written piece by piece beside it and put in its place at the end.

    Durability: nothing of it is visible before `commit`, everything after it.
    """

    def __init__(
        self,
        path: Path,
        *,
        mode: int = 0o600,
        group_id: int | None = None,
        disk: Disk = SYSTEM_DISK,
    ) -> None:
        """Create the file aside; an old one left by a crash is overwritten."""
        self.path = path
        self.written_bytes = 0
        self._disk = disk
        self._mode = mode
        self._unsynced_bytes = 0
        self._aside = path.with_name(path.name + ".tmp")
        with storage_errors(path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            self._descriptor = disk.open(self._aside, flags)
            try:
                if group_id is not None:
                    disk.give(self._descriptor, group_id)
                disk.chmod(self._descriptor, mode)
            except OSError:
                self.discard()
                raise

    def write(self, piece: bytes) -> None:
        """Append a piece.

        Raises:
            StorageFullError: no space left; the file in place is untouched.
            StorageError: the disk refused; the file in place is untouched.
        """
        with storage_errors(self.path):
            view = memoryview(piece)
            while view:
                view = view[self._disk.write(self._descriptor, view) :]
            self.written_bytes += len(piece)
            self._unsynced_bytes += len(piece)
            if self._unsynced_bytes >= SYNC_EVERY_BYTES:
                _sync(self.path, self._descriptor, self._disk.sync_data)
                self._unsynced_bytes = 0

    def commit(self, *, keep_previous: Path | None = None) -> None:
        """Put the content in place.

        Args:
            keep_previous: The name under which the replaced file stays, if given. What had that
                name is then under its `old_name`, and the caller's to `shrink` and take away.
        """
        with storage_errors(self.path):
            disk = self._disk
            _sync(self.path, self._descriptor, disk.sync)
            self._close()
            if keep_previous is not None and exists(disk, self.path):
                # A second name first and renames only: the file is there at every instant.
                link = keep_previous.with_name(keep_previous.name + ".tmp")
                remove(disk, link)
                self._keep_old(keep_previous)
                disk.link(self.path, link)
                _close_to_others(disk, link, self._mode)
                disk.rename(link, keep_previous)
                # Renaming one name of a file to its other name leaves both, after a crash here.
                remove(disk, link)
            disk.rename(self._aside, self.path)
            sync_directory(self.path.parent, disk)

    def _keep_old(self, previous: Path) -> None:
        """Leave the file that `previous` is now a name, for `shrink` to take it away in steps."""
        old = old_name(previous)
        remove(self._disk, old)
        if exists(self._disk, previous):
            self._disk.link(previous, old)

    def discard(self) -> None:
        """Give the content up; the file in place is untouched. Harmless after `commit`."""
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            self._disk.unlink(self._aside)

    def _close(self) -> None:
        """Close the file once: also where closing fails, its descriptor is another's by then."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._disk.close(descriptor)


def old_name(previous: Path) -> Path:
    """Return the name of the file before the previous one, which is about to go."""
    return previous.with_name(previous.name + ".old")


def shrink(path: Path) -> bool:
    """Take a step off the end of a file; False once it is small enough to be unlinked at once.

    To free a large file at once holds up every sync of the disk meanwhile. A file that has another
    name, or that another program still reads, is not touched: it stays whole for them.

    Source: 765 MB freed at once held up syncs for 145 ms on ext4, in steps of 8 MB for 2 ms.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False

    try:
        status = os.fstat(descriptor)
        size = status.st_size - SHRINK_BYTES
        if size <= 0 or status.st_nlink > 1:
            return False

        # A lease is granted where nobody else has the file open.
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        os.ftruncate(descriptor, size)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _close_to_others(disk: Disk, path: Path, mode: int) -> None:
    """Take away what goes beyond a mode: an imported file may be open to more than ours are."""
    given = stat.S_IMODE(disk.stat(path).st_mode)
    if given & ~mode:
        disk.chmod(path, given & mode)


def write_whole(path: Path, data: bytes, *, mode: int = 0o600, disk: Disk = SYSTEM_DISK) -> None:
    """Replace a file by new content.

    Durability: on return the new content survives power loss; on an error the old one is untouched.
    """
    replacement = Replacement(path, mode=mode, disk=disk)
    try:
        replacement.write(data)
        replacement.commit()
    finally:
        replacement.discard()
