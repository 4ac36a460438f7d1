"""What is stored before a request: what it rests on, and what the ones before were counted as."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.context.cache import CacheVerdict
from gateway.context.prices import call_usd
from gateway.errors import AgentError
from gateway.model import Projection, ProjectionMode, TurnId
from gateway.transcripts import accounts, projections, summaries
from gateway.transcripts.accounts import ContextAccount
from gateway.turns.compacting import Compacted
from gateway.turns.counting import is_counted, spending, store_calls
from gateway.turns.outcome import MadeCall
from gateway.turns.preparing import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.context.cache import CachePolicy
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.store import SessionStore
    from gateway.turns.preparing import Asking


@dataclass(slots=True)
class Made:
    """What is done for one request, to be stored before it is sent."""

    plans: list[Plan] = field(default_factory=list)
    """With one round each, in order."""
    projections: list[Projection] = field(default_factory=list)
    compaction: Compacted | None = None
    failure: AgentError | None = None
    """Why there is no request; what was done for it stays."""
    dropped: list[str] = field(default_factory=list)
    """Projections of turns that are not sent any more."""
    account: ContextAccount | None = None
    """Of the session, the rounds counted; None where nothing is stored."""

    @property
    def plan(self) -> Plan:
        """What was done last."""
        return self.plans[-1]

    @property
    def rounds(self) -> list[Plan]:
        """What changed tool results."""
        return [plan for plan in self.plans if plan.round.changes]

    @property
    def has_summary(self) -> bool:
        """Whether a new summary stands in place of turns."""
        return self.compaction is not None and self.compaction.summary is not None

    @property
    def is_to_be_stored(self) -> bool:
        """Whether the request rests on it, or a summary has cost something."""
        asked = self.compaction is not None and bool(self.compaction.calls)
        return asked or bool(self.projections)

    @property
    def is_smaller(self) -> bool:
        """Whether the context has shrunk but for turns that were left out."""
        return self.has_summary or bool(self.rounds)

    def account_after(self, account: ContextAccount, at: str) -> ContextAccount:
        """Return a session's account with the rounds in it."""
        for plan in self.rounds:
            account = account.with_round(
                trimmed=plan.round.count(ProjectionMode.TRIM),
                cleared=plan.round.count(ProjectionMode.CLEAR),
                saved_tokens=plan.round.saved_tokens,
                saved_usd=plan.usd,
                at=at,
            )
        return account


class ContextKeeping:
    """Writes, in one transaction a request."""

    def __init__(self, database: Database, sessions: SessionStore) -> None:
        """Write to the database that the sessions are in."""
        self._database = database
        self._sessions = sessions
        self.on_pruned: Callable[[Transaction, SessionEntry, Plan], None] | None = None
        """Called for each round, in the transaction that stores it; may be run again with it."""

    async def keep(
        self,
        asking: Asking,
        made: Made,
        calls: Sequence[MadeCall],
        policy: CachePolicy,
        at: str,
    ) -> None:
        """Store what was done for a request, and what was counted before it.

        Durability: on return it survives power loss, all of it together.

        Args:
            asking: Who is going to be sent what.
            made: What was done for it.
            calls: The turn's finished requests that are not stored yet.
            policy: What a summary costs.
            at: Now.
        """
        session_id, key = asking.entry.session_id, asking.entry.session_key
        compaction = made.compaction or Compacted()
        turn_id = asking.live[0].turn_id if asking.live else TurnId("")
        all_calls = [*calls, *_summary_calls(asking, compaction, policy)]

        def counted(entry: SessionEntry) -> SessionEntry:
            if entry.session_id != session_id:
                return entry

            changes = spending(entry, all_calls)
            if compaction.summary is not None:
                # Nothing of what the provider keeps begins as the next request does.
                changes["cache_touched_at"] = None
            return entry.changed(**changes)

        def work(transaction: Transaction) -> None:
            projections.keep(transaction, session_id, made.projections, at=at)
            projections.drop(transaction, session_id, made.dropped)
            if made.account is not None and (made.rounds or is_counted(calls)):
                accounts.keep(transaction, session_id, made.account)
            if compaction.summary is not None:
                summaries.keep(transaction, session_id, compaction.summary, at=at)
            store_calls(transaction, session_id, turn_id, asking.user, all_calls)
            if all_calls and self._sessions.has_staged(key):
                self._sessions.stage_update(transaction, key, counted)
            if self.on_pruned is not None:
                for plan in made.rounds:
                    self.on_pruned(transaction, asking.entry, plan)

        await self._database.write_through(work)


def _summary_calls(asking: Asking, compaction: Compacted, policy: CachePolicy) -> list[MadeCall]:
    return [
        MadeCall(
            asking.agent_id,
            call,
            CacheVerdict.UNKNOWN,
            call_usd(policy, call.usage) if call.usage else None,
        )
        for call in compaction.calls
    ]
