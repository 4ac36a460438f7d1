"""How all of a session is erased."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.durable.batch import PASSING
from gateway.errors import ConflictError, DamagedDataError, UnavailableError
from gateway.processes import records as processes
from gateway.retention.archiving import FOLDER, Archives, condemn_sessions, forget_condemned
from gateway.retention.forgetting import forget_in_runs, runs_telling
from gateway.transcripts import archives, outbox_changes, usage
from gateway.transcripts.gone import keep_positions

if TYPE_CHECKING:
    from gateway.durable.batch import Queries, Transaction
    from gateway.durable.database import Database
    from gateway.model import SessionKey
    from gateway.sessions.store import SessionStore

COMPACT_BYTES: Final = 268_435_456
"""The largest database that an erasure rewrites; all writing waits meanwhile, about 3 s."""
_SESSIONS: Final = "(SELECT session_id FROM sessions WHERE session_key = ?)"
_USERS_OF_NO_OTHER: Final = (
    f'SELECT "user" FROM session_users WHERE session_id IN {_SESSIONS} '  # noqa: S608 - a text of ours
    f'EXCEPT SELECT "user" FROM session_users WHERE session_id NOT IN {_SESSIONS}'
)
_OF_KEY: Final = (
    f"DELETE FROM messages WHERE session_id IN {_SESSIONS}",  # noqa: S608 - a text of ours
    f"DELETE FROM model_calls WHERE session_id IN {_SESSIONS}",  # noqa: S608 - a text of ours
    f"DELETE FROM projections WHERE session_id IN {_SESSIONS}",  # noqa: S608 - a text of ours
    f"DELETE FROM context_accounts WHERE session_id IN {_SESSIONS}",  # noqa: S608 - a text of ours
    f"DELETE FROM summaries WHERE session_id IN {_SESSIONS}",  # noqa: S608 - a text of ours
    f"DELETE FROM session_users WHERE session_id IN {_SESSIONS}",  # noqa: S608 - a text of ours
    "DELETE FROM inbox WHERE session_key = ?",
    "DELETE FROM broken_starts WHERE session_key = ?",
    "DELETE FROM outbox WHERE session_key = ?",
    "DELETE FROM processes WHERE session_key = ?",
    "DELETE FROM webhook_events WHERE session_key = ?",
    "DELETE FROM sessions WHERE session_key = ?",
    "DELETE FROM session_log WHERE session_key = ? AND member IS NOT NULL",
)

_ERASING: Final = "INSERT OR REPLACE INTO store_state (name, value) VALUES ('erasing', 1)"
_ERASED: Final = "DELETE FROM store_state WHERE name = 'erasing'"


async def erase(database: Database, store: SessionStore, key: SessionKey) -> bool:
    """Delete everything that was stored of a session key; quarantine and backups are not touched.

    That includes what pruning took of its conversations, held or in files of the archive, which are
    written anew without it, and what is told of that.

    What its model calls used stays in the sums of their days, without the name of a user who has no
    other session.

    Returns whether the database was rewritten as well. Where it is too large for that, deleted rows
    are overwritten, but copies that SQLite once made in moving them may stay in free space.

    Durability: on return neither the database nor a snapshot nor the archive shows anything of it.

    Raises:
        ConflictError: the key has an entry, or a process that runs; remove or stop it first.
        UnavailableError: a full or busy disk, or a damaged file of the archive, left traces of it;
            asked again, it takes them away.
    """
    known = await database.read(lambda place: runs_telling(place, _session_ids(place, key)))

    def work(transaction: Transaction) -> None:
        if store.has_staged(key):
            raise ConflictError("the session is there again; remove it first")
        if processes.has_live(transaction, key):
            raise ConflictError("a background process of the session runs; stop it first")

        session_ids = _session_ids(transaction, key)
        forget_in_runs(transaction, session_ids, known)
        condemn_sessions(transaction, session_ids)
        keep_positions(transaction)
        for (user,) in transaction.execute(_USERS_OF_NO_OTHER, (key, key)).fetchall():
            usage.forget_user(transaction, str(user))
        for statement in _OF_KEY:
            transaction.execute(statement, (key,))
        outbox_changes.leave_all(transaction)
        transaction.execute(_ERASING)

    await database.write(work)
    try:
        # Two snapshots: the entry must leave `.prev` as well.
        await store.snapshots.write()
        await store.snapshots.write()
        await _leave_archive(database)
        rewritten = await database.compact(COMPACT_BYTES)
    except PASSING as error:
        raise UnavailableError(
            f"The session is removed, but traces of it may still be on disk: {error}. "
            "Ask again to erase it once this has passed."
        ) from error

    await database.write(lambda transaction: transaction.execute(_ERASED))
    return rewritten


async def _leave_archive(database: Database) -> None:
    """Write files of the archive anew without what was erased."""
    try:
        await forget_condemned(Archives(database, database.path.with_name(FOLDER)))
    except DamagedDataError as error:
        # It may be another file, of which an erasure wants nothing.
        if await database.read(archives.condemned):
            raise UnavailableError(
                f"The session is removed, but a file of the archive may still hold items of it, "
                f"and cannot be read: {error}. Take the file away, and ask again to erase it."
            ) from error


def _session_ids(place: Queries, key: SessionKey) -> list[str]:
    rows = place.execute("SELECT session_id FROM sessions WHERE session_key = ?", (key,))
    return [str(row[0]) for row in rows]


async def is_erasure_unfinished(database: Database) -> bool:
    """Return whether an erasure has left traces of a session, which the next one takes away."""
    return bool(
        await database.read(
            lambda connection: connection.execute(
                "SELECT 1 FROM store_state WHERE name = 'erasing'"
            ).fetchall()
        )
    )
