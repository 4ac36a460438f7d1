"""Entries of `pruned_items` that are asked for again, and putting rows of `messages` back.

A row comes back with all its columns as they were, but for its version, which grows, and its marks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import orjson

from gateway.transcripts.items import ORIGINAL, put_back
from gateway.transcripts.pruned import NEWEST, PrunedState

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from gateway.durable.batch import Queries, Transaction

_TEXTS: Final = ("turn_id", "role", "text", "created_at")
_MAYBE_TEXTS: Final = ("tool_calls", "tool_call_id", "tool_name", "images", "marks")
_WRITTEN: Final = [name for name in ORIGINAL if name not in {"position", "session_id"}]


class Entry(NamedTuple):
    """What was done to one item, as far as giving it back goes."""

    position: int
    item: int
    session_id: str
    action: str
    state: str
    archive: str | None
    size_bytes: int
    """How long the original is that it holds."""


class Group(NamedTuple):
    """The entries of one run, or of one session."""

    column: Literal["run_id", "session_id"]
    value: str


def entries_of(place: Queries, items: Collection[int]) -> list[Entry]:
    """Return all entries of some items, newest first."""
    among = "item IN (SELECT value FROM json_each(?))"
    return _entries(place, among, (orjson.dumps(sorted(items)).decode(),))


def entries_in(
    place: Queries,
    group: Group,
    state: str,
    *,
    archive: str | None = None,
    before: int | None = None,
    limit: int,
) -> list[Entry]:
    """Return entries of a group in a state, newest first.

    Args:
        place: Where.
        group: The group.
        state: The state.
        archive: The file that they name; None: whatever.
        before: Only those with a smaller position.
        limit: How many at most.
    """
    # The unary plus: by these there is no index in the order of positions.
    return _entries(
        place,
        f"{group.column} = ? AND +state = ? AND +archive IS coalesce(?, archive) AND position < ?",
        (group.value, state, archive, NEWEST if before is None else before),
        limit,
    )


def files_with(place: Queries, group: Group) -> list[str]:
    """Return the archive files out of which something of a group can be given back."""
    rows = place.execute(
        "SELECT DISTINCT archive FROM pruned_items "  # noqa: S608 - a name of ours
        f"WHERE {group.column} = ? AND +state = ? AND archive IS NOT NULL ORDER BY archive DESC",
        (group.value, PrunedState.ARCHIVED.value),
    )
    return [str(row[0]) for row in rows]


def _entries(
    place: Queries, condition: str, bindings: tuple[object, ...], limit: int = -1
) -> list[Entry]:
    rows: list[Any] = place.execute(
        "SELECT position, item, session_id, action, state, archive, "  # noqa: S608 - texts of ours
        "coalesce(length(original), 0) FROM pruned_items "
        f"LEFT JOIN pruned_originals ON entry = position WHERE {condition} "
        "ORDER BY position DESC LIMIT ?",
        (*bindings, limit),
    ).fetchall()
    return [Entry(*row) for row in rows]


def state_of(place: Queries, entry: Entry) -> str | None:
    """Return the state of an entry now; None where there is none any more."""
    rows = place.execute(
        "SELECT state FROM pruned_items WHERE position = ? AND item = ?",
        (entry.position, entry.item),
    )
    return next((str(row[0]) for row in rows.fetchall()), None)


def version_of(place: Queries, item: int) -> int | None:
    """Return the version of a message; None where it is not there."""
    rows = place.execute("SELECT version FROM messages WHERE position = ?", (item,))
    return next((int(str(row[0])) for row in rows.fetchall()), None)


def is_known(place: Queries, session_id: str) -> bool:
    """Return whether a conversation is one of a key, and not erased."""
    rows = place.execute("SELECT 1 FROM sessions WHERE session_id = ?", (session_id,))
    return bool(rows.fetchall())


def is_row(entry: Entry, row: Mapping[str, Any]) -> bool:
    """Return whether what was kept of an entry is its row, and can be put back."""
    return (
        row.get("position") == entry.item
        and row.get("session_id") == entry.session_id
        and all(isinstance(row.get(name), str) for name in _TEXTS)
        and all(isinstance(row.get(name), str | None) for name in _MAYBE_TEXTS)
        and type(row.get("version")) is int
    )


def insert(transaction: Transaction, row: Mapping[str, Any], *, version: int, marks: str) -> None:
    """Put a row back that is not there any more."""
    put_back(transaction, {**dict.fromkeys(ORIGINAL), **row, "version": version, "marks": marks})


def change(transaction: Transaction, row: Mapping[str, Any], *, version: int, marks: str) -> None:
    """Make a row that is there what it was before."""
    columns = {**row, "version": version, "marks": marks}
    transaction.execute(
        f"UPDATE messages SET {', '.join(f'{name} = ?' for name in _WRITTEN)} WHERE position = ?",  # noqa: S608 - constant column names
        (*(columns.get(name) for name in _WRITTEN), row["position"]),
    )


def restored(transaction: Transaction, position: int) -> None:
    """Note that an item is back; a file that holds a copy of it stays named."""
    transaction.execute(
        "UPDATE pruned_items SET state = ?, due_at = NULL WHERE position = ?",
        (PrunedState.RESTORED.value, position),
    )
