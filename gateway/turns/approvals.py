"""The user's yes to a tool, asked and answered in the chat while a turn runs. Stores nothing.

Only the user whose turn it is can answer, with one word. Nothing of what tools or models say is
ever read as an answer.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.durable.batch import Transaction
    from gateway.model import SessionKey, ToolCall

MAX_SHOWN_CHARS: Final = 1_000
"""How much of a call's arguments the question shows."""
_YES: Final = frozenset({"yes", "y", "ok", "allow", "approve", "/yes", "/approve"})
_NO: Final = frozenset({"no", "n", "deny", "stop", "/no", "/deny"})


@dataclass(slots=True)
class OpenQuestion:
    """A question that a turn waits at. An answer is to it alone, and the first one counts."""

    user: str
    """Who may answer."""
    _answer: bool | None = None
    _closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _answered: anyio.Event = field(default_factory=anyio.Event)

    def take(self, transaction: Transaction, *, approved: bool) -> bool | None:
        """Take an answer that is being stored, in the writer thread.

        Returns the answer that counts; None where it is too late for one.
        """
        with self._lock:
            if self._closed:
                return None

            if self._answer is None:
                self._answer = approved
                transaction.on_abort(self._give_back)
            return self._answer

    def settle(self) -> None:
        """Let the turn go on with the answer, once it is stored."""
        self._answered.set()

    async def answered(self) -> None:
        """Wait for an answer."""
        await self._answered.wait()

    def close(self) -> bool | None:
        """Take no answer any more; return the one there is, else None."""
        with self._lock:
            self._closed = True
            return self._answer

    def _give_back(self) -> None:
        with self._lock:
            self._answer = None


class Approvals:
    """The open questions, at most one a session: a session has one running turn."""

    def __init__(self, clock: Clock, timeout_s: float) -> None:
        """Start without a question."""
        self._clock = clock
        self._open: dict[SessionKey, OpenQuestion] = {}
        self.timeout_s = timeout_s
        """How long a user may take; may be changed at any time."""

    def __len__(self) -> int:
        """Return how many questions are open."""
        return len(self._open)

    def is_open(self, key: SessionKey) -> bool:
        """Return whether a session's turn waits for an answer."""
        return key in self._open

    def question(self, call: ToolCall) -> str:
        """Return what the user is asked."""
        shown = " ".join(call.arguments[:MAX_SHOWN_CHARS].split())
        rest = len(call.arguments) - MAX_SHOWN_CHARS
        more = f" ... ({rest} more characters)" if rest > 0 else ""
        return (
            f"The agent wants to use the tool {call.name} with {shown}{more}\n"
            f"Answer yes or no within {self.timeout_s:g} seconds; nothing runs before."
        )

    def told(self, call: ToolCall, approved: bool | None) -> str:  # noqa: FBT001 - as it was answered
        """Return what the user is told once the question is settled."""
        if approved is None:
            return f"No answer came in time: {call.name} was not used."

        return f"{call.name} may be used." if approved else f"{call.name} was not used."

    async def ask(self, key: SessionKey, user: str) -> bool | None:
        """Wait for a user's answer; None where none comes in time.

        Cancellation: the question is withdrawn.
        """
        question = self._open[key] = OpenQuestion(user)
        try:
            with self._clock.move_on_after(self.timeout_s):
                await question.answered()
            return question.close()
        finally:
            question.close()
            del self._open[key]

    def read(self, key: SessionKey, user: str, text: str) -> tuple[OpenQuestion, bool] | None:
        """Return the open question that a message answers, and how; None where it is no answer."""
        question = self._open.get(key)
        if question is None or question.user != user:
            return None

        word = text.strip().rstrip(".!").lower()
        if word in _YES:
            return question, True

        return (question, False) if word in _NO else None
