"""What the database knows of rows that are gone: where positions go on, and that the audit was cut.

All stands in `store_state`. SQLite gives out the position after the greatest one in the table:
where the newest rows go, their positions would come again, and what tells of a position (the audit
of pruning, the beginning of a context, a sweep that is about to change an entry) would speak of
another row.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.durable.batch import Queries

LAST_MESSAGE: Final = "last_message"
"""Its value is a position that was given out; those up to it never are again."""
LAST_ENTRY: Final = "last_entry"
"""As `LAST_MESSAGE`, of entries of the audit."""
AUDIT_CUT: Final = "audit_cut"
"""Its value is the instant, in Unix seconds, before which entries of the audit were deleted."""
_NOTE: Final = (
    "INSERT INTO store_state (name, value) VALUES (?, ?) "
    "ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)"
)
_NEXT: Final = (
    "(SELECT 1 + max(coalesce((SELECT max(position) FROM {}), 0), "
    "coalesce((SELECT value FROM store_state WHERE name = '{}'), 0)))"
)
NEXT_POSITION: Final = _NEXT.format("messages", LAST_MESSAGE)
"""SQL of the position that the next message gets."""
NEXT_ENTRY: Final = _NEXT.format("pruned_items", LAST_ENTRY)
"""SQL of the position that the next entry of the audit gets."""
_HIGHEST: Final = 1 << 40
"""Beyond all positions and instants there are."""
_LATEST: Final = int(datetime.max.replace(tzinfo=UTC).timestamp())
_OF_MESSAGES: Final = "SELECT coalesce(max(position), 0) FROM messages"
_OF_ENTRIES: Final = "SELECT coalesce(max(position), 0) FROM pruned_items"
_OF_ALL: Final = (
    "SELECT coalesce(max(position), 0) FROM (SELECT max(position) AS position FROM messages "
    "UNION ALL SELECT max(item) FROM pruned_items UNION ALL SELECT max(through) FROM summaries "
    "UNION ALL SELECT max(through) FROM projections)"
)


def keep_positions(place: Queries) -> None:
    """Let no position come again: in the transaction that deletes what may be the newest rows."""
    _note_last(place, LAST_MESSAGE, _OF_MESSAGES)


def keep_entries(place: Queries) -> None:
    """Let no position of an entry come again: in the transaction, before it deletes entries."""
    _note_last(place, LAST_ENTRY, _OF_ENTRIES)


def take_over(place: Queries, known: Mapping[str, int]) -> None:
    """Note what another database knew, and let no position come again that anything tells of.

    Args:
        place: The new database, with its rows.
        known: Names and values of the other's `store_state`; what is out of range is left out.
    """
    _note_last(place, LAST_MESSAGE, _OF_ALL)
    _note_last(place, LAST_ENTRY, _OF_ENTRIES)
    for name in (LAST_MESSAGE, LAST_ENTRY, AUDIT_CUT):
        if 0 < known.get(name, 0) < _HIGHEST:
            place.execute(_NOTE, (name, known[name]))


def note_audit_cut(place: Queries, before: datetime) -> None:
    """Note that entries of the audit up to an instant are deleted: of those it does not tell."""
    place.execute(_NOTE, (AUDIT_CUT, math.ceil(before.timestamp())))


def audit_cut(place: Queries) -> datetime | None:
    """Return the instant up to which entries of the audit were deleted; None where none were."""
    rows = place.execute("SELECT value FROM store_state WHERE name = ?", (AUDIT_CUT,)).fetchall()
    return datetime.fromtimestamp(min(int(str(rows[0][0])), _LATEST), UTC) if rows else None


def _note_last(place: Queries, name: str, greatest: str) -> None:
    place.execute(_NOTE, (name, place.execute(greatest).fetchall()[0][0]))
