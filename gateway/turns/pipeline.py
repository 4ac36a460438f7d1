"""The way of a message: bounds, one commit, an acknowledgement, a turn, one commit, a reply.

One running turn a session key. A caller that goes away cancels nothing. An accepted message has
exactly one committed turn: what a restart finds unanswered runs once more before anything else.
"""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Final

import anyio

from gateway.errors import BadRequestError, GatewayError, UnavailableError
from gateway.log import get_logger
from gateway.model import (
    AgentId,
    Inbound,
    Message,
    Role,
    SessionKey,
    TurnId,
)
from gateway.sessions.key import session_key
from gateway.sessions.policy import ResetPolicy, is_active, policy_for
from gateway.sessions.store import MovedOnError, SessionStore
from gateway.transcripts import inbox
from gateway.transcripts.inbox import InboxRow
from gateway.transcripts.reading import read_context
from gateway.turns.acceptance import Acceptance, Stored
from gateway.turns.checking import checked
from gateway.turns.commit import TurnCommit, commit_turn, turn_facts
from gateway.turns.lanes import Lanes
from gateway.turns.memory import ContextMemory
from gateway.turns.records import PAUSED, decode_reset, reset_text
from gateway.turns.running import MAX_RECOVERIES, given_up, reply_context, run_turn
from gateway.turns.ticket import Progress, Reply, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyio.abc import TaskGroup, TaskStatus

    from gateway.agents.base import Agent
    from gateway.clock import Clock
    from gateway.durable.database import Database
    from gateway.model import ChatType, SessionId, SessionSource
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.settings import SessionSettings
    from gateway.turns.settings import TurnSettings

STOPPING: Final = (
    "The gateway is stopping. Your message is kept and will be answered after its restart."
)
LOST: Final = "The answer could not be stored. Your message is kept."


@dataclass(frozen=True, slots=True)
class TurnStatistics:
    """What became of messages since the start."""

    running: int
    waiting: int
    completed: int
    failed: int
    """Turns that ended with an error the user was told."""
    deadline: int
    """Turns that took too long."""
    lost_commits: int
    """Turns whose reply could not be stored; their messages are kept and run again."""
    duplicates: int
    refused: int
    paused: int
    """Messages to paused sessions."""
    recovered: int
    """Messages that a restart found unanswered."""


