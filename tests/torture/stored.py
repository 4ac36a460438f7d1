"""What a state directory holds, read from its files alone.

Nothing of the gateway is used: snapshots, check sums and the session log are read again here by
what the README says of them, so that a bug in the gateway's recovery is not believed.
"""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import apsw
import orjson

Entry = dict[str, Any]
_FOOT: Final = re.compile(rb'\},"check":\{"entries":(\d+),"crc32":"([0-9a-f]{8})"\}\}\n')
SCHEMA: Final = 2
"""The version of the database that is read here; an older one holds nothing yet."""
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - only a faster place for a copy
SCRATCH: Final = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
"""Where copies are read; None for the system's own place."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A `sessions.json` and what is wrong with it."""

    sequence: int = 0
    entries: Mapping[str, Entry] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One message of a transcript."""

    position: int
    session_id: str
    turn_id: str
    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Owed:
    """A message that was accepted and not answered yet."""

    position: int
    key: str
    message_id: str
    turn_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A stored reply."""

    position: int
    key: str
    message_id: str
    turn_id: str
    reply: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One session id there is or was under a key."""

    session_id: str
    key: str
    ended: bool
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class Stored:
    """All of a state directory."""

    snapshot: Snapshot | None
    previous: Snapshot | None
    floor: int = 0
    """What the session log covers from; rows up to it may be deleted."""
    last: int = 0
    """The last sequence that the database knows of."""
    used: bool = False
    log: Mapping[int, tuple[str, Entry | None]] = field(default_factory=dict)
    """Changes by sequence: the key, and its entry or None where it was dropped."""
    messages: tuple[Row, ...] = ()
    inbox: tuple[Owed, ...] = ()
    outbox: tuple[Answered, ...] = ()
    conversations: tuple[Conversation, ...] = ()
    integrity: str = "ok"

    @property
    def sequence(self) -> int:
        """The newest change there is."""
        return max(self.last, self.snapshot.sequence if self.snapshot else 0)

    @property
    def entries(self) -> dict[str, Entry]:
        """The sessions: the snapshot and every later change."""
        return self.replayed(self.snapshot)

    def replayed(self, base: Snapshot | None) -> dict[str, Entry]:
        """Return a snapshot's entries with every later change applied."""
        entries = dict(base.entries) if base else {}
        for sequence, (key, entry) in sorted(self.log.items()):
            if base is not None and sequence <= base.sequence:
                continue
            if entry is None:
                entries.pop(key, None)
            else:
                entries[key] = entry
        return entries


def read_stored(state_dir: Path) -> Stored:
    """Return what a state directory holds that no process works on; it is left as it is."""
    snapshot = _snapshot(state_dir / "sessions.json")
    previous = _snapshot(state_dir / "sessions.json.prev")
    if not (state_dir / "gateway.db").exists():
        return Stored(snapshot, previous)

    with opened_copy(state_dir) as connection:
        return _read(connection, snapshot, previous)


@contextmanager
def opened_copy(state_dir: Path) -> Generator[apsw.Connection]:
    """Open a copy of a database that is there: opening it puts its WAL into it."""
    with TemporaryDirectory(dir=SCRATCH) as scratch:
        for name in ("gateway.db", "gateway.db-wal", "gateway.db-journal"):
            if (state_dir / name).exists():
                shutil.copy(state_dir / name, scratch)
        connection = apsw.Connection(str(Path(scratch) / "gateway.db"))
        try:
            yield connection
        finally:
            connection.close()


def _read(
    connection: apsw.Connection, snapshot: Snapshot | None, previous: Snapshot | None
) -> Stored:
    integrity = str(connection.pragma("integrity_check"))
    if int(str(connection.pragma("user_version"))) < SCHEMA:
        return Stored(snapshot, previous, integrity=integrity)  # killed while it was made

    state = {
        str(name): int(str(value))
        for name, value in _rows(connection, "store_state", "name, value")
    }
    log = {
        int(sequence): (key, None if member is None else _entry(key, member))
        for sequence, key, member in _rows(
            connection, "session_log", "sequence, session_key, member"
        )
    }
    conversations = _rows(
        connection, "sessions", "session_id, session_key, ended_at IS NOT NULL, member"
    )
    return Stored(
        snapshot=snapshot,
        previous=previous,
        floor=state.get("floor", 0),
        last=max(state.get("floor", 0), state.get("last", 0), *log, 0),
        used=bool(state.get("used")),
        log=log,
        messages=tuple(
            Row(*row)
            for row in _rows(connection, "messages", "position, session_id, turn_id, role, text")
        ),
        inbox=tuple(
            Owed(*row)
            for row in _rows(
                connection, "inbox", "position, session_key, message_id, turn_id, text"
            )
        ),
        outbox=tuple(
            Answered(position, key, message_id, turn_id, orjson.loads(reply))
            for position, key, message_id, turn_id, reply in _rows(
                connection, "outbox", "position, session_key, message_id, turn_id, reply"
            )
        ),
        conversations=tuple(
            Conversation(session_id, key, bool(ended), _entry(key, member) if member else None)
            for session_id, key, ended, member in conversations
        ),
        integrity=integrity,
    )


def _rows(connection: apsw.Connection, table: str, columns: str) -> list[tuple[Any, ...]]:
    query = f"SELECT {columns} FROM {table} ORDER BY 1"  # noqa: S608 - names of ours
    return connection.execute(query).fetchall()


def _entry(key: str, member: bytes) -> Entry:
    entry: Entry = orjson.loads(b"{%b}" % member)[key]
    return entry


def _snapshot(path: Path) -> Snapshot | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None

    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        return Snapshot(problem=f"not JSON: {error}")

    content, line, foot = data.rpartition(b'},"check":')
    found = _FOOT.fullmatch(line + foot)
    if found is None:
        return Snapshot(raw["sequence"], raw["sessions"], "no check")

    right = (int(found[1]), int(found[2], 16)) == (len(raw["sessions"]), zlib.crc32(content))
    return Snapshot(raw["sequence"], raw["sessions"], "" if right else "the check sum is wrong")
