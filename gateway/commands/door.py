"""The one way in for messages: authorised first, then a command or a turn."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import anyio

from gateway.access.deciding import CommandScope, Standing, commands_allowed, may_command
from gateway.channels.base import Receipt
from gateway.clock import Clock
from gateway.commands.carrying_out import Asked, Commands, Effect
from gateway.commands.parsing import Name, parse
from gateway.errors import (
    BusyError,
    ForbiddenError,
    GatewayError,
    RefusedError,
    UnavailableError,
)
from gateway.log import get_logger
from gateway.model import AgentId, Change, Inbound, SessionKey, TurnId
from gateway.sessions.history import stamp
from gateway.sessions.key import parse_key
from gateway.sessions.store import SessionStore
from gateway.transcripts import outbox
from gateway.transcripts.inbox import OWN_ID, InboxRow, Origin
from gateway.transcripts.outbox import COMMAND
from gateway.turns.acceptance import before
from gateway.turns.brought import NOTHING_BROUGHT, Brought
from gateway.turns.records import PAUSED, encode_reply, reply_without_turn
from gateway.turns.ticket import Progress, Reply, Ticket

if TYPE_CHECKING:
    from gateway.access.gate import Access
    from gateway.commands.parsing import Typed
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.turns.pipeline import Turns

FORBIDDEN: Final = "You may not write here."
CUT_OFF: Final = "The command was cut off. Please look whether it was carried out."
ADMINS_ONLY: Final = "Only admins may command the session of somebody else, in a direct chat."


@dataclass(frozen=True, slots=True)
class Command:
    """A command and its answer, stored in one commit."""

    store: SessionStore
    inbound: Inbound
    agent: AgentId
    key: SessionKey
    turn_id: TurnId
    effect: Effect
    clock: Clock

    def run(self, transaction: Transaction) -> Reply | None:
        """Do it and store the answer; None where the message came before."""
        inbound, key = self.inbound, self.key
        if inbound.message_id and before(transaction, key, inbound.message_id) is not None:
            return None

        text = self.effect.stage(transaction)
        at = stamp(self.clock.now())
        entry = self.store.find_staged(key)
        row = InboxRow(
            turn_id=self.turn_id,
            session_key=key,
            message_id=inbound.message_id or self.turn_id,
            agent=self.agent,
            source=inbound.source,
            text=inbound.text,
            reset=None,
            accepted_at=at,
        )
        reply = reply_without_turn(key, entry, text, COMMAND, self.turn_id)
        outbox.add(transaction, row, reply=encode_reply(reply), at=at)
        return reply


class _UnderWay:
    """A command that is carried out, for whoever hands in its message once more meanwhile."""

    def __init__(self) -> None:
        self._ended = anyio.Event()
        self._outcome: Ticket | GatewayError | None = None

    def end(self, outcome: Ticket | GatewayError) -> None:
        self._outcome = outcome
        self._ended.set()

    async def outcome(self) -> Ticket:
        """Wait until it is stored, and return its ticket; raise what it failed with."""
        await self._ended.wait()
        if isinstance(self._outcome, Ticket):
            return self._outcome

        raise self._outcome or AssertionError


class Door:
    """Takes every message, whatever channel it comes by."""

    def __init__(
        self,
        database: Database,
        store: SessionStore,
        turns: Turns,
        access: Access,
        commands: Commands,
        clock: Clock,
    ) -> None:
        """Stand before the parts of one gateway."""
        self._database = database
        self._store = store
        self._turns = turns
        self.access = access
        """Who may write here."""
        self._commands = commands
        self._clock = clock
        self._under_way: dict[tuple[SessionKey, str], _UnderWay] = {}
        """Commands that are carried out, by message."""
        self.counts: Counter[str] = Counter()
        """Commands carried out since the start, by name."""

    async def submit(self, inbound: Inbound, brought: Brought = NOTHING_BROUGHT) -> Ticket:
        """Take a message, with what its client brings, and return the ticket of what answers it.

        Durability: on return the message survives power loss and will be answered; a command is
        carried out, and survives as well.
        Cancellation: what is being stored is stored, and answered without the caller as well.

        Raises:
            ForbiddenError: the sender may not write here; nothing was stored.
            BadRequestError: the message is empty, too long, or asks for an agent that is not there.
            BusyError: a bound is reached; nothing was stored.
            StorageFullError: no space; nothing was stored.
        """
        admission = await self.access.admit(inbound)
        if admission.standing is Standing.STRANGER:
            raise ForbiddenError(admission.text or FORBIDDEN)

        return await self._take(inbound, admission.standing, brought)

    async def receive(self, inbound: Inbound) -> Receipt:
        """Take a message of a channel, which sends the reply from the outbox; see `submit`.

        A change of one begins nothing: it is for a message that waits, and else refused in silence.
        So is what names nobody of ours in a group, unless a question waits for it.

        Raises:
            GatewayError: it could be neither stored nor refused; it has to come again.
        """
        if inbound.change is not Change.NEW:
            return Receipt(accepted=await self._change(inbound))

        if not inbound.named and not self._is_asked_for(inbound):
            self.access.pass_over()
            return Receipt(accepted=False)

        admission = await self.access.admit(inbound)
        if admission.standing is Standing.STRANGER:
            return Receipt(accepted=False, text=admission.text or "")

        try:
            ticket = await self._take(inbound, admission.standing)
        except RefusedError as error:
            busy = error if isinstance(error, BusyError) else None
            return Receipt(accepted=False, text=str(error), busy=busy)

        return _receipt(ticket)

    def _is_asked_for(self, inbound: Inbound) -> bool:
        """Return whether a message answers a question that a turn has asked its sender."""
        try:
            placed, _, key = self._turns.place(inbound)
        except RefusedError:
            return False

        return self._turns.approvals.read(key, placed) is not None

    async def _change(self, inbound: Inbound) -> bool:
        """Change a message that waits; return whether there is one. What it reads is no command."""
        if self.access.standing(inbound.source) is Standing.STRANGER:
            return False

        try:
            placed, _, key = self._turns.place(inbound)
            return await self._turns.editing.change(placed, key)
        except RefusedError:
            return False

    async def _take(
        self, inbound: Inbound, standing: Standing, brought: Brought = NOTHING_BROUGHT
    ) -> Ticket:
        # A caption is no command: it was written for a picture, and may be somebody else's.
        allowed = commands_allowed(inbound, standing) and not inbound.attachments
        typed = parse(inbound) if allowed else None
        if typed is None:
            return await self._turns.submit(inbound, brought=brought)

        return await self._command(typed, inbound, standing)

    async def _command(self, typed: Typed, inbound: Inbound, standing: Standing) -> Ticket:
        placed, agent, key = self._turns.place(inbound)
        ticket = Ticket(self._turns.new_turn_id(), Progress())
        # A summary takes a turn, which is found by its message like any other.
        named = placed.message_id if typed.name is not Name.COMPACT else ""
        place = (key, named or ticket.turn_id)
        first = self._under_way.get(place)
        if first is not None:
            return replace(await first.outcome(), duplicate=True)

        self._under_way[place] = under_way = _UnderWay()
        try:
            # What is done must be told to who runs turns, also where the caller has left.
            with anyio.CancelScope(shield=True):
                answered = await self._carried_out(typed, placed, standing, agent, key, ticket)
        except GatewayError as error:
            under_way.end(error)
            raise
        except BaseException:
            under_way.end(UnavailableError(CUT_OFF))
            raise
        else:
            under_way.end(answered)
        finally:
            del self._under_way[place]
        return answered

    async def _carried_out(
        self,
        typed: Typed,
        inbound: Inbound,
        standing: Standing,
        agent: AgentId,
        key: SessionKey,
        ticket: Ticket,
    ) -> Ticket:
        """Carry a command out, unless it came before; return the ticket of its answer."""
        known = await self._turns.known(inbound, key)
        if known is None:
            try:
                target = self._target(typed, inbound, standing, key)
            except RefusedError as error:
                effect = _refused(error)
            else:
                if self._is_summary(typed, target):
                    self._note(typed, key, standing)
                    given = inbound.message_id.rpartition(OWN_ID)[2]
                    said = replace(inbound, message_id=given)
                    return await self._turns.submit(said, origin=Origin.COMPACT, key=target)

                if typed.name is not Name.STOP:
                    # Who has written too much can stop what came of it all the same.
                    self._turns.spend(inbound, key)
                effect = await self._effect(typed, inbound, standing, target)
            reply = await self._stored(inbound, agent, key, ticket.turn_id, effect)
            if reply is not None:
                self._note(typed, key, standing)
                ticket.progress.add_text(reply.text)
                ticket.progress.finish(reply)
                return ticket

            known = await self._turns.known(inbound, key)
        if known is None:
            raise AssertionError("a message that came before is gone")

        return known

    def _is_summary(self, typed: Typed, target: SessionKey) -> bool:
        """Return whether a command takes its turn in a lane."""
        return typed.name is Name.COMPACT and not typed.rest and self._store.get(target) is not None

    def _target(
        self, typed: Typed, inbound: Inbound, standing: Standing, key: SessionKey
    ) -> SessionKey:
        """Return the session that a command is about.

        Raises:
            RefusedError: it may not be about that one, or there is none.
        """
        if not typed.key or typed.key == key:
            return key

        if not may_command(standing, inbound.source.chat_type, CommandScope.ANY):
            raise ForbiddenError(ADMINS_ONLY)

        parse_key(typed.key)
        other = SessionKey(typed.key)
        if self._store.get(other) is None:
            raise RefusedError("There is no such session.")

        return other

    async def _effect(
        self, typed: Typed, inbound: Inbound, standing: Standing, target: SessionKey
    ) -> Effect:
        try:
            asked = Asked(typed, inbound, target, admin=standing is Standing.ADMIN)
            effect = await self._commands.effect(asked)
        except BusyError:
            raise
        except RefusedError as error:
            return _refused(error)

        # Who names a session is told whose it is that something was done to.
        stage = (lambda tx: f"{target}\n{effect.stage(tx)}") if typed.key else effect.stage
        return replace(effect, stage=stage)

    async def _stored(
        self, inbound: Inbound, agent: AgentId, key: SessionKey, turn_id: TurnId, effect: Effect
    ) -> Reply | None:
        """Carry out what a command changes, and store its answer; None: it came before."""
        try:
            work = Command(self._store, inbound, agent, key, turn_id, effect, self._clock)
            reply = await self._database.write_through(work.run)
        except RefusedError as error:
            work = Command(self._store, inbound, agent, key, turn_id, _refused(error), self._clock)
            reply = await self._database.write_through(work.run)
        else:
            effect.after()
        self._turns.hooks.on_replied(inbound.source)
        return reply

    def _note(self, typed: Typed, key: SessionKey, standing: Standing) -> None:
        self.counts[typed.name.value] += 1
        get_logger().info(
            "command.run", command=typed.name.value, session_key=key, standing=standing.value
        )


def _receipt(ticket: Ticket) -> Receipt:
    """Return what the sender is told at once of a message that was taken."""
    reply = ticket.progress.known_reply
    if reply is not None and reply.status == PAUSED:
        return Receipt(accepted=False, text=reply.text)

    before = "" if ticket.duplicate or not ticket.ahead else waiting_text(ticket.ahead)
    return Receipt(text=before)


def waiting_text(ahead: int) -> str:
    """Return what a sender is told whose message waits."""
    if ahead == 1:
        return "1 message is answered first; yours is kept and comes next."

    return f"{ahead} messages are answered first; yours is kept and comes after them."


def _refused(error: RefusedError) -> Effect:
    text = str(error)
    return Effect(lambda _: text[:1].upper() + text[1:])
