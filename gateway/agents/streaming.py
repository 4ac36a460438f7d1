"""One request to a model and its streamed answer, as events: what all vendors share.

Knows no vendor: their files, above, open the stream and say in a `Wire` how it is read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gateway.agents.answer import Answer, FinishReasons, ReadUsage
from gateway.agents.attempts import Attempts
from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.agents.failures import SdkErrors, translated_errors
from gateway.clock import Clock
from gateway.errors import AgentError
from gateway.log import get_logger
from gateway.model import ModelCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from gateway.agents.base import AgentEvent
    from gateway.model import TurnId

log = get_logger()


@dataclass(frozen=True, slots=True)
class Wire:
    """How a vendor's stream is read."""

    model: str
    reasons: FinishReasons
    errors: SdkErrors
    take: Callable[[Any, Answer], str]
    """Adds a piece of the stream to an answer and returns the text it brings, often none."""
    read_usage: ReadUsage
    clock: Clock


class Stream(AbstractAsyncContextManager[Any], Protocol):
    """A vendor's stream, open; its pieces are of a type of the vendor's own."""

    def __anext__(self) -> Awaitable[Any]:
        """Return the next piece."""
        ...


async def streamed(
    wire: Wire, turn_id: TurnId, open_stream: Callable[[], Awaitable[Stream]]
) -> AsyncGenerator[AgentEvent]:
    """Send a request and yield its answer: text, then what it cost, then the whole message.

    Cancellation: the connection of the request is closed.

    Raises:
        AgentError: There is no whole answer; deltas may have been yielded before.
    """
    attempts = Attempts(wire.clock)
    answer = Answer(wire.model, wire.reasons)
    with translated_errors(wire.model, wire.errors, wire.clock):
        stream = await open_stream()
    async with stream:
        while (piece := await _next_piece(wire, stream, answer)) is not None:
            with answer.reading():
                text = wire.take(piece, answer)
            if text:
                yield TextDelta(text)

    if answer.finish_reason:
        yield ModelCallFinished(_model_call(wire, answer, attempts))
    yield MessageFinished(answer.message(turn_id), cut=answer.cut)


async def _next_piece(wire: Wire, stream: Stream, answer: Answer) -> Any:  # noqa: ANN401 - a vendor's own type
    """Return the next piece; None at the end of all that is of use."""
    if answer.ended:
        return None

    try:
        with translated_errors(wire.model, wire.errors, wire.clock):
            return await anext(stream, None)
    except AgentError as exc:
        if not answer.finish_reason:
            raise
        # The answer is whole: only what follows it is lost, on some wires its usage.
        log.warning("agent.stream_unended", model=wire.model, reason=str(exc))
        return None


def _model_call(wire: Wire, answer: Answer, attempts: Attempts) -> ModelCall:
    counted = answer.measured(wire.read_usage)
    return ModelCall(
        wire.model,
        attempts.started_at,
        None if counted is None else counted.usage,
        cache_counted=counted is not None and counted.cache_counted,
    )
