"""What updates are held against: a bare synced write, and the two designs that gateways use.

None of them crosses a thread or an event loop, which ours does: that is in their favour.
"""

from __future__ import annotations

import os
import sqlite3
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from tests.bench.states import make_entry, members

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.model import SessionKey

RECORD_BYTES: Final = 600
_PREALLOCATED_BYTES: Final = 64 * 1_048_576
_UPSERT: Final = (
    "INSERT INTO sessions (session_key, entry) VALUES (?, ?) "
    "ON CONFLICT (session_key) DO UPDATE SET entry = excluded.entry"
)


class Design(Protocol):
    """A way to keep sessions, each of which is a JSON object."""

    def update(self, key: SessionKey) -> None:
        """Change a session durably."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


class Bare:
    """Writing a record to a file and syncing it: what no durable update can beat alone."""

    def __init__(self, path: Path, *, preallocated: bool) -> None:
        """Open the file, of a fixed size where it is preallocated."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._record = b"x" * (RECORD_BYTES - 1) + b"\n"
        self._end_bytes = _PREALLOCATED_BYTES if preallocated else 0
        self._at_bytes = 0
        if preallocated:
            os.posix_fallocate(self._descriptor, 0, self._end_bytes)
            os.fsync(self._descriptor)

    def write(self) -> None:
        """Write the next record durably; preallocated space is used again from its start."""
        if self._end_bytes and self._at_bytes + RECORD_BYTES > self._end_bytes:
            self._at_bytes = 0
        os.pwrite(self._descriptor, self._record, self._at_bytes)
        os.fdatasync(self._descriptor)
        self._at_bytes += RECORD_BYTES

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class WholeFile:
    """All sessions in memory as dictionaries; each change writes all of them.

    orjson, written aside, fsync, rename, fsync of the directory.
    """

    def __init__(self, directory: Path, entries: int) -> None:
        """Fill it with entries."""
        directory.mkdir()
        self._directory = directory
        self._path = directory / "sessions.json"
        self._sessions: dict[str, dict[str, Any]] = {
            make_entry_key(raw): raw for raw in map(_parsed, members(entries))
        }

    def update(self, key: SessionKey) -> None:
        """Change a session durably."""
        entry = self._sessions[key]
        self._sessions[key] = entry | {"turns": entry["turns"] + 1}
        self.save()

    def add(self, key: SessionKey) -> None:
        """Count a turn of a session, which is made where it is new, durably."""
        if key not in self._sessions:
            self._sessions[key] = orjson.loads(orjson.dumps(make_entry(0)))
        self.update(key)

    def save(self) -> None:
        """Write all sessions."""
        aside = self._path.with_suffix(".tmp")
        with aside.open("wb") as file:
            file.write(orjson.dumps({"version": 1, "sessions": self._sessions}))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self._path)
        descriptor = os.open(self._directory, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    def close(self) -> None:
        """Let go of the sessions."""
        self._sessions.clear()


class SingleRow:
    """One row a session in SQLite, changed by one upsert in a transaction of its own.

    The standard library's module, WAL, `synchronous=FULL`, SQLite's own checkpoints.
    """

    def __init__(self, path: Path, entries: int) -> None:
        """Fill it with entries."""
        self._connection = sqlite3.connect(path, isolation_level=None)
        execute = self._connection.execute
        execute("PRAGMA journal_mode = OFF")
        execute("PRAGMA synchronous = OFF")
        execute("CREATE TABLE sessions (session_key TEXT PRIMARY KEY, entry TEXT NOT NULL)")
        execute("BEGIN")
        rows = (
            (member[1 : member.index(b'"', 1)].decode(), member[member.index(b"{") :].decode())
            for member in members(entries)
        )
        self._connection.executemany("INSERT INTO sessions VALUES (?, ?)", rows)
        execute("COMMIT")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")

    def update(self, key: SessionKey) -> None:
        """Change a session durably."""
        query = "SELECT entry FROM sessions WHERE session_key = ?"
        entry = orjson.loads(self._connection.execute(query, (key,)).fetchone()[0])
        entry["turns"] += 1
        self._connection.execute(_UPSERT, (key, orjson.dumps(entry).decode()))

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


def make_entry_key(raw: dict[str, Any]) -> str:
    """Return the key of an entry's JSON object."""
    return str(raw["session_key"])


def timed_us(work: Callable[[], object], count: int) -> list[float]:
    """Return how long each of some calls took."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e6)
    return times


def _parsed(member: bytes) -> dict[str, Any]:
    parsed: dict[str, Any] = orjson.loads(memoryview(member)[member.index(b"{") :])
    return parsed
