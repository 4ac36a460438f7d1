"""An agent that follows a script: for tests, and to try the gateway without a model.

The steps serve one turn each, whichever session it belongs to, and start again after the last. It
knows nothing of its settings table; `gateway.agents.settings` checks a script with `parse_script`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.errors import AgentError
from gateway.model import Message, ModelCall, Role, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from gateway.agents.base import AgentEvent
    from gateway.clock import Clock

DIRECTIVES: Final = "!hang, !fail TEXT, !chunks A|B|C, !usage INPUT OUTPUT CACHE_READ CACHE_WRITE"
"""What a line of a script may be beside a plain answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, streamed in these pieces."""

    chunks: tuple[str, ...]
    usage: Usage | None = None
    """What the pretended provider counted; None: nothing."""


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
"""Makes a step from the context that the agent is given."""


class ScriptedAgent:
    """Plays steps one after the other, round and round."""

    model: Final = "scripted"

    def __init__(
        self,
        steps: Sequence[Step | ReplyTo],
        clock: Clock,
        *,
        context_window_tokens: int = 200_000,
        reserve_tokens: int = 16_384,
    ) -> None:
        self.cache_ttl_s: float | None = None
        self.context_window_tokens = context_window_tokens
        self.reserve_tokens = reserve_tokens
        self._steps = cycle(steps)
        self._clock = clock

    async def run(
        self, messages: Sequence[Message], *, cache_key: str = ""
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
        text = "".join(step.chunks)
        yield ModelCallFinished(ModelCall(self.model, started_at, step.usage))
        yield MessageFinished(Message(Role.ASSISTANT, text, turn_id=messages[-1].turn_id))

    def overhead_chars(self) -> int:
        """Return 0: there is no system prompt."""
        return 0

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

    if directive.startswith("!"):
        raise ValueError(
            f"line {number}: not a directive: {directive[:20]}; accepted: {DIRECTIVES}"
        )

    return Reply((line,))


def _parse_usage(line: str, number: int) -> Usage:
    _, *numbers = line.split()
    if len(numbers) != 4 or not all(text.isascii() and text.isdigit() for text in numbers):  # noqa: PLR2004 - the four named right here
        raise ValueError(f"line {number}: accepted is !usage INPUT OUTPUT CACHE_READ CACHE_WRITE")

    return Usage(*map(int, numbers))
