"""The one commit that accepts a message: its inbox row, and its session where that is new.

Before it, nothing of the message is stored; after it, the message is owed an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.clock import Clock
from gateway.model import AgentId, Inbound, SessionKey, TurnId
from gateway.sessions.history import stamp
from gateway.sessions.policy import Action
from gateway.sessions.store import Resolution, SessionStore, View
from gateway.transcripts import inbox, outbox
from gateway.transcripts.inbox import InboxRow
from gateway.turns.records import decode_reply, encode_reset, paused_reply
from gateway.turns.ticket import Reply, ResetNotice

if TYPE_CHECKING:
    from gateway.durable.database import Transaction


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What is to be stored, and the view of the session it was decided on."""

    store: SessionStore
    inbound: Inbound
    agent: AgentId
    key: SessionKey
    turn_id: TurnId
    view: View
    clock: Clock

    def run(self, transaction: Transaction) -> Reply | InboxRow:
        """Store the message, unless it was stored before or its session is paused.

        Returns the row that is owed an answer, or the reply there is without a turn.

        Raises:
            MovedOnError: the session is not as it was decided on; decide again.
        """
        found = inbox.find(transaction, self.key, self.inbound.message_id)
        if found is not None:
            turn_id, finished = found
            if not finished:
                return inbox.load(transaction, turn_id)

            reply = outbox.reply_of(transaction, turn_id)
            if reply is not None:
                return decode_reply(reply)

        resolution = self.store.stage_resolution(
            transaction, self.key, self.inbound.source, self.view
        )
        if resolution.decision.action is Action.PAUSED:
            return paused_reply(resolution.entry)

        row = InboxRow(
            turn_id=self.turn_id,
            session_key=self.key,
            message_id=self.inbound.message_id or self.turn_id,
            agent=self.agent,
            source=self.inbound.source,
            text=self.inbound.text,
            reset=encode_reset(_notice(resolution)),
            accepted_at=stamp(self.clock.now()),
        )
        inbox.accept(transaction, row)
        return row


def _notice(resolution: Resolution) -> ResetNotice | None:
    reason = resolution.reset_reason
    return None if reason is None else ResetNotice(reason, resolution.previous_session_id)
