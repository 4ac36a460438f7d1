"""Pruned items whose time is over: what their grace holds goes or is archived, then the audit.

SQL over `pruned_items`, `pruned_originals` and `pruning_runs`. What is asked for in pieces is
bounded in rows and in bytes, so that no piece holds up the writer or fills the memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.transcripts.gone import keep_entries, note_audit_cut
from gateway.transcripts.pruned import PrunedState, instant

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from gateway.durable.batch import Queries, Transaction

ARCHIVE: Final = "archive"
"""The action whose items go to a file; of the others the original goes."""
_DUE: Final = (
    "FROM pruned_items LEFT JOIN pruned_originals ON entry = position "
    f"WHERE state = '{PrunedState.HELD}' AND due_at <= ?1 "
    "AND due_at >= ?2 AND (due_at > ?2 OR position > ?3)"
)
_OTHERS: Final = "('delete', 'summarize', 'compact')"
"""An action that is none of ours is damage, and left alone."""
_IS_OVER: Final = (
    f"state IN ('{PrunedState.PURGED}', '{PrunedState.RESTORED}') AND due_at IS NULL "
    "AND archive IS NULL"
)
"""Of such an entry nothing is anywhere, or it was given back."""
_HAS_ITEMS: Final = (
    "EXISTS (SELECT 1 FROM pruned_items AS of_run WHERE of_run.run_id = pruning_runs.run_id)"
)


@dataclass(frozen=True, slots=True)
class Due:
    """Where one stands among those that are due: the next begins after it."""

    due_at: str = ""
    position: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """An entry whose original waits to be archived, as it is stored."""

    due: Due
    item: int
    session_id: str
    session_key: str
    """Empty where nobody knows it any more."""
    run_id: str
    at: str
    record: bytes
    original: bytes


def due_to_go(place: Queries, now: str, *, after: Due, limit: int, max_bytes: int) -> list[Due]:
    """Return entries whose original is due to go, the longest due first.

    Args:
        place: Where.
        now: As `pruned.instant` writes it.
        after: Only those that come after this one.
        limit: How many at most.
        max_bytes: How long their originals are together at most, but for the first.
    """
    found: list[Due] = []
    total = 0
    # Of a blob, the length is read without its content.
    for position, due_at, size in place.execute(
        f"SELECT position, due_at, coalesce(length(original), 0) {_DUE} AND action IN {_OTHERS} "
        "ORDER BY due_at, position LIMIT ?4",
        (now, after.due_at, after.position, limit),
    ):
        total += int(str(size))
        if found and total > max_bytes:
            break
        found.append(Due(str(due_at), int(str(position))))
    return found


def due_to_archive(
    place: Queries, now: str, *, after: Due, limit: int, max_bytes: int
) -> list[Held]:
    """Return entries that are due to be archived, with their originals; see `due_to_go`."""
    found: list[Held] = []
    total = 0
    # As bytes: what is no text any more is for who reads it to tell.
    for position, due_at, item, session, key, run_id, at, record, original in place.execute(
        "SELECT position, due_at, item, CAST(session_id AS BLOB), "  # noqa: S608 - texts of ours
        "CAST(coalesce((SELECT session_key FROM sessions "
        "WHERE sessions.session_id = pruned_items.session_id), '') AS BLOB), "
        "CAST(run_id AS BLOB), CAST(at AS BLOB), CAST(record AS BLOB), original "
        f"{_DUE} AND action = '{ARCHIVE}' ORDER BY due_at, position LIMIT ?4",
        (now, after.due_at, after.position, limit),
    ):
        data = _bytes(original)
        total += len(data)
        if found and total > max_bytes:
            break
        due = Due(str(due_at), int(str(position)))
        of_whom = (_text(session), _text(key), _text(run_id), _text(at))
        found.append(Held(due, int(str(item)), *of_whom, _bytes(record), data))
    return found


def purge(transaction: Transaction, entries: Sequence[Due]) -> int:
    """Let go of originals for good; return how many were still held, and as long due."""
    gone = 0
    for entry in entries:
        transaction.execute(
            "UPDATE pruned_items SET state = ?, due_at = NULL "
            "WHERE position = ? AND state = ? AND due_at = ?",
            (PrunedState.PURGED.value, entry.position, PrunedState.HELD.value, entry.due_at),
        )
        gone += transaction.connection.changes()
    return gone


def old_entries(
    place: Queries, before: datetime, *, after: int, limit: int
) -> tuple[list[int], int | None]:
    """Return entries of items that are gone, or were given back, and where to go on.

    One of whose item a file still holds a copy stays until the file goes.

    Args:
        place: Where.
        before: Only entries from before this instant; wherever they stand, for clocks are set.
        after: Only entries with a greater position.
        limit: How many are looked at.

    Returns their positions, and the last that was looked at; None where there are no more.
    """
    rows = place.execute(
        f"SELECT position, {_IS_OVER} AND at < ?2 FROM pruned_items "  # noqa: S608 - texts of ours
        "WHERE position > ?1 ORDER BY position LIMIT ?3",
        (after, instant(before), limit),
    ).fetchall()
    return _chosen(rows, limit)


def old_runs(
    place: Queries, before: datetime, *, after: int, limit: int
) -> tuple[list[int], int | None]:
    """Return runs from before an instant of whose items nothing is told; see `old_entries`."""
    rows = place.execute(
        f"SELECT position, NOT {_HAS_ITEMS} FROM pruning_runs "  # noqa: S608 - texts of ours
        "WHERE position > ? AND started_at < ? ORDER BY position LIMIT ?",
        (after, instant(before), limit),
    ).fetchall()
    return _chosen(rows, limit)


def forget(transaction: Transaction, entries: Sequence[int], before: datetime) -> int:
    """Delete entries as `old_entries` finds them, where they still are; return how many went."""
    keep_entries(transaction)
    return _delete(transaction, f"pruned_items WHERE {_IS_OVER} AND at < ?1", entries, before)


def forget_runs(transaction: Transaction, runs: Sequence[int], before: datetime) -> int:
    """Delete runs as `old_runs` finds them, where they still are; return how many went."""
    of_runs = f"pruning_runs WHERE NOT {_HAS_ITEMS} AND started_at < ?1"
    return _delete(transaction, of_runs, runs, before)


def _chosen(rows: Sequence[Sequence[object]], limit: int) -> tuple[list[int], int | None]:
    last = int(str(rows[-1][0])) if len(rows) == limit else None
    return [int(str(position)) for position, is_old in rows if is_old], last


def _delete(transaction: Transaction, rows: str, positions: Sequence[int], before: datetime) -> int:
    gone = 0
    for position in positions:
        transaction.execute(
            f"DELETE FROM {rows} AND position = ?2",  # noqa: S608 - texts of ours
            (instant(before), position),
        )
        gone += transaction.connection.changes()
    if gone:
        note_audit_cut(transaction, before)
    return gone


def _text(value: object) -> str:
    return _bytes(value).decode(errors="replace")


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""
