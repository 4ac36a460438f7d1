"""Reading what is left of a damaged database, row by row, into a new one.

A table is a tree by rowid. It is read from both ends up to the first page that cannot be read; what
lies between is bisected: each probe enters the tree at another rowid and reads as far as it comes.
What no probe reaches is told as gaps. Knows no table's meaning.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import apsw

from gateway.durable.connection import create_private, open_writer, translated
from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.durable.files import storage_errors
from gateway.durable.pages import open_checked
from gateway.durable.schema import APPLICATION_ID, MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from gateway.durable.connection import Connection

Row = tuple[object, ...]

MAX_PROBES: Final = 100_000
"""Probes of one table; some 5 s. What is then not reached counts as lost."""
_HIGHEST: Final = 1 << 40
"""No table of ours has as many rows; where the end cannot be read, it is below this."""
_UNREADABLE: Final = (apsw.Error, UnicodeDecodeError)


@dataclass(frozen=True, slots=True)
class Gap:
    """Rows that cannot be read, if there are any: those between two rowids."""

    after: int
    before: int

    @property
    def at_most(self) -> int:
        """How many rows it can have held."""
        return self.before - self.after - 1

    @property
    def open_ended(self) -> bool:
        """Whether the table's last row could not be read either, so that nobody knows its end."""
        return self.before >= _HIGHEST


class TableReader:
    """Reads one table as far as its pages go."""

    def __init__(
        self,
        connection: Connection,
        table: str,
        columns: Sequence[str],
        take: Callable[[int, Row], None],
    ) -> None:
        """Hand every row to `take` once: its rowid, and its columns in their order."""
        self._connection = connection
        self._select = f"SELECT rowid, {', '.join(columns)} FROM {table} NOT INDEXED"  # noqa: S608 - names of ours
        self._take = take
        self._probes = 0

    def read(self) -> list[Gap]:
        """Read the table; return what cannot be read, in the order of rowids."""
        after, whole = self._forward(-1, _HIGHEST)
        if whole:
            return []

        lost: list[Gap] = []
        before, _ = self._backward(after, _HIGHEST)
        waiting = deque([Gap(after, before)] if before < _HIGHEST else self._gallop(after))
        while waiting:
            gap = waiting.popleft()
            if gap.at_most <= 0:
                continue
            if self._probes >= MAX_PROBES or gap.at_most == 1 or gap.open_ended:
                lost.append(gap)
                continue
            waiting.extend(self._bisect(gap))
        return _merged(lost)

    def _gallop(self, after: int) -> list[Gap]:
        """Read on where the end cannot be read either, in leaps that grow until one finds rows."""
        gaps: list[Gap] = []
        leap = 1
        while after + leap < _HIGHEST:
            place = after + leap
            last, whole = self._forward(place - 1, _HIGHEST)
            if last < place and not whole:
                leap += max(1, leap // 8)
                continue
            # Rows, or the end of the table: what lies before has two ends now.
            first, left_whole = self._backward(after, place)
            if not left_whole:
                gaps.append(Gap(after, first))
            if whole:
                return gaps
            after, leap = last, 1
        return [*gaps, Gap(after, _HIGHEST)]

    def _bisect(self, gap: Gap) -> list[Gap]:
        """Enter a gap in its middle; return what is still unread on both sides."""
        middle = (gap.after + gap.before) // 2
        last, whole = self._forward(middle - 1, gap.before)
        first, left_whole = self._backward(gap.after, middle)
        left = [] if left_whole else [Gap(gap.after, first)]
        if whole:
            return left

        # The row at the middle was tried: where it did not come, it is lost or not there.
        right = Gap(max(last, middle), gap.before)
        between = [Gap(middle - 1, middle + 1)] if last < middle else []
        return [*left, *between, right]

    def _forward(self, after: int, before: int) -> tuple[int, bool]:
        """Read upwards; return the last rowid that came and whether nothing was in the way."""
        last = after
        self._probes += 1
        try:
            for rowid, *row in self._connection.execute(
                f"{self._select} WHERE rowid > ? AND rowid < ? ORDER BY rowid", (after, before)
            ):
                if not last < int(str(rowid)) < before:
                    return last, False
                self._take(int(str(rowid)), tuple(row))
                last = int(str(rowid))
        except _UNREADABLE:
            return last, False
        return last, True

    def _backward(self, after: int, before: int) -> tuple[int, bool]:
        """Read downwards; return the last rowid that came and whether nothing was in the way."""
        first = before
        self._probes += 1
        try:
            for rowid, *row in self._connection.execute(
                f"{self._select} WHERE rowid > ? AND rowid < ? ORDER BY rowid DESC", (after, before)
            ):
                if not after < int(str(rowid)) < first:
                    return first, False
                self._take(int(str(rowid)), tuple(row))
                first = int(str(rowid))
        except _UNREADABLE:
            return first, False
        return first, True


def _merged(gaps: list[Gap]) -> list[Gap]:
    """Return gaps in order, those that touch as one."""
    merged: list[Gap] = []
    for gap in sorted(gaps, key=lambda one: one.after):
        if merged and gap.after < merged[-1].before:
            merged[-1] = Gap(merged[-1].after, max(merged[-1].before, gap.before))
        else:
            merged.append(gap)
    return merged


@contextmanager
def new_database(path: Path, version: int, disk: Disk = SYSTEM_DISK) -> Generator[Connection]:
    """Make a database with the tables of a version, to be filled at once; see `finish_database`."""
    create_private(path, disk)
    with translated(path):
        connection = open_checked(path, apsw.SQLITE_OPEN_READWRITE, disk)
        try:
            # Half-done it is thrown away as a whole.
            connection.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").fetchall()
            for script in MIGRATIONS[:version]:
                connection.execute(script)
            connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", version)
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()


@contextmanager
def finish_database(path: Path, disk: Disk = SYSTEM_DISK) -> Generator[Connection]:
    """Bring a filled database to the newest version, for last changes in one transaction.

    Durability: on return it survives power loss.
    """
    connection = open_writer(path, disk)
    with translated(path):
        try:
            with connection:
                yield connection
        finally:
            connection.close()
    with storage_errors(path):
        descriptor = disk.open(path, 0)
        try:
            disk.sync(descriptor)
        finally:
            disk.close(descriptor)


def columns_of(connection: Connection, table: str) -> list[str]:
    """Return the names of a table's columns; none where there is no such table, or no schema."""
    try:
        rows = connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
    except _UNREADABLE:
        return []

    return [str(row[0]) for row in rows]


def all_rows(connection: Connection, sql: str) -> list[Row] | None:
    """Return what a query gives; None where damage is in the way."""
    try:
        return connection.execute(sql).fetchall()
    except _UNREADABLE:
        return None


def add_row(connection: Connection, table: str, columns: Sequence[str], row: Row) -> bool:
    """Insert a row; False where the table refuses it."""
    marks = ", ".join("?" * len(columns))
    try:
        connection.execute(
            f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})",  # noqa: S608 - names of ours
            row,
        )
    except apsw.ConstraintError:
        return False

    return connection.changes() == 1
