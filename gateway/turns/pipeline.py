"""The way of a message: bounds, one commit, an acknowledgement, a turn, one commit, a reply.

One running turn a session key. A caller that goes away cancels nothing. An accepted message has
exactly one committed turn: what a restart finds unanswered runs once more before anything else.
"""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Final

import anyio

from gateway.errors import BusyError, ConflictError, UnavailableError
from gateway.log import get_logger
from gateway.model import TurnId
from gateway.sessions.policy import ResetPolicy, is_active
from gateway.sessions.resolution import MovedOnError
from gateway.transcripts import inbox
from gateway.transcripts.inbox import Ending, Origin
from gateway.turns.acceptance import Acceptance, Answer, note_start, take_answer
from gateway.turns.brought import NOTHING_BROUGHT, Brought
from gateway.turns.budgets import user_of
from gateway.turns.candidates import Breakers
from gateway.turns.changed import ChangedContexts
from gateway.turns.checking import checked
from gateway.turns.earlier import Earlier
from gateway.turns.editing import Editing
from gateway.turns.hooks import Hooks
from gateway.turns.owed import Owed
from gateway.turns.places import Places
from gateway.turns.records import PAUSED
from gateway.turns.reports import Report, Unasked, take_report
from gateway.turns.restarts import pause_broken
from gateway.turns.runner import TurnRunner
from gateway.turns.running import Answering
from gateway.turns.settings import Busy, Interrupted
from gateway.turns.statistics import turn_statistics
from gateway.turns.ticket import Reply, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from anyio.abc import TaskStatus

    from gateway.agents.base import Agent
    from gateway.clock import Clock
    from gateway.context.settings import ContextSettings
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.model import AgentId, Inbound, SessionId, SessionKey, SessionSource
    from gateway.sessions.settings import SessionSettings
    from gateway.sessions.store import SessionStore
    from gateway.turns.compacting import Compacted
    from gateway.turns.settings import TurnSettings
    from gateway.turns.statistics import TurnStatistics

CLOSED: Final = "The gateway is not taking messages at the moment."


