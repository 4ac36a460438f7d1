"""Items taken as pruning takes them, for tests of what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

if TYPE_CHECKING:
    from gateway.durable.connection import Connection

AT: Final = "2026-01-01T00:00:00.000000Z"
"""When items are taken."""
_RECORD: Final = '{"rule_id":"r","before":{"size_bytes":7}}'


def take(
    connection: Connection,
    item: int,
    action: str = "delete",
    state: str = "held",
    *,
    due_at: str | None = None,
    archive: str | None = None,
) -> None:
    """Take an item as pruning does, and say what became of it."""
    columns = [str(row[1]) for row in connection.execute("PRAGMA table_info(messages)")]
    (row,) = connection.execute(
        f"SELECT {', '.join(columns)} FROM messages WHERE position = ?",  # noqa: S608 - names of ours
        (item,),
    ).fetchall()
    original = dict(zip(columns, row, strict=True))
    connection.execute(
        "INSERT INTO pruned_items (run_id, item, session_id, action, state, at, due_at, archive, "
        "record) VALUES ('run-1', ?, ?, ?, ?, ?, ?, ?, ?)",
        (item, original["session_id"], action, state, AT, due_at, archive, _RECORD),
    )
    if state == "held":
        connection.execute(
            "INSERT INTO pruned_originals (entry, original) VALUES (?, ?)",
            (connection.last_insert_rowid(), orjson.dumps(original)),
        )
    if action in {"compact", "summarize"}:
        connection.execute(
            "UPDATE messages SET text = 'shorter', version = version + 1, marks = '{}' "
            "WHERE position = ?",
            (item,),
        )
    elif state != "restored":
        connection.execute("DELETE FROM messages WHERE position = ?", (item,))
