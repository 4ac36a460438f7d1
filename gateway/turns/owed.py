"""Messages that are owed an answer, until their turns are committed: who waits, who runs.

One lane a session key, one running turn in each. Knows nothing of how a message is accepted: what
joins here is stored already.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import anyio

from gateway.errors import UnavailableError
from gateway.log import get_logger
from gateway.turns.lanes import Lanes
from gateway.turns.runner import LATE, Accepted
from gateway.turns.ticket import Progress, Ticket
from gateway.turns.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anyio.abc import TaskGroup, TaskStatus

    from gateway.clock import Clock
    from gateway.model import SessionId, SessionKey, TurnId
    from gateway.transcripts.inbox import Ending, InboxRow
    from gateway.turns.runner import TurnRunner
    from gateway.turns.settings import TurnSettings

STOPPING: Final = (
    "The gateway is stopping. Your message is kept: after the restart the same message id tells "
    "what came of it."
)
LOST: Final = "The answer could not be stored. Your message is kept, and runs after a restart."


class Owed:
    """The lanes and those who work on them; `run` owns the tasks."""

    def __init__(self, runner: TurnRunner, clock: Clock, settings: TurnSettings) -> None:
        """Start with nothing owed; nothing runs before `run`."""
        self._runner = runner
        self._clock = clock
        self.lanes: Lanes[Accepted] = Lanes(settings, clock)
        self.workers = Workers(self._work, settings.max_running)
        self._accepted: dict[TurnId, Accepted] = {}
        self._running: dict[SessionKey, Accepted] = {}
        self._ended: dict[TurnId, Ending] = {}
        """Of messages that are stored and have not joined yet."""
        self._stalled: set[SessionKey] = set()
        """Sessions whose turn waits for the storage."""
        self._group: TaskGroup | None = None
        self._drained = anyio.Event()
        self.counts: Counter[str] = Counter()
        """Turns by their status; `lost` are those that could not be stored."""
        runner.on_stalled = self._tell_stalled

    @property
    def runs(self) -> bool:
        """Whether turns are run."""
        return self._group is not None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run turns until cancelled, those that were admitted before first.

        Cancellation: a turn that has not committed leaves its message unanswered in the inbox.
        """
        try:
            async with anyio.create_task_group() as group:
                self.workers.start(group)
                for key in self.lanes.idle_keys():
                    self.workers.add(key)
                self._group = group
                task_status.started()
                await anyio.sleep_forever()
        finally:
            self._group = None
            for accepted in self._accepted.values():
                accepted.progress.fail(UnavailableError(STOPPING))
            self._accepted.clear()
            self._drained.set()

    def stop(self) -> None:
        """End `run`, cutting off every turn that has not committed."""
        if self._group is not None:
            self._group.cancel_scope.cancel()

    async def drain(self) -> None:
        """Return once no turn runs or waits."""
        while self._accepted:
            self._drained = anyio.Event()
            await self._drained.wait()

    def find(self, turn_id: TurnId) -> Progress | None:
        """Return how a turn goes that runs or waits; None for all others."""
        accepted = self._accepted.get(turn_id)
        return None if accepted is None else accepted.progress

    def session_ids(self) -> Iterator[tuple[SessionKey, SessionId]]:
        """Yield the key and the conversation of each turn that runs or waits.

        Of a message that an older gateway has accepted the conversation is known, and told, once
        its turn has begun.
        """
        for accepted in self._accepted.values():
            session_id = accepted.session_id or accepted.row.session_id
            if session_id:
                yield accepted.row.session_key, session_id

    def runs_turn(self, key: SessionKey) -> bool:
        """Return whether a turn of a session runs."""
        return key in self._running

    def begins_at_once(self, key: SessionKey) -> bool:
        """Return whether a message whose place is reserved is surely not kept waiting.

        Not by a turn of its session, nor by others that are being stored meanwhile.
        """
        alone = self.lanes.ahead(key) == 0 and self.lanes.reserved(key) == 1
        return alone and self.workers.busy + self.lanes.waiting <= self.workers.most

    def join(self, key: SessionKey, row: InboxRow) -> Ticket:
        """Let a stored message take the place that was reserved for it.

        Raises:
            UnavailableError: the turns have ended meanwhile; a restart answers it.
        """
        if self._group is None:
            raise UnavailableError(STOPPING)

        others = [*filter(None, [self._running.get(key)]), *self.lanes.items(key)]
        ahead = sum(other.ended is None for other in others)
        accepted = self._new(row)
        if key in self._stalled or self._is_all_stalled():
            accepted.progress.fail(UnavailableError(LATE))
        if self.lanes.join(key, accepted):
            self.workers.add(key)
        return Ticket(row.turn_id, accepted.progress, ahead=ahead)

    def admit(self, row: InboxRow) -> None:
        """Let a stored message wait that has no place and asks for no bound."""
        if self.lanes.admit(row.session_key, self._new(row)) and self._group is not None:
            self.workers.add(row.session_key)

    def end(self, key: SessionKey, turn_ids: Sequence[TurnId], why: Ending) -> None:
        """Let no agent answer some messages of a session any more, as is stored already."""
        for turn_id in turn_ids:
            accepted = self._accepted.get(turn_id)
            if accepted is not None:
                accepted.end(why)
            elif self.lanes.reserved(key):
                self._ended[turn_id] = why

    def hold(self, key: SessionKey) -> bool:
        """Keep a session from running turns until `let_go`; False where one runs or waits."""
        return self.lanes.hold(key)

    def let_go(self, key: SessionKey) -> None:
        """Let a session run turns again."""
        if self.lanes.has_next(key):
            self.workers.add(key)

    def _new(self, row: InboxRow) -> Accepted:
        accepted = Accepted(row, Progress(), self._clock.monotonic())
        accepted.ended = self._ended.pop(row.turn_id, row.ended)
        self._accepted[row.turn_id] = accepted
        return accepted

    def _tell_stalled(self, key: SessionKey) -> None:
        """Tell who waits behind a turn that waits for the storage; all, if none can be run."""
        self._stalled.add(key)
        for accepted in self.lanes.items(None if self._is_all_stalled() else key):
            accepted.progress.fail(UnavailableError(LATE))

    def _is_all_stalled(self) -> bool:
        return len(self._stalled) >= self.workers.most

    async def _work(self, key: SessionKey) -> None:
        """Run a lane's next turn; the one after it waits behind those of other lanes."""
        accepted = self._running[key] = self.lanes.next(key)
        try:
            await self._settle(accepted)
        finally:
            del self._running[key]
        self.let_go(key)

    async def _settle(self, accepted: Accepted) -> None:
        """Run a turn; whatever happens, who waits for it is told."""
        async with accepted.changing:
            accepted.begun = True
        row = accepted.row
        try:
            self.counts[await self._runner.run(accepted)] += 1
        except Exception as error:  # noqa: BLE001 - the turn boundary: its message stays in the inbox
            self.counts["lost"] += 1
            get_logger().error(
                "turn.lost", session_key=row.session_key, turn_id=row.turn_id, error=repr(error)
            )
            accepted.progress.fail(UnavailableError(LOST))
        finally:
            self._stalled.discard(row.session_key)
            self._accepted.pop(row.turn_id, None)
            accepted.progress.fail(UnavailableError(STOPPING))
            if not self._accepted:
                self._drained.set()
