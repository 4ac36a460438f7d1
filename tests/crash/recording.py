"""A disk that works on real files and writes down what happens to them, in one order.

Files of SQLite come in through `tests.crash.recording_vfs`. The names and inodes of the record are
those of this folder alone; what lies outside it is not recorded.
"""

from __future__ import annotations

import io
import os
import threading
from typing import TYPE_CHECKING, BinaryIO, Final

from typing_extensions import override

from gateway.durable.disk import SYSTEM_DISK
from tests.crash.faults import Fault
from tests.crash.memory_disk import move_within
from tests.crash.operations import (
    DIRECTORY,
    Create,
    Link,
    Rename,
    Sync,
    SyncDirectory,
    Truncate,
    Unlink,
    Write,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.operations import Operation

_CHANGING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Record:
    """The log of one folder, and the names in it as they are now."""

    def __init__(self, root: Path, fault: Fault | None = None) -> None:
        """Begin with what is in the folder; all of it counts as durable."""
        self.root = root
        self.fault = fault or Fault()
        self.log: list[Operation] = []
        self.lock = threading.RLock()
        self.initial = read_folder(root)
        self.known: dict[str, bytes] = {}
        """The entries the store has at the beginning."""
        self.names = {
            name: DIRECTORY if data is None else number
            for number, (name, data) in enumerate(sorted(self.initial.items()), start=1)
        }
        self._inodes = len(self.names)

    def name(self, path: str | Path) -> str:
        """Return a path's name in the record; empty for the folder itself."""
        relative = os.path.relpath(path, self.root)
        return "" if relative == "." else relative

    def note(self, operation: Operation) -> None:
        with self.lock:
            self.log.append(operation)

    def opened(self, name: str) -> int:
        """Return the inode of a name, after noting a new one."""
        with self.lock:
            if name not in self.names:
                self._inodes += 1
                self.add(name, self._inodes)
            return self.names[name]

    def add(self, name: str, inode: int) -> None:
        self.names[name] = inode
        self.note(Create(name, inode))

    def drop(self, name: str) -> None:
        self.note(Unlink(name, self.names.pop(name)))


class RecordingDisk:
    """The system's disk, recorded; a fault comes before the call it fails."""

    def __init__(self, record: Record, vfs: str | None) -> None:
        self.record = record
        self._vfs = vfs
        self._open: dict[int, tuple[str, int, int]] = {}
        """Name, inode and place of each descriptor."""

    @property
    def vfs(self) -> str | None:
        return self._vfs

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        name = self.record.name(path)
        creates = bool(flags & os.O_CREAT) and name not in self.record.names
        self.record.fault.check("create" if creates else "open")
        with self.record.lock:
            descriptor = SYSTEM_DISK.open(path, flags, mode)
            if flags & os.O_DIRECTORY:
                inode = DIRECTORY
            else:
                inode = self.record.opened(name)
                if flags & os.O_TRUNC and not creates:
                    self.record.note(Truncate(inode, 0))
            self._open[descriptor] = (name, inode, 0)
        return descriptor

    def close(self, descriptor: int) -> None:
        self._open.pop(descriptor)
        SYSTEM_DISK.close(descriptor)
        self.record.fault.check("close")

    def reader(self, descriptor: int) -> BinaryIO:
        self._open.pop(descriptor)
        return io.BufferedReader(_Reading(descriptor, self.record.fault))

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        if self.record.fault.check("write"):
            data = data[: (len(data) + 1) // 2]
        name, inode, place = self._open[descriptor]
        with self.record.lock:
            taken = SYSTEM_DISK.write(descriptor, data)
            self.record.note(Write(inode, place, bytes(data[:taken])))
            self._open[descriptor] = (name, inode, place + taken)
        return taken

    def sync(self, descriptor: int) -> None:
        name, inode, _ = self._open[descriptor]
        call = "sync_directory" if inode == DIRECTORY else "sync"
        if call in self.record.fault.lies:
            return

        try:
            self.record.fault.check(call)
        except OSError:
            self._note_sync(name, inode, failed=True)
            if not self.record.fault.retried:
                raise

            self.record.fault.check(call)
        SYSTEM_DISK.sync(descriptor)
        self._note_sync(name, inode, failed=False)

    def sync_data(self, descriptor: int) -> None:
        self.sync(descriptor)

    def _note_sync(self, name: str, inode: int, *, failed: bool) -> None:
        directory = inode == DIRECTORY
        self.record.note(SyncDirectory(name, failed) if directory else Sync(inode, failed))

    def stat(self, target: int | Path) -> os.stat_result:
        self.record.fault.check("stat")
        return SYSTEM_DISK.stat(target)

    def chmod(self, target: int | Path, mode: int) -> None:
        self.record.fault.check("chmod")
        SYSTEM_DISK.chmod(target, mode)

    def give(self, target: int | Path, group_id: int) -> None:
        SYSTEM_DISK.give(target, group_id)

    def mkdir(self, path: Path, mode: int) -> None:
        self.record.fault.check("mkdir")
        with self.record.lock:
            SYSTEM_DISK.mkdir(path, mode)
            self.record.add(self.record.name(path), DIRECTORY)

    def link(self, path: Path, name: Path) -> None:
        self.record.fault.check("link")
        with self.record.lock:
            SYSTEM_DISK.link(path, name)
            inode = self.record.names[self.record.name(path)]
            self.record.names[self.record.name(name)] = inode
            self.record.note(Link(self.record.name(name), inode))

    def rename(self, path: Path, name: Path) -> None:
        self.record.fault.check("rename")
        old, new = self.record.name(path), self.record.name(name)
        with self.record.lock:
            SYSTEM_DISK.rename(path, name)
            inode = self.record.names[old]
            # Renaming one name of a file to its other name does nothing.
            if inode == DIRECTORY or self.record.names.get(new) != inode:
                del self.record.names[old]
                self.record.names[new] = inode
                if inode == DIRECTORY:
                    move_within(self.record.names, old, new)
                self.record.note(Rename(old, new, inode))

    def unlink(self, path: Path) -> None:
        self.record.fault.check("unlink")
        with self.record.lock:
            SYSTEM_DISK.unlink(path)
            self.record.drop(self.record.name(path))


class _Reading(io.RawIOBase):
    """A file that is read, and may fail."""

    def __init__(self, descriptor: int, fault: Fault) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._fault = fault

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return os.lseek(self._descriptor, offset, whence)

    @override
    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        self._fault.check("read")
        return os.readv(self._descriptor, [buffer])

    @override
    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def read_folder(root: Path) -> dict[str, bytes | None]:
    """Return all files of a folder by name; None for a folder in it."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
        if path.name not in {"lock", "gateway.db-shm"}
    }
