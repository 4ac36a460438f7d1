"""The user's yes to a tool, asked and answered in the chat while a turn runs. Stores nothing.

Only the user whose turn it is can answer, in a message of its own. A yes names the number of its
question, so that one said twice, late or after a restart allows nothing that its user did not read.
Nothing of what tools or models say is ever read as an answer.
"""

from __future__ import annotations

import math
import re
import secrets
import threading
from collections import deque
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio

from gateway.log import get_logger
from gateway.model import clean_name
from gateway.turns.budgets import user_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import Clock
    from gateway.durable.batch import Transaction
    from gateway.model import Inbound, SessionKey, SessionSource, ToolCall, TurnId
    from gateway.turns.outcome import Outcome

MAX_SHOWN_CHARS: Final = 1_000
"""How much of a call's arguments the question shows."""
_YES: Final = frozenset({"yes", "y", "ok", "allow", "approve", "/yes", "/approve"})
_NO: Final = frozenset({"no", "n", "deny", "stop", "/no", "/deny"})
_ANSWER: Final = re.compile(r"(/?[a-z]+)(?:[\s,:]+([0-9]+))?")
_AROUND: Final = ' \t\r\n".!'
"""What may stand around an answer, such as the quotation marks of the question."""
_LOWEST, _HIGHEST = 1_000, 9_999
_REMEMBERED: Final = 100
"""Numbers of so many last questions of a session are not used again for its next one."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A user's answer."""

    approved: bool
    by: str
    """Who gave it, as the transcript names them."""


@dataclass(slots=True)
class OpenQuestion:
    """A question that a turn waits at. An answer is to it alone, and the first one counts."""

    user: str
    """Who may answer."""
    number: str
    """What a yes has to name."""
    wish: str
    """What the agent wants to do."""
    ends_at: float
    """When it is too late for an answer, monotonic, in seconds."""
    closed: bool = False
    """Whether it takes no answer any more."""
    _verdict: Verdict | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _settled: anyio.Event = field(default_factory=anyio.Event)

    def text(self, now: float) -> str:
        """Return what the user is asked at a monotonic instant, with the time that is left."""
        left_s = math.floor(max(0.0, self.ends_at - now))
        return (
            f'{self.wish}\nAnswer "yes {self.number}" or "no" within {left_s} seconds; '
            "nothing runs before."
        )

    def take(self, transaction: Transaction, verdict: Verdict) -> Verdict | None:
        """Take an answer that is being stored, in the writer thread.

        Returns the answer that counts; None where it is too late for one.
        """
        with self._lock:
            if self.closed:
                return None

            if self._verdict is None:
                self._verdict = verdict
                transaction.on_abort(self._give_back)
            return self._verdict

    def settle(self) -> None:
        """Let the turn go on: an answer is stored, or none is waited for any more."""
        self._settled.set()

    async def settled(self) -> None:
        """Wait until the turn may go on."""
        await self._settled.wait()

    def close(self) -> Verdict | None:
        """Take no answer any more; return the one there is, else None."""
        with self._lock:
            self.closed = True
            return self._verdict

    def _give_back(self) -> None:
        with self._lock:
            self._verdict = None


