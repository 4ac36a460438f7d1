"""Delivery to one channel: its chats beside each other, of each one reply at a time, in order.

What is owed, to which chats and when, stands in the database alone; in memory are only the chats
that are sent to now. A channel that cannot be reached is left alone, but for one try now and then,
until it says that it can.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import anyio

from gateway.channels.base import LONGEST_WISH_S
from gateway.delivery.planning import expired, lifetime
from gateway.delivery.trying import Attempt
from gateway.durable.batch import PASSING
from gateway.log import get_logger
from gateway.transcripts import outbox_changes, outbox_rows

if TYPE_CHECKING:
    from datetime import datetime

    from anyio.abc import TaskGroup

    from gateway.channels.base import Channel
    from gateway.delivery.desk import Desk
    from gateway.durable.batch import Transaction
    from gateway.transcripts.outbox_rows import OutboxRow

RETRY_S: Final = 2.0
"""How long to wait for a storage that is full or busy."""
FIRST_REST_S: Final = 1.0
LONGEST_REST_S: Final = 60.0
"""How long a channel that cannot be reached is left alone, unless it says that it can."""
PAGE: Final = 100
"""How many replies are given up in one transaction at most."""


class Line:
    """Sends what is owed to one channel."""

    def __init__(self, name: str, channel: Channel | None, desk: Desk) -> None:
        """Take the channel; None where it is not configured: then what is owed only waits."""
        self.name = name
        self._channel = channel
        self._desk = desk
        self._active: set[str] = set()
        """The chats that are sent to."""
        self._queued = False
        self._wake = anyio.Event()
        self._idle = anyio.Event()
        self._rests = 0
        """How often in a row it could not be reached."""
        self._rests_until = 0.0
        """Monotonic; it is left alone before."""
        self._times_reached = 0

    def wake(self) -> None:
        """Look again at what is owed; may be called at any time in the event loop."""
        if self._idle.is_set():
            self._idle = anyio.Event()
        self._wake.set()

    def reached(self) -> None:
        """Take note that the channel can be reached."""
        self._times_reached += 1
        self._rests, self._rests_until = 0, 0.0
        self.wake()

    async def idle(self) -> None:
        """Wait until nothing is being sent, and nothing is due that could be."""
        while not self._idle.is_set():
            await self._idle.wait()

    async def run(self) -> None:
        """Deliver until cancelled.

        Cancellation: a try that is under way ends, and counts as one of unknown outcome.
        """
        async with anyio.create_task_group() as tasks:
            while True:
                self._wake = anyio.Event()
                try:
                    wait_s = await self._begin_due(tasks)
                except PASSING as error:
                    get_logger().warning("outbox.waiting_for_storage", error=str(error))
                    wait_s = RETRY_S
                with self._desk.clock.move_on_after(wait_s):
                    await self._wake.wait()

    async def _begin_due(self, tasks: TaskGroup) -> float:
        """Begin what is due; return after how many seconds to look again."""
        desk = self._desk
        if not self._queued:
            # A salvage, or a database of an older gateway, may have no queue.
            await desk.database.write(lambda tx: outbox_changes.queue_missing(tx, self.name))
            self._queued = True
        now = desk.clock.now()
        horizon = now + timedelta(seconds=LONGEST_WISH_S)
        # Chats that are being sent to are due as well, also one whose try ends while this is read.
        busy = frozenset(self._active)
        limit = desk.settings.max_parallel + len(busy)
        due = await desk.database.read(
            lambda place: outbox_rows.due(place, self.name, now=now, limit=limit, horizon=horizon)
        )
        expires_at = await self._give_up_expired(due.oldest_since, now)
        waiting = [chat for chat in due.chats if chat not in busy and chat not in self._active]
        rest_s = self._rests_until - desk.clock.monotonic()
        if self._channel is not None:
            for chat in waiting[: self._places(rest_s)]:
                self._active.add(chat)
                tasks.start_soon(self._serve, Attempt(desk, self._channel, chat))
        if self._is_idle(waiting, rest_s):
            self._idle.set()
        waits_s = [(at - now).total_seconds() for at in (due.next_at, expires_at) if at is not None]
        if waiting and rest_s > 0:
            waits_s.append(rest_s)
        return max(0.0, min([LONGEST_WISH_S, *waits_s]))

    def _places(self, rest_s: float) -> int:
        """Return how many more chats may be sent to."""
        if rest_s > 0:
            return 0

        # A channel that could not be reached is tried with one chat first.
        most = 1 if self._rests else self._desk.settings.max_parallel
        return max(0, most - len(self._active))

    def _is_idle(self, waiting: list[str], rest_s: float) -> bool:
        if self._active or self._wake.is_set():
            return False

        return not waiting or self._channel is None or rest_s > 0

    async def _serve(self, attempt: Attempt) -> None:
        before = self._times_reached
        try:
            reached = await attempt.make()
            if reached:
                self._rests, self._rests_until = 0, 0.0
            elif reached is False and self._times_reached == before:
                self._rest()
        finally:
            self._active.discard(attempt.chat)
            self.wake()

    def _rest(self) -> None:
        """Leave the channel alone, each time in a row for longer."""
        desk = self._desk
        now = desk.clock.monotonic()
        if now >= self._rests_until:  # else another chat has noticed
            self._rests += 1
            longest_s = min(LONGEST_REST_S, FIRST_REST_S * 2 ** min(self._rests - 1, 16))
            self._rests_until = now + longest_s * (1 + desk.share()) / 2

    async def _give_up_expired(
        self, oldest_since: datetime | None, now: datetime
    ) -> datetime | None:
        """Give up what is not sent any more; return when to look at that again."""
        configured = self._channel is not None
        life = lifetime(self._desk.settings, configured=configured)
        if oldest_since is None or now < oldest_since + life:
            return None if oldest_since is None else oldest_since + life

        # What is being sent is not given up now; it is looked at when that has ended.
        active = frozenset(self._active)

        def work(transaction: Transaction) -> tuple[list[OutboxRow], datetime | None]:
            limit = PAGE + len(active)
            dead: list[OutboxRow] = []
            for row in outbox_rows.oldest_owed(transaction, self.name, limit=limit):
                if now < row.owed_since + life:
                    return dead, row.owed_since + life
                if row.chat not in active:
                    why = expired(row, configured=configured)
                    outbox_changes.bury(transaction, row, error=why.error, at=now)
                    dead.append(row)
            return dead, now if len(dead) >= PAGE else None

        dead, again_at = await self._desk.database.write(work)
        for row in dead:
            self._desk.note_dead(row, expired(row, configured=configured))
        return again_at
