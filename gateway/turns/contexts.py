"""The contexts of sessions from turn to turn: prepared, committed, told, remembered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from gateway.context.cache import cache_policy
from gateway.context.estimate import CHARS_PER_TOKEN_ESTIMATE
from gateway.context.settings import ContextSettings
from gateway.events import ContextPruned, Events
from gateway.log import get_logger
from gateway.model import (
    ContextMeasurement,
    ContextSource,
    ProjectionMode,
    SessionId,
    SessionKey,
)
from gateway.sessions.history import stamp
from gateway.transcripts import accounts, projections
from gateway.transcripts.accounts import LEAST_RATE
from gateway.turns.memory import ContextMemory, SessionContext, load_context
from gateway.turns.preparing import AgentFacts, Prepared, Request, last_request, prepare

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.agents.base import Agent
    from gateway.clock import Clock
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.model import Message
    from gateway.sessions.entry import SessionEntry
    from gateway.turns.commit import TurnCommit

Store = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
"""Stores something, as often as it takes."""


class Contexts:
    """What is sent of each session; of one session one turn at a time, as its caller sees to."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Start knowing no session."""
        self._database = database
        self._clock = clock
        self._memory = ContextMemory()
        self.settings = ContextSettings()
        """May be changed at any time."""
        self.events = Events()
        self.post: Callable[[SessionKey, SessionId, ContextMeasurement], None] = (
            lambda _key, _session_id, _measurement: None
        )
        """Called with a context's new size after a round; it must neither wait nor raise."""
        self.verdicts: Counter[str] = Counter()
        """Model calls by what became of them at the provider's prompt cache."""
        self.pruned: Counter[str] = Counter()
        """Tool results by what rounds made of them: `trim`, `clear`."""
        self.rounds = 0
        self.saved_tokens = 0
        """What rounds took out of contexts, estimated."""
        self.saved_usd = 0.0

    def begin(self, session_id: SessionId) -> None:
        """Note a session in which nothing was said yet, so that nothing is read."""
        self._memory.keep(session_id, SessionContext())

    def forget(self, session_id: SessionId) -> None:
        """Drop what is remembered of a session that is gone."""
        self._memory.take(session_id)

    async def request(
        self, entry: SessionEntry, agent: Agent, message: Message, store: Store
    ) -> Request:
        """Return what is sent for a turn, once what it rests on is stored.

        Durability: on return the projections in it survive power loss.
        """
        session_id, now = entry.session_id, self._clock.now()
        context = self._memory.take(session_id)
        if context is None:
            # So much of a context that a provider counts as little as it can.
            max_chars = int(agent.context_window_tokens * CHARS_PER_TOKEN_ESTIMATE / LEAST_RATE)
            context = await load_context(self._database, session_id, max_chars=max_chars)
        facts = AgentFacts(
            model=agent.model,
            window_tokens=agent.context_window_tokens,
            reserve_tokens=agent.reserve_tokens,
            overhead_chars=agent.overhead_chars(),
            cache_ttl_s=agent.cache_ttl_s,
        )
        policy = cache_policy(self.settings, entry.agent, agent.model, agent.cache_ttl_s)
        last = last_request(entry, context.account)
        made = prepare(context, message, facts, self.settings.pruning, policy, last, now)
        if made.projections:
            await store(lambda: self._keep(session_id, context, made, now))
        self._memory.keep(session_id, context)
        if made.plan.round.changes:
            self._tell(entry, agent, made, now)
        # The account of the round goes on from here.
        return replace(made.request, account=context.account)

    def remember(self, commit: TurnCommit) -> None:
        """Go on from a turn that was committed."""
        self.verdicts.update(commit.verdicts)
        context = self._memory.take(commit.session_id)
        if context is None:
            return

        context.counted.extend(commit.messages())
        context.account = commit.account or context.account
        self._memory.keep(commit.session_id, context)

    async def _keep(
        self, session_id: SessionId, context: SessionContext, made: Prepared, now: datetime
    ) -> None:
        at, done, account = stamp(now), made.plan.round, context.account
        if done.changes:
            account = account.with_round(
                trimmed=done.count(ProjectionMode.TRIM),
                cleared=done.count(ProjectionMode.CLEAR),
                saved_tokens=done.saved_tokens,
                saved_usd=made.plan.usd,
                at=at,
            )

        def work(transaction: Transaction) -> None:
            projections.keep(transaction, session_id, made.projections, at=at)
            if done.changes:
                accounts.keep(transaction, session_id, account)

        await self._database.write_through(work)
        context.account = account

    def _tell(self, entry: SessionEntry, agent: Agent, made: Prepared, now: datetime) -> None:
        """Let dashboards, subscribers and the log know of a round."""
        done, after = made.plan.round, made.request.estimated_tokens()
        measurement = ContextMeasurement(
            tokens=after,
            window_tokens=agent.context_window_tokens,
            source=ContextSource.ESTIMATE,
            measured_at=now,
            step=entry.context_step + 1,
        )
        self.post(entry.session_key, entry.session_id, measurement)
        event = ContextPruned(
            session_key=entry.session_key,
            session_id=entry.session_id,
            trimmed=done.count(ProjectionMode.TRIM),
            cleared=done.count(ProjectionMode.CLEAR),
            tool_names=tuple(done.tool_names()),
            tokens_before=made.plan.tokens_before,
            tokens_after=after,
        )
        self.rounds += 1
        self.pruned.update(trim=event.trimmed, clear=event.cleared)
        self.saved_tokens += done.saved_tokens
        self.saved_usd += made.plan.usd or 0.0
        get_logger().info(
            "context.pruned",
            **asdict(event),
            decision=done.decision.value,
            saved_tokens=done.saved_tokens,
            saved_usd=None if made.plan.usd is None else round(made.plan.usd, 6),
        )
        self.events.publish(event)


def cache_key(session_id: SessionId) -> str:
    """Return a name for a session's prompt cache that says nothing of who talks."""
    return sha256(session_id.encode()).hexdigest()[:32]
