"""What is sent to an agent: the session's context, pruned where that pays, and small enough.

Decides and changes a context in memory; whoever asks stores the changes before the request is sent.
Knows no agent's wire and runs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from math import ceil
from typing import TYPE_CHECKING

from gateway.agents.base import Agent, AgentFacts
from gateway.context.cache import CachePolicy, LastRequest, saved_usd
from gateway.context.estimate import estimate_context_chars, tokens_of_chars
from gateway.context.pruning import Decision, Round, Situation, plan_round
from gateway.context.window import Overflow, overflow, room_chars
from gateway.model import AgentId, ContextMeasurement, Message, Projection
from gateway.sessions.entry import SessionEntry
from gateway.transcripts.accounts import ContextAccount
from gateway.turns.counting import TurnCalls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.context.counted import CountedContext
    from gateway.context.settings import PruningSettings
    from gateway.model import SessionId
    from gateway.turns.memory import SessionContext


@dataclass(frozen=True, slots=True)
class Books:
    """What was counted of a session's requests so far."""

    account: ContextAccount
    last: LastRequest | None
    """The last successful request; None where there was none, or where none of it is left."""
    agent: str = ""
    """Who made it."""

    def of(self, agent: str) -> Books:
        """Return what of them counts for the requests of an agent: its cache is its own."""
        return self if agent == self.agent else Books(self.account, None, agent)


@dataclass(frozen=True, slots=True)
class Request:
    """What an agent is sent."""

    messages: tuple[Message, ...]
    """The context, the user's message, and what the turn has added since."""
    chars: int
    """Of all of it, the agent's own prompt included."""
    turns_left_out: int
    """Oldest turns of which nothing is sent but their summary, if there is one."""
    fits: bool
    """False where what the turn has said alone is too large; an agent must not be asked then."""
    facts: AgentFacts
    """Of the agent that it is meant for."""
    policy: CachePolicy
    books: Books
    shortened: Mapping[str, Projection]
    """What was made of the turn's own tool results, by item; empty for most."""
    own: Mapping[str, Projection]
    """What was made of them beside that for an agent that stands in for another."""
    posted: int = 0
    """How many sizes dashboards were told ahead of it."""

    @property
    def estimated(self) -> int:
        """Its size at the usual characters a token."""
        return tokens_of_chars(self.chars)

    def estimated_tokens(self) -> int:
        """Return its size as the provider would count it."""
        return self.books.account.tokens(self.estimated)


Store = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
"""Stores something, as often as it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Who is going to be sent what."""

    entry: SessionEntry
    """As it was when the turn began."""
    user: str
    """Whose usage a summary is."""
    agent_id: AgentId
    agent: Agent
    live: tuple[Message, ...]
    """The user's message and what the turn has added since; empty where no turn runs."""
    books: Books | None
    """What was counted in this turn so far; None before its first request."""
    shortened: Mapping[str, Projection]
    """What was made of the turn's own tool results so far, by item."""
    own: Mapping[str, Projection]
    """What was made of them beside that for this agent alone, which stands in; never stored."""
    calls: TurnCalls
    """The turn's finished requests."""
    counted: ContextMeasurement | None
    """What a provider counted of the last one, where that was not told yet."""
    store: Store
    step: int
    """Number of the next measurement of the session, after `counted`."""
    summary_s: float
    """How long a summary may take, in seconds; one that takes longer has failed."""
    asked_chars: int = 0
    """What the caller's instructions and tools take."""
    goes_on: bool = False
    """Whether `live` begins with what the turn said before its caller brought results."""
    overflowed_chars: int | None = None
    """The size of the last request, if its provider found it too large."""

    def facts(self) -> AgentFacts:
        """Return the facts of the agent with what the caller adds to each request."""
        facts = self.agent.facts()
        return replace(facts, overhead_chars=facts.overhead_chars + self.asked_chars)

    @property
    def stands_in(self) -> bool:
        """Whether the agent answers in place of the session's own."""
        return self.agent_id != self.entry.agent


def cache_key(session_id: SessionId) -> str:
    """Return a name for a session's prompt cache that says nothing of who talks."""
    return sha256(session_id.encode()).hexdigest()[:32]


def last_request(entry: SessionEntry, account: ContextAccount, agent: str) -> LastRequest | None:
    """Return the last successful request of a session by an agent; None where there was none."""
    if entry.cache_touched_at is None or agent != (entry.cache_agent or entry.agent):
        return None

    tokens = account.request_tokens if account.model == entry.model else 0
    return LastRequest(entry.cache_touched_at, entry.model, tokens)


