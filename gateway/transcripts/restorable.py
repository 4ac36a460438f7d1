"""Entries of `pruned_items` that are asked for again, and putting rows of `messages` back.

A row comes back with all its columns as they were, but for its version, which grows, and its marks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from gateway.transcripts.items import ORIGINAL, put_back
from gateway.transcripts.pruned import PrunedState

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


def entries(
    place: Queries,
    *,
    items: Collection[int] | None = None,
    run_id: str | None = None,
    session_ids: Collection[str] | None = None,
) -> list[Entry]:
    """Return all entries for which everything holds that is not None, newest first."""
    conditions, bindings = ["TRUE"], list[object]()
    for name, values in (("item", items), ("session_id", session_ids)):
        if values is not None:
            conditions.append(f"{name} IN (SELECT value FROM json_each(?))")  # noqa: S608 - names of ours
            bindings.append(orjson.dumps(sorted(values, key=str)).decode())
    if run_id is not None:
        conditions.append("run_id = ?")
        bindings.append(run_id)
    rows: list[Any] = place.execute(
        "SELECT position, item, session_id, action, state, archive, "  # noqa: S608 - texts of ours
        f"coalesce(length(original), 0) FROM pruned_items WHERE {' AND '.join(conditions)} "
        "ORDER BY position DESC",
        bindings,
    ).fetchall()
    return [Entry(*row) for row in rows]


def state_of(place: Queries, position: int) -> str | None:
    """Return the state of an entry now; None where there is none any more."""
    rows = place.execute("SELECT state FROM pruned_items WHERE position = ?", (position,))
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
        "UPDATE pruned_items SET state = ?, due_at = NULL, original = NULL WHERE position = ?",
        (PrunedState.RESTORED.value, position),
    )
