"""Whether SQLite's WAL still holds every commit that was synced into it.

SQLite reads a WAL up to the first frame whose check sum is wrong, and takes the rest for a write
that a crash broke off. Two things tell that it was none: another commit that follows, for each is
synced before the next is begun; and the index of the WAL, which counts a commit once it is synced.
WAL: a header of 32 bytes, then frames: a header of 24 bytes (page, size after a commit, salts,
check sum) and a page; the check sum of a frame goes on from that of the frame before.
Source: https://www.sqlite.org/walformat.html
"""

from __future__ import annotations

import os
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.durable.files import storage_errors
from gateway.errors import DamagedDataError, StorageFullError

if TYPE_CHECKING:
    from typing import BinaryIO

START_BYTES: Final = 1_048_576
"""Free space without which a database is not opened; a quarter of it is needed."""
INDEX_BYTES: Final = 131_072
"""The index of a WAL of 16,350 frames, about 64 MiB."""
_HEAD_BYTES: Final = 32
_FRAME_HEAD_BYTES: Final = 24
_INDEX: Final = struct.Struct("=12xBxH I4x8x 8s 8s")
"""Whether it is initialised, page size, frames committed, salts, check sum."""
_MAGIC: Final = {0x377F0682: "<", 0x377F0683: ">"}
"""The byte order in which check sums are computed, by the first word of the file."""
WAY_OUT: Final = (
    "restore the state directory from a backup, or let `gateway store salvage` write a new one "
    "from what can be read"
)
"""What an operator can do about a damaged database."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What the index of a WAL, as the last process left it, counts."""

    salts: bytes
    """Which of all WALs there ever were it belongs to."""
    frames: int
    """Frames up to the last commit."""


def wal_of(path: Path) -> Path:
    """Return where SQLite keeps the WAL of a database."""
    return path.with_name(path.name + "-wal")


def read_count(path: Path) -> Counted | None:
    """Return what the index of a database's WAL counts; None where it tells nothing.

    To be called before this process opens the database: that makes the index anew.
    """
    try:
        with path.with_name(path.name + "-shm").open("rb") as file:
            head = file.read(_INDEX.size)
    except OSError:
        return None

    if len(head) < _INDEX.size:
        return None

    initialised, _, frames, salts, summed = _INDEX.unpack(head)
    order = "<" if sys.byteorder == "little" else ">"
    right = check_sum(head[:40], order, (0, 0)) == struct.unpack("=2I", summed)
    return Counted(salts, frames) if initialised and right else None


def check_room(path: Path) -> None:
    """Refuse to open a database on a full disk: SQLite then fails as if the disk were broken.

    Raises:
        StorageFullError: there is less room than a start needs.
    """
    with storage_errors(path):
        found = os.statvfs(path.parent)
    # A file system that counts no blocks cannot tell.
    if found.f_blocks and found.f_bavail * found.f_frsize < START_BYTES:
        needed = f"a start needs {START_BYTES // 2**20} MiB"
        raise StorageFullError(f"{path}: no space left on the disk; {needed}")


def reserve_index(path: Path) -> None:
    """Give the index of an open database's WAL all its room, while there is some.

    SQLite maps it into memory and lets it grow with the WAL. On a full disk that fails after the
    commit, with an error that looks like a broken disk, or ends the process with SIGBUS.

    Raises:
        StorageFullError: there is no room now.
    """
    index = os.path.realpath(f"{path}-shm")
    # Through SQLite's own descriptor: closing another one would drop the locks it holds.
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            if os.path.realpath(descriptor) == index:
                with storage_errors(path):
                    os.posix_fallocate(int(descriptor.name), 0, INDEX_BYTES)
                return


