"""Running one turn: from the transcript to what the agent made of it. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.errors import AgentError
from gateway.log import get_logger
from gateway.model import (
    ContextSource,
    Message,
    ModelCall,
    Role,
    ToolCall,
    TurnId,
    Usage,
    clean_text,
)
from gateway.turns.ticket import ReplyContext

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.agents.base import Agent
    from gateway.clock import Clock
    from gateway.transcripts.inbox import InboxRow
    from gateway.turns.preparing import Request
    from gateway.turns.ticket import Progress

MAX_RECOVERIES: Final = 1
"""How often a restart runs an unanswered message again before it is given up."""
GIVEN_UP: Final = "This message could not be answered: the gateway stopped twice while trying."
TOO_LONG: Final = (
    "This message alone is larger than what the agent can read. Please send a shorter one."
)
FAILED: Final = "Something went wrong while this was answered. Please try again."


@dataclass(slots=True)
class Outcome:
    """What a turn came to."""

    status: str = "ok"
    """`ok`, `failed` or `deadline`."""
    text: str = ""
    """What the user reads, without notices."""
    messages: list[Message] = field(default_factory=list)
    """What the transcript gets after the user's message."""
    calls: list[ModelCall] = field(default_factory=list)
    error: str = ""
    """For the log; never what anybody wrote."""

    def usage(self) -> Usage | None:
        """Return what the provider counted over the whole turn; None where it counted nothing."""
        counted = [call.usage for call in self.calls if call.usage is not None]
        return sum(counted, start=Usage()) if counted else None


async def run_turn(
    agent: Agent,
    request: Request,
    progress: Progress,
    clock: Clock,
    deadline_s: float,
    *,
    cache_key: str,
) -> Outcome:
    """Let an agent answer a request, within a deadline.

    Whatever goes wrong becomes an outcome with an error the user can read.
    """
    outcome = Outcome()
    with clock.move_on_after(deadline_s) as scope:
        try:
            await _answer(agent, request, progress, outcome, cache_key)
        except AgentError as error:
            _fail(outcome, "failed", error.user_text, repr(error), progress)
        except Exception as error:  # noqa: BLE001 - the turn boundary: a broken agent ends this turn only
            get_logger().exception("turn.crashed", turn_id=request.messages[-1].turn_id)
            _fail(outcome, "failed", FAILED, type(error).__name__, progress)
    if scope.cancelled_caught:
        text = f"This took longer than {deadline_s:g} seconds and was stopped."
        _fail(outcome, "deadline", text, "deadline", progress)
    return outcome


def given_up(row: InboxRow, progress: Progress) -> Outcome:
    """Return the outcome of a message that no agent is asked for any more."""
    gone = row.recoveries <= MAX_RECOVERIES
    text = f"There is no agent {row.agent!r} any more." if gone else GIVEN_UP
    progress.add_text(text)
    return Outcome("failed", text, [Message(Role.NOTICE, text)], error="given up")


def reply_context(outcome: Outcome, request: Request, agent: Agent, clock: Clock) -> ReplyContext:
    """Return the size of the last request: as the provider counted it, else as estimated."""
    counted = outcome.calls[-1].usage if outcome.calls else None
    if counted is not None:
        tokens, source = counted.context_tokens, ContextSource.USAGE
    elif request.fits:
        # The last message is the answer: it was not part of the request.
        tokens, source = request.estimated_tokens(outcome.messages[:-1]), ContextSource.ESTIMATE
    else:
        tokens, source = 0, ContextSource.UNKNOWN
    return ReplyContext(
        tokens=tokens,
        window_tokens=agent.context_window_tokens,
        source=source,
        measured_at=None if source is ContextSource.UNKNOWN else clock.now(),
        turns_left_out=request.turns_left_out,
    )


async def _answer(
    agent: Agent, request: Request, progress: Progress, outcome: Outcome, cache_key: str
) -> None:
    if not request.fits:
        raise AgentError("the message alone does not fit the window", user_text=TOO_LONG)

    turn_id = request.messages[-1].turn_id
    events = agent.run(request.messages, cache_key=cache_key)
    try:
        async for event in events:
            match event:
                case TextDelta(text):
                    clean = clean_text(text)
                    outcome.text += clean
                    progress.add_text(clean)
                case MessageFinished(finished):
                    outcome.messages.append(_of_turn(finished, turn_id))
                case ModelCallFinished(call):
                    outcome.calls.append(call)
    finally:
        await events.aclose()
    if _answered(outcome.messages) < len(outcome.messages) or _said_chars(outcome) < len(
        outcome.text
    ):
        raise AgentError("the agent ended in the middle of a message or before a tool's result")


def _of_turn(message: Message, turn_id: TurnId) -> Message:
    """Return an agent's message as any store and socket takes it."""
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


def _fail(outcome: Outcome, status: str, text: str, error: str, progress: Progress) -> None:
    """End a turn with an error: keep what was said, drop calls that no result answers."""
    outcome.status, outcome.error = status, error
    del outcome.messages[_answered(outcome.messages) :]
    rest = outcome.text[_said_chars(outcome) :]
    if rest:
        outcome.messages.append(Message(Role.ASSISTANT, rest))
    notice = f"\n\n{text}" if outcome.text else text
    outcome.text += notice
    progress.add_text(notice)
    outcome.messages.append(Message(Role.NOTICE, text))


def _answered(messages: Sequence[Message]) -> int:
    """Return how many messages come before the first whose tool calls lack a result."""
    results = {message.tool_call_id for message in messages}
    for place, message in enumerate(messages):
        if any(call.call_id not in results for call in message.tool_calls):
            return place
    return len(messages)


def _said_chars(outcome: Outcome) -> int:
    return sum(len(m.text) for m in outcome.messages if m.role is Role.ASSISTANT)
