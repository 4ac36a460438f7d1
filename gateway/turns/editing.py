"""What a sender does to a message of theirs that waits: it reads otherwise, or is taken back.

Neither is a message: no turn begins with it. Of a message whose turn has begun, or that was
answered, nothing is changed: what was said then was said.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.log import get_logger
from gateway.model import Change
from gateway.transcripts import inbox
from gateway.transcripts.inbox import Ending
from gateway.turns.budgets import user_of

if TYPE_CHECKING:
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.model import Inbound, SessionKey
    from gateway.turns.owed import Owed
    from gateway.turns.runner import Accepted


class Editing:
    """Changes messages that wait for their turn."""

    def __init__(self, database: Database, owed: Owed) -> None:
        """Change what is owed an answer."""
        self._database = database
        self._owed = owed

    async def change(self, inbound: Inbound, key: SessionKey) -> bool:
        """Change the message that bears the same id; return whether there is one that waits.

        Durability: on return the change survives power loss.
        Cancellation: what is being stored is stored, and the turn goes by it.

        Args:
            inbound: An edit or a retraction, as `Turns.place` returns it.
            key: The session of its source.

        Raises:
            BusyError: too many came in this minute; nothing was changed.
            StorageError: nothing was changed.
        """
        accepted = self._waiting(inbound, key)
        if accepted is None:
            return False

        edited = inbound.change is Change.EDITED
        if edited:
            self._owed.lanes.spend(key, user_of(inbound.source))

        def work(transaction: Transaction) -> bool:
            if edited:
                return inbox.change_text(transaction, accepted.row, inbound.text)

            return inbox.end_waiting(transaction, accepted.row, Ending.RETRACTED)

        # The turn begins with the lock: it is stored how the message reads before it is read.
        async with accepted.changing:
            if accepted.begun or not await self._database.write_through(work):
                return False

            if edited:
                accepted.row = replace(accepted.row, text=inbound.text)
            else:
                accepted.end(Ending.RETRACTED)
        get_logger().info(
            f"message.{inbound.change.value}",
            session_key=key,
            turn_id=accepted.row.turn_id,
            text_chars=len(inbound.text),
        )
        return True

    def _waiting(self, inbound: Inbound, key: SessionKey) -> Accepted | None:
        """Return the message of that id that waits and has the same sender."""
        source = inbound.source
        for accepted in self._owed.lanes.items(key):
            row = accepted.row
            if row.message_id == inbound.message_id and inbound.message_id:
                same = (row.source.user_id, row.source.chat_id) == (source.user_id, source.chat_id)
                waits = accepted.ended is None and not row.begun and not row.recoveries
                return accepted if same and waits else None

        return None
