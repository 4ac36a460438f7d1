"""Compaction: an agent's summary takes the place of a session's oldest turns in what is sent.

Asks the agent and changes the context in memory; whoever calls stores what was done. The transcript
is not touched. A summary that fails changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gateway.context.compaction import (
    check_summary,
    instruction,
    parts,
    plan_compaction,
    summary_message,
)
from gateway.context.estimate import tokens_of_chars
from gateway.errors import AgentError
from gateway.model import CallPurpose, Message, ModelCall, Role, Summary
from gateway.turns.preparing import room_alone

if TYPE_CHECKING:
    from gateway.agents.base import Agent
    from gateway.context.compaction import CompactionPlan
    from gateway.context.settings import CompactionSettings
    from gateway.model import AgentId
    from gateway.turns.memory import SessionContext
    from gateway.turns.preparing import Live


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


async def compact(
    context: SessionContext,
    agent_id: AgentId,
    agent: Agent,
    live: Live,
    settings: CompactionSettings,
    room: int | None,
    *,
    cache_key: str,
) -> Compacted:
    """Let an agent summarise the oldest turns of a context, and put that in their place.

    Args:
        context: The session's; changed only where a summary was made.
        agent_id: Who is asked.
        agent: The same.
        live: What the next request carries beside the context.
        settings: How much is summarised, and how long a summary may be.
        room: How many characters of context there is room for; None: all turns but the latest are
            summarised.
        cache_key: See `Conversation`.
    """
    counted = context.counted
    plan = plan_compaction(counted, settings, room)
    if plan is None:
        return Compacted(reason="there are no turns that may be summarised")

    before = context.account.tokens(tokens_of_chars(counted.chars + live.chars))
    calls: list[ModelCall] = []
    try:
        text = await _summarised(context, agent, plan, calls, cache_key)
    except AgentError as error:
        return Compacted(reason=str(error), calls=tuple(calls), error=error)
    except ValueError as error:
        return Compacted(reason=f"the summary {error}", calls=tuple(calls))

    counted.summarise(plan, text)
    context.account = context.account.without_messages(plan.messages)
    after = context.account.tokens(tokens_of_chars(counted.chars + live.chars))
    summary = Summary(
        through_turn=plan.last_turn,
        turns=counted.summarised_turns,
        text=text,
        agent=agent_id,
        model=calls[-1].model,
        tokens_before=before,
        tokens_after=after,
    )
    return Compacted(summary, calls=tuple(calls))


async def _summarised(
    context: SessionContext,
    agent: Agent,
    plan: CompactionPlan,
    calls: list[ModelCall],
    cache_key: str,
) -> str:
    """Return the summary; of more than fits one request, part by part.

    Raises:
        AgentError: The agent cannot answer.
        ValueError: What it answered is no summary.
    """
    facts = agent.facts()
    most_chars = room_alone(context, facts)
    question = Message(Role.USER, instruction(plan.settings))
    text = ""
    for part in parts(context.counted, plan, most_chars):
        lead = (summary_message(text, plan.last_turn),) if text else ()
        completion = await agent.complete((*lead, *part, question), cache_key=cache_key)
        calls.append(replace(completion.call, purpose=CallPurpose.COMPACTION))
        text = check_summary(completion.text, plan.replaced_chars, plan.settings)
    return text
