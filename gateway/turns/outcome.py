"""What a turn comes to while it runs: text, messages, model calls. Stores nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gateway.agents.asked import NOTHING_ASKED, Asked
from gateway.context.cache import CacheVerdict
from gateway.errors import AgentError
from gateway.model import AgentId, Message, ModelCall, Role, ToolCall, TurnId, Usage, clean_text
from gateway.turns.ticket import Fallback, Progress, Question, Told

NO_RESULT: Final = "[No result: the turn ended before the tool did.]"
"""Stands for the result of a tool that may have run; a model must not take it for not called."""
_GAP: Final = "\n\n"
"""Between two messages of one answer, for who reads it."""


@dataclass(frozen=True, slots=True)
class MadeCall:
    """A request to a model that ended well."""

    agent: AgentId
    """Who made it."""
    call: ModelCall
    verdict: CacheVerdict
    """What became of it at the provider's prompt cache."""
    usd: float | None
    """What it cost; None where no price is known."""


@dataclass(slots=True)
class Outcome:
    """What a turn came to so far."""

    progress: Progress
    """Who waits sees the text grow."""
    turn_id: TurnId
    status: str = "ok"
    """`ok`, `failed` or `deadline`."""
    text: str = ""
    """What the user reads, notices ahead of the answer aside."""
    messages: list[Message] = field(default_factory=list)
    """What the transcript gets after the user's message."""
    asked: Asked = NOTHING_ASKED
    """What its client asks of the answer; calls of its own tools may stay without a result."""
    calls: list[MadeCall] = field(default_factory=list)
    fallbacks: list[Fallback] = field(default_factory=list)
    agent: AgentId | None = None
    """Who was asked last; None: nobody."""
    error: str = ""
    """For the log; never what anybody wrote."""
    failure: str = ""
    """Why its agent could not answer, as `AgentFailure` names it."""
    cut: bool = False
    """Whether its last answer has reached a limit of its length."""
    partial: str = ""
    """Text of a message that is not finished."""
    _returned: dict[str, Message] = field(default_factory=dict)
    """Results of the last answer's tools, by call, as soon as there are any."""

    @property
    def said(self) -> list[Message]:
        """What a model is sent of it."""
        return [message for message in self.messages if message.role is not Role.NOTICE]

    def usage(self) -> Usage | None:
        """Return what the provider counted over the whole turn; None where it counted nothing."""
        counted = [made.call.usage for made in self.calls if made.call.usage is not None]
        return sum(counted, start=Usage()) if counted else None

    @property
    def usd(self) -> float | None:
        """What it cost in US dollars, as far as prices are known; None where none is."""
        priced = [made.usd for made in self.calls if made.usd is not None]
        return sum(priced) if priced else None

    def add_text(self, text: str) -> None:
        """Add a piece of the answer."""
        clean = clean_text(text)
        if clean and not self.partial and self.text and not self.text.endswith(_GAP):
            self._show(_GAP)
        self.partial += clean
        self._show(clean)

    def add_message(self, message: Message) -> None:
        """Add a whole message, as any store and socket takes it.

        Raises:
            AgentError: it is an answer whose text is not what came in pieces.
        """
        message = _of_turn(message, self.turn_id)
        if message.role is Role.ASSISTANT:
            if message.text != self.partial:
                raise AgentError("the agent's message is not what it had said in pieces")
            self.partial = ""
            self._returned.clear()
        self.messages.append(message)

    def note_result(self, message: Message) -> None:
        """Keep a tool's result for the case that the turn ends before it is added."""
        self._returned[message.tool_call_id] = _of_turn(message, self.turn_id)

    def tell(self, text: str, *, question: str = "") -> None:
        """Tell the user something of the gateway's own, or ask a question of that number."""
        shown = f"{_GAP}{text}" if self.text else text
        self._show(Question(shown, question) if question else Told(shown))
        self.messages.append(Message(Role.NOTICE, text, turn_id=self.turn_id))

    def is_whole(self) -> bool:
        """Return whether no message is half finished and no call of ours without its result."""
        theirs = self.asked.tool_names
        ours = (call for call in self._unanswered() if call.name not in theirs)
        return not self.partial and next(ours, None) is None

    def open_calls(self) -> tuple[ToolCall, ...]:
        """Return the calls of the last answer that who asks has to run; see `asked`."""
        return tuple(self._unanswered())

    def is_open(self) -> bool:
        """Return whether an agent can go on from here: nothing of an answer was said yet."""
        said = self.said
        return self.is_whole() and not (said and said[-1].role is Role.ASSISTANT)

    def fail(self, status: str, text: str, error: str, failure: str = "") -> None:
        """End with an error that the user reads; what was said stays."""
        self.status, self.error, self.failure = status, error, failure
        for call in self._unanswered():
            lost = Message(Role.TOOL, NO_RESULT, (), call.call_id, call.name, self.turn_id)
            self.messages.append(self._returned.get(call.call_id, lost))
        if self.partial:
            self.messages.append(Message(Role.ASSISTANT, self.partial, turn_id=self.turn_id))
            self.partial = ""
        self.tell(text)

    def _unanswered(self) -> list[ToolCall]:
        """Return the calls without a result; only those of the last answer can be."""
        calls: dict[str, ToolCall] = {}
        for message in self.messages:
            if message.role is Role.ASSISTANT:
                calls |= {call.call_id: call for call in message.tool_calls}
            elif message.role is Role.TOOL:
                calls.pop(message.tool_call_id, None)
        return list(calls.values())

    def _show(self, text: str) -> None:
        self.text += text
        self.progress.add_text(text)


def _of_turn(message: Message, turn_id: TurnId) -> Message:
    return Message(
        role=message.role,
        text=clean_text(message.text),
        tool_calls=tuple(
            ToolCall(clean_text(call.call_id), clean_text(call.name), clean_text(call.arguments))
            for call in message.tool_calls
        ),
        tool_call_id=clean_text(message.tool_call_id),
        tool_name=clean_text(message.tool_name),
        turn_id=turn_id,
        images=message.images,
    )
