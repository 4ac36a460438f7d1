"""The contexts of sessions from request to request: prepared, stored, remembered."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.context import mending
from gateway.context.cache import CachePolicy, cache_policy, is_cold
from gateway.context.estimate import estimate_context_chars
from gateway.context.live import shown, shrink
from gateway.context.settings import ContextSettings
from gateway.context.window import FILL
from gateway.errors import AgentError, AgentFailure, StorageBusyError, StorageFullError
from gateway.sessions.history import stamp
from gateway.transcripts import open_turns
from gateway.transcripts.pruned import instant
from gateway.turns.compacting import Compacted, compact
from gateway.turns.keeping import ContextKeeping, Made
from gateway.turns.memory import (
    MAX_CHARS,
    ContextMemory,
    SessionContext,
    load_context,
    readable_chars,
)
from gateway.turns.preparing import (
    Asking,
    Books,
    Live,
    Request,
    last_request,
    no_plan,
    plan_request,
    room_alone,
    room_for_turn,
)
from gateway.turns.telling import ContextTelling

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.agents.base import AgentFacts
    from gateway.clock import Clock
    from gateway.context.cache import LastRequest
    from gateway.durable.database import Database
    from gateway.model import Projection, SessionId
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
        self.keeping = ContextKeeping(database, sessions)
        """What requests rest on is stored by it."""
        self._clock = clock
        self._memory = ContextMemory()
        self.settings = ContextSettings()
        """May be changed at any time."""
        self.telling = ContextTelling(clock)
        """Whoever wants to know of contexts listens here."""

    def begin(self, session_id: SessionId) -> None:
        """Note a session in which nothing was said yet, so that nothing is read."""
        self._memory.keep(session_id, SessionContext(is_closed=True))

    def forget(self, session_id: SessionId) -> None:
        """Drop what is remembered of a session that is gone, or of which messages are.

        A request that is under way goes on with what it has; the next one is read anew.
        """
        self._memory.forget(session_id)

    async def close(self, session_id: SessionId) -> None:
        """Have what a caller left open answered with what says so: its turn does not go on.

        Durability: on return that survives power loss.
        """
        if self._memory.is_closed(session_id):
            return

        found = await self._database.read(lambda conn: open_turns.open_turn(conn, session_id))
        if found is not None and found.missing():
            at = stamp(self._clock.now())
            await self._database.write(lambda tx: open_turns.close(tx, session_id, at=at))
        self._memory.forget(session_id)

    async def request(self, asking: Asking) -> Request:
        """Return what is sent next, once what it rests on is stored.

        Durability: on return the projections and the summary in it survive power loss, and so do
        the counts of the turn's finished requests, unless the disk is full: then they wait for the
        next request or the commit. Where the daemon is killed before the next request, what the
        one under way is counted as is lost.
        Cancellation: what is not stored is forgotten, and found out anew.

        Raises:
            AgentError: It does not fit the window of an agent that stands in for another, or there
                is no summary since the provider is out of order.
        """
        with self._memory.in_hand(asking.entry.session_id):
            return await self._request(asking)

    async def compact(self, asking: Asking) -> Compacted:
        """Summarise all turns but the latest of a session, whether they fit or not.

        Durability: on return the summary survives power loss.
        """
        with self._memory.in_hand(asking.entry.session_id):
            return await self._compact(asking)

    async def _request(self, asking: Asking) -> Request:
        facts = asking.facts()
        context = await self._take(asking, facts)
        if asking.goes_on and not asking.shortened:
            made_before = context.counted.expected(asking.live[0].turn_id)
            asking = replace(asking, shortened=made_before)
        policy = cache_policy(self.settings, asking.agent_id, facts.model, facts.cache_ttl_s)
        books = self._books(asking, context)
        context.ask(facts.model)
        made, shortened, own = Made(), asking.shortened, asking.own
        if asking.stands_in:
            own = self._shorten_for_stand_in(context, asking, facts)
        else:
            shortened = self._shorten(made, context, asking, facts)
        live = Live.of(shown(asking.live, {**shortened, **own}), facts)
        if asking.stands_in or live.own_chars(facts) > room_alone(context, facts):
            # Nothing leaves for the sake of what is never sent, or of who does not stay.
            made.plans.append(no_plan(context))
        else:
            await self._change(made, context, asking, live, policy, books.last)
        await self._store(made, context, asking, policy)
        self.telling.counted(asking)
        if made.failure is not None:
            raise made.failure

        request = Request(
            messages=(*context.counted.messages, *live.messages),
            chars=context.counted.chars + live.chars,
            turns_left_out=context.counted.left_out_turns,
            fits=live.own_chars(facts) <= room_for_turn(context, facts),
            facts=facts,
            policy=policy,
            books=Books(context.account, None if made.has_summary else books.last, books.agent),
            shortened=shortened,
            own=own,
            posted=int(made.is_smaller),
        )
        if made.is_smaller:
            self.telling.smaller(made, asking, request)
        return request

    async def _compact(self, asking: Asking) -> Compacted:
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
            self.telling.estimated(asking, facts, done.summary.tokens_after)
        return done

    def remember(self, commit: TurnCommit, through: int) -> None:
        """Go on from a turn that was committed, whose last message is at a position."""
        self.telling.called(commit.outcome.calls)
        context = self._memory.take(commit.session_id)
        if context is None:
            return

        if commit.before and context.counted.ends_with(commit.turn_id):
            # It goes on for the second time, and was not asked for anything.
            return

        if commit.refused is not None:
            context.counted.expect(commit.refused)
        context.is_closed = not commit.outcome.open_calls()
        if context.is_closed:
            said = (*commit.before, *commit.messages())
            context.counted.extend(mending.sent(said, leads=False))
            if through:
                context.positions[commit.turn_id] = through
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
        live_turn = asking.live[0].turn_id if asking.live else None
        context = self._memory.take(session_id)
        if context is not None and live_turn and context.counted.ends_with(live_turn):
            context = None
        if context is None:
            max_chars = MAX_CHARS if asking.stands_in else readable_chars(facts.window_tokens)
            begun = asking.entry.cache_touched_at
            context = await load_context(
                self._database,
                session_id,
                max_chars=max_chars,
                live_turn=live_turn,
                counted_at=instant(begun) if begun is not None and asking.books is None else "",
            )
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
        self.telling.shortened(asking, new)
        return found

    def _shorten_for_stand_in(
        self, context: SessionContext, asking: Asking, facts: AgentFacts
    ) -> Mapping[str, Projection]:
        """Return what is made of the turn's own tool results for who stands in for another.

        It is sent the conversation as it is, and nothing is stored of what is made for it: what
        leaves a context leaves for good, and the other one will be back.

        Raises:
            AgentError: Its window has no room for this conversation.
        """
        live, sent = asking.live, {**asking.shortened, **asking.own}
        room = room_alone(context, facts) - context.counted.chars
        if estimate_context_chars(shown(live, sent)) <= room:
            return asking.own

        found = shrink(live, sent, int(FILL * max(0, room)), self.settings.pruning)
        if estimate_context_chars(shown(live, found)) > room:
            self._memory.keep(asking.entry.session_id, context)
            raise AgentError(
                f"{facts.model}: its window has no room for this conversation",
                failure=AgentFailure.OVERFLOW,
            )

        new = {item: one for item, one in found.items() if sent.get(item) != one}
        self.telling.shortened(asking, new.values())
        return {**asking.own, **new}

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
        facts, pruning = asking.facts(), self.settings.pruning
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
        left_out = context.leave_out(beyond) or context.left_out
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
        settings = self.settings.compaction
        made.compaction = await compact(context, asking, live, settings, room, self._clock)
        self.telling.compacted(asking, made.compaction)

    async def _store(
        self, made: Made, context: SessionContext, asking: Asking, policy: CachePolicy
    ) -> None:
        """Store what a request rests on and what was counted, and remember the context."""
        if asking.calls.unstored() or made.is_to_be_stored:
            made.dropped, at = list(context.dropped), stamp(self._clock.now())
            made.account = made.account_after(context.account, at)
            if await self._kept(made, asking, policy, at):
                context.account = made.account
                context.dropped.clear()
        self._memory.keep(asking.entry.session_id, context)

    async def _kept(self, made: Made, asking: Asking, policy: CachePolicy, at: str) -> bool:
        """Store it; False where no request rests on it, and it had better wait for the commit."""
        calls = asking.calls.unstored()
        write = partial(self.keeping.keep, asking, made, calls, policy, at)
        if made.is_to_be_stored:
            await asking.store(write)
        else:
            try:
                await write()
            except (StorageFullError, StorageBusyError):
                return False

        asking.calls.stored += len(calls)
        return True

    def _passing_failure(self, made: Made, asking: Asking) -> AgentError | None:
        """Return why there is no summary, if another try may make one."""
        error = None if made.compaction is None else made.compaction.error
        if error is None:
            return None

        # A provider that finds everything too large may not mean the size.
        again = asking.overflowed_chars is not None and error.failure is AgentFailure.OVERFLOW
        return error if again or error.failure in PASSING else None
