"""Pruned items whose time is over: what their grace holds goes or is archived, then the audit.

SQL over `pruned_items` and `pruning_runs`. What is asked for in pieces is bounded in rows and in
bytes, so that no piece holds up the writer or fills the memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.transcripts.gone import note_audit_cut
from gateway.transcripts.pruned import PrunedState, instant

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from gateway.durable.batch import Queries, Transaction

ARCHIVE: Final = "archive"
"""The action whose items go to a file; of the others the original goes."""
_DUE: Final = (
    f"FROM pruned_items WHERE state = '{PrunedState.HELD}' AND due_at <= ?1 "
    "AND due_at >= ?2 AND (due_at > ?2 OR position > ?3)"
)
_OTHERS: Final = "('delete', 'summarize', 'compact')"
"""An action that is none of ours is damage, and left alone."""


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
        "CAST(run_id AS BLOB), CAST(at AS BLOB), CAST(record AS BLOB), CAST(original AS BLOB) "
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
    """Let go of originals for good; return how many were still held."""
    gone = 0
    for entry in entries:
        transaction.execute(
            "UPDATE pruned_items SET state = ?, due_at = NULL, original = NULL "
            "WHERE position = ? AND state = ?",
            (PrunedState.PURGED.value, entry.position, PrunedState.HELD.value),
        )
        gone += transaction.connection.changes()
    return gone


def old_entries(place: Queries, before: datetime, *, limit: int) -> list[int]:
    """Return entries of items that are gone, or were given back, from before an instant.

    One of whose item a file still holds a copy stays until the file goes.
    """
    found: list[int] = []
    for state in (PrunedState.PURGED, PrunedState.RESTORED):
        # By position, which is the order of time, as long as the oldest are old enough.
        rows = place.execute(
            "SELECT position, at FROM pruned_items WHERE state = ? AND due_at IS NULL "
            "AND archive IS NULL ORDER BY position LIMIT ?",
            (state.value, limit),
        )
        found += [int(str(position)) for position, at in rows if str(at) < instant(before)]
    return found[:limit]


def old_runs(
    place: Queries, before: datetime, *, after: int, limit: int
) -> tuple[list[int], int | None]:
    """Return runs from before an instant of whose items nothing is told, and where to go on.

    Args:
        place: Where.
        before: The instant.
        after: Only runs with a greater position.
        limit: How many are looked at.
    """
    rows = place.execute(
        "SELECT position, EXISTS (SELECT 1 FROM pruned_items AS of_run "
        "WHERE of_run.run_id = pruning_runs.run_id) FROM pruning_runs "
        "WHERE position > ? AND started_at < ? ORDER BY position LIMIT ?",
        (after, instant(before), limit),
    ).fetchall()
    last = int(str(rows[-1][0])) if len(rows) == limit else None
    return [int(str(position)) for position, has_items in rows if not has_items], last


def forget(
    transaction: Transaction, entries: Sequence[int], runs: Sequence[int], before: datetime
) -> int:
    """Delete entries and runs that are older than an instant; return how many rows went."""
    gone = 0
    for table, positions in (("pruned_items", entries), ("pruning_runs", runs)):
        for position in positions:
            transaction.execute(f"DELETE FROM {table} WHERE position = ?", (position,))  # noqa: S608 - names of ours
            gone += transaction.connection.changes()
    if gone:
        note_audit_cut(transaction, before)
    return gone


def _text(value: object) -> str:
    return _bytes(value).decode(errors="replace")


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""
