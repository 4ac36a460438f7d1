"""Sessions whose turns break the gateway: a third start pauses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.log import get_logger
from gateway.sessions.policy import RESTARTS
from gateway.transcripts import inbox, starts
from gateway.transcripts.inbox import Ending

if TYPE_CHECKING:
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.model import SessionKey
    from gateway.sessions.store import SessionStore

MAX_BROKEN_STARTS: Final = 3
"""A session is paused once so many starts found a turn of it cut off, none answered in between."""


async def pause_broken(database: Database, store: SessionStore) -> set[SessionKey]:
    """Count this start, and pause the sessions that broke too many; before any turn runs.

    Their messages are not answered by an agent any more, and their users are told why. Returns the
    sessions that are counted on: one of their turns that is answered ends that.

    Durability: on return it survives power loss.
    """

    def work(transaction: Transaction) -> tuple[set[SessionKey], list[SessionKey]]:
        suspects, paused = set(), []
        for key, count in starts.note_start(transaction).items():
            if count < MAX_BROKEN_STARTS:
                suspects.add(key)
                continue

            paused.append(key)
            inbox.end_all(transaction, key, Ending.RESTARTS)
            starts.forget(transaction, key)
            if store.has_staged(key):
                store.lifecycle.suspend(transaction, key, RESTARTS)
        return suspects, paused

    suspects, paused = await database.write(work)
    for key in paused:
        get_logger().warning(
            "session.paused_after_restarts", session_key=key, starts=MAX_BROKEN_STARTS
        )
    return suspects


async def clear(database: Database, key: SessionKey) -> None:
    """Count a session's broken starts anew: one of its turns was answered."""
    await database.write(lambda transaction: starts.forget(transaction, key))
