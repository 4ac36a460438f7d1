"""The rows of events that wait to be posted, or were given up; one that was taken has none.

A row is written in the transaction of what it tells of. `due_at` and `dead_at` compare as texts do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.durable.batch import Queries, Transaction

_COLUMNS: Final = (
    "position, event_id, webhook, type, session_key, body, created_at, due_at, attempts, error, "
    "dead_at"
)
_QUEUED: Final = "webhook = ? AND dead_at IS NULL"
_DEAD: Final = "webhook = ? AND dead_at IS NOT NULL"
_DUE: Final = f"SELECT {_COLUMNS} FROM webhook_events WHERE {_QUEUED}"  # noqa: S608 - a text of ours
_IN_ORDER: Final = "ORDER BY due_at, position LIMIT ?"
_OLDEST_QUEUED: Final = (
    f"SELECT position FROM webhook_events WHERE {_QUEUED} ORDER BY position LIMIT ?"  # noqa: S608 - a text of ours
)
_NEXT_QUEUED: Final = (
    f"SELECT position FROM webhook_events WHERE {_QUEUED} AND position > ? "  # noqa: S608 - a text of ours
    "ORDER BY position LIMIT ?"
)
_OLDER_DEAD: Final = (
    f"SELECT position FROM webhook_events WHERE {_DEAD} "  # noqa: S608 - a text of ours
    "ORDER BY dead_at DESC, position DESC LIMIT -1 OFFSET ?"
)


class EventState(StrEnum):
    """What an event is."""

    QUEUED = "queued"
    """To be posted."""
    DEAD = "dead"
    """Given up; `error` says why."""


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event for one webhook."""

    position: int
    event_id: str
    """Its webhook-id, the same however often it is posted."""
    webhook: str
    kind: str
    session_key: str
    body: str
    created_at: str
    due_at: str
    attempts: int
    error: str
    """Why the last try failed, or why it is dead; empty: it was not tried."""
    dead_at: str | None

    @property
    def state(self) -> EventState:
        """What it is."""
        return EventState.QUEUED if self.dead_at is None else EventState.DEAD


@dataclass(frozen=True, slots=True)
class Due:
    """What of a webhook is to be posted."""

    rows: tuple[EventRow, ...]
    """Those that are due, the one that waits longest first."""
    next_at: datetime | None
    """When the next one is due of those that are not; None: there is none."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many events of a webhook there are."""

    queued: int = 0
    dead: int = 0
    oldest_queued_at: str = ""


def sortable(at: datetime) -> str:
    """Return an instant so that instants compare as texts do."""
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def instant(text: str) -> datetime:
    """Return what `sortable` has written."""
    return datetime.fromisoformat(text)


def add(
    transaction: Transaction,
    *,
    event_id: str,
    webhook: str,
    kind: str,
    session_key: str,
    body: str,
    at: datetime,
) -> None:
    """Queue an event, due at once."""
    stamp = sortable(at)
    transaction.execute(
        "INSERT INTO webhook_events "
        "(event_id, webhook, type, session_key, body, created_at, due_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (event_id, webhook, kind, session_key, body, stamp, stamp),
    )


def queued(place: Queries, webhook: str) -> int:
    """Return how many events of a webhook wait."""
    rows = place.execute(
        f"SELECT count(*) FROM webhook_events WHERE {_QUEUED}",  # noqa: S608 - a text of ours
        (webhook,),
    ).fetchall()
    return int(str(rows[0][0]))


def due(place: Queries, webhook: str, *, now: datetime, horizon: datetime, limit: int) -> Due:
    """Return what is due.

    Args:
        place: Where to read.
        webhook: Of which.
        now: The wall clock.
        horizon: What is due later than this was planned by a clock that went wrong, and is due.
        limit: How many at most.
    """
    stamps = (webhook, sortable(now), sortable(horizon))
    # Two reads: with both conditions in one, all that waits would be looked at.
    rows = place.execute(f"{_DUE} AND due_at <= ? {_IN_ORDER}", (*stamps[:2], limit)).fetchall()
    if len(rows) < limit:
        odd = (webhook, stamps[2], limit - len(rows))
        rows += place.execute(f"{_DUE} AND due_at > ? {_IN_ORDER}", odd).fetchall()
    later = place.execute(
        f"SELECT min(due_at) FROM webhook_events WHERE {_QUEUED} AND due_at > ? AND due_at <= ?",  # noqa: S608 - a text of ours
        stamps,
    ).fetchall()[0][0]
    next_at = None if later is None else instant(str(later))
    return Due(tuple(map(_row, rows)), next_at)


def remove(transaction: Transaction, row: EventRow) -> int:
    """Take out an event that was taken; return how many that are."""
    transaction.execute(
        "DELETE FROM webhook_events WHERE position = ? AND event_id = ?",
        (row.position, row.event_id),
    )
    return transaction.connection.changes()


def note_failed(transaction: Transaction, row: EventRow, *, error: str, due_at: datetime) -> None:
    """Note a try that failed, and when the next one is due."""
    transaction.execute(
        "UPDATE webhook_events SET attempts = attempts + 1, error = ?, due_at = ? "
        "WHERE position = ? AND event_id = ? AND dead_at IS NULL",
        (error, sortable(due_at), row.position, row.event_id),
    )


