"""The agent that ships as the default: it answers with the text it got.

It needs no key and no network. `!tool CHARS` makes it call a built-in tool, so that a context with
tool results can be watched without a model.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.agents.direct import Alone, DirectRequest, Takes
from gateway.errors import AgentError
from gateway.model import Message, ModelCall, Role, ToolCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence
    from datetime import datetime

    from gateway.agents.base import AgentEvent, AgentFacts, Completion, Conversation
    from gateway.agents.settings import EchoSettings
    from gateway.clock import Clock
    from gateway.model import TurnId

TOOL_NAME: Final = "echo_tool"
MAX_TOOL_CHARS: Final = 5_000_000
"""The largest result the tool gives, in characters."""
MAX_DELTAS: Final = 8
"""How many pieces an answer is streamed in at most."""

_TOOL_REQUEST: Final = re.compile(r"!tool(?:\s+(.*))?", re.DOTALL)
_TOOL_HELP: Final = (
    "!tool takes how many characters the tool shall return, "
    f"1 to {MAX_TOOL_CHARS}: for example !tool 1000"
)
_FILLING: Final = "The quick brown fox jumps over the lazy dog.\n"


class EchoAgent:
    """Answers with the text it got; counts no tokens."""

    def __init__(self, settings: EchoSettings, clock: Clock) -> None:
        self._facts = settings.facts()
        self._clock = clock

    def facts(self) -> AgentFacts:
        """Return the facts of the pretended model."""
        return self._facts

    async def run(self, conversation: Conversation) -> AsyncGenerator[AgentEvent]:
        """Answer the last user message.

        Raises:
            AgentError: The conversation allows no request.
        """
        messages = await conversation.messages()
        started_at = self._clock.now()
        asked = next(message for message in reversed(messages) if message.role is Role.USER)
        answer = asked.text
        request = _TOOL_REQUEST.fullmatch(asked.text.strip())
        if request is not None:
            chars = _parse_chars(request[1] or "")
            answer = _TOOL_HELP
            if chars is not None:
                yield self._call_finished(started_at)
                for message in _tool_round(chars, asked.turn_id):
                    yield MessageFinished(message)
                await conversation.messages()
                started_at = self._clock.now()
                answer = f"{TOOL_NAME} returned {chars} characters."

        for piece in split_words(answer):
            yield TextDelta(piece)
        yield self._call_finished(started_at)
        yield MessageFinished(Message(Role.ASSISTANT, answer, turn_id=asked.turn_id))

    def takes(self) -> Takes:
        """Return nothing: there is no model that would heed it."""
        return Takes()

    def ask(self, request: DirectRequest) -> AsyncGenerator[AgentEvent]:
        """Answer the last user message; see `gateway.agents.direct.Direct`."""
        return self.run(Alone(request.messages))

    async def complete(self, messages: Sequence[Message], *, cache_key: str = "") -> Completion:
        """Refuse: what it was asked is no answer to a question of the gateway's own.

        Raises:
            AgentError: Always.
        """
        raise AgentError("echo: it completes nothing")

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""

    def _call_finished(self, started_at: datetime) -> ModelCallFinished:
        return ModelCallFinished(ModelCall(self._facts.model, started_at, usage=None))


def split_words(text: str) -> Iterator[str]:
    """Cut a text behind blanks into at most `MAX_DELTAS` pieces of about one size."""
    step = -(-len(text) // MAX_DELTAS)
    start = 0
    while start < len(text):
        end = text.find(" ", start + step - 1) + 1 or len(text)
        yield text[start:end]
        start = end


def _tool_round(chars: int, turn_id: TurnId) -> tuple[Message, Message]:
    """Return the tool call and its result; a turn has one, so its id is unique in the session."""
    call = ToolCall(f"call_{turn_id}", TOOL_NAME, f'{{"chars": {chars}}}')
    result = (_FILLING * (chars // len(_FILLING) + 1))[:chars]
    return (
        Message(Role.ASSISTANT, "", tool_calls=(call,), turn_id=turn_id),
        Message(Role.TOOL, result, tool_call_id=call.call_id, tool_name=TOOL_NAME, turn_id=turn_id),
    )


def _parse_chars(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_TOOL_CHARS))):
        return None

    chars = int(text)
    return chars if 1 <= chars <= MAX_TOOL_CHARS else None
