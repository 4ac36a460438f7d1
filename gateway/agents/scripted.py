"""A model that follows a script: for tests, and to try the gateway and tools without a provider.

The steps serve one request each, whichever session it belongs to, and start again after the last.
It knows nothing of its settings table; `gateway.agents.settings` checks a script with
`parse_script`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from gateway.agents.asked import NO_WISHES, Wishes
from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.agents.calls import is_fit, parse_arguments
from gateway.agents.direct import Takes
from gateway.errors import AgentError
from gateway.model import Message, ModelCall, Role, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from gateway.agents.base import AgentEvent, AgentFacts
    from gateway.clock import Clock
    from gateway.model import ToolSpec

DIRECTIVES: Final = (
    "!hang, !fail TEXT, !chunks A|B|C, !call NAME {...} && NAME {...}, "
    "!usage INPUT OUTPUT CACHE_READ CACHE_WRITE"
)
"""What a line of a script may be beside a plain answer."""
_BETWEEN_CALLS: Final = " && "


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, streamed in these pieces."""

    chunks: tuple[str, ...] = ()
    usage: Usage | None = None
    """What the pretended provider counted; None: nothing."""
    calls: tuple[ToolCall, ...] = ()
    """The tools it calls, all at once."""


@dataclass(frozen=True, slots=True)
class Fail:
    """An `AgentError`."""

    user_text: str
    """What the user reads."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Silence until the turn is cancelled."""


Step = Reply | Fail | Hang
ReplyTo = Callable[[Sequence[Message]], Step]
"""Makes a step from the context that the model is given."""


class ScriptedModel:
    """Plays steps one after the other, round and round."""

    def __init__(self, steps: Sequence[Step | ReplyTo], facts: AgentFacts, clock: Clock) -> None:
        self.facts = facts
        self.takes = Takes(tools=True, wishes=frozenset({"tool_choice", "parallel_calls"}))
        self._steps = cycle(steps)
        self._clock = clock

    def overhead_chars(self, tools: Sequence[ToolSpec]) -> int:
        """Return 0: there is no request that would carry anything."""
        return 0

    async def ask(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        *,
        cache_key: str,
        may_call: bool,
        wishes: Wishes = NO_WISHES,
    ) -> AsyncGenerator[AgentEvent]:
        """Play the next step.

        Raises:
            AgentError: The step is a `Fail`.
        """
        started_at = self._clock.now()
        step = next(self._steps)
        if callable(step):
            step = step(messages)

        await anyio.lowlevel.checkpoint()
        if isinstance(step, Fail):
            raise AgentError("the script says fail", user_text=step.user_text)

        if isinstance(step, Hang):
            await anyio.sleep_forever()
            return

        for chunk in step.chunks:
            yield TextDelta(chunk)
            await anyio.lowlevel.checkpoint()
        yield ModelCallFinished(ModelCall(self.facts.model, started_at, step.usage))
        text, turn_id = "".join(step.chunks), messages[-1].turn_id
        yield MessageFinished(Message(Role.ASSISTANT, text, step.calls, turn_id=turn_id))

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""


def parse_script(lines: Sequence[str]) -> tuple[Step, ...]:
    """Return the steps that lines of a settings table stand for.

    Raises:
        ValueError: A line cannot be read, or there is no step; the message says what is accepted.
    """
    steps: list[Step] = []
    usage: Usage | None = None
    for number, line in enumerate(lines, start=1):
        if line.startswith("!usage"):
            usage = _parse_usage(line, number)
            continue

        step = _parse_step(line, number)
        if usage is not None:
            if not isinstance(step, Reply):
                raise ValueError(
                    f"line {number}: !usage stands before it; accepted before an answer only"
                )
            step = replace(step, usage=usage)
            usage = None
        steps.append(step)

    if usage is not None or not steps:
        raise ValueError(
            "the script ends without an answer; accepted is at least one, and one after !usage"
        )

    return tuple(steps)


def _parse_step(line: str, number: int) -> Step:
    directive, _, rest = line.partition(" ")
    match directive:
        case "!hang" if not rest:
            return Hang()
        case "!fail" if rest.strip():
            return Fail(rest)
        case "!chunks" if rest.strip("|"):
            return Reply(tuple(filter(None, rest.split("|"))))
        case "!call":
            return Reply(calls=_parse_calls(rest, number))

    if directive.startswith("!"):
        raise ValueError(
            f"line {number}: not a directive: {directive[:20]}; accepted: {DIRECTIVES}"
        )

    return Reply((line,))


def _parse_calls(text: str, number: int) -> tuple[ToolCall, ...]:
    """Return the calls of a line; what stands between them may stand in their arguments too."""
    calls: list[ToolCall] = []
    so_far: str | None = None
    for part in text.split(_BETWEEN_CALLS):
        so_far = part if so_far is None else so_far + _BETWEEN_CALLS + part
        name, _, arguments = so_far.strip().partition(" ")
        if is_fit(name) and parse_arguments(arguments) is not None:
            calls.append(ToolCall("", name, arguments.strip() or "{}"))
            so_far = None
    if so_far is not None:
        raise ValueError(
            f"line {number}: accepted is !call NAME {{...}}, a tool's name of A-Z a-z 0-9 _ - and "
            f"a JSON object, and more of them after each {_BETWEEN_CALLS.strip()}"
        )

    return tuple(calls)


def _parse_usage(line: str, number: int) -> Usage:
    _, *numbers = line.split()
    if len(numbers) != 4 or not all(text.isascii() and text.isdigit() for text in numbers):  # noqa: PLR2004 - the four named right here
        raise ValueError(f"line {number}: accepted is !usage INPUT OUTPUT CACHE_READ CACHE_WRITE")

    return Usage(*map(int, numbers))
