"""The contexts of sessions from request to request: prepared, committed, told, remembered."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from gateway.context.cache import CachePolicy, cache_policy, is_cold
from gateway.context.estimate import estimate_context_chars
from gateway.context.live import shown, shrink
from gateway.context.settings import ContextSettings
from gateway.context.window import FILL
from gateway.errors import AgentError, AgentFailure
from gateway.events import ContextPruned, Events
from gateway.log import get_logger
from gateway.model import (
    ContextMeasurement,
    ContextSource,
    Projection,
    ProjectionMode,
    SessionId,
    SessionKey,
)
from gateway.sessions.history import stamp
from gateway.turns.compacting import Compacted, compact
from gateway.turns.keeping import ContextKeeping, Made
from gateway.turns.memory import (
    MAX_CHARS,
    ContextMemory,
    SessionContext,
    leave_out,
    load_context,
    readable_chars,
)
from gateway.turns.preparing import (
    Asking,
    Books,
    Live,
    Plan,
    Request,
    last_request,
    no_plan,
    plan_request,
    room_alone,
    room_for_turn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.agents.base import AgentFacts
    from gateway.clock import Clock
    from gateway.context.cache import LastRequest
    from gateway.durable.database import Database
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.store import SessionStore
    from gateway.turns.commit import TurnCommit

PASSING: Final = frozenset({AgentFailure.RATE_LIMIT, AgentFailure.OUTAGE})
"""Failures of a provider that another try may not have."""
_SMALLER: Final = 0.5
"""What is left of a request that its provider found too large, whatever was estimated, ..."""
_LEAST_LEFT: Final = 0.25
"""... but of the context so much stays where the turn that runs has the most of it."""


class Contexts:
    """What is sent of each session; of one session one turn at a time, as its caller sees to."""

    def __init__(self, database: Database, sessions: SessionStore, clock: Clock) -> None:
        """Start knowing no session."""
        self._database = database
        self._keeping = ContextKeeping(database, sessions)
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
        self.compactions: Counter[str] = Counter()
        """Attempts to summarise old turns: `done`, `failed`."""

    def begin(self, session_id: SessionId) -> None:
        """Note a session in which nothing was said yet, so that nothing is read."""
        self._memory.keep(session_id, SessionContext())

    def forget(self, session_id: SessionId) -> None:
        """Drop what is remembered of a session that is gone."""
        self._memory.take(session_id)

    async def request(self, asking: Asking) -> Request:
        """Return what is sent next, once what it rests on is stored.

        Durability: on return the projections and the summary in it survive power loss.
        Cancellation: what is not stored is forgotten, and found out anew.

        Raises:
            AgentError: It does not fit the window of an agent that stands in for another.
        """
        facts = asking.agent.facts()
        context = await self._take(asking, facts)
        policy = cache_policy(self.settings, asking.agent_id, facts.model, facts.cache_ttl_s)
        books = self._books(asking, context)
        context.ask(facts.model)
        if asking.stands_in:
            return self._as_it_is(context, asking, facts, policy, books)

        made = Made()
        shortened = self._shorten(made, context, asking, facts)
        live = Live.of(shown(asking.live, shortened), facts)
        if live.own_chars(facts) <= room_alone(context, facts):
            await self._change(made, context, asking, live, policy, books.last)
        else:
            # Nothing leaves for the sake of what is never sent.
            made.plans.append(no_plan(context))
        await self._store(made, context, asking, policy)
        request = Request(
            messages=(*context.counted.messages, *live.messages),
            chars=context.counted.chars + live.chars,
            turns_left_out=context.counted.left_out_turns,
            fits=live.own_chars(facts) <= room_for_turn(context, facts),
            facts=facts,
            policy=policy,
            books=Books(context.account, None if made.has_summary else books.last, books.agent),
            shortened=shortened,
            posted=int(made.is_smaller),
        )
        if made.is_smaller:
            self._tell(made, asking, request)
        return request

    async def compact(self, asking: Asking) -> Compacted:
        """Summarise all turns but the latest of a session, whether they fit or not.

        Durability: on return the summary survives power loss.
        """
        facts = asking.agent.facts()
        context = await self._take(asking, facts)
        live = Live.of(asking.live, facts)
        policy = cache_policy(self.settings, asking.agent_id, facts.model, facts.cache_ttl_s)
        context.ask(facts.model)
        made = Made()
        await self._summarise(made, context, asking, live, room=None)
        await self._store(made, context, asking, policy)
        done = made.compaction or Compacted()
        if done.summary is not None:
            self._post(asking, facts, done.summary.tokens_after)
        return done

    def remember(self, commit: TurnCommit) -> None:
        """Go on from a turn that was committed."""
        self.verdicts.update(made.verdict.value for made in commit.outcome.calls)
        context = self._memory.take(commit.session_id)
        if context is None:
            return

        if commit.refused is not None:
            context.counted.expect(commit.refused)
        context.counted.extend(commit.messages())
        context.account = commit.account or context.account
        self._memory.keep(commit.session_id, context)

    def _books(self, asking: Asking, context: SessionContext) -> Books:
        """Return what was counted so far, as far as it says something of the agent's cache."""
        agent = asking.agent_id
        if asking.books is not None:
            return asking.books.of(agent)

        return Books(context.account, last_request(asking.entry, context.account, agent), agent)

    async def _take(self, asking: Asking, facts: AgentFacts) -> SessionContext:
        """Take the context out of the memory: a change that is not stored must not stay there."""
        session_id = asking.entry.session_id
        context = self._memory.take(session_id)
        if context is None:
            max_chars = MAX_CHARS if asking.stands_in else readable_chars(facts.window_tokens)
            context = await load_context(self._database, session_id, max_chars=max_chars)
        if asking.books is not None:
            context.account = asking.books.account
        return context

    def _shorten(
        self, made: Made, context: SessionContext, asking: Asking, facts: AgentFacts
    ) -> Mapping[str, Projection]:
        """Return what is made of the turn's own tool results for it to fit the window alone."""
        live, shortened = asking.live, asking.shortened
        room = room_for_turn(context, facts)
        chars, overflowed = estimate_context_chars(shown(live, shortened)), asking.overflowed_chars
        if overflowed is not None and chars + facts.overhead_chars > FILL * overflowed:
            # It would not help much if all the rest left.
            room = min(room, max(0, int(_SMALLER * overflowed) - facts.overhead_chars))
        if len(live) == 1 or chars <= room:
            return shortened

        found = shrink(live, shortened, int(FILL * room), self.settings.pruning)
        new = [one for item, one in found.items() if shortened.get(item) != one]
        made.projections += new
        for projection in new:
            # Once the turn is committed, its results are sent as they are now.
            context.counted.expect(projection)
        modes = Counter(projection.mode.value for projection in new)
        self.pruned.update(modes)
        get_logger().warning(
            "context.turn_shortened",
            session_key=asking.entry.session_key,
            session_id=asking.entry.session_id,
            trimmed=modes["trim"],
            cleared=modes["clear"],
        )
        return found

    def _as_it_is(
        self,
        context: SessionContext,
        asking: Asking,
        facts: AgentFacts,
        policy: CachePolicy,
        books: Books,
    ) -> Request:
        """Return what an agent is sent that stands in for another, for whom nothing is changed.

        What leaves a context leaves for good, and the other one will be back.
        """
        self._memory.keep(asking.entry.session_id, context)
        live = Live.of(shown(asking.live, asking.shortened), facts)
        counted = context.counted
        if counted.chars + live.own_chars(facts) > room_alone(context, facts):
            raise AgentError(
                f"{facts.model}: its window has no room for this conversation",
                failure=AgentFailure.OVERFLOW,
            )

        return Request(
            messages=(*counted.messages, *live.messages),
            chars=counted.chars + live.chars,
            turns_left_out=counted.left_out_turns,
            fits=True,
            facts=facts,
            policy=policy,
            books=Books(context.account, books.last, books.agent),
            shortened=asking.shortened,
        )

    async def _change(
        self,
        made: Made,
        context: SessionContext,
        asking: Asking,
        live: Live,
        policy: CachePolicy,
        last: LastRequest | None,
    ) -> None:
        """Make a context small enough for a request, and note what was done."""
        facts, pruning = asking.agent.facts(), self.settings.pruning
        most_chars = None
        if asking.overflowed_chars is not None:
            half = int(_SMALLER * asking.overflowed_chars) - live.chars
            most_chars = max(half, int(_LEAST_LEFT * context.counted.chars))
        cold = is_cold(last, facts.model, policy, self._clock.now())
        plan = partial(plan_request, context, facts, live, pruning, policy, most_chars=most_chars)
        made.plans.append(plan(cold=cold))
        if context.counted.chars > made.plan.room and self._compacts(facts):
            await self._summarise(made, context, asking, live, room=made.plan.room)
            if made.has_summary:
                # What is sent begins anew, so that a round breaks no cache.
                made.plans.append(plan(cold=True))
            else:
                made.failure = self._passing_failure(made, asking)
        made.projections += [
            change.projection for plan in made.plans for change in plan.round.changes
        ]
        beyond = made.plan.overflow
        if made.failure is not None:
            # What left now would leave for good, and the next message may do better.
            beyond = None
        if live.own_chars(facts) > room_for_turn(context, facts):
            # It is not sent beside the summary either.
            beyond = None
        if beyond is not None:
            context.account = context.account.without_messages(beyond.messages)
        left_out = leave_out(context.counted, beyond) or context.left_out
        if left_out is not None:
            made.projections.append(left_out)
            context.left_out = None

    def _compacts(self, facts: AgentFacts) -> bool:
        return facts.completes and self.settings.compaction.enabled

    async def _summarise(
        self,
        made: Made,
        context: SessionContext,
        asking: Asking,
        live: Live,
        *,
        room: int | None,
    ) -> None:
        """Put a summary in place of the oldest turns; room None: of all but the latest."""
        compaction = made.compaction = await compact(
            context,
            asking.agent_id,
            asking.agent,
            live,
            self.settings.compaction,
            room,
            cache_key=cache_key(asking.entry.session_id),
        )
        self.compactions["done" if made.has_summary else "failed"] += 1
        fields: dict[str, object] = {
            "session_key": asking.entry.session_key,
            "session_id": asking.entry.session_id,
            "agent": asking.agent_id,
            "model_calls": len(compaction.calls),
        }
        if compaction.summary is None:
            get_logger().warning("context.compaction_failed", **fields, reason=compaction.reason)
            return

        summary = compaction.summary
        get_logger().info(
            "context.compacted",
            **fields,
            turns=summary.turns,
            summary_chars=len(summary.text),
            tokens_before=summary.tokens_before,
            tokens_after=summary.tokens_after,
        )

    async def _store(
        self, made: Made, context: SessionContext, asking: Asking, policy: CachePolicy
    ) -> None:
        """Store what a request rests on, and remember the context from then on."""
        if made.projections or made.has_calls:
            made.dropped, at = list(context.dropped), stamp(self._clock.now())
            made.account = made.account_after(context.account, at)
            await asking.store(lambda: self._keeping.keep(asking, made, policy, at))
            context.account = made.account
            context.dropped.clear()
        self._memory.keep(asking.entry.session_id, context)
        if made.failure is not None:
            raise made.failure

    def _passing_failure(self, made: Made, asking: Asking) -> AgentError | None:
        """Return why there is no summary, if another try may make one."""
        error = None if made.compaction is None else made.compaction.error
        if error is None:
            return None

        # A provider that finds everything too large may not mean the size.
        again = asking.overflowed_chars is not None and error.failure is AgentFailure.OVERFLOW
        return error if again or error.failure in PASSING else None

    def _tell(self, made: Made, asking: Asking, request: Request) -> None:
        """Let dashboards, subscribers and the log know that a context got smaller."""
        after = request.estimated_tokens()
        self._post(asking, request.facts, after)
        for plan in made.rounds:
            last = plan is made.plan
            self._tell_round(plan, asking.entry, after if last else plan.tokens_after)

    def _post(self, asking: Asking, facts: AgentFacts, tokens: int) -> None:
        measurement = ContextMeasurement(
            tokens=tokens,
            window_tokens=facts.window_tokens,
            source=ContextSource.ESTIMATE,
            measured_at=self._clock.now(),
            step=asking.step,
        )
        self.post(asking.entry.session_key, asking.entry.session_id, measurement)

    def _tell_round(self, plan: Plan, entry: SessionEntry, tokens_after: int) -> None:
        done = plan.round
        event = ContextPruned(
            session_key=entry.session_key,
            session_id=entry.session_id,
            trimmed=done.count(ProjectionMode.TRIM),
            cleared=done.count(ProjectionMode.CLEAR),
            tool_names=tuple(done.tool_names()),
            tokens_before=plan.tokens_before,
            tokens_after=tokens_after,
        )
        self.rounds += 1
        self.pruned.update(trim=event.trimmed, clear=event.cleared)
        self.saved_tokens += done.saved_tokens
        self.saved_usd += plan.usd or 0.0
        get_logger().info(
            "context.pruned",
            **asdict(event),
            decision=done.decision.value,
            saved_tokens=done.saved_tokens,
            saved_usd=None if plan.usd is None else round(plan.usd, 6),
        )
        self.events.publish(event)


def cache_key(session_id: SessionId) -> str:
    """Return a name for a session's prompt cache that says nothing of who talks."""
    return sha256(session_id.encode()).hexdigest()[:32]
