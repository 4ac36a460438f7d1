"""The one commit that accepts a message: its inbox row, and its session where that is new.

Before it, nothing of the message is stored; after it, the message is owed an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.clock import Clock
from gateway.log import get_logger
from gateway.model import AgentId, Inbound, SessionId, SessionKey, TurnId
from gateway.sessions.entry import SessionEntry
from gateway.sessions.history import stamp
from gateway.sessions.policy import Action
from gateway.sessions.resolution import Resolution, View
from gateway.sessions.store import SessionStore
from gateway.transcripts import inbox, outbox
from gateway.transcripts.inbox import Ending, InboxRow, Origin
from gateway.transcripts.open_turns import UnknownCallError, take_results
from gateway.turns.again import Again, has_failed
from gateway.turns.approvals import OpenQuestion, Verdict, name_of
from gateway.turns.brought import NOTHING_BROUGHT, Brought, encode_asked
from gateway.turns.records import (
    answered_reply,
    decode_reply,
    encode_reply,
    encode_reset,
    paused_reply,
)
from gateway.turns.ticket import Reply, ResetNotice, Ticket

if TYPE_CHECKING:
    from gateway.durable.batch import Queries, Transaction
    from gateway.durable.database import Database
    from gateway.turns.contexts import Contexts

ALLOWED: Final = "Yes: the turn goes on with it."
REFUSED: Final = "No: the turn goes on without it."


@dataclass(frozen=True, slots=True)
class Stored:
    """A message that is owed an answer."""

    row: InboxRow
    started: SessionId | None = None
    """The session id that this message began; None where it goes on with one."""
    reset: ResetNotice | None = None
    """Why it began, to somebody who was here before."""
    ended: Sequence[TurnId] = ()
    """Turns that no agent answers any more for its sake."""


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
    again: Again
    first: bool
    """Whether no other message of the session waits or runs."""
    origin: Origin = Origin.USER
    begins: bool = True
    """Whether its turn begins as soon as it is stored."""
    supersedes: bool = False
    """Whether no agent answers any more what was accepted of the session before."""
    brought: Brought = NOTHING_BROUGHT

    def run(self, transaction: Transaction) -> Reply | Stored:
        """Store the message, unless it was stored before or its session is paused.

        Returns the message that is owed an answer, or the reply there is without a turn.

        Raises:
            MovedOnError: the session is not as it was decided on; decide again.
            MaybeAnsweredError: it may have been answered before this process began.
            BadRequestError: results are brought that nobody waits for.
        """
        entry = self.view.entry
        session_id = None if entry is None else entry.session_id
        found = came_before(
            transaction, self.key, session_id, self.inbound, self.brought, self.again
        )
        if found is not None:
            return found

        resolution = self.store.stage_resolution(
            transaction, self.key, self.inbound.source, self.view
        )
        if resolution.decision.action is Action.PAUSED:
            return paused_reply(resolution.entry)

        continues = self._continued(transaction, resolution.entry)
        reset = self._notice(resolution)
        ended: list[TurnId] = []
        if self.supersedes:
            ended = inbox.end_all(transaction, self.key, Ending.SUPERSEDED)
        row = InboxRow(
            turn_id=self.turn_id,
            session_key=self.key,
            message_id=self.inbound.message_id or self.turn_id,
            agent=self.agent,
            source=self.inbound.source,
            text=self.inbound.text,
            reset=encode_reset(reset),
            accepted_at=stamp(self.clock.now()),
            session_id=resolution.entry.session_id,
            origin=self.origin,
            begun=self.begins,
            continues=continues,
            asked=encode_asked(self.brought.asked),
        )
        inbox.accept(transaction, row)
        goes_on = resolution.decision.action in {Action.CONTINUE, Action.RESUME}
        return Stored(row, None if goes_on else resolution.entry.session_id, reset, ended)

    def _continued(self, transaction: Transaction, entry: SessionEntry) -> TurnId:
        """Store the results that are brought; return the turn that goes on with them, if one does.

        What runs or waits goes on without them, so nobody waits for them then.
        """
        results = self.brought.results
        if not results:
            return TurnId("")
        if inbox.is_owed_any(transaction, self.key):
            raise UnknownCallError(
                next(iter(results)), "answers no open call: another message is being answered."
            )

        says_more = bool(self.inbound.text)
        at = stamp(self.clock.now())
        failed = has_failed(transaction, self.key, entry.session_id)
        turn_id = take_results(
            transaction, entry.session_id, results, at=at, goes_on=says_more, failed=failed
        )
        return TurnId("") if says_more else turn_id

    def _notice(self, resolution: Resolution) -> ResetNotice | None:
        """Return why the conversation is new, for the first message in it."""
        entry, reason = resolution.entry, resolution.reset_reason
        if reason is None and self.first and entry.turns == 0:
            # Reset or undone by the operator since the user's last message.
            reason = entry.reset_reason
        # Who asked for it in the chat was told there.
        if reason is None or reason in {"new", "switched"}:
            return None

        return ResetNotice(reason, entry.previous_session_id)


@dataclass(frozen=True, slots=True)
class Answer:
    """A message meant for the question of the turn that runs; it has no turn of its own."""

    inbound: Inbound
    agent: AgentId
    entry: SessionEntry
    turn_id: TurnId
    question: OpenQuestion
    approved: bool | None
    """None: it settles nothing, and its user is asked again."""
    clock: Clock

    def run(self, transaction: Transaction) -> Reply | Stored | None:
        """Store its reply, unless the message came before; return what there is then.

        None: the question is closed, and the message is one like all others.
        """
        entry, inbound = self.entry, self.inbound
        if inbound.message_id:
            found = before(transaction, entry.session_key, inbound.message_id)
            if found is not None:
                return found

        text = self._told(transaction)
        if text is None:
            return None

        at = stamp(self.clock.now())
        row = InboxRow(
            turn_id=self.turn_id,
            session_key=entry.session_key,
            message_id=inbound.message_id or self.turn_id,
            agent=self.agent,
            source=inbound.source,
            text=inbound.text,
            reset=None,
            accepted_at=at,
        )
        reply = answered_reply(entry, self.turn_id, text)
        outbox.add(transaction, row, reply=encode_reply(reply), at=at)
        return reply

    def _told(self, transaction: Transaction) -> str | None:
        """Return what its user is told; None where the question is closed."""
        question = self.question
        if self.approved is None:
            return None if question.closed else question.text(self.clock.monotonic())

        verdict = Verdict(self.approved, name_of(self.inbound.source))
        counts = question.take(transaction, verdict)
        if counts is None:
            return None

        return ALLOWED if counts.approved else REFUSED


async def take_answer(database: Database, answer: Answer) -> Ticket | None:
    """Store an answer and let its turn go on; None where the message is one like all others.

    Durability: on return the answer survives power loss.
    """
    reply = await database.write_through(answer.run)
    if not isinstance(reply, Reply):
        return None

    duplicate = reply.turn_id != answer.turn_id
    if not duplicate and answer.approved is not None:
        answer.question.settle()
    return Ticket.answered(reply, duplicate=duplicate)


def note_start(stored: Stored, contexts: Contexts) -> None:
    """Note that a message began a conversation, if it did; it is stored."""
    if stored.started is None:
        return

    # Nothing was said in it yet, so there is nothing to read.
    contexts.begin(stored.started)
    if stored.reset is not None:
        get_logger().info(
            "session.reset",
            session_key=stored.row.session_key,
            reason=stored.reset.reason,
            session_id=stored.started,
            previous_session_id=stored.reset.previous_session_id,
        )


def came_before(
    place: Queries,
    key: SessionKey,
    session_id: SessionId | None,
    inbound: Inbound,
    brought: Brought,
    again: Again,
) -> Reply | Stored | None:
    """Return what became of a message that came before: by its id, else by what it says.

    Raises:
        MaybeAnsweredError: it may have been answered before this process began.
    """
    message_id = inbound.message_id
    if not message_id and session_id is not None:
        message_id = again.message_id(place, key, session_id, inbound, brought)
    return before(place, key, message_id) if message_id else None


def before(place: Queries, key: SessionKey, message_id: str) -> Reply | Stored | None:
    """Return what became of a message id that came before."""
    row = inbox.find(place, key, message_id)
    if row is not None:
        return Stored(row)

    reply = outbox.reply_to(place, key, message_id)
    return None if reply is None else decode_reply(reply)
