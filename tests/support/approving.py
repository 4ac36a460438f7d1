"""An agent whose tools need a yes, and what waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from gateway.agents.scripted import Reply as Says
from gateway.model import Role
from gateway.turns.ticket import Question
from tests.support.loops import Looped, users, wants
from tests.support.toolbox import TestToolbox
from tests.support.turns import reply_of

if TYPE_CHECKING:
    from gateway.agents.scripted import Step
    from gateway.model import Message, ToolResult
    from gateway.turns.ticket import Reply, Ticket

REFUSED: Final = "'send' was not run: the user did not allow it, or did not answer in time."


@dataclass
class Mailer:
    """An agent that sends mail where it is told to `mail`, for which it needs a yes."""

    calls: Sequence[str] = ("send",)
    tools: TestToolbox = field(init=False)
    looped: Looped = field(init=False)

    def __post_init__(self) -> None:
        async def run(**_: object) -> str | ToolResult:
            await anyio.lowlevel.checkpoint()
            return "yes"

        names = ("send", "look", "erase")
        self.tools = TestToolbox(dict.fromkeys(names, run), frozenset({"send", "erase"}))
        self.looped = Looped(self._step, self.tools)

    @property
    def ran(self) -> list[str]:
        return [name for name, _ in self.tools.called]

    def _step(self, messages: Sequence[Message]) -> Step:
        if messages[-1].role is Role.USER and messages[-1].text == "mail":
            return wants(*self.calls)

        return Says((f"re: {users(messages)[-1]}",))


async def question_of(ticket: Ticket, place: int = 1) -> Question:
    """Return the question that a turn waits at, the first or a later one."""
    with anyio.fail_after(30):
        async for piece in ticket.progress.deltas():
            if isinstance(piece, Question):
                place -= 1
                if place == 0:
                    # What is shown comes right before the turn waits.
                    await anyio.wait_all_tasks_blocked()
                    return piece
    raise AssertionError("nothing was asked")


async def yes_to(ticket: Ticket, place: int = 1) -> str:
    """Return what allows what a turn asks for, once it asks."""
    return f"yes {(await question_of(ticket, place)).number}"


async def whole(ticket: Ticket) -> Reply:
    """Return a reply, which is what was streamed."""
    reply = await reply_of(ticket)
    assert "".join([piece async for piece in ticket.progress.deltas()]) == reply.text
    return reply
