"""What a context has in place of messages of the transcript: committed before it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.model import Projection, ProjectionMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.durable.batch import Queries, Transaction
    from gateway.model import SessionId, TurnId

_KEEP: Final = (
    "INSERT INTO projections (session_id, item, mode, max_chars, head_chars, tail_chars, "
    "placeholder, through, made_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (session_id, item) "
    "DO UPDATE SET mode = excluded.mode, placeholder = excluded.placeholder, "
    "made_at = excluded.made_at WHERE mode = 'trim' AND excluded.mode = 'clear'"
)

_ITEMS: Final = 500
"""Projections deleted by one statement."""


def keep(
    transaction: Transaction, session_id: SessionId, made: Iterable[Projection], *, at: str
) -> None:
    """Store projections; a result that was trimmed may be cleared, and nothing else changes.

    Of the turns that are left out only the newest is kept.
    """
    for one in made:
        if one.mode is ProjectionMode.OMIT:
            transaction.execute(
                "DELETE FROM projections WHERE session_id = ? AND mode = ?",
                (session_id, one.mode.value),
            )
        sizes = (one.max_chars, one.head_chars, one.tail_chars)
        row = (session_id, one.item, one.mode.value, *sizes, one.placeholder, one.through, at)
        transaction.execute(_KEEP, row)


def drop(transaction: Transaction, session_id: SessionId, items: Sequence[str]) -> None:
    """Delete the projections of items that are not sent any more; the turns left out stay known.

    After `keep` in the same transaction: of what was just made some may have left already.
    """
    for start in range(0, len(items), _ITEMS):
        part = items[start : start + _ITEMS]
        transaction.execute(
            "DELETE FROM projections WHERE session_id = ? AND mode <> ? "  # noqa: S608 - question marks alone
            f"AND item IN (?{', ?' * (len(part) - 1)})",
            (session_id, ProjectionMode.OMIT.value, *part),
        )


def drop_of_turn(transaction: Transaction, session_id: SessionId, turn_id: TurnId) -> None:
    """Delete what was made of a turn's own results: it begins anew, and they will be others."""
    # Such items begin with the turn and a slash, after which the digits come.
    transaction.execute(
        "DELETE FROM projections WHERE session_id = ? AND item >= ? AND item < ?",
        (session_id, f"{turn_id}/", f"{turn_id}0"),
    )


def read(connection: Queries, session_id: SessionId) -> list[Projection]:
    """Return the projections of a session."""
    rows = connection.execute(
        "SELECT item, mode, max_chars, head_chars, tail_chars, placeholder, through "
        "FROM projections WHERE session_id = ?",
        (session_id,),
    ).fetchall()
    return [
        Projection(
            item=str(row[0]),
            mode=ProjectionMode(str(row[1])),
            max_chars=int(str(row[2])),
            head_chars=int(str(row[3])),
            tail_chars=int(str(row[4])),
            placeholder=str(row[5]),
            through=None if row[6] is None else int(str(row[6])),
        )
        for row in rows
    ]
