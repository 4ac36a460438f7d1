"""The protocol between a turn and whatever answers it.

An agent is given a conversation and yields events until the turn is answered. It keeps nothing
between turns. Cancellation at any point is how a turn ends at its deadline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gateway.errors import AgentError
from gateway.model import Message, ModelCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from gateway.agents.asked import Asked
    from gateway.model import ToolCall, ToolCaller


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """What of an agent the size and the cost of its requests depend on."""

    model: str
    """The model's name, as its provider spells it."""
    window_tokens: int
    """The size of the model's window."""
    reserve_tokens: int
    """How much of the window is kept free for the answer."""
    overhead_chars: int = 0
    """Of a request beside the messages: the system prompt and what describes the tools."""
    cache_ttl_s: float | None = None
    """How long its provider keeps a prompt after the start of a request, in seconds.

    0 where it keeps none, None where that is not known."""
    completes: bool = False
    """Whether `Agent.complete` can answer."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer, as soon as it is there."""

    text: str


@dataclass(frozen=True, slots=True)
class MessageFinished:
    """A whole message for the transcript: an assistant's, tool calls included, or a tool's.

    The text of all assistant messages of a turn is the concatenation of its text deltas. Calls of
    the caller's own tools (`Conversation.asked_for`) stay without a result.
    """

    message: Message
    cut: bool = False
    """Whether it is an answer that has reached a limit of its length."""


@dataclass(frozen=True, slots=True)
class ModelCallFinished:
    """One request to a model ended well; comes before the message it brought."""

    call: ModelCall


AgentEvent = TextDelta | MessageFinished | ModelCallFinished


@dataclass(frozen=True, slots=True)
class Completion:
    """What came of one request outside a turn that its provider has counted."""

    text: str
    call: ModelCall
    error: AgentError | None = None
    """Why it is no answer, although it has cost something; the text is empty then."""


class Conversation(Protocol):
    """What an agent is given of the turn that it answers."""

    @property
    def cache_key(self) -> str:
        """The same for all requests of a session, and it says nothing of who talks.

        Providers that have a use for it then find its prompt cache.
        """
        ...

    @property
    def caller(self) -> ToolCaller:
        """Who calls tools; for the tools alone, no model is told of it."""
        ...

    @property
    def spent_tokens(self) -> int:
        """What the provider counted in this turn so far, input and output."""
        ...

    @property
    def asked_for(self) -> Asked:
        """What the answer shall be like, and the tools of who asks.

        A call of one of those is not answered here: with it the turn ends for now. The
        instructions are among the messages already.
        """
        ...

    @property
    def steps_before(self) -> int:
        """How many answers with calls the turn had before its caller brought results."""
        ...

    async def messages(self) -> Sequence[Message]:
        """Return what the next request to a model carries, oldest first; ask before each request.

        These are the context, the user's message, and every message that the agent has yielded
        since, behind what the caller wants the model to be told. An agent's own prompt is not among
        them: it adds it.

        Raises:
            AgentError: There may be no request: it does not fit, or a budget is used up.
        """
        ...

    def returned(self, message: Message) -> None:
        """Note a tool's result as soon as it is there; it has to be yielded nevertheless.

        Where the turn ends before all tools of an answer have returned, it is not lost.
        """
        ...

    async def approve(self, call: ToolCall) -> bool:
        """Ask the user whether a tool may run; False also where no answer comes in time.

        Raises:
            NobodyToAskError: no answer can come.
        """
        ...


class NobodyToAskError(Exception):
    """A tool needs a yes, and whoever asks the agent cannot give one."""


class Agent(Protocol):
    """What answers a turn."""

    def facts(self) -> AgentFacts:
        """Return what of it the size and the cost of a request depend on, as it is now."""
        ...

    def run(self, conversation: Conversation) -> AsyncGenerator[AgentEvent]:
        """Answer the user's message.

        Cancellation: it may yield what was done before, and whoever follows takes it.

        Raises:
            AgentError: It cannot answer; `user_text` is what the user may read.
        """
        ...

    async def complete(self, messages: Sequence[Message], *, cache_key: str = "") -> Completion:
        """Answer the last user message of a context once, without tools.

        For questions of the gateway's own, such as a summary.

        Raises:
            AgentError: It cannot, and nothing was counted; where `facts` say that it does not
                complete, it never can.
        """
        ...

    async def aclose(self) -> None:
        """Close connections; the agent is not used afterwards."""
        ...
