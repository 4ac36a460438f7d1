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

from gateway.errors import BadRequestError, BusyError, ConflictError, UnavailableError
from gateway.log import get_logger
from gateway.model import AgentId, Inbound, SessionKey, TurnId
from gateway.sessions.key import session_key
from gateway.sessions.policy import ResetPolicy, is_active, policy_for
from gateway.sessions.resolution import MovedOnError
from gateway.transcripts import inbox
from gateway.turns.acceptance import Acceptance, Answer, Stored, before
from gateway.turns.budgets import user_of
from gateway.turns.candidates import Breakers
from gateway.turns.checking import checked
from gateway.turns.lanes import Lanes
from gateway.turns.records import PAUSED
from gateway.turns.runner import LATE, Accepted, TurnRunner
from gateway.turns.running import Answering
from gateway.turns.statistics import TurnStatistics
from gateway.turns.ticket import Progress, Reply, Ticket
from gateway.turns.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyio.abc import TaskGroup, TaskStatus

    from gateway.agents.base import Agent
    from gateway.clock import Clock
    from gateway.context.settings import ContextSettings
    from gateway.durable.database import Database
    from gateway.model import ChatType, SessionId, SessionSource
    from gateway.sessions.settings import SessionSettings
    from gateway.sessions.store import SessionStore
    from gateway.transcripts.inbox import InboxRow
    from gateway.turns.compacting import Compacted
    from gateway.turns.settings import TurnSettings