@dataclass(frozen=True, slots=True)
class _Accepted:
    row: InboxRow
    progress: Progress
    accepted_at: float
    """Monotonic, in seconds."""


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
        self._lanes: Lanes[_Accepted] = Lanes(settings, clock)
        self._slots = anyio.CapacityLimiter(settings.max_running)
        self._progress: dict[TurnId, Progress] = {}
        self._group: TaskGroup | None = None
        self._draining = False
        self._memory = ContextMemory()
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
                for key in self._lanes.idle_keys():
                    group.start_soon(self._work, key)
                self._group = group
                task_status.started()
                await anyio.sleep_forever()
        finally:
            self._group = None
            for progress in self._progress.values():
                progress.fail(UnavailableError(STOPPING))
            self._progress.clear()

    def stop(self) -> None:
        """End `run`, cutting off every turn that has not committed."""
        if self._group is not None:
            self._group.cancel_scope.cancel()

    async def drain(self) -> None:
        """Take no message any more, and return once no turn runs or waits."""
        self._draining = True
        while self._progress:
            await next(iter(self._progress.values())).ended()
            await anyio.lowlevel.checkpoint()

    def configure(
        self,
        settings: TurnSettings,
        sessions: SessionSettings,
        agent_for: Callable[[SessionSource], AgentId],
    ) -> None:
        """Take new bounds, policies and routes for what comes from now on."""
        self._settings = self._lanes.settings = settings
        self._sessions = sessions
        self._policies.clear()
        self._agent_for = agent_for
        self._slots.total_tokens = settings.max_running

    def is_busy(self, key: SessionKey) -> bool:
        """Return whether the session has a running, queued or unfinished turn."""
        return self._lanes.is_busy(key)

    def forget(self, key: SessionKey, session_id: SessionId) -> None:
        """Drop the runtime state of a session that is gone."""
        self._lanes.forget(key)
        self._memory.forget(session_id)

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

        try:
            self._lanes.reserve(key)
        except GatewayError:
            self._counts["refused"] += 1
            raise

        return await self._accept(inbound, agent, key)

    def statistics(self) -> TurnStatistics:
        """Return what became of messages since the start."""
        counts = self._counts
        return TurnStatistics(
            running=self._slots.borrowed_tokens,
            waiting=self._lanes.waiting,
            completed=counts["ok"],
            failed=counts["failed"],
            deadline=counts["deadline"],
            lost_commits=counts["lost"],
            duplicates=counts["duplicate"],
            refused=counts["refused"],
            paused=counts["paused"],
            recovered=counts["recovered"],
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
                _, view = self._store.view(key, policy, self._guard)
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
        self._memory.keep(stored.started, [])
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
        if self._lanes.join(key, accepted):
            self._group.start_soon(self._work, key)
        return accepted.progress

    def _accepted(self, row: InboxRow) -> _Accepted:
        progress = self._progress[row.turn_id] = Progress()
        return _Accepted(row, progress, self._clock.monotonic())

    async def _work(self, key: SessionKey) -> None:
        """Run a lane's turns one after the other; a message waits in its lane for a slot."""
        while self._lanes.has_next(key):
            try:
                self._slots.acquire_nowait()
            except anyio.WouldBlock:
                await self._slots.acquire()
            try:
                await self._settle(self._lanes.next(key))
            finally:
                self._slots.release()

    async def _settle(self, accepted: _Accepted) -> None:
        """Run a turn; whatever happens, who waits for it is told."""
        row = accepted.row
        try:
            await self._turn(accepted)
        except Exception as error:  # noqa: BLE001 - the turn boundary: its message stays in the inbox
            self._counts["lost"] += 1
            get_logger().error(
                "turn.lost", session_key=row.session_key, turn_id=row.turn_id, error=repr(error)
            )
            known = error if isinstance(error, GatewayError) else UnavailableError(LOST)
            accepted.progress.fail(known)
        finally:
            self._progress.pop(row.turn_id, None)
            accepted.progress.fail(UnavailableError(STOPPING))

    async def _turn(self, accepted: _Accepted) -> None:
        row, clock, began = accepted.row, self._clock, self._clock.monotonic()
        entry = await self._entry(row)
        agent = self._agents.get(row.agent)
        reset = decode_reset(row.reset)
        notice = reset_text(row.session_key, reset)
        accepted.progress.add_text(notice)
        message = Message(Role.USER, row.text, turn_id=row.turn_id)
        if agent is None or row.recoveries > MAX_RECOVERIES:
            outcome, context = given_up(row, accepted.progress), None
        else:
            if row.recoveries:
                # Counted when it begins: what only waits while the gateway stops is not given up.
                await self._database.write(lambda tx: inbox.note_recovery(tx, row))
            earlier = await self._earlier(entry.session_id)
            outcome = await run_turn(
                agent, earlier, message, accepted.progress, clock, self._settings.turn_deadline_s
            )
            context = reply_context(outcome, agent, clock)
        answered = clock.monotonic()
        commit = TurnCommit(
            row, entry.session_id, message, outcome, reset, notice, context, clock.now()
        )
        reply = await self._commit(commit)

        accepted.progress.finish(reply)
        self._counts[outcome.status] += 1
        get_logger().info(
            "turn.completed",
            **turn_facts(commit, reply),
            wait_ms=round((began - accepted.accepted_at) * 1000, 3),
            agent_ms=round((answered - began) * 1000, 3),
            commit_ms=round((clock.monotonic() - answered) * 1000, 3),
        )

    async def _earlier(self, session_id: SessionId) -> list[Message]:
        known = self._memory.get(session_id)
        if known is not None:
            return known

        messages = await read_context(self._database, session_id)
        self._memory.keep(session_id, messages)
        return messages

    async def _commit(self, commit: TurnCommit) -> Reply:
        # Forgotten first: after a commit in doubt only the transcript knows.
        known = self._memory.take(commit.session_id)
        reply = await commit_turn(self._database, self._store, commit)
        if known is not None:
            self._memory.put_back(commit.session_id, known, commit.messages())
        return reply

    async def _entry(self, row: InboxRow) -> SessionEntry:
        """Return the session of an accepted message as it is now that its turn begins."""
        entry = self._store.get(row.session_key)
        if entry is not None:
            return entry

        policy = self._policy(row.source)
        resolution = await self._store.resolve(row.session_key, row.source, policy, lambda _: True)
        return resolution.entry
