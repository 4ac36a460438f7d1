"""What a caller holds of a turn while it runs: its text as it grows, and its result.

A caller that goes away harms nothing; several may hold the same ticket.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Generic

from typing_extensions import TypeVar

from gateway.model import ContextSource, SessionId, SessionKey, ToolCall, TurnId, Usage
from gateway.turns.waiting import Waiters

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from gateway.errors import GatewayError

_NO_TURN: Final = TurnId("")


@dataclass(frozen=True, slots=True)
class ResetNotice:
    """Why a reply comes from a new conversation."""

    reason: str
    """`idle`, `daily`, `manual`, `pruned`, `removed`."""
    previous_session_id: SessionId | None


@dataclass(frozen=True, slots=True)
class ReplyContext:
    """The size of what was sent to the model for this reply."""

    tokens: int
    window_tokens: int
    source: ContextSource
    measured_at: datetime | None
    turns_left_out: int = 0
    """Oldest turns that did not fit the window any more."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """An agent that was passed over, and why."""

    agent: str
    reason: str
    """`rate_limit`, `outage`, `overflow` (its window is too small) or `resting` (it failed shortly
    before)."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one message, as it is stored and given out again for the same message id."""

    session_key: SessionKey
    session_id: SessionId
    turn_id: TurnId
    """Empty where the message was answered without a turn: its session is paused."""
    text: str
    reset: ResetNotice | None
    usage: Usage | None
    """What the provider counted over all model calls of the turn; None where it counted nothing."""
    context: ReplyContext
    status: str = "ok"
    """Of a turn `ok`, `failed`, `deadline` or `interrupted`; without a turn `paused`, `answered`
    (it was meant for a question), `command`, `notice` or `retracted`."""
    agent: str = ""
    """Who answered; empty where nobody was asked."""
    fallbacks: tuple[Fallback, ...] = ()
    """Who was passed over, in order."""
    failure: str = ""
    """Of a turn whose agent could not answer: why, as `AgentFailure` names it."""
    calls: tuple[ToolCall, ...] = ()
    """For its client to run: the turn goes on with the results."""
    cut: bool = False
    """Whether the answer has reached a limit of its length."""
    continues: TurnId = _NO_TURN
    """The turn that it goes on with, whose id is that of its messages; empty: it is a new one."""


R = TypeVar("R", default=Reply)
"""What a turn comes to."""


class Told(str):
    """A piece of a reply's text that the gateway says itself; no agent has."""

    __slots__ = ()


class Question(Told):
    """A piece of a reply's text after which the turn waits for the user's answer."""

    __slots__ = ("number",)

    number: str
    """What a yes has to name."""

    def __new__(cls, text: str, number: str) -> Question:
        """Return a text that asks, and its number."""
        question = super().__new__(cls, text)
        question.number = number
        return question


class Progress(Generic[R]):
    """A running turn's text and outcome, shared by everybody who waits for it."""

    def __init__(self) -> None:
        """Start with no text and no outcome."""
        self._pieces: list[str] = []
        self._reply: R | None = None
        self._error: GatewayError | None = None
        self._for_text = Waiters()
        self._for_end = Waiters()

    async def reply(self) -> R:
        """Wait for the reply.

        Raises:
            GatewayError: the turn could not be committed; its message is kept.
        """
        await self.ended()
        if self._reply is None:
            raise self._error or AssertionError

        return self._reply

    async def deltas(self) -> AsyncGenerator[str]:
        """Yield the text as it grows, from its beginning, until the turn ends either way.

        A piece that is a `Question` has to be answered before there is more; one that is `Told`
        is no part of an agent's answer.
        """
        seen = 0
        while True:
            while seen < len(self._pieces):
                yield self._pieces[seen]
                seen += 1
            if self._has_ended():
                return
            await self._for_text.wait()

    @property
    def known_reply(self) -> R | None:
        """The reply, if there is one already."""
        return self._reply

    async def ended(self) -> None:
        """Wait until the turn has ended either way."""
        while not self._has_ended():
            await self._for_end.wait()

    def add_text(self, text: str) -> None:
        """Append a piece of the reply's text."""
        if text:
            self._pieces.append(text)
            self._for_text.wake_all()

    def finish(self, reply: R) -> None:
        """Set the reply, once it is durable."""
        self._reply = reply
        self._tell_end()

    def fail(self, error: GatewayError) -> None:
        """End without a reply; harmless once the turn has ended."""
        if not self._has_ended():
            self._error = error
            self._tell_end()

    def _has_ended(self) -> bool:
        return self._reply is not None or self._error is not None

    def _tell_end(self) -> None:
        self._for_text.wake_all()
        self._for_end.wake_all()


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a caller holds of a turn from the moment its message is accepted."""

    turn_id: TurnId
    progress: Progress
    duplicate: bool = False
    """Whether the message had been accepted before."""
    ahead: int = 0
    """How many turns of its session ran or waited when it was accepted."""

    @classmethod
    def answered(cls, reply: Reply, *, duplicate: bool = False) -> Ticket:
        """Return the ticket of a turn that has ended."""
        progress: Progress = Progress()
        progress.add_text(reply.text)
        progress.finish(reply)
        return cls(reply.turn_id, progress, duplicate)
