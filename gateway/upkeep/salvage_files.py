"""The entries that can still be read of a snapshot, whatever is wrong with the rest of it."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

import orjson

from gateway.errors import DamagedDataError
from gateway.model import SessionKey
from gateway.sessions.entry import EntryError, encode_member, entry_from_dict
from gateway.sessions.snapshot import Trusted, open_snapshot, read_snapshot
from gateway.sessions.table import SHARDS, EntryTable
from gateway.upkeep.snapshots import member_problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from gateway.durable.disk import Disk
    from gateway.upkeep.losses import Losses

_SEQUENCE: Final = re.compile(rb'"sequence":\s{0,8}(\d{1,18})\b')
_KEY: Final = re.compile(rb'"(agent:[^"\\\s]{1,1200})":\s{0,8}\{')
_TOKEN: Final = re.compile(rb'[{}]|"(?:[^"\\]|\\.)*"')
_ENTRIES: Final = re.compile(rb'"check":\{"entries":(\d{1,12}),')
_HEAD_BYTES: Final = 256
MAX_ENTRY_BYTES: Final = 65_536
"""The longest entry that is looked for in a file that does not parse."""


class Fit(Enum):
    """How a snapshot fits the session log beside it."""

    RIGHT = auto()
    """It does, or nothing is left that tells."""
    OLDER = auto()
    """The log begins after it: changes between the two are lost."""
    NEWER = auto()
    """The log ends before it: the database lost changes, or is an older one."""
    FOREIGN = auto()
    """It has sessions that the database has never had."""


@dataclass(slots=True)
class SalvagedSnapshot:
    """What could be read of a snapshot."""

    name: str
    table: EntryTable
    sequence: int | None
    """The change it reaches to; None where the file does not say any more."""
    whole: bool
    """Whether nothing of it is missing, so that a key it lacks has no entry."""
    fit: Fit = Fit.RIGHT
    misfit: str = ""
    """Why it does not fit, with its place and the log's."""


def salvage_snapshot(path: Path, disk: Disk, losses: Losses) -> SalvagedSnapshot | None:
    """Read a snapshot as far as it goes; None where there is no such file."""
    try:
        found = read_snapshot(path, disk)
    except DamagedDataError as damage:
        return _by_pieces(path, disk, losses, damage.reason)

    if found is None:
        return None

    if isinstance(found, Trusted):
        before = len(found.table)
        _drop_invalid(path.name, found.table, losses)
        return SalvagedSnapshot(path.name, found.table, found.sequence, len(found.table) == before)

    # A start takes it as well, as far as it is valid.
    losses.note(f"{path.name}: has no check sum, as after an edit by hand; it was taken as it is")
    table = _valid(path.name, found.sessions, losses)
    return SalvagedSnapshot(path.name, table, found.sequence, whole=True)


def _drop_invalid(place: str, table: EntryTable, losses: Losses) -> None:
    for shard in range(SHARDS):
        for member in table.members(shard):
            key = member[1 : member.find(b'":')].decode(errors="replace")
            problem = member_problem(key, member)
            if problem:
                losses.add(place, "entries that are not valid", f"{key}: {problem}")
                table.drop(SessionKey(key))


def _valid(place: str, sessions: Mapping[str, object], losses: Losses) -> EntryTable:
    table = EntryTable()
    for key, raw in sessions.items():
        if not _put(table, key, raw):
            losses.add(place, "entries that are not valid", key)
    return table


def _put(table: EntryTable, key: str, raw: object) -> bool:
    try:
        entry = entry_from_dict(raw)
    except EntryError:
        return False

    if entry.session_key != key:
        return False

    table.put(entry.session_key, encode_member(entry))
    return True


def _by_pieces(path: Path, disk: Disk, losses: Losses, reason: str) -> SalvagedSnapshot | None:
    """Look for entries in a file that does not parse, or whose check sum is wrong."""
    try:
        file = open_snapshot(path, disk)
        data = b"" if file is None else _content(file)
    except DamagedDataError:
        data = b""
    table, invalid = EntryTable(), 0
    for key, piece in _pieces(data):
        try:
            raw = orjson.loads(piece)
        except orjson.JSONDecodeError:
            raw = None
        if not _put(table, key, raw):
            invalid += 1
            losses.add(path.name, "entries that are not valid", key)
    losses.note(f"{path.name}: {reason}; looked through, {len(table)} entries were found in it")
    foot = _ENTRIES.search(data[-_HEAD_BYTES:])
    missing = 0 if foot is None else int(foot[1]) - len(table) - invalid
    if missing > 0:
        losses.add(path.name, "entries that are not to be found", count=missing)
    head = _SEQUENCE.search(data[:_HEAD_BYTES])
    return SalvagedSnapshot(path.name, table, None if head is None else int(head[1]), whole=False)


def _content(file: BinaryIO) -> bytes:
    """Return an open file as far as it can be read."""
    data = bytearray()
    with file, suppress(OSError):
        while piece := file.read(1_048_576):
            data += piece
    return bytes(data)


def _pieces(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield every key that stands before an object, with the bytes of that object."""
    found = _KEY.search(data)
    while found is not None:
        following = _KEY.search(data, found.end())
        end = len(data) if following is None else following.start()
        yield found[1].decode(errors="replace"), _object(data, found.end() - 1, end)
        found = following


def _object(data: bytes, start: int, end: int) -> bytes:
    """Return an object that begins and ends between two places; nothing where it does not end."""
    depth = 0
    for token in _TOKEN.finditer(data, start, min(end, start + MAX_ENTRY_BYTES)):
        if token[0] == b"{":
            depth += 1
        elif token[0] == b"}":
            depth -= 1
            if not depth:
                return data[start : token.end()]
    return b""
