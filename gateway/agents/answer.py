"""One answer of a model, put together from the pieces of its stream.

Knows no vendor: their files, above, read the pieces and say how their streams end.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.agents.failures import BROKEN_OFF
from gateway.errors import AgentError
from gateway.log import get_logger
from gateway.model import Message, Role, ToolCall, Usage, clean_text

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from gateway.model import TurnId

MAX_ANSWER_CHARS: Final = 4_000_000
"""A stream that goes on beyond this is broken, whatever its model's window."""
NO_ANSWER: Final = "The model gave no answer. Please try again."
_NO_SUCH_TOOL: Final = "The model asked for a tool that it does not have. Please try again."

log = get_logger()


@dataclass(frozen=True, slots=True)
class FinishReasons:
    """What a vendor's words for the end of an answer mean; all others are a good end."""

    cut: frozenset[str]
    """The answer reached a limit and stays as it is."""
    failed: Mapping[str, str]
    """It is no answer: what the user reads."""


@dataclass(slots=True)
class Answer:
    """The pieces so far."""

    model: str
    reasons: FinishReasons
    finish_reason: str = ""
    """The vendor's word; empty: the stream has not come to the end of the answer."""
    usage: Usage | None = None
    _texts: list[str] = field(default_factory=list)
    _calls: dict[int, list[str]] = field(default_factory=dict)
    _chars: int = 0

    @contextmanager
    def reading(self) -> Generator[None]:
        """Read one piece of the stream.

        Raises:
            AgentError: It does not follow the protocol, or the answer has no end.
        """
        try:
            yield
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            # The SDKs build their types without checking what the endpoint sent.
            raise AgentError(
                f"{self.model}: a chunk of the stream is malformed", user_text=BROKEN_OFF
            ) from exc

    def add_text(self, text: str) -> str:
        """Add text and return it as any store and socket takes it."""
        clean = clean_text(text)
        self._texts.append(clean)
        self.count(len(clean))
        return clean

    def add_call(
        self, index: int, *, call_id: str = "", name: str = "", arguments: str = ""
    ) -> None:
        """Add a piece of a tool call; its id comes once, the rest in as many pieces as it likes."""
        call = self._calls.setdefault(index, ["", "", ""])
        call[0] += "" if call[0] else call_id
        call[1] += name
        call[2] += arguments
        self.count(len(name) + len(arguments))

    def count(self, chars: int) -> None:
        """Count what came, kept or not.

        Raises:
            AgentError: The answer has no end.
        """
        self._chars += chars
        if self._chars > MAX_ANSWER_CHARS:
            raise AgentError(
                f"{self.model}: the answer has no end, {self._chars} characters so far",
                user_text=BROKEN_OFF,
            )

    def measure(self, read: Callable[[], Usage]) -> None:
        """Keep what the provider counted; a number that cannot be read costs it, not the answer."""
        try:
            self.usage = _checked(read())
        except (AttributeError, TypeError, ValueError) as exc:
            log.warning("agent.usage_lost", model=self.model, reason=type(exc).__name__)
            self.usage = None

    def message(self, turn_id: TurnId) -> Message:
        """Return the whole answer.

        Raises:
            AgentError: The stream ended early, or what it brought is not an answer.
        """
        calls = tuple(ToolCall(*map(clean_text, parts)) for parts in self._calls.values())
        message = Message(Role.ASSISTANT, "".join(self._texts), calls, turn_id=turn_id)
        if problem := self._problem(message):
            reason, user_text = problem
            raise AgentError(f"{self.model}: {reason}", user_text=user_text)

        if self.finish_reason in self.reasons.cut:
            log.warning("agent.answer_cut", model=self.model, text_chars=len(message.text))

        return message

    def _problem(self, message: Message) -> tuple[str, str] | None:
        """Return what the log and what the user is told of an answer that is none."""
        if not self.finish_reason:
            return "the stream ended before the answer did", BROKEN_OFF

        if message.tool_calls:
            # Kept, a call without its result would make every later request of the session fail.
            names = ", ".join(call.name[:64] for call in message.tool_calls[:8])
            return f"it called tools that it was not offered: {names}", _NO_SUCH_TOOL

        if self.finish_reason in self.reasons.failed or not message.text:
            return (
                f"no answer, finish reason {self.finish_reason[:64]!r}",
                self.reasons.failed.get(self.finish_reason, NO_ANSWER),
            )

        return None


def _checked(usage: Usage) -> Usage:
    if not all(type(tokens) is int and tokens >= 0 for tokens in astuple(usage)):
        raise ValueError("not a token count")

    return usage
