"""Conversations that ended: their messages on the way to the archive, and what is left of them.

SQL over `sessions` and what is stored by session id. A conversation that was taken up again has no
end, and each change looks at that again. What its model calls used stays in the sums of their days.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from gateway.transcripts import usage
from gateway.transcripts.pruned import PrunedState

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from gateway.durable.batch import Queries, Transaction

_KEPT: Final = f"state IN ('{PrunedState.HELD}', '{PrunedState.ARCHIVED}')"
_TABLES: Final = ("projections", "context_accounts", "summaries", "session_users", "sessions")


@dataclass(frozen=True, slots=True)
class Ended:
    """Where one stands among the conversations that ended: the next begins after it."""

    ended_at: str = ""
    position: int = 0
    session_id: str = ""
    session_key: str = ""
    has_messages: bool = False
    is_over: bool = False
    """Whether nothing of it is left that anybody could read."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A message that is there, and how much it is."""

    position: int
    size_bytes: int
    marks: str | None


def ended(place: Queries, before: str, *, after: Ended, limit: int) -> list[Ended]:
    """Return conversations that ended before an instant (RFC 3339), the longest ended first.

    Args:
        place: Where.
        before: The instant.
        after: Only those that come after this one.
        limit: How many at most.
    """
    rows = place.execute(
        "SELECT ended_at, position, session_id, session_key, "  # noqa: S608 - texts of ours
        "EXISTS (SELECT 1 FROM messages WHERE messages.session_id = sessions.session_id), "
        "EXISTS (SELECT 1 FROM pruned_items WHERE pruned_items.session_id = sessions.session_id "
        f"AND {_KEPT}) FROM sessions WHERE ended_at < ?1 AND ended_at >= ?2 "
        "AND (ended_at > ?2 OR position > ?3) ORDER BY ended_at, position LIMIT ?4",
        (before, after.ended_at, after.position, limit),
    )
    return [
        Ended(
            str(ended_at),
            int(str(position)),
            str(session_id),
            str(session_key),
            bool(has_messages),
            not has_messages and not is_kept,
        )
        for ended_at, position, session_id, session_key, has_messages, is_kept in rows
    ]


def is_ended(place: Queries, session_id: str, before: str) -> bool:
    """Return whether a conversation has ended before an instant."""
    rows = place.execute(
        "SELECT 1 FROM sessions WHERE session_id = ? AND ended_at < ?", (session_id, before)
    )
    return bool(rows.fetchall())


def messages_of(place: Queries, session_id: str, *, after: int, limit: int) -> list[Listed]:
    """Return the messages of a conversation from a position on, oldest first."""
    rows = place.execute(
        "SELECT position, size_bytes, marks FROM messages WHERE session_id = ? AND position > ? "
        "ORDER BY position LIMIT ?",
        (session_id, after, limit),
    )
    return [
        Listed(int(str(position)), int(str(size)), None if marks is None else str(marks))
        for position, size, marks in rows
    ]


def users_only_of(place: Queries, session_id: str) -> list[str]:
    """Return who spoke in a conversation and in no other; may read all that is known of users."""
    users = place.execute('SELECT "user" FROM session_users WHERE session_id = ?', (session_id,))
    return [str(user) for (user,) in users.fetchall() if _is_only_in(place, str(user), session_id)]


def _is_only_in(place: Queries, user: str, session_id: str) -> bool:
    others = place.execute(
        'SELECT 1 FROM session_users WHERE "user" = ? AND session_id <> ? LIMIT 1',
        (user, session_id),
    )
    return not others.fetchall()


def forget(transaction: Transaction, session_id: str, before: str, users: Sequence[str]) -> bool:
    """Delete what is left of a conversation that is over; False where it is not.

    Its model calls are left for `old_calls`, for there is no index by which to find them.

    Args:
        transaction: Where.
        session_id: The conversation.
        before: When it must have ended at the latest.
        users: Who spoke in it and, by `users_only_of`, in no other.
    """
    rows = transaction.execute(
        "SELECT EXISTS (SELECT 1 FROM messages WHERE session_id = ?1) "  # noqa: S608 - texts of ours
        f"OR EXISTS (SELECT 1 FROM pruned_items WHERE session_id = ?1 AND {_KEPT})",
        (session_id,),
    ).fetchall()
    if rows != [(0,)] or not is_ended(transaction, session_id, before):
        return False

    for user in users:
        # Who has begun another since is not forgotten.
        if _is_only_in(transaction, user, session_id):
            usage.forget_user(transaction, user)
    for table in _TABLES:
        transaction.execute(f"DELETE FROM {table} WHERE session_id = ?", (session_id,))  # noqa: S608 - names of ours
    return True


def old_calls(
    place: Queries, before: str, *, after: int, limit: int
) -> tuple[list[int], int | None]:
    """Return model calls from before an instant of conversations that are forgotten.

    Args:
        place: Where.
        before: The instant, RFC 3339.
        after: Only calls with a greater position.
        limit: How many are looked at.

    Returns their positions, and where to go on; None where there are no more.
    """
    rows = place.execute(
        "SELECT position, started_at, EXISTS (SELECT 1 FROM sessions "
        "WHERE sessions.session_id = model_calls.session_id) FROM model_calls "
        "WHERE position > ? ORDER BY position LIMIT ?",
        (after, limit),
    ).fetchall()
    found = [int(str(one)) for one, at, is_known in rows if not is_known and str(at) < before]
    return found, None if len(rows) < limit else int(str(rows[-1][0]))


def forget_calls(transaction: Transaction, positions: Collection[int], before: str) -> int:
    """Delete model calls as `old_calls` finds them, where they still are; return how many went."""
    transaction.execute(
        "DELETE FROM model_calls WHERE position IN (SELECT value FROM json_each(?)) "
        "AND started_at < ? AND NOT EXISTS (SELECT 1 FROM sessions "
        "WHERE sessions.session_id = model_calls.session_id)",
        (orjson.dumps(sorted(positions)).decode(), before),
    )
    return transaction.connection.changes()
