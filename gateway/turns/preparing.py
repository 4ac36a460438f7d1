"""What is sent for a turn: the session's context, pruned where that pays, and small enough.

A round is committed before the request that uses it. Knows no agent's wire and runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.context.cache import (
    CachePolicy,
    CacheVerdict,
    LastRequest,
    is_cold,
    saved_usd,
    verdict,
)
from gateway.context.estimate import estimate_context_chars, message_chars, tokens_of_chars
from gateway.context.pruning import Decision, Round, Situation, plan_round
from gateway.context.window import Overflow, overflow, room_chars
from gateway.model import Message, Projection, ProjectionMode
from gateway.transcripts.accounts import ContextAccount
from gateway.turns.memory import SessionContext, leave_out

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from gateway.context.counted import CountedContext
    from gateway.context.settings import PruningSettings
    from gateway.model import ModelCall
    from gateway.sessions.entry import SessionEntry


_GUARDING_RATE: Final = 0.7
"""What guards a window counts at least so many tokens for each that is estimated."""


@dataclass(frozen=True, slots=True)
class Request:
    """What an agent is sent for a turn."""

    messages: tuple[Message, ...]
    """The context and the new message."""
    chars: int
    """Of all of it, the agent's own prompt included."""
    turns_left_out: int
    fits: bool
    """False where the new message alone is too large; an agent must not be asked then."""
    policy: CachePolicy
    last: LastRequest | None
    account: ContextAccount

    def estimated_tokens(self, answer: Sequence[Message] = ()) -> int:
        """Return the size of a request, as the provider would count it.

        Args:
            answer: What the turn has added to it since.
        """
        return self.account.tokens(tokens_of_chars(self.chars + estimate_context_chars(answer)))

    def verdicts(self, calls: Sequence[ModelCall]) -> tuple[CacheVerdict, ...]:
        """Return what became of each call of the turn at the provider's prompt cache."""
        found, last = [], self.last
        for call in calls:
            found.append(verdict(call.usage, last, call.model, self.policy, call.started_at))
            tokens = call.usage.context_tokens if call.usage is not None else 0
            last = LastRequest(call.started_at, call.model, tokens)
        return tuple(found)

    def account_after(
        self, calls: Sequence[ModelCall], answer: Sequence[Message], verdicts: Sequence[str]
    ) -> ContextAccount | None:
        """Return the account once the turn is done; None where nothing was counted.

        Args:
            calls: The calls of the turn.
            answer: What it adds to the transcript, the last answer included.
            verdicts: What became of the calls.
        """
        if not calls or calls[-1].usage is None:
            return None

        return self.account.with_request(
            calls[-1].model,
            tokens=calls[-1].usage.context_tokens,
            estimated=tokens_of_chars(self.chars + estimate_context_chars(answer[:-1])),
            verdict=verdicts[-1],
        )


def last_request(entry: SessionEntry, account: ContextAccount) -> LastRequest | None:
    """Return the last successful request of a session; None where there was none."""
    if entry.cache_touched_at is None:
        return None

    tokens = account.request_tokens if account.model == entry.model else 0
    return LastRequest(entry.cache_touched_at, entry.model, tokens)


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """What of an agent the size of a request depends on."""

    model: str
    window_tokens: int
    reserve_tokens: int
    overhead_chars: int
    """Of a request beside the messages: the system prompt."""
    cache_ttl_s: float | None = None
    """How long its provider keeps a prompt; None where that is not known."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to a context before a request; the round is done already."""

    round: Round
    overflow: Overflow | None
    """The turns that are to leave."""
    tokens_before: int
    """The size of the request had there been no round."""
    usd: float | None
    """What the round saves; None where no price is known, or where there was no round."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request, and what must be stored before it is sent."""

    request: Request
    projections: tuple[Projection, ...]
    """None for most turns."""
    plan: Plan


def plan_request(
    context: SessionContext,
    agent: AgentFacts,
    own_chars: int,
    settings: PruningSettings,
    policy: CachePolicy,
    *,
    cold: bool,
) -> Plan:
    """Prune a context, and find what does not fit.

    Args:
        context: The session's; it is changed.
        agent: Who is going to be asked.
        own_chars: Of what a request carries beside the context.
        settings: When a round is done.
        policy: What the provider's prompt cache costs.
        cold: Whether it has run out.
    """
    counted = context.counted
    account = context.account = context.account.of(agent.model)
    # A provider that tells too little must not switch off what guards the window.
    rate = max(_GUARDING_RATE, account.tokens_per_estimate)
    other_tokens = round(rate * tokens_of_chars(own_chars)) + max(0, account.overhead_tokens)
    room = max(0, room_chars(agent.window_tokens, agent.reserve_tokens, other_tokens, rate))
    where = Situation(agent.window_tokens, other_tokens, cold, rate, full=counted.chars > room)
    done = plan_round(counted, settings, where)
    tokens_before = account.tokens(tokens_of_chars(counted.chars + own_chars))
    done.apply(counted)
    beyond = overflow(counted, room)
    return Plan(done, beyond, tokens_before, _saved_usd(policy, counted, done, cold=cold))


def prepare(
    context: SessionContext,
    message: Message,
    agent: AgentFacts,
    settings: PruningSettings,
    policy: CachePolicy,
    last: LastRequest | None,
    now: datetime,
) -> Prepared:
    """Prune a context, leave out what does not fit, and return the request.

    The context is changed; it counts only once the projections are stored.
    """
    counted = context.counted
    own_chars = agent.overhead_chars + message_chars(message)
    fits = tokens_of_chars(own_chars) <= agent.window_tokens - agent.reserve_tokens
    skipped = Projection(message.turn_id, ProjectionMode.SKIP)
    if fits:
        cold = is_cold(last, agent.model, policy, now)
        plan = plan_request(context, agent, own_chars, settings, policy, cold=cold)
    else:
        # It is refused: nothing leaves for the sake of a message that is never sent.
        counted.skip(skipped)
        context.account = context.account.of(agent.model)
        plan = Plan(Round(Decision.NOTHING, counted.chars, counted.chars), None, 0, None)
    made = [skipped] if not fits else [change.projection for change in plan.round.changes]
    left_out = leave_out(counted, plan.overflow) or context.left_out
    if left_out is not None:
        made.append(left_out)
        context.left_out = None
    request = Request(
        messages=(*counted.messages, message),
        chars=counted.chars + own_chars,
        turns_left_out=counted.left_out_turns,
        fits=fits,
        policy=policy,
        last=last,
        account=context.account,
    )
    return Prepared(request, tuple(made), plan)


def _saved_usd(
    policy: CachePolicy, counted: CountedContext, plan: Round, *, cold: bool
) -> float | None:
    if not plan.changes:
        return None

    behind = tokens_of_chars(sum(counted.sizes[plan.changes[0].place :]))
    behind = round(behind * plan.tokens_per_estimate)
    return saved_usd(policy, saved_tokens=plan.saved_tokens, kept_tokens=behind, cold=cold)
