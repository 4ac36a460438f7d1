"""A state of which items were pruned, each in another state, and what is done to such rows."""

from __future__ import annotations

import hashlib
from contextlib import closing
from typing import TYPE_CHECKING, Final

import anyio.from_thread
import apsw
from typing_extensions import override

from gateway.durable.disk import SystemDisk
from gateway.durable.pages import open_checked
from tests.support.pruned import AT, take
from tests.support.upkeep import used_state

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.batch import Transaction
    from gateway.durable.connection import Connection
    from tests.support.state import State

FILE: Final = "2026-01-01T000000Z-1.jsonl.zst"
CONTENT: Final = b"what an archive holds is not looked at here" * 50_000
"""More than one piece of reading."""
LATER: Final = "2027-01-01T00:00:00.000000Z"
HELD, ARCHIVED, PURGED, PURGED_FILE, RESTORED, SHORTENED = 1, 2, 3, 4, 5, 7
"""Positions of the items that were taken, by what became of them."""


ROWS: Final = {
    "messages": 8,
    "pruning_runs": 2,
    "pruned_items": 6,
    "pruned_originals": 2,
    "archives": 1,
}
"""Rows of its tables."""


async def pruned_state(path: Path, *, killed: bool = False) -> Path:
    """Give a used state of which two runs took items; the second was cut off."""
    await used_state(path, killed=killed)
    (path / "archive").mkdir(mode=0o700)
    (path / "archive" / FILE).write_bytes(CONTENT)
    (path / "archive" / FILE).chmod(0o600)
    with closing(open_checked(path / "gateway.db", apsw.SQLITE_OPEN_READWRITE)) as connection:
        if killed:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        with connection:
            _prune(connection)
    return path


def _prune(connection: Connection) -> None:
    for run_id, ended_at, status in (("run-1", AT, "ok"), ("run-2", None, "running")):
        connection.execute(
            "INSERT INTO pruning_runs (run_id, cause, started_at, ended_at, status, detail, "
            "pruned, freed_bytes, freed_tokens, record) VALUES (?, 'due', ?, ?, ?, '', 1, 2, 3, ?)",
            (run_id, AT, ended_at, status, "{}"),
        )
    connection.execute(
        "INSERT INTO archives (name, made_at, purge_at, items, content_bytes, file_bytes, sha256) "
        "VALUES (?, ?, ?, 1, 7, ?, ?)",
        (FILE, AT, LATER, len(CONTENT), hashlib.sha256(CONTENT).hexdigest()),
    )
    take(connection, HELD, due_at=AT)
    take(connection, ARCHIVED, "archive", "archived", archive=FILE)
    take(connection, PURGED, "delete", "purged")
    take(connection, PURGED_FILE, "archive", "purged")
    take(connection, RESTORED, "delete", "restored")
    take(connection, SHORTENED, "compact", due_at=AT)


def rows_of(path: Path, sql: str) -> list[tuple[object, ...]]:
    """Return what a query gives, and leave the files as they are."""
    with closing(open_checked(path / "gateway.db", apsw.SQLITE_OPEN_READWRITE)) as connection:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        return connection.execute(sql).fetchall()


def by_first(path: Path, sql: str) -> dict[object, object]:
    """Return the second column of a query by the first."""
    return {row[0]: row[1] for row in rows_of(path, sql)}


def states(path: Path) -> dict[object, object]:
    """Return the state of each item that was taken."""
    return by_first(path, "SELECT item, state FROM pruned_items")


def files_in(path: Path) -> set[str]:
    """Return the names in a folder; none where there is no such folder."""
    return {one.name for one in path.iterdir()} if path.exists() else set()


class PurgingDisk(SystemDisk):
    """A disk on which a daemon purges an archive at the instant its file is about to be opened."""

    def __init__(self, state: State, name: str = FILE) -> None:
        """Take the state of the daemon, whose event loop waits for what reads the disk."""
        self._state = state
        self._name = name
        self.purged = False

    @override
    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        if path == self._state.path / "archive" / self._name and not self.purged:
            self.purged = True
            anyio.from_thread.run(self._purge)
        return super().open(path, flags, mode)

    async def _purge(self) -> None:
        def work(transaction: Transaction) -> None:
            transaction.execute("DELETE FROM archives WHERE name = ?", (self._name,))
            transaction.execute(
                "UPDATE pruned_items SET state = 'purged', archive = NULL WHERE archive = ?",
                (self._name,),
            )

        await self._state.database.write(work)
        (self._state.path / "archive" / self._name).unlink()


class MakingDisk(PurgingDisk):
    """A disk on which a daemon makes an archive once the first one is read."""

    MADE: Final = "made.jsonl.zst"

    def __init__(self, state: State, *, purging: bool) -> None:
        """Take the state of the daemon; `purging`: the new archive is purged again when read."""
        super().__init__(state, self.MADE if purging else "")
        self.made = False

    @override
    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        if path == self._state.path / "archive" / FILE and not self.made:
            self.made = True
            anyio.from_thread.run(self._make)
        return super().open(path, flags, mode)

    async def _make(self) -> None:
        (self._state.path / "archive" / self.MADE).write_bytes(b"x")
        await self._state.database.write(
            lambda transaction: transaction.execute(
                "INSERT INTO archives (name, made_at, items, content_bytes, file_bytes, sha256) "
                "VALUES (?, ?, 0, 0, 1, ?)",
                (self.MADE, AT, hashlib.sha256(b"x").hexdigest()),
            )
        )
