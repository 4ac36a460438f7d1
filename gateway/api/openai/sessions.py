"""A request to a session: one message and its turn, as from any other channel."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gateway.api.openai.answers import Completed
from gateway.api.openai.errors import NOT_AGAIN, agent_problem
from gateway.api.problems import Problem, ProblemError
from gateway.errors import GatewayError
from gateway.turns.again import MaybeAnsweredError
from gateway.turns.records import PAUSED

if TYPE_CHECKING:
    from gateway.commands.door import Door
    from gateway.model import Inbound
    from gateway.turns.brought import Brought
    from gateway.turns.handed import HandedOut
    from gateway.turns.ticket import Reply, Ticket

MAX_REFUSED: Final = 1_024
"""Refused messages that are remembered."""


class SessionCalls:
    """Hands messages to sessions.

    An SDK that lost an answer sends its message again, without an id: `gateway.turns.again` tells
    which message that is. While one of the same words is answered that cannot tell it from one that
    was refused; so those are remembered.
    """

    def __init__(self, door: Door, handed: HandedOut) -> None:
        """Hand messages to a door, and note that their answers are still to be handed out."""
        self._door = door
        self._handed = handed
        self._refused: OrderedDict[bytes, None] = OrderedDict()

    async def submit(self, inbound: Inbound, brought: Brought) -> Ticket:
        """Return the ticket of a message; see `Door.submit`.

        Raises:
            ProblemError: it may have been answered before the gateway was started.
        """
        told = "\0".join((inbound.source.account, inbound.source.chat_id, inbound.text))
        mark = hashlib.sha256(told.encode(errors="replace")).digest()
        known_new = brought.again and mark in self._refused
        if known_new:
            brought = replace(brought, again=False)
        try:
            ticket = await self._door.submit(inbound, brought)
        except MaybeAnsweredError as error:
            problem = Problem(409, "maybe_answered", "Maybe answered", str(error), {}, NOT_AGAIN)
            raise ProblemError(problem) from error
        except GatewayError:
            if not brought.again and not inbound.message_id:
                self._refused[mark] = None
                if len(self._refused) > MAX_REFUSED:
                    self._refused.popitem(last=False)
            raise
        self._refused.pop(mark, None)
        if not ticket.duplicate:
            self._handed.expect(ticket.turn_id)
        return ticket


def completed_turn(reply: Reply) -> Completed:
    """Return what a turn came to.

    Raises:
        ProblemError: it has no answer; the message is in the session all the same, unless that is
            paused.
    """
    text = reply.text
    match reply.status:
        case "failed":
            problem = agent_problem(reply.failure, text)
        case "deadline":
            problem = Problem(504, "deadline_exceeded", "Too late", text)
        case "interrupted":
            problem = Problem(409, "interrupted", "Interrupted", text)
        case status if status == PAUSED:
            text = (
                "This session is paused, and the message was not kept. "
                "The operator can let it go on."
            )
            problem = Problem(409, "session_paused", "Paused", text)
        case _:
            return Completed(text, reply.agent, reply.usage, reply.calls, reply.cut)
    # Sent again, it would stand in the session twice.
    headers = {**problem.headers, **NOT_AGAIN}
    raise ProblemError(
        Problem(problem.status, problem.kind, problem.title, text, problem.facts, headers)
    )
