"""What the records of pruning runs tell of sessions that are erased, taken out of them.

A record names the session that a run was for, and the items that it failed at, with the error.
What a run did in sum stays. Runs are many and those that name a session few: they are looked for
outside the writer, which then only looks at those that came since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from gateway.durable.batch import Queries, Transaction

_TELLING: Final = (
    "SELECT position FROM pruning_runs WHERE position > ?1 AND CASE WHEN json_valid(record) THEN "
    "json_extract(record, '$.session_id') IN (SELECT value FROM json_each(?2)) "
    "OR json_array_length(record, '$.errors') > 0 ELSE 0 END ORDER BY position"
)
_IS_OF: Final = (
    "SELECT 1 FROM messages WHERE position = ?1 "
    "AND session_id IN (SELECT value FROM json_each(?2)) "
    "UNION ALL SELECT 1 FROM pruned_items WHERE item = ?1 "
    "AND session_id IN (SELECT value FROM json_each(?2)) LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class Telling:
    """Runs that may tell of sessions."""

    session_ids: frozenset[str]
    runs: tuple[int, ...]
    """Their positions, in order."""
    looked_at: int
    """The last position that was looked at."""


def runs_telling(place: Queries, session_ids: Collection[str], *, after: int = 0) -> Telling:
    """Return the runs after a position that may tell of sessions."""
    last = place.execute("SELECT coalesce(max(position), 0) FROM pruning_runs").fetchall()[0][0]
    found = place.execute(_TELLING, (after, _array(session_ids))).fetchall()
    return Telling(frozenset(session_ids), tuple(int(str(row[0])) for row in found), int(str(last)))


def forget_in_runs(transaction: Transaction, session_ids: Collection[str], known: Telling) -> None:
    """Take sessions out of all records, before their messages and what was pruned of them go.

    Args:
        transaction: Where.
        session_ids: The sessions.
        known: What was found before; of other sessions, or by an older look, it saves less work.
    """
    is_same = known.session_ids == frozenset(session_ids)
    after = known.looked_at if is_same else 0
    newer = runs_telling(transaction, session_ids, after=after)
    for run in (*(known.runs if is_same else ()), *newer.runs):
        _forget_in(transaction, run, session_ids)


def _forget_in(transaction: Transaction, run: int, session_ids: Collection[str]) -> None:
    rows = transaction.execute(
        "SELECT record FROM pruning_runs WHERE position = ?", (run,)
    ).fetchall()
    record: dict[str, Any] = orjson.loads(str(rows[0][0])) if rows else {}
    errors = record.get("errors") or []
    kept = [one for one in errors if not _is_of(transaction, one, session_ids)]
    is_named = record.get("session_id") in session_ids
    if is_named or len(kept) < len(errors):
        record |= {"errors": kept} | ({"session_id": None} if is_named else {})
        transaction.execute(
            "UPDATE pruning_runs SET record = ?, detail = CASE ? WHEN 1 THEN '' ELSE detail END "
            "WHERE position = ?",
            (orjson.dumps(record).decode(), is_named, run),
        )


def _is_of(place: Queries, error: object, session_ids: Collection[str]) -> bool:
    """Return whether an error is of an item of these sessions; of what it says nothing is known."""
    item = error.get("item_id") if isinstance(error, dict) else None
    if not str(item).isdecimal():
        return True

    return bool(place.execute(_IS_OF, (int(str(item)), _array(session_ids))).fetchall())


def _array(values: Sequence[str] | Collection[str]) -> str:
    return orjson.dumps(sorted(values)).decode()
