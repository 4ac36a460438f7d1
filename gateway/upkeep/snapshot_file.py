"""`sessions.json` as an open file: which change it reaches to, and a copy that is proved whole.

An open file stays what it is whatever takes its name meanwhile, so it can be compared with the
database first and copied afterwards. A bit that flips in the name of the check sum must not make an
import of a snapshot, which nobody would check: a member that no snapshot has is damage.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.durable.files import Replacement, write_whole
from gateway.errors import DamagedDataError
from gateway.sessions.entry import VERSION
from gateway.sessions.snapshot import (
    FOOT,
    HEAD,
    open_snapshot,
    read_unchecked,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import BinaryIO

_PIECE_BYTES: Final = 262_144


def sequence_of(path: Path, file: BinaryIO) -> int:
    """Return the sequence that an open snapshot reaches to, as its first line says.

    Raises:
        DamagedDataError: it is no snapshot.
    """
    file.seek(0)
    head = HEAD.fullmatch(file.readline())
    if head is not None and int(head[1]) == VERSION:
        return int(head[2])

    file.seek(0)
    return read_unchecked(path, file.read()).sequence


def lie_apart(previous: Path, snapshot: Path, disk: Disk = SYSTEM_DISK) -> bool:
    """Return whether two snapshots are there with changes between them: a store was in use here."""
    sequences = []
    for path in (previous, snapshot):
        try:
            file = open_snapshot(path, disk)
            if file is not None:
                with file:
                    sequences.append(sequence_of(path, file))
        except DamagedDataError:
            continue
    return len(sequences) == 2 and sequences[0] < sequences[1]  # noqa: PLR2004 - both


def copy_snapshot(
    path: Path,
    file: BinaryIO,
    target: Path,
    changed: Mapping[str, bool],
    disk: Disk = SYSTEM_DISK,
) -> int:
    """Copy an open snapshot that is whole; return how many entries there are with a log's changes.

    Durability: on return the copy survives power loss.

    Args:
        path: Its name, for errors.
        file: The open file.
        target: The name of the copy.
        changed: Each key that changed since, and whether it has an entry.
        disk: Where both are.

    Raises:
        DamagedDataError: its check sum is wrong, or it is no snapshot.
    """
    replacement = Replacement(target, disk=disk)
    try:
        file.seek(0)
        unchanged = _copy_checked(file, replacement, changed)
        if unchanged is not None:
            replacement.commit()
            return unchanged + sum(changed.values())
    finally:
        replacement.discard()
    file.seek(0)
    data = file.read()
    keys = read_unchecked(path, data).sessions.keys()
    write_whole(target, data, disk=disk)
    return len(keys - changed.keys()) + sum(changed.values())


def _copy_checked(file: BinaryIO, target: Replacement, changed: Mapping[str, bool]) -> int | None:
    """Copy the exact format of a snapshot; None where it is not that, or the sum differs.

    Returns the number of entries that did not change since.
    """
    head = file.readline()
    if HEAD.fullmatch(head) is None:
        return None

    unchanged = 0
    crc, piece = zlib.crc32(head), [head]
    size = len(head)
    for entries, line in enumerate(file):
        piece.append(line)
        size += len(line)
        if not line.startswith(b'"'):
            foot = FOOT.fullmatch(line)
            right = foot is not None and (int(foot[1]), int(foot[2], 16)) == (entries, crc)
            if not right or file.read(1):
                return None

            target.write(b"".join(piece))
            return unchanged

        crc = zlib.crc32(line, crc)
        unchanged += line[1 : line.find(b'":')].decode(errors="replace") not in changed
        if size >= _PIECE_BYTES:
            target.write(b"".join(piece))
            piece, size = [], 0
    return None
