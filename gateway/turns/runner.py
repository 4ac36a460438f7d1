"""One turn from its beginning to its commit: context, agent, one commit, one line in the log.

The pipeline above decides what runs when; a runner knows no queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from gateway.errors import StorageBusyError, StorageFullError, UnavailableError
from gateway.log import get_logger
from gateway.model import Message, Role
from gateway.sessions.policy import ResetPolicy
from gateway.transcripts import inbox
from gateway.transcripts.inbox import InboxRow
from gateway.turns.commit import TurnCommit, commit_turn, turn_facts
from gateway.turns.contexts import Contexts, cache_key
from gateway.turns.records import decode_reset, reset_text
from gateway.turns.running import MAX_RECOVERIES, given_up, reply_context, run_turn
from gateway.turns.ticket import Progress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from gateway.agents.base import Agent
    from gateway.clock import Clock
    from gateway.context.cache import CacheVerdict
    from gateway.durable.database import Database
    from gateway.model import AgentId, SessionKey
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.store import SessionStore
    from gateway.transcripts.accounts import ContextAccount
    from gateway.turns.ticket import ReplyContext

T = TypeVar("T")

LATE: Final = (
    "The answer cannot be stored at the moment. It is kept and will be there as soon as it can: "
    "send the same message id again."
)
RETRY_S: Final = 2.0
"""How long a turn waits before it tries again to be stored."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that is owed an answer, and who waits for it."""

    row: InboxRow
    progress: Progress
    accepted_at: float
    """Monotonic, in seconds."""


class TurnRunner:
    """Runs turns; of one session one at a time, which its caller sees to."""

    def __init__(
        self,
        database: Database,
        store: SessionStore,
        agents: Mapping[AgentId, Agent],
        clock: Clock,
        deadline_s: float,
    ) -> None:
        """Start knowing no session."""
        self._database = database
        self._store = store
        self._agents = agents
        self._clock = clock
        self.deadline_s = deadline_s
        """How long an agent may take; may be changed at any time."""
        self.on_stalled: Callable[[SessionKey], None] = lambda _: None
        """Called each time a turn could not be stored and waits to try again."""
        self.contexts = Contexts(database, clock)

    async def run(self, accepted: Accepted) -> str:
        """Run a turn, commit it, tell who waits, and return its status.

        Durability: on return reply, transcript and entry survive power loss together.
        """
        row, clock, began = accepted.row, self._clock, self._clock.monotonic()
        entry = await self._stored(accepted, lambda: self._entry(row))
        agent = self._agents.get(row.agent)
        reset = decode_reset(row.reset)
        notice = reset_text(row.session_key, reset)
        accepted.progress.add_text(notice)
        message = Message(Role.USER, row.text, turn_id=row.turn_id)
        context: ReplyContext | None = None
        account: ContextAccount | None = None
        verdicts: tuple[CacheVerdict, ...] = ()
        if agent is None or row.recoveries > MAX_RECOVERIES:
            outcome = given_up(row, accepted.progress)
        else:
            if row.recoveries:
                # Counted when it begins: what only waits while the gateway stops is not given up.
                await self._stored(accepted, lambda: self._note_recovery(row))
            request = await self.contexts.request(
                entry, agent, message, partial(self._stored, accepted)
            )
            outcome = await run_turn(
                agent,
                request,
                accepted.progress,
                clock,
                self.deadline_s,
                cache_key=cache_key(entry.session_id),
            )
            context = reply_context(outcome, request, agent, clock)
            verdicts = request.verdicts(outcome.calls)
            if outcome.status == "ok":
                account = request.account_after(outcome.calls, outcome.messages, verdicts)
        answered = clock.monotonic()
        commit = TurnCommit(
            row=row,
            session_id=entry.session_id,
            message=message,
            outcome=outcome,
            reset=reset,
            notice=notice,
            context=context,
            at=clock.now(),
            verdicts=verdicts,
            account=account,
        )
        reply = await self._stored(
            accepted, lambda: commit_turn(self._database, self._store, commit)
        )
        self.contexts.remember(commit)
        accepted.progress.finish(reply)
        get_logger().info(
            "turn.completed",
            **turn_facts(commit, reply),
            wait_ms=round((began - accepted.accepted_at) * 1000, 3),
            agent_ms=round((answered - began) * 1000, 3),
            commit_ms=round((clock.monotonic() - answered) * 1000, 3),
        )
        return outcome.status

    async def _stored(self, accepted: Accepted, write: Callable[[], Awaitable[T]]) -> T:
        """Store something of a turn, as often as it takes while the storage refuses for a time."""
        while True:
            try:
                return await write()
            except (StorageFullError, StorageBusyError) as error:
                accepted.progress.fail(UnavailableError(LATE))
                self.on_stalled(accepted.row.session_key)
                get_logger().warning(
                    "turn.waiting_for_storage", turn_id=accepted.row.turn_id, error=str(error)
                )
                await self._clock.sleep(RETRY_S)

    async def _note_recovery(self, row: InboxRow) -> None:
        await self._database.write(lambda transaction: inbox.note_recovery(transaction, row))

    async def _entry(self, row: InboxRow) -> SessionEntry:
        """Return the session of an accepted message as it is now that its turn begins."""
        entry = self._store.get(row.session_key)
        if entry is not None:
            return entry

        never = ResetPolicy()
        resolution = await self._store.resolve(row.session_key, row.source, never, lambda _: True)
        return resolution.entry