def bury(transaction: Transaction, row: EventRow, *, error: str, at: datetime, keep: int) -> int:
    """Make a dead letter of an event after one more try, and keep so many of its webhook.

    Returns how many do not wait any more.
    """
    transaction.execute(
        "UPDATE webhook_events SET attempts = attempts + 1, error = ?, dead_at = ? "
        "WHERE position = ? AND event_id = ? AND dead_at IS NULL",
        (error, sortable(at), row.position, row.event_id),
    )
    buried = transaction.connection.changes()
    keep_newest_dead(transaction, row.webhook, keep)
    return buried


def bury_oldest(
    transaction: Transaction, webhook: str, number: int, *, error: str, at: datetime, keep: int
) -> None:
    """Make dead letters of the oldest events of a webhook that wait."""
    transaction.execute(
        f"UPDATE webhook_events SET error = ?, dead_at = ? WHERE position IN ({_OLDEST_QUEUED})",  # noqa: S608 - a text of ours
        (error, sortable(at), webhook, number),
    )
    keep_newest_dead(transaction, webhook, keep)


def bury_unknown(
    transaction: Transaction, known: Iterable[str], *, error: str, at: datetime, keep: int
) -> int:
    """Make dead letters of what waits for webhooks that are not configured; return how many."""
    names = transaction.execute(
        "SELECT DISTINCT webhook FROM webhook_events WHERE dead_at IS NULL"
    ).fetchall()
    buried = 0
    for name in {str(one) for (one,) in names} - set(known):
        number = queued(transaction, name)
        bury_oldest(transaction, name, number, error=error, at=at, keep=keep)
        buried += number
    return buried


def keep_newest_dead(transaction: Transaction, webhook: str, keep: int) -> None:
    """Delete the oldest dead letters of a webhook beyond a number."""
    transaction.execute(
        f"DELETE FROM webhook_events WHERE position IN ({_OLDER_DEAD})",  # noqa: S608 - a text of ours
        (webhook, keep),
    )


def discard_dead(transaction: Transaction, webhook: str, *, before: datetime) -> int:
    """Delete dead letters given up before an instant; return how many."""
    transaction.execute(
        f"DELETE FROM webhook_events WHERE {_DEAD} AND dead_at < ?",  # noqa: S608 - a text of ours
        (webhook, sortable(before)),
    )
    return transaction.connection.changes()


def revive(transaction: Transaction, row: EventRow, *, at: datetime) -> None:
    """Have an event posted at once, with all its tries."""
    transaction.execute(
        "UPDATE webhook_events SET dead_at = NULL, error = NULL, attempts = 0, due_at = ? "
        "WHERE position = ? AND event_id = ?",
        (sortable(at), row.position, row.event_id),
    )


def hasten(
    transaction: Transaction, webhook: str, *, cursor: int, limit: int, at: datetime
) -> list[int]:
    """Have some of what waits for a webhook posted at once, with all its tries.

    Args:
        transaction: Where to write.
        webhook: Of which.
        cursor: The position of the last one of those before; 0: there are none.
        limit: How many at most, the oldest first.
        at: The wall clock.

    Returns:
        Their positions, in order.
    """
    found = transaction.execute(_NEXT_QUEUED, (webhook, cursor, limit)).fetchall()
    positions = [int(str(one)) for (one,) in found]
    if positions:
        transaction.execute(
            "UPDATE webhook_events SET attempts = 0, due_at = ? "
            "WHERE position BETWEEN ? AND ? AND webhook = ? AND dead_at IS NULL",
            (sortable(at), positions[0], positions[-1], webhook),
        )
    return positions


def find(place: Queries, event_id: str) -> EventRow | None:
    """Return an event."""
    rows = place.execute(
        f"SELECT {_COLUMNS} FROM webhook_events WHERE event_id = ?",  # noqa: S608 - constant column names
        (event_id,),
    ).fetchall()
    return _row(rows[0]) if rows else None


def page(
    place: Queries, state: EventState, *, webhook: str = "", cursor: int = 0, limit: int
) -> list[EventRow]:
    """Return events, the oldest first.

    Args:
        place: Where to read.
        state: Which.
        webhook: Of which; empty: of all.
        cursor: The position of the last one of the page before; 0: there is none.
        limit: How many at most.
    """
    is_state = "IS NULL" if state is EventState.QUEUED else "IS NOT NULL"
    rows = place.execute(
        f"SELECT {_COLUMNS} FROM webhook_events WHERE dead_at {is_state} AND position > ?1 "  # noqa: S608 - a text of ours
        "AND (?2 = '' OR webhook = ?2) ORDER BY position LIMIT ?3",
        (cursor, webhook, limit),
    ).fetchall()
    return [_row(row) for row in rows]


def counts(place: Queries) -> dict[str, Counts]:
    """Return how many events there are, by webhook."""
    rows = place.execute(
        "SELECT webhook, sum(dead_at IS NULL), sum(dead_at IS NOT NULL), "
        "min(iif(dead_at IS NULL, created_at, NULL)) FROM webhook_events GROUP BY webhook"
    ).fetchall()
    return {
        str(name): Counts(int(str(waiting)), int(str(dead)), str(oldest or ""))
        for name, waiting, dead, oldest in rows
    }


def _row(row: tuple[object, ...]) -> EventRow:
    position, event_id, webhook, kind, key, body, created_at, due_at, attempts, error, dead_at = row
    return EventRow(
        position=int(str(position)),
        event_id=str(event_id),
        webhook=str(webhook),
        kind=str(kind),
        session_key=str(key),
        body=str(body),
        created_at=str(created_at),
        due_at=str(due_at),
        attempts=int(str(attempts)),
        error=str(error or ""),
        dead_at=None if dead_at is None else str(dead_at),
    )
