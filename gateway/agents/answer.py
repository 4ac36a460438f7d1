"""One answer of a model, put together from the pieces of its stream.

Knows no vendor: their files, above, read the pieces and say how their streams end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from gateway.agents.failures import BROKEN_OFF, ENDLESS, NO_ANSWER, Fault
from gateway.log import get_logger
from gateway.model import Message, Role, ToolCall, Usage, clean_text

if TYPE_CHECKING:
    from collections.abc import Generator

    from gateway.model import TurnId

MAX_ANSWER_CHARS: Final = 4_000_000
"""A stream that goes on beyond this is broken, whatever its model's window."""
MAX_TOOL_NAME_CHARS: Final = 128
"""How much is kept of the name of a tool; no tool has a longer one."""
MAX_TOKENS: Final = 2**40
"""More of one request nobody counts in earnest; sums of such numbers would burst a column."""
_CALL_CHARS: Final = 100
"""What a call counts beside its text, so that calls without any have an end too."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class FinishReasons:
    """What a vendor's words for the end of an answer mean; all others are a good end."""

    cut: frozenset[str]
    """The answer reached a limit and stays as it is."""
    failed: Mapping[str, Fault]
    """It is no answer."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a provider counted of a request."""

    usage: Usage
    cache_counted: bool
    """Whether it told of its prompt cache."""


ReadUsage = Callable[[Any], Counted]
"""Reads what a vendor's events told."""


@dataclass(slots=True)
class _Call:
    call_id: str = ""
    names: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Answer:
    """The pieces so far."""

    model: str
    reasons: FinishReasons
    finish_reason: str = ""
    """The vendor's word; empty: the stream has not come to the end of the answer."""
    ended: bool = False
    """Whether nothing of the stream is of use any more."""
    counted: list[Any] = field(default_factory=list)
    """What the vendor told of tokens, in its own form."""
    _texts: list[str] = field(default_factory=list)
    _calls: list[_Call] = field(default_factory=list)
    _open: dict[object, _Call] = field(default_factory=dict)
    """The newest call of each index."""
    _chars: int = 0

    @property
    def cut(self) -> bool:
        """Whether it has reached a limit of its length."""
        return self.finish_reason in self.reasons.cut

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
            raise BROKEN_OFF.error(f"{self.model}: a chunk of the stream is malformed") from exc

    def add_text(self, text: str) -> str:
        """Add text and return it as any store and socket takes it."""
        clean = clean_text(text)
        self._texts.append(clean)
        self.count(len(clean))
        return clean

    def add_call(
        self, index: object, *, call_id: str = "", name: str = "", arguments: str = ""
    ) -> None:
        """Add a piece of a tool call; its id comes once, the rest in as many pieces as it likes.

        Another id is another call: some endpoints give all calls of an answer one index.
        """
        call = self._open.get(index)
        if call is None or (call_id and call.call_id not in {"", call_id}):
            call = self._open[index] = _Call()
            self._calls.append(call)
            self.count(_CALL_CHARS)
        call.call_id = call.call_id or _text(call_id)
        call.names.append(_text(name))
        call.arguments.append(_text(arguments))
        self.count(len(call_id) + len(name) + len(arguments))

    def count(self, chars: int) -> None:
        """Count what came, kept or not.

        Raises:
            AgentError: The answer has no end.
        """
        self._chars += chars
        if self._chars > MAX_ANSWER_CHARS:
            raise ENDLESS.error(
                f"{self.model}: the answer has no end, {self._chars} characters so far"
            )

    def measured(self, read: ReadUsage) -> Counted | None:
        """Return what the provider counted; None where it told nothing.

        A number that cannot be read costs the measurement, not the answer.
        """
        if not self.counted:
            return None

        try:
            return _checked(read(self.counted))
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            log.warning("agent.usage_lost", model=self.model, reason=type(exc).__name__)
            return None

    def message(self, turn_id: TurnId) -> Message:
        """Return the whole answer; ids of its calls may be empty or stand there twice.

        Raises:
            AgentError: The stream ended early, or what it brought is not an answer.
        """
        calls = [_whole(call) for call in self._calls]
        if self.cut and calls and not calls[-1].arguments.strip():
            # Nobody knows with what the model was going to call it.
            calls.pop()
        message = Message(Role.ASSISTANT, "".join(self._texts), tuple(calls), turn_id=turn_id)
        if problem := self._problem(message):
            reason, fault = problem
            raise fault.error(f"{self.model}: {reason}")

        if self.cut:
            log.warning("agent.answer_cut", model=self.model, text_chars=len(message.text))

        return message

    def _problem(self, message: Message) -> tuple[str, Fault] | None:
        """Return what the log is told of an answer that is none, and what that means."""
        if not self.finish_reason:
            return "the stream ended before the answer did", BROKEN_OFF

        said = message.text or message.tool_calls
        if self.finish_reason in self.reasons.failed or not said:
            return (
                f"no answer, finish reason {self.finish_reason[:64]!r}",
                self.reasons.failed.get(self.finish_reason, NO_ANSWER),
            )

        return None


def _text(piece: str) -> str:
    if not isinstance(piece, str):
        raise TypeError("not a text")

    return piece


def _whole(call: _Call) -> ToolCall:
    name = clean_text("".join(call.names))[:MAX_TOOL_NAME_CHARS]
    return ToolCall(clean_text(call.call_id), name, clean_text("".join(call.arguments)))


def _checked(counted: Counted) -> Counted:
    numbers = astuple(counted.usage)
    if not all(type(tokens) is int and 0 <= tokens <= MAX_TOKENS for tokens in numbers):
        raise ValueError("not a token count")

    return counted
