"""Answers to contexts that no session holds, and what agents take of a caller's wishes.

A caller's tools are offered to the model, and none of them runs here: its calls are part of the
answer. In a session they stand beside the gateway's own, which are not offered without one. Knows
no session and stores nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gateway.agents.asked import NO_WISHES, NOTHING_ASKED, Asked, Wishes
from gateway.model import Message, ToolSpec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from gateway.agents.base import AgentEvent
    from gateway.model import ToolCall, ToolCaller


@dataclass(frozen=True, slots=True)
class Takes:
    """What an agent can be asked for beside an answer."""

    tools: bool = False
    """Whether it can be offered a caller's tools."""
    wishes: frozenset[str] = frozenset()
    """The wishes that it heeds, by name."""
    max_temperature: float = 2.0
    own_tools: frozenset[str] = frozenset()
    """The names of the gateway's tools that it has in a session; a caller's must be others."""

    def heeds(self, tools: Sequence[ToolSpec], wishes: Wishes) -> bool:
        """Return whether it heeds all of what a caller asks for."""
        return (
            (self.tools or not tools)
            and wishes.named() <= self.wishes
            and (wishes.temperature or 0.0) <= self.max_temperature
        )


@dataclass(frozen=True, slots=True)
class DirectRequest:
    """What is to be answered."""

    messages: Sequence[Message]
    """The conversation, oldest first; the last one is a user's or a tool's."""
    tools: Sequence[ToolSpec] = ()
    wishes: Wishes = NO_WISHES
    cache_key: str = ""
    """See `gateway.agents.base.Conversation`."""


@runtime_checkable
class Direct(Protocol):
    """An agent that answers without a session; it heeds no wish beyond those that it takes."""

    def takes(self) -> Takes:
        """Return what it can be asked for."""
        ...

    def ask(self, request: DirectRequest) -> AsyncGenerator[AgentEvent]:
        """Answer once; calls in the last message are for the caller to run.

        Cancellation: closes what was opened for it.

        Raises:
            AgentError: It cannot answer; `user_text` is what the caller may read.
        """
        ...


def can_answer(agent: object, asked: Asked) -> bool:
    """Return whether an agent heeds all that is asked of it in a session."""
    if not (asked.tools or asked.wishes.named()):
        return True
    if not isinstance(agent, Direct):
        return False

    takes = agent.takes()
    return takes.heeds(asked.tools, asked.wishes) and not takes.own_tools & asked.tool_names


@dataclass(slots=True)
class Alone:
    """A conversation of one request, for agents that know nothing but conversations."""

    asked: Sequence[Message]
    cache_key: str = ""
    spent_tokens: int = 0
    steps_before: int = 0
    asked_for: Asked = NOTHING_ASKED

    @property
    def caller(self) -> ToolCaller:
        """There is none, for the gateway's own tools are not offered."""
        raise AssertionError("a request without a session calls no tool")

    async def messages(self) -> Sequence[Message]:
        """Return what the caller has sent."""
        return self.asked

    def returned(self, message: Message) -> None:
        """Do nothing: nothing is kept."""

    async def approve(self, call: ToolCall) -> bool:
        """Allow nothing: there is nobody to ask."""
        return False
