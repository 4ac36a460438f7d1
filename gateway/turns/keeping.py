"""What is stored before a request rests on it: rounds, turns left out, summaries and their cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.context.cache import CacheVerdict
from gateway.context.prices import call_usd
from gateway.errors import AgentError
from gateway.model import Projection, ProjectionMode, TurnId, Usage
from gateway.transcripts import accounts, projections, summaries, usage
from gateway.transcripts.accounts import ContextAccount
from gateway.transcripts.writing import append_model_calls
from gateway.turns.compacting import Compacted
from gateway.turns.preparing import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.context.cache import CachePolicy
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.model import ModelCall
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
    def has_calls(self) -> bool:
        """Whether a model was asked for one."""
        return self.compaction is not None and bool(self.compaction.calls)

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

    async def keep(self, asking: Asking, made: Made, policy: CachePolicy, at: str) -> None:
        """Store what was done for a request.

        Durability: on return it survives power loss, all of it together.
        """
        session_id, key = asking.entry.session_id, asking.entry.session_key
        compaction = made.compaction or Compacted()
        spent = sum((call.usage for call in compaction.calls if call.usage), start=Usage())

        def counted(entry: SessionEntry) -> SessionEntry:
            if entry.session_id != session_id:
                return entry

            return entry.changed(
                input_tokens=entry.input_tokens + spent.input_tokens,
                output_tokens=entry.output_tokens + spent.output_tokens,
                cache_read_tokens=entry.cache_read_tokens + spent.cache_read_tokens,
                cache_write_tokens=entry.cache_write_tokens + spent.cache_write_tokens,
                total_tokens=entry.total_tokens + spent.total_tokens,
                # Nothing of what the provider keeps begins as the next request does.
                cache_touched_at=None if compaction.summary else entry.cache_touched_at,
            )

        def work(transaction: Transaction) -> None:
            projections.keep(transaction, session_id, made.projections, at=at)
            projections.drop(transaction, session_id, made.dropped)
            if made.rounds and made.account is not None:
                accounts.keep(transaction, session_id, made.account)
            if compaction.summary is not None:
                summaries.keep(transaction, session_id, compaction.summary, at=at)
            if compaction.calls:
                self._keep_calls(transaction, asking, compaction.calls, policy)
                if self._sessions.has_staged(key):
                    self._sessions.stage_update(transaction, key, counted)

        await self._database.write_through(work)

    def _keep_calls(
        self,
        transaction: Transaction,
        asking: Asking,
        calls: Sequence[ModelCall],
        policy: CachePolicy,
    ) -> None:
        session_id, agent = asking.entry.session_id, asking.agent_id
        turn_id = asking.live[0].turn_id if asking.live else TurnId("")
        priced = [(call, call_usd(policy, call.usage) if call.usage else None) for call in calls]
        verdicts = [CacheVerdict.UNKNOWN] * len(calls)
        usd = [price for _, price in priced]
        append_model_calls(transaction, session_id, turn_id, agent, calls, verdicts, usd)
        usage.count(transaction, session_id, agent, asking.user, priced)
