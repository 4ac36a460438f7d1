"""The protocol between a turn and whatever answers it.

An agent gets the whole context of one turn and yields events until the turn is answered. It keeps
nothing between turns. Cancellation at any point is how a turn ends at its deadline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gateway.model import Message, ModelCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer, as soon as it is there."""

    text: str


@dataclass(frozen=True, slots=True)
class MessageFinished:
    """A whole message for the transcript: an assistant's, tool calls included, or a tool's.

    The text of all assistant messages of a turn is the concatenation of its text deltas.
    """

    message: Message


@dataclass(frozen=True, slots=True)
class ModelCallFinished:
    """One request to a model ended well."""

    call: ModelCall


AgentEvent = TextDelta | MessageFinished | ModelCallFinished


class Agent(Protocol):
    """What answers a turn."""

    @property
    def model(self) -> str:
        """The model's name, as its provider spells it."""
        ...

    @property
    def context_window_tokens(self) -> int:
        """The size of the model's window in tokens."""
        ...

    @property
    def reserve_tokens(self) -> int:
        """How much of the window is kept free for the answer, in tokens."""
        ...

    @property
    def cache_ttl_s(self) -> float | None:
        """How long its provider keeps a prompt after the start of a request, in seconds.

        0 where it keeps none, None where that is not known.
        """
        ...

    def run(
        self, messages: Sequence[Message], *, cache_key: str = ""
    ) -> AsyncGenerator[AgentEvent]:
        """Answer the last user message of a context.

        Args:
            messages: The context, oldest first, a system prompt of the agent not included: an agent
                adds its own.
            cache_key: The same for all requests of a session: providers that have a use for it
                then find its prompt cache. It says nothing of who talks.

        Raises:
            AgentError: It cannot answer; `user_text` is what the user may read.
        """
        ...

    def overhead_chars(self) -> int:
        """Return how many characters a request carries beside the messages (the system prompt)."""
        ...

    async def aclose(self) -> None:
        """Close connections; the agent is not used afterwards."""
        ...
