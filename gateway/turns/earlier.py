"""Messages that came before: the tickets of what became of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.turns.acceptance import came_before
from gateway.turns.again import Again
from gateway.turns.brought import NOTHING_BROUGHT, Brought
from gateway.turns.records import PAUSED
from gateway.turns.ticket import Reply, Ticket

if TYPE_CHECKING:
    from collections import Counter

    from gateway.clock import Clock
    from gateway.durable.database import Database
    from gateway.model import Inbound, SessionKey
    from gateway.sessions.store import SessionStore
    from gateway.transcripts.inbox import InboxRow
    from gateway.turns.owed import Owed


class Earlier:
    """Finds them, and counts them."""

    def __init__(
        self,
        database: Database,
        store: SessionStore,
        owed: Owed,
        clock: Clock,
        counts: Counter[str],
    ) -> None:
        """Look in a database and among what is owed; `counts` has `duplicate` and `paused`."""
        self.again = Again(clock)
        self._database = database
        self._store = store
        self._owed = owed
        self._counts = counts

    async def find(
        self, inbound: Inbound, key: SessionKey, brought: Brought = NOTHING_BROUGHT
    ) -> Ticket | None:
        """Return the ticket of a message that came before, if it did.

        Raises:
            MaybeAnsweredError: it may have been answered before this process began.
        """
        if not (inbound.message_id or brought.again or brought.results):
            return None

        entry = self._store.get(key)
        session_id = None if entry is None else entry.session_id
        found = await self._database.read(
            lambda conn: came_before(conn, key, session_id, inbound, brought, self.again)
        )
        if isinstance(found, Reply):
            return self.replied(found)

        return None if found is None else self.under_way(found.row)

    def replied(self, reply: Reply) -> Ticket:
        """Return the ticket of a message that takes no turn: there is a reply."""
        paused = reply.status == PAUSED
        self._counts[PAUSED if paused else "duplicate"] += 1
        return Ticket.answered(reply, duplicate=not paused)

    def under_way(self, row: InboxRow) -> Ticket | None:
        """Return the ticket of a message whose turn runs or waits already, if it does."""
        running = self._owed.find(row.turn_id)
        if running is None:
            return None

        self._counts["duplicate"] += 1
        return Ticket(row.turn_id, running, duplicate=True)