class Turns:
    """Accepts messages and runs their turns; `run` owns the tasks."""

    def __init__(
        self,
        database: Database,
        store: SessionStore,
        agents: Mapping[AgentId, Agent],
        agent_for: Callable[[SessionSource], AgentId],
        clock: Clock,
        settings: TurnSettings,
        sessions: SessionSettings,
    ) -> None:
        """Wire the parts; nothing runs before `run`."""
        self._database = database
        self._store = store
        self._clock = clock
        self._settings = settings
        self._draining = False
        self.answering = Answering(agents, Breakers(clock))
        self.hooks = Hooks()
        self._runner = TurnRunner(database, store, self.answering, clock, settings, self.hooks)
        self._owed = Owed(self._runner, clock, settings)
        self._lanes = self._owed.lanes
        self._unasked = Unasked(self._lanes.spend)
        self.contexts = self._runner.contexts
        """What is sent of each session."""
        self.changed = ChangedContexts(database, store, self._owed, self.contexts, self.answering)
        self.editing = Editing(database, self._owed)
        self.budgets = self._runner.budgets
        self.approvals = self._runner.approvals
        self.approvals.aside = self._owed.workers.aside
        self.places = Places(agents, agent_for, sessions)
        """Who answers where, and whose session it is."""
        # Unique over restarts by its first part, within a run by its second.
        run_id = secrets.token_hex(6)
        self._turn_ids = (f"t-{run_id}-{number:x}" for number in count(1))
        self._counts: Counter[str] = Counter()
        self._earlier = Earlier(database, store, self._owed, clock, self._counts)
        self.handed = self._earlier.again.handed
        """Which answers were handed out, for messages that come again without an id."""

    async def load_unanswered(self) -> None:
        """Put what an earlier run left unanswered into the lanes: its sessions count as busy."""
        for row in await self._database.read(inbox.unfinished):
            # One that only waited has its whole number of tries.
            recoveries = row.recoveries + row.begun
            self._owed.admit(replace(row, recoveries=recoveries))
            self.handed.expect(row.turn_id)
            self._counts["recovered"] += 1
            self._counts["cut_off"] += recoveries > 0

    async def recover(self) -> None:
        """Load what is unanswered, to be run at most once more, before anything else in `run`.

        A session that a third start finds with a turn cut off is paused.
        """
        self._runner.suspects = await pause_broken(self._database, self._store)
        await self.load_unanswered()
        if self._counts["recovered"]:
            count, cut_off = self._counts["recovered"], self._counts["cut_off"]
            get_logger().warning("turns.recovered", count=count, cut_off=cut_off)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run turns until cancelled, recovered ones first.

        Cancellation: a turn that has not committed leaves its message unanswered in the inbox.
        """
        await self._owed.run(task_status=task_status)

    def stop(self) -> None:
        """End `run`, cutting off every turn that has not committed."""
        self._owed.stop()

    async def drain(self) -> None:
        """Take no message and ask nothing any more; return once no turn runs or waits.

        That a turn has begun is stored since: what a kill cuts off now is found.
        """
        self._draining = True
        self.approvals.stop()
        await self._owed.drain()

    def configure(
        self,
        settings: TurnSettings,
        sessions: SessionSettings,
        context: ContextSettings,
        agent_for: Callable[[SessionSource], AgentId],
    ) -> None:
        """Take new bounds, policies and routes for what comes from now on."""
        self._settings = self._lanes.settings = settings
        self._runner.deadline_s = settings.turn_deadline_s
        self._runner.reruns = settings.interrupted is Interrupted.RERUN
        self.approvals.timeout_s = settings.approval_timeout_s
        self.contexts.settings = context
        self.places.configure(agent_for, sessions)
        self._owed.workers.allow(settings.max_running)

    def is_busy(self, key: SessionKey) -> bool:
        """Return whether the session has a running, queued or unfinished turn."""
        return self._lanes.is_busy(key)

    def work_of(self, key: SessionKey) -> tuple[bool, int]:
        """Return whether a turn of a session runs, and how many messages wait."""
        return self._owed.runs_turn(key), self._lanes.waiting_of(key)

    def forget(self, key: SessionKey, session_id: SessionId) -> None:
        """Drop the runtime state of a session that is gone."""
        self._lanes.forget(key)
        self._unasked.forget(key)
        self.approvals.forget(key)
        self.contexts.forget(session_id)

    def live_session_ids(self) -> Mapping[str, str]:
        """Return each conversation with a running, queued or unfinished turn, all of it."""
        return dict.fromkeys(self.changed.live(), "")

    def items_changed(self, session_ids: Collection[str]) -> None:
        """Forget the contexts of sessions of which messages are gone, changed or back.

        Waits for nothing. A request under way goes on with what it has, the next one is read anew;
        `changed.measure` tells the new sizes.
        """
        self.changed.note(session_ids)

    def place(
        self, inbound: Inbound, *, may_be_empty: bool = False
    ) -> tuple[Inbound, AgentId, SessionKey]:
        """Return a message as any store takes it, who answers it, and whose session it is.

        Raises:
            BadRequestError: it is empty, too long, or asks for an agent that is not there.
            UnavailableError: no message is taken.
        """
        most = self._settings.max_text_chars
        placed = self.places.of(checked(inbound, most, may_be_empty=may_be_empty))
        if self._draining or not self._owed.runs:
            raise UnavailableError(CLOSED)

        return placed

    def spend(self, inbound: Inbound, key: SessionKey) -> None:
        """Count a message that needs no turn against the rates of its session and its user.

        Raises:
            BusyError: there are too many.
        """
        try:
            self._lanes.spend(key, user_of(inbound.source))
        except BusyError:
            self._counts["refused"] += 1
            raise

    def new_turn_id(self) -> TurnId:
        """Return an id that no other turn has."""
        return TurnId(next(self._turn_ids))

    async def submit(
        self,
        inbound: Inbound,
        *,
        origin: Origin = Origin.USER,
        key: SessionKey | None = None,
        brought: Brought = NOTHING_BROUGHT,
    ) -> Ticket:
        """Accept a message and return the ticket of its turn.

        Durability: on return the message survives power loss and will be answered.
        Cancellation: once the message is being stored, it is answered without the caller as well.

        Args:
            inbound: The message.
            origin: `COMPACT`: it asks for a summary, and no agent is given it.
            key: The session it is for; None: the one of its source.
            brought: What its client brings beside the text.

        Raises:
            BadRequestError: the message is empty, too long, or asks for an agent that is not there;
                or it brings a result that nobody waits for.
            BusyError: a bound is reached; nothing was stored.
            StorageFullError: no space; nothing was stored.
        """
        inbound, agent, own = self.place(inbound, may_be_empty=bool(brought.results))
        key, user = key or own, user_of(inbound.source)
        if key != own and inbound.message_id:
            # It is unique among the messages of the sender's session, not among those of another.
            name = f"{inbox.OWN_ID}{own}:{inbound.message_id}"
            inbound = replace(inbound, message_id=name)
        try:
            if origin is Origin.USER and not brought.results:
                answered = await self._answer(inbound, agent, key)
                if answered is not None:
                    return answered

            self._lanes.reserve(key, user, asking=len(self.approvals))
        except BusyError:
            # What was accepted before is not refused: it costs nothing more.
            known = await self.known(inbound, key, brought)
            if known is not None:
                return known
            self._counts["refused"] += 1
            raise

        return await self._accept(inbound, agent, key, origin, brought)

    async def report(self, report: Report) -> None:
        """Tell a session what somebody else than its user has to say, exactly once.

        Durability: on return it survives power loss that it is told.
        """
        turn_id, now = self.new_turn_id(), self._clock.now()
        if not self._unasked.may(report.key, user_of(report.source)):
            report = replace(report, as_turn=False)
        row = await self._database.write(
            lambda transaction: take_report(transaction, self._store, report, turn_id, now)
        )
        if row is not None:
            self._owed.admit(row)
        self.hooks.on_replied(report.source)

    def stage_end(self, transaction: Transaction, key: SessionKey, why: Ending) -> list[TurnId]:
        """Let no agent answer any more what was accepted of a session so far.

        Returns what `end` is told once the transaction is durable.
        """
        return inbox.end_all(transaction, key, why)

    def end(self, key: SessionKey, turn_ids: Sequence[TurnId], why: Ending) -> None:
        """End the turn that runs, and those that wait, as `stage_end` has stored it."""
        self._owed.end(key, turn_ids, why)

    async def compact(self, key: SessionKey) -> Compacted:
        """Summarise all turns of a session but the latest; no turn of it runs meanwhile.

        Durability: on return the summary survives power loss.

        Raises:
            NotFoundError: there is no such session.
            ConflictError: a turn of it runs or waits, or its agent cannot or may not summarise.
        """
        if not self._owed.hold(key):
            raise ConflictError("A turn of this session runs or waits. Try again after it.")

        try:
            return await self._runner.compact(key)
        finally:
            self._owed.let_go(key)

    async def known(
        self, inbound: Inbound, key: SessionKey, brought: Brought = NOTHING_BROUGHT
    ) -> Ticket | None:
        """Return the ticket of a message that came before, if it did."""
        return await self._earlier.find(inbound, key, brought)

    def statistics(self) -> TurnStatistics:
        """Return what became of messages since the start."""
        return turn_statistics(self._counts, self._owed, self.answering, len(self.approvals))

    async def _answer(self, inbound: Inbound, agent: AgentId, key: SessionKey) -> Ticket | None:
        """Take a message as the answer to an open question; None where it is none."""
        found = self.approvals.read(key, inbound)
        entry = None if found is None else self._store.get(key)
        if found is None or entry is None:
            return None

        question, approved = found
        if approved is None:
            # It could come again and again; an answer that settles its question cannot.
            self._lanes.spend(key, user_of(inbound.source))
        turn_id = self.new_turn_id()
        answer = Answer(inbound, agent, entry, turn_id, question, approved, self._clock)
        ticket = await take_answer(self._database, answer)
        if ticket is not None:
            self._counts["duplicate"] += ticket.duplicate
            self.hooks.on_replied(inbound.source)
        return ticket

    async def _accept(
        self, inbound: Inbound, agent: AgentId, key: SessionKey, origin: Origin, brought: Brought
    ) -> Ticket:
        """Store a message whose place is reserved, and let it join its lane."""
        turn_id = self.new_turn_id()
        # Whoever asks for a summary, or brings results, starts nothing anew.
        goes_on = origin is not Origin.USER or bool(brought.results)
        policy = ResetPolicy() if goes_on else self.places.policy(inbound.source)
        joined = paused = False
        try:
            while True:
                work = Acceptance(
                    store=self._store,
                    inbound=inbound,
                    agent=agent,
                    key=key,
                    turn_id=turn_id,
                    view=self._store.view(key, policy, self._guard),
                    clock=self._clock,
                    again=self._earlier.again,
                    first=not self._lanes.has_turn(key),
                    origin=origin,
                    begins=self._owed.begins_at_once(key),
                    supersedes=not goes_on and self._settings.busy is Busy.INTERRUPT,
                    brought=brought,
                )
                try:
                    found = await self._database.write_through(work.run)
                    break
                except MovedOnError:
                    continue
            if isinstance(found, Reply):
                paused = found.status == PAUSED
                return self._earlier.replied(found)

            row = found.row
            under_way = self._earlier.under_way(row)
            if under_way is not None:
                return under_way

            self._counts["duplicate"] += row.turn_id != turn_id
            note_start(found, self.contexts)
            self._owed.end(key, found.ended, Ending.SUPERSEDED)
            ticket = self._owed.join(key, row)
            joined = True
            self._unasked.forget(key)
            return ticket
        finally:
            if not joined:
                self._lanes.release(key, user_of(inbound.source), counts=paused)

    def _guard(self, key: SessionKey) -> bool:
        # The message being decided on has its own place in the lane.
        return self._lanes.has_turn(key) or is_active(self._store.has_active_processes, key)