def check_wal(
    path: Path,
    readable_frames: int,
    disk: Disk = SYSTEM_DISK,
    *,
    counted: Counted | None = None,
) -> None:
    """Refuse a WAL that has lost commits.

    Args:
        path: The database.
        readable_frames: How many frames SQLite reads, up to the last whole commit.
        disk: Where it is.
        counted: What `read_count` returned; after a crash of the machine it may be behind.

    Raises:
        DamagedDataError: commits that were synced cannot be read; nothing was changed.
    """
    wal = wal_of(path)
    with storage_errors(wal):
        try:
            descriptor = disk.open(wal, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return

        with disk.reader(descriptor) as file:
            offset = _lost_from(file, readable_frames, counted)
    if offset is not None:
        reason = f"the commits from here on were synced and cannot be read any more; {WAY_OUT}"
        raise DamagedDataError(wal, reason, offset=offset)


def check_not_emptied(path: Path, disk: Disk = SYSTEM_DISK) -> None:
    """Refuse a database that is empty or gone while its WAL is there: SQLite would begin anew.

    Raises:
        DamagedDataError: it is; nothing was changed.
    """
    with storage_errors(path):
        if _size_bytes(wal_of(path), disk) and not _size_bytes(path, disk):
            reason = f"empty or missing, though {wal_of(path).name} holds commits to it; {WAY_OUT}"
            raise DamagedDataError(path, reason)


def count_frames(path: Path, disk: Disk = SYSTEM_DISK) -> int:
    """Return how many frames up to the last whole commit of a WAL can be read; 0 without one.

    Slower by far than asking SQLite: about 0.2 ms a frame.
    """
    with storage_errors(wal_of(path)):
        try:
            descriptor = disk.open(wal_of(path), os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return 0

        with disk.reader(descriptor) as file:
            head = file.read(_HEAD_BYTES)
            order = _MAGIC.get(int.from_bytes(head[:4], "big"), "")
            if len(head) < _HEAD_BYTES or not order:
                return 0

            return _count(file, head, order)


def pages_in(path: Path, frames: int, disk: Disk = SYSTEM_DISK) -> set[int]:
    """Return which pages of a database the first frames of its WAL hold."""
    if not frames:
        return set()

    with (
        storage_errors(wal_of(path)),
        disk.reader(disk.open(wal_of(path), os.O_RDONLY | os.O_NOFOLLOW)) as file,
    ):
        frame_bytes = _FRAME_HEAD_BYTES + int.from_bytes(file.read(_HEAD_BYTES)[8:12], "big")
        return {int.from_bytes(file.read(frame_bytes)[:4], "big") for _ in range(frames)}


def _count(file: BinaryIO, head: bytes, order: str) -> int:
    frame_bytes = _FRAME_HEAD_BYTES + int.from_bytes(head[8:12], "big")
    read = committed = 0
    seed = _words(head[24:])
    while len(frame := file.read(frame_bytes)) == frame_bytes and frame[8:16] == head[16:24]:
        seed = check_sum(frame[_FRAME_HEAD_BYTES:], order, check_sum(frame[:8], order, seed))
        if seed != _words(frame[16:24]):
            break

        read += 1
        committed = committed if frame[4:8] == bytes(4) else read
    return committed


def _size_bytes(path: Path, disk: Disk) -> int:
    try:
        return disk.stat(path).st_size
    except FileNotFoundError:
        return 0


def _lost_from(file: BinaryIO, readable_frames: int, counted: Counted | None) -> int | None:
    """Return where the first lost commit begins; None where none is lost."""
    head = file.read(_HEAD_BYTES)
    order = _MAGIC.get(int.from_bytes(head[:4], "big"), "")
    whole = len(head) == _HEAD_BYTES and order
    if not whole or check_sum(head[:24], order, (0, 0)) != _words(head[24:]):
        # The header is synced before the first frame is written.
        return 0 if file.read(1) else None

    salts = head[16:24]
    frame_bytes = _FRAME_HEAD_BYTES + int.from_bytes(head[8:12], "big")
    offset = _HEAD_BYTES + readable_frames * frame_bytes
    if counted is not None and counted.salts == salts and counted.frames > readable_frames:
        return offset

    file.seek(offset)
    before = file.read(frame_bytes)
    while len(frame := file.read(frame_bytes)) == frame_bytes:
        ends_a_commit = before[4:8] != bytes(4)
        if ends_a_commit and frame[8:16] == salts and _follows(frame, before, order):
            return offset

        before = frame
    return None


def _follows(frame: bytes, before: bytes, order: str) -> bool:
    """Tell whether a frame is whole, and was written right after another."""
    seed = check_sum(frame[:8], order, _words(before[16:24]))
    return check_sum(frame[_FRAME_HEAD_BYTES:], order, seed) == _words(frame[16:24])


def _words(data: bytes) -> tuple[int, int]:
    first, second = struct.unpack(">2I", data)
    return first, second


def check_sum(data: bytes, order: str, seed: tuple[int, int]) -> tuple[int, int]:
    """Return SQLite's check sum of some bytes, a multiple of 8, going on from another.

    Args:
        data: What to sum up.
        order: The byte order of its words, as `struct` has it.
        seed: The check sum of what came before; two zeros at the beginning.
    """
    first, second = seed
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for one, other in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second