class Approvals:
    """The open questions, at most one a session: a session has one running turn."""

    def __init__(self, clock: Clock, timeout_s: float) -> None:
        """Start without a question."""
        self._clock = clock
        self._open: dict[SessionKey, OpenQuestion] = {}
        self._numbers: dict[SessionKey, deque[str]] = {}
        self._stopping = False
        self.timeout_s = timeout_s
        """How long a user may take; may be changed at any time."""
        self.aside: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
        """Entered while a turn waits for its user, so that it keeps no other from running."""

    def __len__(self) -> int:
        """Return how many questions are open."""
        return len(self._open)

    def stop(self) -> None:
        """Close all questions without an answer, and open none from now on."""
        self._stopping = True
        for question in self._open.values():
            question.settle()

    def forget(self, key: SessionKey) -> None:
        """Drop what is remembered of a session that is gone."""
        self._numbers.pop(key, None)

    async def approve(self, key: SessionKey, user: str, call: ToolCall, outcome: Outcome) -> bool:
        """Ask the user whether a tool may run, and tell in the reply what came of it.

        False also where no answer comes in time, and while the gateway stops.

        Cancellation: the question is withdrawn.
        """
        verdict: Verdict | None = None
        if self._stopping:
            _log(call, outcome.turn_id, None, 0.0)
        else:
            now = self._clock.monotonic()
            ends_at = now + self.timeout_s
            question = OpenQuestion(user, self._number(key), _wish(call), ends_at)
            outcome.tell(question.text(now), question=question.number)
            async with self.aside():
                verdict = await self._verdict(key, question, call, outcome.turn_id)
        outcome.tell(self._told(call, verdict))
        return verdict is not None and verdict.approved

    def is_open(self, key: SessionKey) -> bool:
        """Return whether a session's turn waits for an answer."""
        return key in self._open

    def read(self, key: SessionKey, inbound: Inbound) -> tuple[OpenQuestion, bool | None] | None:
        """Return the open question that a message answers, and how; None where it is no answer.

        The answer is None where it settles nothing: it is a yes without a number, or names another
        number than the question's.
        """
        question = self._open.get(key)
        if question is None or question.user != user_of(inbound.source) or not inbound.typed:
            return None

        found = _ANSWER.fullmatch(inbound.text.strip(_AROUND).lower())
        word, number = ("", None) if found is None else found.groups()
        if word in _NO and number in {None, question.number}:
            return question, False

        if word in _YES and number == question.number:
            return question, True

        return (question, None) if word in _YES | _NO else None

    async def _verdict(
        self, key: SessionKey, question: OpenQuestion, call: ToolCall, turn_id: TurnId
    ) -> Verdict | None:
        """Wait for a user's answer; None where none comes in time."""
        began = self._clock.monotonic()
        self._open[key] = question
        try:
            with self._clock.move_on_after(self.timeout_s):
                await question.settled()
        finally:
            verdict = question.close()
            del self._open[key]
            _log(call, turn_id, verdict, self._clock.monotonic() - began)
        return verdict

    def _number(self, key: SessionKey) -> str:
        """Return a number that none of the session's last questions had since the start."""
        before = self._numbers.setdefault(key, deque(maxlen=_REMEMBERED))
        while True:
            number = str(_LOWEST + secrets.randbelow(_HIGHEST - _LOWEST + 1))
            if number not in before:
                before.append(number)
                return number

    def _told(self, call: ToolCall, verdict: Verdict | None) -> str:
        """Return what the user is told once the question is settled."""
        if verdict is None:
            why = "The gateway is stopping" if self._stopping else "No answer came in time"
            return f"{why}: {call.name} was not used."

        if verdict.approved:
            return f"{call.name} may be used (allowed by {verdict.by})."

        return f"{call.name} was not used (refused by {verdict.by})."


def name_of(source: SessionSource) -> str:
    """Return how a transcript names who sent a message: by name, else id, else the chat."""
    return clean_name(source.user_name or source.user_id or source.chat_id)


def _wish(call: ToolCall) -> str:
    shown = " ".join(call.arguments[:MAX_SHOWN_CHARS].split())
    rest = len(call.arguments) - MAX_SHOWN_CHARS
    more = f" ... ({rest} more characters)" if rest > 0 else ""
    return f"The agent wants to use the tool {call.name} with {shown}{more}"


def _log(call: ToolCall, turn_id: TurnId, verdict: Verdict | None, waited_s: float) -> None:
    outcome = "unanswered"
    if verdict is not None:
        outcome = "allowed" if verdict.approved else "refused"
    # The name is one of the tools that the agent was offered: what a model makes up is not asked.
    get_logger().info(
        "tool.approval",
        turn_id=turn_id,
        tool=call.name,
        outcome=outcome,
        waited_s=round(waited_s, 3),
    )
