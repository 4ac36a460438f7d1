"""One turn from its beginning to its commit: context, agent, one commit, one line in the log.

The pipeline above decides what runs when; a runner knows no queue.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from gateway.access.settings import WITHOUT_COMMANDS
from gateway.errors import (
    ConflictError,
    NotFoundError,
    RefusedError,
    StorageBusyError,
    StorageFullError,
    UnavailableError,
)
from gateway.log import get_logger
from gateway.model import Message, Role, SessionId, Usage
from gateway.sessions.policy import ResetPolicy
from gateway.transcripts import inbox, projections
from gateway.transcripts.inbox import Ending, InboxRow, Origin
from gateway.transcripts.open_turns import open_turn
from gateway.turns.approvals import Approvals
from gateway.turns.brought import asked_of
from gateway.turns.budgets import Budgets, user_of
from gateway.turns.commit import TurnCommit, commit_turn, turn_facts
from gateway.turns.contexts import Contexts
from gateway.turns.counting import TurnCalls
from gateway.turns.live import LiveTurn, TurnServices
from gateway.turns.outcome import Outcome
from gateway.turns.preparing import Asking
from gateway.turns.records import decode_reset, reset_text
from gateway.turns.restarts import clear
from gateway.turns.running import Answering, interrupt, run_turn, unanswerable
from gateway.turns.settings import Interrupted
from gateway.turns.ticket import Progress, Told

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.clock import Clock
    from gateway.durable.database import Database
    from gateway.model import SessionKey
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.store import SessionStore
    from gateway.turns.compacting import Compacted
    from gateway.turns.hooks import Hooks
    from gateway.turns.settings import TurnSettings

T = TypeVar("T")

LATE: Final = (
    "The answer cannot be stored at the moment. It is kept and will be there as soon as it can: "
    "send the same message id again."
)
RETRY_S: Final = 2.0
"""How long a turn waits before it tries again to be stored."""


@dataclass(slots=True)
class Accepted:
    """A message that is owed an answer, and who waits for it."""

    row: InboxRow
    progress: Progress
    accepted_at: float
    """Monotonic, in seconds."""
    ended: Ending | None = None
    """Why no agent answers it any more; None while one does or will."""
    begun: bool = False
    """Whether its turn has begun: from then on the message reads as it does."""
    changing: anyio.Lock = field(default_factory=lambda: anyio.Lock(fast_acquire=True))
    """Held while it is changed, and when its turn begins."""
    answering: anyio.CancelScope | None = None
    """Around the agents, while they answer."""
    session_id: SessionId | None = None
    """The conversation it is answered in; None until its turn has begun."""

    def end(self, why: Ending) -> None:
        """Let no agent answer it any more, as is stored already."""
        self.ended = self.ended or why
        if self.answering is not None:
            self.answering.cancel()


class TurnRunner:
    """Runs turns; of one session one at a time, which its caller sees to."""

    def __init__(
        self,
        database: Database,
        store: SessionStore,
        answering: Answering,
        clock: Clock,
        settings: TurnSettings,
        hooks: Hooks,
    ) -> None:
        """Start knowing no session."""
        self._hooks = hooks
        self._database = database
        self._store = store
        self._clock = clock
        self.answering = answering
        self.deadline_s = settings.turn_deadline_s
        """How long a turn may take; may be changed at any time."""
        self.reruns = settings.interrupted is Interrupted.RERUN
        """Whether a turn that a stop of the gateway cut off runs again; may be changed as well."""
        self.suspects: set[SessionKey] = set()
        """Sessions that broke starts; an answered turn ends that."""
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
        await self._begin(accepted)
        session_id, entry = await self._stored(accepted, lambda: self._session(accepted))
        accepted.session_id = session_id
        before = await self._stored(accepted, lambda: self._said_before(accepted, session_id))
        asked = asked_of(row)
        reset = decode_reset(row.reset)
        commands = row.source.platform not in WITHOUT_COMMANDS
        notice = reset_text(reset, commands=commands)
        if asked.wishes.response_format is not None:
            # A program reads the answer.
            notice = ""
        accepted.progress.add_text(Told(notice))
        message = Message(Role.USER, row.text, turn_id=row.turn_id)
        user, turn_id = user_of(row.source), row.continues or row.turn_id
        outcome = Outcome(accepted.progress, turn_id, asked=asked)
        turn: LiveTurn | None = None
        if entry is not None and row.origin is not Origin.COMPACT:
            store, deadline_s = partial(self._stored, accepted), self.deadline_s
            opening = before or (message,)
            turn = LiveTurn(self._services, entry, row.source, opening, outcome, store, deadline_s)
        if accepted.ended is None:
            await self._answer(accepted, session_id, outcome, turn)
        else:
            interrupt(outcome, accepted.ended)
        answered = clock.monotonic()
        commit = TurnCommit(
            row=row,
            session_id=session_id,
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
            lead=_lead(row, outcome),
            stored_calls=0 if turn is None else turn.stored_calls,
            retracted=accepted.ended is Ending.RETRACTED,
            before=before,
        )
        on_commit = self._hooks.on_commit
        reply, through = await self._stored(
            accepted, lambda: commit_turn(self._database, self._store, commit, on_commit)
        )
        self.contexts.remember(commit, through)
        accepted.progress.finish(reply)
        self._hooks.on_replied(row.source)
        if row.session_key in self.suspects and outcome.status == "ok":
            self.suspects.discard(row.session_key)
            await self._stored(accepted, lambda: clear(self._database, row.session_key))
        get_logger().info(
            "turn.completed",
            **turn_facts(commit, reply),
            wait_ms=round((began - accepted.accepted_at) * 1000, 3),
            agent_ms=round((answered - began) * 1000, 3),
            commit_ms=round((clock.monotonic() - answered) * 1000, 3),
        )
        return outcome.status

    async def _answer(
        self, accepted: Accepted, session_id: SessionId, outcome: Outcome, turn: LiveTurn | None
    ) -> None:
        """Let a message be answered, unless no agent may be asked; whatever comes is an outcome."""
        row = accepted.row
        known_agent = row.agent in self.answering.agents
        refused = unanswerable(row, known_agent=known_agent, rerun=self.reruns)
        if refused is not None:
            outcome.fail(*refused, "given up")
            return

        if row.recoveries:
            await self._stored(accepted, lambda: self._forget_shortened(row, session_id))
        with anyio.CancelScope() as accepted.answering:
            if accepted.ended is not None:
                accepted.answering.cancel()
            if turn is None:
                await self._tell_compaction(row, outcome)
            else:
                await run_turn(turn, row.agent, self.answering, self._clock, self.deadline_s)
        if accepted.answering.cancelled_caught and accepted.ended is not None:
            interrupt(outcome, accepted.ended)
        accepted.answering = None

    async def _tell_compaction(self, row: InboxRow, outcome: Outcome) -> None:
        """Have the session's old turns summarised, as its user asked for."""
        try:
            await self._check_budgets(row)
            done = await self.compact(row.session_key)
        except RefusedError as error:
            outcome.tell(str(error))
            return

        if done.summary is not None:
            before, after = done.summary.tokens_before, done.summary.tokens_after
            outcome.tell(
                f"{done.summary.turns} turns are summarised: about {after:,} tokens are sent now "
                f"instead of {before:,}."
            )
        elif done.error is not None:
            outcome.tell("The summary failed; nothing was changed.")
        else:
            outcome.tell(f"Nothing was changed: {done.reason}.")

    async def _check_budgets(self, row: InboxRow) -> None:
        """Refuse a summary that a user asks for whose budget is used up."""
        used_up = await self.budgets.check(row.session_id, user_of(row.source), Usage())
        if used_up is not None:
            raise ConflictError(used_up)

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
            raise ConflictError(f"The agent {entry.agent} cannot summarise.")

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
                own={},
                calls=TurnCalls([]),
                counted=None,
                store=_once,
                step=entry.context_step + 1,
                summary_s=self.deadline_s,
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

    async def _begin(self, accepted: Accepted) -> None:
        """Note and tell that a turn begins.

        Before all else, so that the next start knows of it whatever it breaks; but not before it
        begins: what only waits while the gateway stops has not run.
        """
        row = accepted.row
        if accepted.ended is None and (row.recoveries or not row.begun):
            await self._stored(accepted, lambda: self._note_begun(row))
        if accepted.ended is None:
            self._hooks.on_begun(row, accepted.progress)

    async def _note_begun(self, row: InboxRow) -> None:
        await self._database.write(lambda transaction: inbox.note_begun(transaction, row))

    async def _forget_shortened(self, row: InboxRow, session_id: SessionId) -> None:
        """Forget what was shortened of a turn that was cut off: it runs anew."""
        turn_id = row.continues or row.turn_id
        await self._database.write(
            lambda transaction: projections.drop_of_turn(transaction, session_id, turn_id)
        )

    async def _session(self, accepted: Accepted) -> tuple[SessionId, SessionEntry | None]:
        """Return the session of a message now that its turn begins, and its entry if it needs one.

        What no agent answers stays in the conversation that it was accepted in.
        """
        row = accepted.row
        entry = self._store.get(row.session_key)
        if entry is None and row.origin is Origin.PROCESS:
            # Nobody is here any more who might be told.
            accepted.ended = accepted.ended or Ending.NEW
        if row.continues and (entry is None or entry.session_id != row.session_id):
            # What its results are for was left.
            accepted.ended = accepted.ended or Ending.NEW
        if accepted.ended is not None and row.session_id:
            return row.session_id, None
        if entry is not None:
            return entry.session_id, entry

        never = ResetPolicy()
        resolution = await self._store.resolve(row.session_key, row.source, never, lambda _: True)
        return resolution.entry.session_id, resolution.entry

    async def _said_before(self, accepted: Accepted, session_id: SessionId) -> tuple[Message, ...]:
        """Return what a turn that goes on has said; with any other what is open is closed."""
        row = accepted.row
        if not row.continues:
            if row.origin is not Origin.COMPACT:
                await self.contexts.close(session_id)
            return ()

        turn = await self._database.read(lambda conn: open_turn(conn, session_id, failed=True))
        if turn is None or turn.turn_id != row.continues:
            # Rules have taken it since.
            accepted.ended = accepted.ended or Ending.NEW
            return ()

        return turn.messages


def _lead(row: InboxRow, outcome: Outcome) -> str:
    """Return what a process has to tell where no agent tells it in its own words."""
    return f"{row.text}\n\n" if row.origin is Origin.PROCESS and outcome.status != "ok" else ""


async def _once(write: Callable[[], Awaitable[None]]) -> None:
    await write()
