"""The way of a message: bounds, one commit, an acknowledgement, a turn, one commit, a reply.

One running turn a session key. A caller that goes away cancels nothing. An accepted message has
exactly one committed turn: what a restart finds unanswered runs once more before anything else.
"""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass, replace
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
    clean_name,
    clean_text,
)
from gateway.sessions.key import session_key
from gateway.sessions.policy import is_active, policy_for
from gateway.sessions.store import MovedOnError, SessionStore
from gateway.transcripts import inbox
from gateway.transcripts.inbox import InboxRow
from gateway.transcripts.reading import read_context
from gateway.turns.acceptance import Acceptance
from gateway.turns.commit import TurnCommit, commit_turn, turn_facts
from gateway.turns.lanes import Lanes
from gateway.turns.records import PAUSED, decode_reset, reset_text
from gateway.turns.running import Outcome, reply_context, run_turn
from gateway.turns.ticket import Progress, Reply, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyio.abc import TaskGroup, TaskStatus

    from gateway.agents.base import Agent
    from gateway.clock import Clock
    from gateway.durable.database import Database
    from gateway.model import SessionSource
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.settings import SessionSettings
    from gateway.turns.settings import TurnSettings

COMMIT_TIMEOUT_S: Final = 30.0
"""Longest wait for a commit that cancellation may not interrupt; a disk slower than this is ill."""
MAX_RECOVERIES: Final = 1
"""How often a restart runs an unanswered message again before it is given up."""
STOPPING: Final = (
    "The gateway is stopping. Your message is kept and will be answered after its restart."
)
GIVEN_UP: Final = "This message could not be answered: the gateway stopped twice while trying."


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
        self._counts: Counter[str] = Counter()

    async def recover(self) -> None:
        """Put what an earlier run left unanswered in front of the lanes, before `run`.

        From here on its sessions count as busy. Each message runs at most once more.
        """
        rows = await self._database.read(inbox.unfinished)
        if not rows:
            return

        await self._database.write(inbox.count_recoveries)
        self._counts["recovered"] += len(rows)
        get_logger().warning("turns.recovered", count=len(rows))
        for row in rows:
            again = replace(row, recoveries=row.recoveries + 1)
            self._lanes.admit(row.session_key, self._accepted(again))

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
        self._agent_for = agent_for
        self._slots.total_tokens = settings.max_running

    def is_busy(self, key: SessionKey) -> bool:
        """Return whether the session has a running, queued or unfinished turn."""
        return self._lanes.is_busy(key)

    def forget(self, key: SessionKey) -> None:
        """Drop the runtime state of a session that is gone."""
        self._lanes.forget(key)

    async def submit(self, inbound: Inbound) -> Ticket:
        """Accept a message and return the ticket of its turn.

        Durability: on return the message survives power loss and will be answered.
        Cancellation: once the message is being stored, it is answered without the caller as well.

        Raises:
            BadRequestError: the message is empty, too long, or asks for an agent that is not there.
            BusyError: a bound is reached; nothing was stored.
            StorageFullError: no space; nothing was stored.
        """
        inbound, agent = self._checked(inbound)
        key = session_key(inbound.source, agent, self._sessions)
        if self._group is None or self._draining:
            raise UnavailableError("The gateway is not taking messages at the moment.")

        try:
            self._lanes.reserve(key)
        except GatewayError:
            self._counts["refused"] += 1
            raise

        with anyio.move_on_after(COMMIT_TIMEOUT_S, shield=True):
            return await self._accept(inbound, agent, key)
        raise UnavailableError("The storage did not answer in time; the message may be answered.")

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

    def _checked(self, inbound: Inbound) -> tuple[Inbound, AgentId]:
        source = inbound.source
        source = replace(
            source, user_name=clean_name(source.user_name), chat_name=clean_name(source.chat_name)
        )
        inbound = replace(inbound, source=source, text=clean_text(inbound.text))
        if not inbound.text.strip():
            raise BadRequestError("The message is empty.")

        longest = self._settings.max_text_chars
        if len(inbound.text) > longest:
            raise BadRequestError(
                f"The message has {len(inbound.text)} characters, accepted are up to {longest}."
            )

        agent = inbound.agent or self._agent_for(source)
        if agent not in self._agents:
            known = ", ".join(sorted(self._agents))
            raise BadRequestError(f"There is no agent {agent!r}; accepted is one of {known}.")

        return inbound, agent

    async def _accept(self, inbound: Inbound, agent: AgentId, key: SessionKey) -> Ticket:
        """Store a message whose place is reserved, and let it join its lane."""
        turn_id = TurnId(f"t-{secrets.token_hex(8)}")
        policy = policy_for(self._sessions.reset, inbound.source)
        joined = False
        try:
            while True:
                _, view = self._store.view(key, policy, self._guard)
                work = Acceptance(self._store, inbound, agent, key, turn_id, view, self._clock)
                try:
                    found = await self._database.write(work.run)
                    break
                except MovedOnError:
                    continue
            if isinstance(found, Reply):
                duplicate = found.status != PAUSED
                self._counts["duplicate" if duplicate else PAUSED] += 1
                return Ticket.answered(found, duplicate=duplicate)

            duplicate = found.turn_id != turn_id
            self._counts["duplicate"] += duplicate
            running = self._progress.get(found.turn_id)
            if running is None:
                running = self._join(key, found)
                joined = True
            return Ticket(found.turn_id, running, duplicate)
        finally:
            if not joined:
                self._lanes.release(key)

    def _guard(self, key: SessionKey) -> bool:
        # The message being decided on has its own place in the lane.
        return self._lanes.has_turn(key) or is_active(self._store.has_active_processes, key)

    def _join(self, key: SessionKey, row: InboxRow) -> Progress:
        accepted = self._accepted(row)
        if self._lanes.join(key, accepted) and self._group is not None:
            self._group.start_soon(self._work, key)
        return accepted.progress

    def _accepted(self, row: InboxRow) -> _Accepted:
        progress = self._progress[row.turn_id] = Progress()
        return _Accepted(row, progress, self._clock.monotonic())

    async def _work(self, key: SessionKey) -> None:
        """Run a lane's turns one after the other."""
        while (accepted := self._lanes.next(key)) is not None:
            try:
                async with self._slots:
                    await self._turn(accepted)
            except GatewayError as error:
                self._counts["lost"] += 1
                get_logger().error(
                    "turn.lost",
                    session_key=key,
                    turn_id=accepted.row.turn_id,
                    error=str(error),
                )
                accepted.progress.fail(error)
            finally:
                self._progress.pop(accepted.row.turn_id, None)
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
            outcome, context = _given_up(row, accepted.progress), None
        else:
            earlier = await read_context(self._database, entry.session_id)
            outcome = await run_turn(
                agent, earlier, message, accepted.progress, clock, self._settings.turn_deadline_s
            )
            context = reply_context(outcome, agent, clock)
        answered = clock.monotonic()
        commit = TurnCommit(
            row, entry.session_id, message, outcome, reset, notice, context, clock.now()
        )
        with anyio.move_on_after(COMMIT_TIMEOUT_S, shield=True) as scope:
            reply = await commit_turn(self._database, self._store, commit)
        if scope.cancelled_caught:
            raise UnavailableError("The storage did not answer in time.")

        accepted.progress.finish(reply)
        self._counts[outcome.status] += 1
        get_logger().info(
            "turn.completed",
            **turn_facts(commit, reply),
            wait_ms=round((began - accepted.accepted_at) * 1000, 3),
            agent_ms=round((answered - began) * 1000, 3),
            commit_ms=round((clock.monotonic() - answered) * 1000, 3),
        )

    async def _entry(self, row: InboxRow) -> SessionEntry:
        """Return the session of an accepted message as it is now that its turn begins."""
        entry = self._store.get(row.session_key)
        if entry is not None:
            return entry

        policy = policy_for(self._sessions.reset, row.source)
        resolution = await self._store.resolve(row.session_key, row.source, policy, lambda _: True)
        return resolution.entry


def _given_up(row: InboxRow, progress: Progress) -> Outcome:
    gone = row.recoveries <= MAX_RECOVERIES
    text = f"There is no agent {row.agent!r} any more." if gone else GIVEN_UP
    progress.add_text(text)
    return Outcome("failed", text, [Message(Role.NOTICE, text)], error="given up")
