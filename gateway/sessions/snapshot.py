r"""The format of `sessions.json`: how it is written in slices, and how it is read and trusted.

    {"version":1,"sequence":N,"written_at":"...","sessions":{
    "<key>":{...},
    "<key>":{...}
    },"check":{"entries":n,"crc32":"8 hex digits"}}

The check sum covers every byte before the last line. Changes committed while it is written may
be in it or not; all of them are in the session log after N, so replaying that log is right either
way.
"""

from __future__ import annotations

import os
import re
import stat
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio.to_thread
import orjson

from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.durable.files import storage_errors
from gateway.errors import DamagedDataError
from gateway.sessions.entry import VERSION
from gateway.sessions.history import stamp
from gateway.sessions.table import SHARDS, EntryTable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path
    from typing import BinaryIO

    from gateway.durable.files import Replacement

SLICE_ENTRIES: Final = 512
"""Entries joined on the event loop at once; about 0.2 ms."""
HEAD: Final = re.compile(
    rb'\{"version":(\d+),"sequence":(\d+),"written_at":"[^"]*","sessions":\{\n'
)
_MEMBERS: Final = frozenset({"version", "sequence", "written_at", "sessions"})
_HEAD_BYTES: Final = 1_000
FOOT: Final = re.compile(rb'\},"check":\{"entries":(\d+),"crc32":"([0-9a-f]{8})"\}\}\n')


@dataclass(frozen=True, slots=True)
class Trusted:
    """A snapshot whose check sum is right."""

    sequence: int
    table: EntryTable


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A file without a check sum: an import, a backup or an edit by hand."""

    sequence: int
    sessions: dict[str, object]


async def write_snapshot(
    replacement: Replacement, table: EntryTable, *, sequence: int, at: datetime
) -> None:
    """Write the table's entries to a replacement, slices on the loop and writes in a thread."""
    head = b'{"version":%d,"sequence":%d,"written_at":"%b","sessions":{\n' % (
        VERSION,
        sequence,
        stamp(at).encode(),
    )
    entries, crc, piece = 0, 0, head
    for members in _slices(table):
        if entries:
            piece += b",\n"
        entries += len(members)
        piece += b",\n".join(members)
        crc = await anyio.to_thread.run_sync(_write, replacement, piece, crc)
        piece = b""
    piece += b"\n" if entries else b""
    crc = zlib.crc32(piece, crc)
    foot = b'},"check":{"entries":%d,"crc32":"%08x"}}\n' % (entries, crc)
    await anyio.to_thread.run_sync(replacement.write, piece + foot)


def read_snapshot(path: Path, disk: Disk = SYSTEM_DISK) -> Trusted | Unchecked | None:
    """Read a snapshot; None where there is no such file.

    Raises:
        DamagedDataError: it cannot be read, is no such file, or its check sum is wrong.
    """
    file = open_snapshot(path, disk)
    if file is None:
        return None

    with file:
        try:
            trusted = _read_trusted(file)
            if trusted is not None:
                return trusted

            file.seek(0)
            return read_unchecked(path, file.read())
        except OSError as exc:
            raise DamagedDataError(path, f"cannot be read ({exc.strerror})") from exc


def open_snapshot(path: Path, disk: Disk = SYSTEM_DISK) -> BinaryIO | None:
    """Open a snapshot; None where there is no such file.

    Raises:
        DamagedDataError: it cannot be opened, or is no regular file.
    """
    try:
        descriptor = disk.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise DamagedDataError(path, f"cannot be read ({exc.strerror})") from exc

    try:
        regular = stat.S_ISREG(disk.stat(descriptor).st_mode)
        reader = disk.reader(descriptor) if regular else None
    except OSError as exc:
        disk.close(descriptor)
        raise DamagedDataError(path, f"cannot be read ({exc.strerror})") from exc

    if reader is None:
        disk.close(descriptor)
        raise DamagedDataError(path, "not a regular file")

    return reader


def sequence_at(path: Path, disk: Disk = SYSTEM_DISK) -> int | None:
    """Return the sequence that a snapshot reaches to, as its first line says; None without one."""
    try:
        file = open_snapshot(path, disk)
    except DamagedDataError:
        return None

    if file is None:
        return None

    with file, storage_errors(path):
        head = HEAD.fullmatch(file.readline(_HEAD_BYTES))
    return None if head is None else int(head[2])


def _slices(table: EntryTable) -> Iterator[list[bytes]]:
    members: list[bytes] = []
    for shard in range(SHARDS):
        members += table.members(shard)
        if len(members) >= SLICE_ENTRIES:
            yield members
            members = []
    if members:
        yield members


def _write(replacement: Replacement, piece: bytes, crc: int) -> int:
    replacement.write(piece)
    return zlib.crc32(piece, crc)


def _read_trusted(file: BinaryIO) -> Trusted | None:
    """Read the exact format of `write_snapshot`; None where it is not that, or the sum differs."""
    head = file.readline()
    match = HEAD.fullmatch(head)
    if match is None or int(match[1]) != VERSION:
        return None

    table = EntryTable()
    last, crc = table.load(file, zlib.crc32(head))
    foot = FOOT.fullmatch(last)
    if foot is None or (int(foot[1]), int(foot[2], 16)) != (len(table), crc) or file.read(1):
        return None

    return Trusted(int(match[2]), table)


def read_unchecked(path: Path, data: bytes) -> Unchecked:
    """Read a file of any formatting that has no check sum.

    Raises:
        DamagedDataError: it is no such file, or it has a check sum that is wrong.
    """
    try:
        raw = orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as exc:
        reason = "the file is empty" if not data.strip(b"\0 \n\r\t") else f"not JSON ({exc.msg})"
        raise DamagedDataError(path, reason, offset=exc.pos) from exc

    if not isinstance(raw, dict) or type(raw.get("version")) is not int:
        raise DamagedDataError(path, 'accepted is an object {"version":1,"sessions":{...}}')

    if raw["version"] != VERSION:
        raise DamagedDataError(path, f"version {raw['version']}: accepted is {VERSION}")

    if "check" in raw:
        raise DamagedDataError(
            path,
            "the check sum does not fit the content; if you changed the file by hand, take out "
            'its member "check"',
        )

    strange = sorted(raw.keys() - _MEMBERS)
    if strange:
        # A flipped bit in the name of the check sum must not make an import of a snapshot.
        raise DamagedDataError(
            path,
            f"member {strange[0][:40]!r}: accepted are {', '.join(sorted(_MEMBERS))}; where nobody "
            "put it there, it is the check sum with its name damaged",
        )

    sequence, sessions = raw.get("sequence", 0), raw.get("sessions")
    if type(sequence) is not int or sequence < 0 or not isinstance(sessions, dict):
        raise DamagedDataError(path, 'accepted is "sequence" from 0 and "sessions" as an object')

    return Unchecked(sequence, sessions)
