"""Files that are replaced whole, and never seen half written.

The order is always: write aside in the same directory, sync the file, rename, sync the directory.
Without the first sync the name could point at an empty file after power loss, without the second
the rename itself could be lost. Blocking: call it in a thread.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from gateway.errors import StorageError, StorageFullError, SyncFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

SYNC_EVERY_BYTES: Final = 1_048_576
"""How much is written between two syncs of a large file: no other sync waits long for it."""
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


def sync_directory(path: Path) -> None:
    """Make renames and new names in a directory survive power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(path, descriptor, os.fsync)
    finally:
        os.close(descriptor)


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

    def __init__(self, path: Path, *, mode: int = 0o600, group_id: int | None = None) -> None:
        """Create the file aside; an old one left by a crash is overwritten."""
        self.path = path
        self.written_bytes = 0
        self._mode = mode
        self._unsynced_bytes = 0
        self._aside = path.with_name(path.name + ".tmp")
        with storage_errors(path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self._aside, flags, 0o600)
            try:
                if group_id is not None:
                    os.fchown(self._descriptor, -1, group_id)
                os.fchmod(self._descriptor, mode)
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
                view = view[os.write(self._descriptor, view) :]
            self.written_bytes += len(piece)
            self._unsynced_bytes += len(piece)
            if self._unsynced_bytes >= SYNC_EVERY_BYTES:
                _sync(self.path, self._descriptor, os.fdatasync)
                self._unsynced_bytes = 0

    def commit(self, *, keep_previous: Path | None = None) -> None:
        """Put the content in place; the replaced file stays under `keep_previous`, if given."""
        with storage_errors(self.path):
            _sync(self.path, self._descriptor, os.fsync)
            os.close(self._descriptor)
            self._descriptor = -1
            if keep_previous is not None and self.path.exists():
                # A second name first and renames only: the file is there at every instant.
                link = keep_previous.with_name(keep_previous.name + ".tmp")
                link.unlink(missing_ok=True)
                link.hardlink_to(self.path)
                _close_to_others(link, self._mode)
                link.replace(keep_previous)
                # Renaming one name of a file to its other name leaves both, after a crash here.
                link.unlink(missing_ok=True)
            self._aside.replace(self.path)
            sync_directory(self.path.parent)

    def discard(self) -> None:
        """Give the content up; the file in place is untouched. Harmless after `commit`."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        with suppress(OSError):
            self._aside.unlink(missing_ok=True)


def _close_to_others(path: Path, mode: int) -> None:
    """Take away what goes beyond a mode: an imported file may be open to more than ours are."""
    given = stat.S_IMODE(path.stat().st_mode)
    if given & ~mode:
        path.chmod(given & mode)


def write_whole(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file by new content.

    Durability: on return the new content survives power loss; on an error the old one is untouched.
    """
    replacement = Replacement(path, mode=mode)
    try:
        replacement.write(data)
        replacement.commit()
    finally:
        replacement.discard()