@dataclass(frozen=True, slots=True)
class Live:
    """What a request carries beside the context: the turn that runs, and the agent's own."""

    messages: tuple[Message, ...]
    """The user's, and what the turn has added since; empty where no turn runs."""
    chars: int

    @classmethod
    def of(cls, messages: Sequence[Message], facts: AgentFacts) -> Live:
        """Return the turn's messages with what an agent adds to them."""
        return cls(tuple(messages), facts.overhead_chars + estimate_context_chars(messages))

    def own_chars(self, facts: AgentFacts) -> int:
        """Return the characters of the turn alone."""
        return self.chars - facts.overhead_chars


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to a context before a request; the round is done already."""

    round: Round
    room: int
    """How many characters of context the window has room for."""
    overflow: Overflow | None
    """The turns that are to leave."""
    tokens_before: int
    """The size of the request had there been no round."""
    tokens_after: int
    """Its size with it, before turns leave."""
    usd: float | None
    """What the round saves; None where no price is known, or where there was no round."""


def plan_request(
    context: SessionContext,
    facts: AgentFacts,
    live: Live,
    settings: PruningSettings,
    policy: CachePolicy,
    *,
    cold: bool,
    most_chars: int | None = None,
) -> Plan:
    """Prune a context, and find what does not fit.

    Args:
        context: The session's; it is changed.
        facts: Of who is going to be asked.
        live: What the request carries beside the context.
        settings: When a round is done.
        policy: What the provider's prompt cache costs.
        cold: Whether it has run out.
        most_chars: More context than this does not fit, whatever is estimated.
    """
    counted = context.counted
    account = context.account = context.account.of(facts.model)
    rate, other_tokens = account.guarding_rate, needed_tokens(account, facts, live.chars)
    room = max(0, room_chars(facts.window_tokens, facts.reserve_tokens, other_tokens, rate))
    if most_chars is not None:
        room = min(room, max(0, most_chars))
    where = Situation(facts.window_tokens, other_tokens, cold, rate, full=counted.chars > room)
    done = plan_round(counted, settings, where)
    tokens_before = account.tokens(tokens_of_chars(counted.chars + live.chars))
    done.apply(counted)
    beyond = overflow(counted, room)
    tokens_after = account.tokens(tokens_of_chars(counted.chars + live.chars))
    usd = _saved_usd(policy, counted, done, cold=cold)
    return Plan(done, room, beyond, tokens_before, tokens_after, usd)


def no_plan(context: SessionContext) -> Plan:
    """Return the plan of a request that is not made: nothing leaves for its sake."""
    chars = context.counted.chars
    return Plan(Round(Decision.NOTHING, chars, chars), 0, None, 0, 0, None)


def room_alone(context: SessionContext, facts: AgentFacts) -> int:
    """Return how many characters a turn may have if nothing else is sent."""
    account = context.account.of(facts.model)
    own_tokens = needed_tokens(account, facts, facts.overhead_chars)
    rate = account.guarding_rate
    return max(0, room_chars(facts.window_tokens, facts.reserve_tokens, own_tokens, rate))


def room_for_turn(context: SessionContext, facts: AgentFacts) -> int:
    """Return how many characters a turn may have beside the summary, which never leaves."""
    counted = context.counted
    return room_alone(context, facts) - sum(counted.sizes[: counted.begins])


def needed_tokens(account: ContextAccount, facts: AgentFacts, chars: int) -> int:
    """Return how much of a window is surely taken by so many characters and what comes with them.

    A constant that leaves little of the window was taken from a count that is not believed: else
    nothing could be sent any more.
    """
    half = (facts.window_tokens - facts.reserve_tokens) // 2
    constant = min(max(0, account.overhead_tokens), half)
    return ceil(account.guarding_rate * tokens_of_chars(chars)) + constant


def _saved_usd(
    policy: CachePolicy, counted: CountedContext, plan: Round, *, cold: bool
) -> float | None:
    if not plan.changes:
        return None

    behind = tokens_of_chars(sum(counted.sizes[plan.changes[0].place :]))
    behind = round(behind * plan.tokens_per_estimate)
    return saved_usd(policy, saved_tokens=plan.saved_tokens, kept_tokens=behind, cold=cold)
