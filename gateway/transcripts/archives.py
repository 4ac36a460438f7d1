"""Rows of archive files, and which pruned items say that they are in one.

A row is put in once its file is there, and goes before its file does. An entry of `pruned_items`
that names a file has its contents in it: `archived`; also `restored` (what the file holds is a
copy) and `purged` (its session was erased, and the file is to be written anew without it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.transcripts.gone import keep_entries
from gateway.transcripts.pruned import PrunedState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from gateway.durable.batch import Queries, Transaction

_COLUMNS: Final = (
    "name, made_at, purge_at, items, content_bytes, file_bytes, sha256, position"  # as the fields
)
_PUT: Final = (
    "UPDATE pruned_items SET archive = ?1, due_at = NULL, state = "  # noqa: S608 - constant states
    f"CASE state WHEN '{PrunedState.HELD}' THEN '{PrunedState.ARCHIVED}' ELSE state END "
    f"WHERE position = ?2 AND item = ?3 AND state <> '{PrunedState.PURGED}' "
    "AND (archive IS NULL OR archive IN (?1, ?4))"
)
_NOT_ALL: Final = "items <> (SELECT count(*) FROM pruned_items WHERE archive = name)"


@dataclass(frozen=True, slots=True)
class ArchiveRow:
    """One file of the archive."""

    name: str
    made_at: str
    """As `pruned.instant` writes it."""
    purge_at: str | None
    """When its time is over; None: never."""
    items: int
    """Entries of `pruned_items` that name it."""
    content_bytes: int
    """What it holds, before it was compressed."""
    file_bytes: int
    sha256: str
    """Of the file."""
    position: int = 0
    """Place in the order of all; grows. 0: not stored yet."""


@dataclass(frozen=True, slots=True)
class ArchiveTotals:
    """What all files of the archive come to."""

    files: int = 0
    file_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Placed:
    """An entry of `pruned_items`, and the item that it tells of."""

    position: int
    item: int


def add(transaction: Transaction, row: ArchiveRow) -> None:
    """Store that a file is there, whole and synced."""
    transaction.execute(
        f"INSERT INTO archives ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",  # noqa: S608 - constant column names
        (
            row.name,
            row.made_at,
            row.purge_at,
            row.items,
            row.content_bytes,
            row.file_bytes,
            row.sha256,
        ),
    )


def all_of(place: Queries) -> list[ArchiveRow]:
    """Return all files, oldest first."""
    return _rows(place, "ORDER BY position", ())


def totals(place: Queries) -> ArchiveTotals:
    """Return what all files come to."""
    rows: list[Any] = place.execute(
        "SELECT count(*), coalesce(sum(file_bytes), 0) FROM archives"
    ).fetchall()
    return ArchiveTotals(*rows[0])


def find(place: Queries, name: str) -> ArchiveRow | None:
    """Return one file."""
    rows = _rows(place, "WHERE name = ?", (name,))
    return rows[0] if rows else None


def newest(place: Queries) -> ArchiveRow | None:
    """Return the file that was added last."""
    rows = _rows(place, "ORDER BY position DESC LIMIT 1", ())
    return rows[0] if rows else None


def unfinished(place: Queries) -> list[str]:
    """Return files that not as many items name as are in them: something was cut off."""
    return [row.name for row in _rows(place, f"WHERE {_NOT_ALL} ORDER BY position", ())]


def going(place: Queries) -> list[str]:
    """Return files whose time is over whatever is said later: they are about to be taken away."""
    return [row.name for row in _rows(place, "WHERE purge_at = made_at ORDER BY position", ())]


def let_go(transaction: Transaction, name: str) -> None:
    """Note that a file is about to be taken away, item by item; see `going`."""
    transaction.execute("UPDATE archives SET purge_at = made_at WHERE name = ?", (name,))


def unknown(place: Queries, names: Iterable[str]) -> list[str]:
    """Return which of some files no row names, neither of a file nor of an item."""
    return [
        name
        for name in names
        if not place.execute(
            "SELECT 1 FROM archives WHERE name = ?1 "
            "UNION ALL SELECT 1 FROM pruned_items WHERE archive = ?1 LIMIT 1",
            (name,),
        ).fetchall()
    ]


def entries_in(place: Queries, name: str, *, limit: int) -> list[int]:
    """Return positions of entries that name a file: `limit` at most, in no order."""
    rows = place.execute(
        "SELECT position FROM pruned_items WHERE archive = ? LIMIT ?", (name, limit)
    )
    return [int(str(row[0])) for row in rows]


def holds_any(place: Queries, name: str) -> bool:
    """Return whether a file has the contents of an item that are nowhere else."""
    rows = place.execute(
        "SELECT 1 FROM pruned_items WHERE archive = ? AND state = ? LIMIT 1",
        (name, PrunedState.ARCHIVED.value),
    )
    return bool(rows.fetchall())


def archived_among(place: Queries, name: str, positions: Collection[int]) -> set[int]:
    """Return which of some entries have their contents in a file and nowhere else."""
    rows = place.execute(
        f"SELECT position FROM pruned_items WHERE archive = ? AND state = '{PrunedState.ARCHIVED}' "  # noqa: S608 - a constant state
        "AND position IN (SELECT value FROM json_each(?))",
        (name, _array(positions)),
    )
    return {int(str(row[0])) for row in rows}


def put_into(
    transaction: Transaction, name: str, entries: Sequence[Placed], instead_of: str | None = None
) -> int:
    """Let entries name the file that holds them, and let go of their originals.

    Args:
        transaction: Where.
        name: The file.
        entries: What is in it.
        instead_of: The file that they may be in until now.

    Returns how many are not there any more, purged, or in other files: it should not hold them.
    """
    missing = 0
    for entry in entries:
        transaction.execute(_PUT, (name, entry.position, entry.item, instead_of or name))
        missing += not transaction.connection.changes()
    return missing


def purge(transaction: Transaction, name: str, positions: Sequence[int]) -> int:
    """Let entries name their file no more; return how many items are thereby gone for good."""
    gone = 0
    for position in positions:
        transaction.execute(
            "UPDATE pruned_items SET archive = NULL, state = ? "
            "WHERE position = ? AND state = ? AND archive = ?",
            (PrunedState.PURGED.value, position, PrunedState.ARCHIVED.value, name),
        )
        gone += transaction.connection.changes()
        transaction.execute(
            "UPDATE pruned_items SET archive = NULL WHERE position = ? AND archive = ?",
            (position, name),
        )
    _count_out(transaction, name, len(positions))
    return gone


def remove(transaction: Transaction, name: str) -> None:
    """Delete the row of a file, which is to be taken away after that."""
    transaction.execute("DELETE FROM archives WHERE name = ?", (name,))


def set_purge_at(transaction: Transaction, times: Sequence[tuple[str, str | None]]) -> None:
    """Set when the time of files is over, each by its name."""
    for name, purge_at in times:
        transaction.execute("UPDATE archives SET purge_at = ? WHERE name = ?", (purge_at, name))


def condemn(transaction: Transaction, session_ids: Collection[str]) -> None:
    """Delete what is told and held of sessions; entries that name a file stay, purged."""
    ids = _array(session_ids)
    keep_entries(transaction)
    transaction.execute(
        "DELETE FROM pruned_items WHERE archive IS NULL "
        "AND session_id IN (SELECT value FROM json_each(?))",
        (ids,),
    )
    transaction.execute(
        f"UPDATE pruned_items SET state = '{PrunedState.PURGED}', due_at = NULL, "  # noqa: S608 - a constant state
        "record = '{}' WHERE session_id IN (SELECT value FROM json_each(?))",
        (ids,),
    )


def condemned(place: Queries) -> list[str]:
    """Return the files that hold items of erased sessions."""
    rows = place.execute(
        "SELECT DISTINCT archive FROM pruned_items "  # noqa: S608 - a constant state
        f"WHERE archive IS NOT NULL AND state = '{PrunedState.PURGED}'"
    )
    return [str(row[0]) for row in rows]


def forget_condemned(transaction: Transaction, name: str) -> None:
    """Delete the entries of erased sessions that name a file."""
    transaction.execute(
        f"DELETE FROM pruned_items WHERE archive = ? AND state = '{PrunedState.PURGED}'",  # noqa: S608 - a constant state
        (name,),
    )
    _count_out(transaction, name, transaction.connection.changes())


def replace(transaction: Transaction, name: str) -> None:
    """Delete the row of a file that holds nothing any more which is nowhere else."""
    forget_condemned(transaction, name)
    transaction.execute(
        "UPDATE pruned_items SET archive = NULL, state = CASE state "  # noqa: S608 - constant states
        f"WHEN '{PrunedState.ARCHIVED}' THEN '{PrunedState.PURGED}' ELSE state END "
        "WHERE archive = ?",
        (name,),
    )
    remove(transaction, name)


def _rows(place: Queries, clause: str, bindings: tuple[object, ...]) -> list[ArchiveRow]:
    rows: list[Any] = place.execute(
        f"SELECT {_COLUMNS} FROM archives {clause}",  # noqa: S608 - texts of ours
        bindings,
    ).fetchall()
    return [ArchiveRow(*row) for row in rows]


def _count_out(transaction: Transaction, name: str, items: int) -> None:
    transaction.execute(
        "UPDATE archives SET items = max(0, items - ?) WHERE name = ?", (items, name)
    )


def _array(values: Collection[object]) -> str:
    return orjson.dumps(sorted(values, key=str)).decode()
