"""One turn from its beginning to its commit: context, agent, one commit, one line in the log.

The pipeline above decides what runs when; a runner knows no queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from gateway.errors import (
    ConflictError,
    NotFoundError,
    StorageBusyError,
    StorageFullError,
    UnavailableError,
)
from gateway.log import get_logger
from gateway.model import Message, Role
from gateway.sessions.policy import ResetPolicy
from gateway.transcripts import inbox, projections
from gateway.transcripts.inbox import InboxRow
from gateway.turns.approvals import Approvals
from gateway.turns.budgets import Budgets, user_of
from gateway.turns.commit import TurnCommit, commit_turn, turn_facts
from gateway.turns.contexts import Contexts
from gateway.turns.live import LiveTurn, TurnServices
from gateway.turns.outcome import Outcome
from gateway.turns.preparing import Asking
from gateway.turns.records import decode_reset, reset_text
from gateway.turns.running import MAX_RECOVERIES, Answering, given_up, run_turn
from gateway.turns.ticket import Progress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.clock import Clock
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.model import SessionKey
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.store import SessionStore
    from gateway.turns.compacting import Compacted
    from gateway.turns.settings import TurnSettings

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
        answering: Answering,
        clock: Clock,
        settings: TurnSettings,
    ) -> None:
        """Start knowing no session."""
        self._database = database
        self._store = store
        self._clock = clock
        self.answering = answering
        self.deadline_s = settings.turn_deadline_s
        """How long a turn may take; may be changed at any time."""
        self.on_stalled: Callable[[SessionKey], None] = lambda _: None
        """Called each time a turn could not be stored and waits to try again."""
        self.contexts = Contexts(database, store, clock)
        self.approvals = Approvals(clock, settings.approval_timeout_s)
        self.budgets = Budgets(database, clock)
        self._services = TurnServices(self.contexts, self.approvals, self.budgets, clock)

    async def run(self, accepted: Accepted) -> str:
        """Run a turn, commit it, tell who waits, and return its status.

        Durability: on return reply, transcript and entry survive power loss together.
        """
        row, clock, began = accepted.row, self._clock, self._clock.monotonic()
        entry = await self._stored(accepted, lambda: self._entry(row))
        reset = decode_reset(row.reset)
        notice = reset_text(row.session_key, reset)
        accepted.progress.add_text(notice)
        message = Message(Role.USER, row.text, turn_id=row.turn_id)
        user = user_of(row.source)
        turn: LiveTurn | None = None
        if row.agent not in self.answering.agents or row.recoveries > MAX_RECOVERIES:
            outcome = given_up(row, accepted.progress)
        else:
            if row.recoveries:
                # Counted when it begins: what only waits while the gateway stops is not given up.
                await self._stored(accepted, lambda: self._note_recovery(row, entry))
            outcome = Outcome(accepted.progress, row.turn_id)
            store = partial(self._stored, accepted)
            turn = LiveTurn(self._services, entry, user, message, outcome, store)
            await run_turn(turn, row.agent, self.answering, clock, self.deadline_s)
        answered = clock.monotonic()
        commit = TurnCommit(
            row=row,
            session_id=entry.session_id,
            message=message,
            outcome=outcome,
            reset=reset,
            notice=notice,
            context=None if turn is None else turn.measured(),
            at=clock.now(),
            user=user,
            account=None if turn is None else turn.account,
            refused=None if turn is None else turn.refused,
            posted=0 if turn is None else turn.posted,
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

    async def compact(self, key: SessionKey) -> Compacted:
        """Summarise all turns of a session but the latest, of which none may run meanwhile.

        Durability: on return the summary survives power loss.

        Raises:
            NotFoundError: there is no such session.
            ConflictError: its agent cannot summarise, or may not.
        """
        entry = self._store.get(key)
        if entry is None:
            raise NotFoundError("There is no such session.")

        agent = self.answering.agents.get(entry.agent)
        if agent is None or not agent.facts().completes:
            raise ConflictError(f"No agent {entry.agent!r} runs here that can summarise.")

        if not self.contexts.settings.compaction.enabled:
            raise ConflictError("context.compaction.enabled is false: nothing is summarised.")

        return await self.contexts.compact(
            Asking(
                entry=entry,
                user=user_of(entry.source),
                agent_id=entry.agent,
                agent=agent,
                live=(),
                books=None,
                shortened={},
                store=_once,
                step=entry.context_step + 1,
            )
        )

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

    async def _note_recovery(self, row: InboxRow, entry: SessionEntry) -> None:
        def work(transaction: Transaction) -> None:
            inbox.note_recovery(transaction, row)
            projections.drop_of_turn(transaction, entry.session_id, row.turn_id)

        await self._database.write(work)

    async def _entry(self, row: InboxRow) -> SessionEntry:
        """Return the session of an accepted message as it is now that its turn begins."""
        entry = self._store.get(row.session_key)
        if entry is not None:
            return entry

        never = ResetPolicy()
        resolution = await self._store.resolve(row.session_key, row.source, never, lambda _: True)
        return resolution.entry


async def _once(write: Callable[[], Awaitable[None]]) -> None:
    await write()
