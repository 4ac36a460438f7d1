"""One answer to a context that no session holds, for callers who keep their conversation.

The caller's tools are offered to the model, and none of them runs here: its calls are part of the
answer. The gateway's own tools are not offered. Knows no session and stores nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable

from gateway.model import Message, ToolSpec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from gateway.agents.base import AgentEvent
    from gateway.model import ToolCall, ToolCaller

Choice = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a caller wants to be answered; None leaves it to the agent."""

    tool_choice: Choice | None = None
    named_tool: str | None = None
    """The one tool that the answer has to call."""
    parallel_calls: bool | None = None
    """Whether an answer may call several tools."""
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] | None = None
    """Texts before which the answer ends."""
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    reasoning_effort: str | None = None
    response_format: Mapping[str, Any] | None = None
    """As the chat-completions wire has it."""

    def named(self) -> frozenset[str]:
        """Return the names of those that there are."""
        return frozenset(one.name for one in fields(self) if getattr(self, one.name) is not None)


NO_WISHES: Final = Wishes()


@dataclass(frozen=True, slots=True)
class Takes:
    """What an agent can be asked for beside an answer."""

    tools: bool = False
    """Whether it can be offered a caller's tools."""
    wishes: frozenset[str] = frozenset()
    """The wishes that it heeds, by name."""
    max_temperature: float = 2.0


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


@dataclass(slots=True)
class Alone:
    """A conversation of one request, for agents that know nothing but conversations."""

    asked: Sequence[Message]
    cache_key: str = ""
    spent_tokens: int = 0

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