STOPPING: Final = (
    "The gateway is stopping. Your message is kept and will be answered after its restart."
)
LOST: Final = "The answer could not be stored. Your message is kept, and runs after a restart."


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
        self._agents = agents
        self._agent_for = agent_for
        self._clock = clock
        self._settings = settings
        self._sessions = sessions
        self._lanes: Lanes[Accepted] = Lanes(settings, clock)
        self._workers = Workers(self._work, settings.max_running)
        self._progress: dict[TurnId, Progress] = {}
        self._group: TaskGroup | None = None
        self._draining = False
        self._drained = anyio.Event()
        self.answering = Answering(agents, Breakers(clock))
        """Who answers, and who stands in where one cannot."""
        self._runner = TurnRunner(database, store, self.answering, clock, settings)
        self._runner.on_stalled = self._tell_stalled
        self.contexts = self._runner.contexts
        """What is sent of each session."""
        self.budgets = self._runner.budgets
        self.approvals = self._runner.approvals
        self._stalled: set[SessionKey] = set()
        """Sessions whose turn waits for the storage."""
        self._policies: dict[tuple[str, ChatType], ResetPolicy] = {}
        # Unique over restarts by its first part, within a run by its second.
        run_id = secrets.token_hex(6)
        self._turn_ids = (f"t-{run_id}-{number:x}" for number in count(1))
        self._counts: Counter[str] = Counter()

    async def load_unanswered(self) -> None:
        """Put what an earlier run left unanswered into the lanes: its sessions count as busy."""
        for row in await self._database.read(inbox.unfinished):
            again = replace(row, recoveries=row.recoveries + 1)
            self._lanes.admit(row.session_key, self._accepted(again))
            self._counts["recovered"] += 1

    async def recover(self) -> None:
        """Load what is unanswered, to be run at most once more, before anything else in `run`."""
        await self.load_unanswered()
        if self._counts["recovered"]:
            get_logger().warning("turns.recovered", count=self._counts["recovered"])

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run turns until cancelled, recovered ones first.

        Cancellation: a turn that has not committed leaves its message unanswered in the inbox.
        """
        try:
            async with anyio.create_task_group() as group:
                self._workers.start(group)
                for key in self._lanes.idle_keys():
                    self._workers.add(key)
                self._group = group
                task_status.started()
                await anyio.sleep_forever()
        finally:
            self._group = None
            for progress in self._progress.values():
                progress.fail(UnavailableError(STOPPING))
            self._progress.clear()
            self._drained.set()

    def stop(self) -> None:
        """End `run`, cutting off every turn that has not committed."""
        if self._group is not None:
            self._group.cancel_scope.cancel()

    async def drain(self) -> None:
        """Take no message any more, and return once no turn runs or waits."""
        self._draining = True
        while self._progress:
            self._drained = anyio.Event()
            await self._drained.wait()

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
        self.approvals.timeout_s = settings.approval_timeout_s
        self.contexts.settings = context
        self._sessions = sessions
        self._policies.clear()
        self._agent_for = agent_for
        self._workers.allow(settings.max_running)

    def is_busy(self, key: SessionKey) -> bool:
        """Return whether the session has a running, queued or unfinished turn."""
        return self._lanes.is_busy(key)

    def forget(self, key: SessionKey, session_id: SessionId) -> None:
        """Drop the runtime state of a session that is gone."""
        self._lanes.forget(key)
        self.contexts.forget(session_id)

    async def submit(self, inbound: Inbound) -> Ticket:
        """Accept a message and return the ticket of its turn.

        Durability: on return the message survives power loss and will be answered.
        Cancellation: once the message is being stored, it is answered without the caller as well.

        Raises:
            BadRequestError: the message is empty, too long, or asks for an agent that is not there.
            BusyError: a bound is reached; nothing was stored.
            StorageFullError: no space; nothing was stored.
        """
        inbound = checked(inbound, self._settings.max_text_chars)
        agent = self._agent_of(inbound)
        key = session_key(inbound.source, agent, self._sessions)
        if self._group is None or self._draining:
            raise UnavailableError("The gateway is not taking messages at the moment.")

        if self.approvals.is_open(key):
            answered = await self._answer(inbound, agent, key)
            if answered is not None:
                return answered

        try:
            self._lanes.reserve(key)
        except BusyError:
            # What was accepted before is not refused: it costs nothing more.
            known = await self._known(inbound, key)
            if known is not None:
                return known
            self._counts["refused"] += 1
            raise

        return await self._accept(inbound, agent, key)

    async def compact(self, key: SessionKey) -> Compacted:
        """Summarise all turns of a session but the latest; no turn of it runs meanwhile.

        Durability: on return the summary survives power loss.

        Raises:
            NotFoundError: there is no such session.
            ConflictError: a turn of it runs or waits, or its agent cannot or may not summarise.
        """
        if not self._lanes.hold(key):
            raise ConflictError("A turn of this session runs or waits. Try again after it.")

        try:
            return await self._runner.compact(key)
        finally:
            if self._lanes.has_next(key):
                self._workers.add(key)

    async def _answer(self, inbound: Inbound, agent: AgentId, key: SessionKey) -> Ticket | None:
        """Take a message as the answer to an open question; None where it is none."""
        entry = self._store.get(key)
        found = self.approvals.read(key, user_of(inbound.source), inbound.text)
        if found is None or entry is None:
            return None

        question, approved = found
        turn_id = TurnId(next(self._turn_ids))
        answer = Answer(inbound, agent, entry, turn_id, question, approved, self._clock)
        reply = await self._database.write_through(answer.run)
        if not isinstance(reply, Reply):
            return None

        duplicate = reply.turn_id != turn_id
        self._counts["duplicate"] += duplicate
        if not duplicate:
            question.settle()
        return Ticket.answered(reply, duplicate=duplicate)

    async def _known(self, inbound: Inbound, key: SessionKey) -> Ticket | None:
        """Return the ticket of a message that came before, if it did."""
        if not inbound.message_id:
            return None

        found = await self._database.read(lambda conn: before(conn, key, inbound.message_id))
        if isinstance(found, Reply):
            self._counts["duplicate"] += 1
            return Ticket.answered(found, duplicate=True)

        running = None if found is None else self._progress.get(found.row.turn_id)
        if found is None or running is None:
            return None

        self._counts["duplicate"] += 1
        return Ticket(found.row.turn_id, running, duplicate=True)

    def statistics(self) -> TurnStatistics:
        """Return what became of messages since the start."""
        counts = self._counts
        return TurnStatistics(
            running=self._workers.busy,
            waiting=self._lanes.waiting,
            completed=counts["ok"],
            failed=counts["failed"],
            deadline=counts["deadline"],
            lost_commits=counts["lost"],
            duplicates=counts["duplicate"],
            refused=counts["refused"],
            paused=counts["paused"],
            recovered=counts["recovered"],
            stood_in=self.answering.stood_in,
            asking=len(self.approvals),
            resting_agents=self.answering.breakers.resting(),
        )

    def _agent_of(self, inbound: Inbound) -> AgentId:
        agent = inbound.agent or self._agent_for(inbound.source)
        if agent not in self._agents:
            known = ", ".join(sorted(self._agents))
            raise BadRequestError(f"There is no agent {agent!r}; accepted is one of {known}.")

        return agent

    async def _accept(self, inbound: Inbound, agent: AgentId, key: SessionKey) -> Ticket:
        """Store a message whose place is reserved, and let it join its lane."""
        turn_id = TurnId(next(self._turn_ids))
        policy = self._policy(inbound.source)
        joined = False
        try:
            while True:
                view = self._store.view(key, policy, self._guard)
                first = not self._lanes.has_turn(key)
                work = Acceptance(
                    self._store, inbound, agent, key, turn_id, view, self._clock, first
                )
                try:
                    found = await self._database.write_through(work.run)
                    break
                except MovedOnError:
                    continue
            if isinstance(found, Reply):
                duplicate = found.status != PAUSED
                self._counts["duplicate" if duplicate else PAUSED] += 1
                return Ticket.answered(found, duplicate=duplicate)

            row = found.row
            duplicate = row.turn_id != turn_id
            self._counts["duplicate"] += duplicate
            self._note_start(found)
            running = self._progress.get(row.turn_id)
            if running is None:
                running = self._join(key, row)
                joined = True
            return Ticket(row.turn_id, running, duplicate)
        finally:
            if not joined:
                self._lanes.release(key)

    def _note_start(self, stored: Stored) -> None:
        if stored.started is None:
            return

        # Nothing was said in it yet, so there is nothing to read.
        self.contexts.begin(stored.started)
        if stored.reset is not None:
            get_logger().info(
                "session.reset",
                session_key=stored.row.session_key,
                reason=stored.reset.reason,
                session_id=stored.started,
                previous_session_id=stored.reset.previous_session_id,
            )

    def _policy(self, source: SessionSource) -> ResetPolicy:
        place = (source.platform, source.chat_type)
        policy = self._policies.get(place)
        if policy is None:
            policy = self._policies[place] = policy_for(self._sessions.reset, source)
        return policy

    def _guard(self, key: SessionKey) -> bool:
        # The message being decided on has its own place in the lane.
        return self._lanes.has_turn(key) or is_active(self._store.has_active_processes, key)

    def _join(self, key: SessionKey, row: InboxRow) -> Progress:
        if self._group is None:
            # The turns ended while the message was being stored: a restart answers it.
            raise UnavailableError(STOPPING)

        accepted = self._accepted(row)
        if key in self._stalled or self._is_all_stalled():
            accepted.progress.fail(UnavailableError(LATE))
        if self._lanes.join(key, accepted):
            self._workers.add(key)
        return accepted.progress

    def _accepted(self, row: InboxRow) -> Accepted:
        progress = self._progress[row.turn_id] = Progress()
        return Accepted(row, progress, self._clock.monotonic())

    def _tell_stalled(self, key: SessionKey) -> None:
        """Tell who waits behind a turn that waits for the storage; all, if none can be run."""
        self._stalled.add(key)
        for accepted in self._lanes.items(None if self._is_all_stalled() else key):
            accepted.progress.fail(UnavailableError(LATE))

    def _is_all_stalled(self) -> bool:
        return len(self._stalled) >= self._workers.most

    async def _work(self, key: SessionKey) -> None:
        """Run a lane's next turn; the one after it waits behind those of other lanes."""
        await self._settle(self._lanes.next(key))
        if self._lanes.has_next(key):
            self._workers.add(key)

    async def _settle(self, accepted: Accepted) -> None:
        """Run a turn; whatever happens, who waits for it is told."""
        row = accepted.row
        try:
            self._counts[await self._runner.run(accepted)] += 1
        except Exception as error:  # noqa: BLE001 - the turn boundary: its message stays in the inbox
            self._counts["lost"] += 1
            get_logger().error(
                "turn.lost", session_key=row.session_key, turn_id=row.turn_id, error=repr(error)
            )
            accepted.progress.fail(UnavailableError(LOST))
        finally:
            self._stalled.discard(row.session_key)
            self._progress.pop(row.turn_id, None)
            accepted.progress.fail(UnavailableError(STOPPING))
            if not self._progress:
                self._drained.set()
