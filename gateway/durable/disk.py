"""The disk as the store sees it: the calls whose order decides what survives power loss.

Everything that must survive goes through a `Disk`, so that tests can record, cut and fail each
call. The lock file does not: it means something only while its holder lives. Knows no file of the
gateway; below is the operating system, above are the other modules of this room.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO


class Disk(Protocol):
    """File system calls; all raise OSError as `os` does."""

    @property
    def vfs(self) -> str | None:
        """Name of the SQLite VFS that opens databases on it; None for SQLite's own."""
        ...

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """Open a file or directory and return its descriptor; never inherited by children."""
        ...

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        ...

    def reader(self, descriptor: int) -> BinaryIO:
        """Return a buffered reader, which closes the descriptor when it is closed."""
        ...

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        """Write at the descriptor's place; return how many bytes were taken, perhaps fewer."""
        ...

    def sync(self, descriptor: int) -> None:
        """Sync a file with its metadata, or the names in a directory."""
        ...

    def sync_data(self, descriptor: int) -> None:
        """Sync a file's content, and what is needed to read it."""
        ...

    def stat(self, target: int | Path) -> os.stat_result:
        """Return the status of a file; a link is followed."""
        ...

    def chmod(self, target: int | Path, mode: int) -> None:
        """Set the mode of a file."""
        ...

    def give(self, target: int | Path, group_id: int) -> None:
        """Give a file to a group."""
        ...

    def mkdir(self, path: Path, mode: int) -> None:
        """Create a directory."""
        ...

    def link(self, path: Path, name: Path) -> None:
        """Give a file a second name."""
        ...

    def rename(self, path: Path, name: Path) -> None:
        """Rename a file; what had the name before is replaced in one step."""
        ...

    def unlink(self, path: Path) -> None:
        """Take a name away."""
        ...


class SystemDisk:
    """The operating system's own calls."""

    vfs: Final = None

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """Open a file or directory and return its descriptor; never inherited by children."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def reader(self, descriptor: int) -> BinaryIO:
        """Return a buffered reader, which closes the descriptor when it is closed."""
        return os.fdopen(descriptor, "rb")

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        """Write at the descriptor's place; return how many bytes were taken, perhaps fewer."""
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        """Sync a file with its metadata, or the names in a directory."""
        os.fsync(descriptor)

    def sync_data(self, descriptor: int) -> None:
        """Sync a file's content, and what is needed to read it."""
        os.fdatasync(descriptor)

    def stat(self, target: int | Path) -> os.stat_result:
        """Return the status of a file; a link is followed."""
        return os.stat(target)  # noqa: PTH116 - of descriptors too

    def chmod(self, target: int | Path, mode: int) -> None:
        """Set the mode of a file."""
        os.chmod(target, mode)  # noqa: PTH101 - of descriptors too

    def give(self, target: int | Path, group_id: int) -> None:
        """Give a file to a group."""
        os.chown(target, -1, group_id)

    def mkdir(self, path: Path, mode: int) -> None:
        """Create a directory."""
        path.mkdir(mode)

    def link(self, path: Path, name: Path) -> None:
        """Give a file a second name."""
        name.hardlink_to(path)

    def rename(self, path: Path, name: Path) -> None:
        """Rename a file; what had the name before is replaced in one step."""
        path.rename(name)

    def unlink(self, path: Path) -> None:
        """Take a name away."""
        path.unlink()


SYSTEM_DISK: Final[Disk] = SystemDisk()
"""The disk wherever none is given."""


def exists(disk: Disk, path: Path) -> bool:
    """Return whether a path leads to something.

    Raises:
        OSError: the disk could not say.
    """
    try:
        disk.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False

    return True


def remove(disk: Disk, path: Path) -> None:
    """Take a name away that need not be there."""
    try:
        disk.unlink(path)
    except FileNotFoundError:
        return
