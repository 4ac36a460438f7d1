"""Compaction: an agent's summary takes the place of a session's oldest turns in what is sent.

Asks the agent and changes the context in memory; whoever calls stores what was done. The transcript
is not touched. A summary that fails changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from gateway.context.compaction import instruction, parts, plan_compaction
from gateway.context.estimate import estimate_context_chars, tokens_of_chars
from gateway.context.summary import check_summary, summary_message
from gateway.errors import AgentError
from gateway.model import CallPurpose, Message, ModelCall, Role, Summary
from gateway.turns.preparing import cache_key, room_alone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.agents.base import Agent, Completion
    from gateway.clock import Clock
    from gateway.context.settings import CompactionSettings
    from gateway.context.summary import CompactionPlan
    from gateway.turns.memory import SessionContext
    from gateway.turns.preparing import Asking, Live

_SHARE: Final = 1 / 3
"""What a summary may take of the time that is left of a turn, ..."""
_LEAST_SHARE: Final = 0.1
"""... but never less than this of the turn's whole time: a turn that has less left ends at its
deadline, and the next one has time enough."""
_SAID_SINCE: Final = 2
"""About so many messages are newer than the conversation's last request: an answer, and more."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What an attempt came to."""

    summary: Summary | None = None
    """None where nothing was changed; then `reason` says why."""
    reason: str = ""
    calls: tuple[ModelCall, ...] = ()
    """What the agent's provider was asked for it, whatever came of it."""
    error: AgentError | None = None
    """Why the agent could not answer; None where it did."""


def summary_time_s(deadline_s: float, left_s: float) -> float:
    """Return how long a summary may take, in seconds, for the turn to be answered after it.

    Args:
        deadline_s: How long the turn may take in all.
        left_s: What is left of that.
    """
    return max(_SHARE * left_s, _LEAST_SHARE * deadline_s)


async def compact(
    context: SessionContext,
    asking: Asking,
    live: Live,
    settings: CompactionSettings,
    room: int | None,
    clock: Clock,
) -> Compacted:
    """Let an agent summarise the oldest turns of a context, and put that in their place.

    Whatever the agent does wrong costs the summary alone. One that takes too long is taken for one
    that will take too long again: its `error` is None, so that nobody waits for a better time.

    Args:
        context: The session's; changed only where a summary was made.
        asking: Whom to ask, and how long it may take.
        live: What the next request carries beside the context.
        settings: How much is summarised, and how long a summary may be.
        room: How many characters of context there is room for; None: all turns but the latest are
            summarised.
        clock: Tells the time.
    """
    counted = context.counted
    plan = plan_compaction(counted, settings, room)
    if plan is None:
        return Compacted(reason="there are no turns that may be summarised")

    before = context.account.tokens(tokens_of_chars(counted.chars + live.chars))
    calls: list[ModelCall] = []
    sent: list[tuple[Message, ...]] = []
    text = ""
    try:
        with clock.move_on_after(asking.summary_s):
            text = await _summarised(context, asking, plan, sent, calls)
    except AgentError as error:
        return Compacted(reason=str(error), calls=tuple(calls), error=error)
    except ValueError as error:
        return Compacted(reason=f"the summary {error}", calls=tuple(calls))

    if not text:
        reason = f"it took longer than {asking.summary_s:g} seconds"
        return Compacted(reason=reason, calls=tuple(calls))

    each = _message_tokens(context, asking, live, sent[0], calls[0])
    counted.summarise(plan, text)
    context.account = context.account.without_messages(plan.messages, each)
    after = context.account.tokens(tokens_of_chars(counted.chars + live.chars))
    summary = Summary(
        through_turn=plan.last_turn,
        turns=counted.summarised_turns,
        text=text,
        agent=asking.agent_id,
        model=calls[-1].model,
        tokens_before=before,
        tokens_after=after,
        through=context.left_through(plan.last_turn),
    )
    return Compacted(summary, calls=tuple(calls))


def _message_tokens(
    context: SessionContext,
    asking: Asking,
    live: Live,
    sent: Sequence[Message],
    call: ModelCall,
) -> float:
    """Return what a message costs beside its text, as the request for a summary tells it.

    It begins as the conversation's own last request did, and was counted by the same provider.
    """
    facts = asking.agent.facts()
    estimated = tokens_of_chars(estimate_context_chars(sent) + facts.overhead_chars)
    said = len(context.counted.messages) + len(live.messages) - _SAID_SINCE
    tokens = 0 if call.usage is None else call.usage.context_tokens
    fewer = said - len(sent) if tokens else 0
    return context.account.message_tokens(tokens, estimated, fewer)


async def _summarised(
    context: SessionContext,
    asking: Asking,
    plan: CompactionPlan,
    sent: list[tuple[Message, ...]],
    calls: list[ModelCall],
) -> str:
    """Return the summary; of more than fits one request, part by part.

    What is sent for it, and what comes of that, is added to the two lists.

    Raises:
        AgentError: The agent cannot answer.
        ValueError: What it answered is no summary.
    """
    most_chars = room_alone(context, asking.agent.facts())
    question = Message(Role.USER, instruction(plan.settings))
    text = ""
    for part in parts(context.counted, plan, most_chars):
        lead = (summary_message(text, plan.last_turn),) if text else ()
        sent.append((*lead, *part, question))
        key = cache_key(asking.entry.session_id)
        completion = await completed(asking.agent, sent[-1], key)
        calls.append(replace(completion.call, purpose=CallPurpose.COMPACTION))
        if completion.error is not None:
            raise completion.error
        text = check_summary(completion.text, plan.replaced_chars, plan.settings)
    return text


async def completed(agent: Agent, messages: Sequence[Message], cache_key: str = "") -> Completion:
    """Return what an agent answers; one that breaks has not answered.

    Raises:
        AgentError: It cannot answer.
    """
    try:
        return await agent.complete(messages, cache_key=cache_key)
    except AgentError:
        raise
    except Exception as error:
        # Not its message: it may hold what was said.
        raise AgentError(f"the agent broke: {type(error).__name__}") from error
