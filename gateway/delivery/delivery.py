"""Delivery as a whole: a line for each channel, what is told to it, and what it tells.

The composition root runs it, calls `wake` after each commit that may have left a reply, `reached`
when a channel can be reached, and `drain` at a stop.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio

from gateway.delivery.desk import Desk
from gateway.delivery.line import Line
from gateway.delivery.planning import Bury, Reason
from gateway.errors import ConflictError, GatewayError, NotFoundError
from gateway.log import get_logger
from gateway.transcripts import outbox_changes, outbox_rows
from gateway.transcripts.outbox import FETCHING, channel_of
from gateway.transcripts.outbox_rows import OutboxCounts, OutboxState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from anyio.abc import TaskGroup, TaskStatus

    from gateway.channels.base import Channel
    from gateway.clock import Clock
    from gateway.delivery.settings import DeliverySettings
    from gateway.delivery.streams import Streams
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.model import SessionSource
    from gateway.transcripts.outbox_rows import OutboxRow

DRAIN_S: Final = 5.0
"""How long a stop waits for what is due to be sent."""


@dataclass(frozen=True, slots=True)
class DeliveryStatistics:
    """What is owed, and what was done since the start."""

    owed: int
    dead: int
    """Dead letters that are kept."""
    oldest_owed_s: float
    """How long ago the oldest of what is owed was answered, in seconds; 0: nothing is owed."""
    sent: int
    retried: int
    """Tries beyond the first."""
    given_up: int


class Delivery:
    """Sends what is owed to all channels."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        settings: DeliverySettings,
        channels: Iterable[Channel],
        share: Callable[[], float] = random.random,
    ) -> None:
        """Take the channels there are; nothing is sent before `run`."""
        self._desk = Desk(database, clock, settings, share)
        self._lines: dict[str, Line] = {}
        self._tasks: TaskGroup | None = None
        self._counted = OutboxCounts(0, 0, None)
        for channel in channels:
            self._line(channel_of(channel.platform, channel.account), channel)

    @property
    def settings(self) -> DeliverySettings:
        """How long a reply may wait, and how often it is tried; may be replaced at any time."""
        return self._desk.settings

    @settings.setter
    def settings(self, settings: DeliverySettings) -> None:
        self._desk.settings = settings
        self.wake_all()

    @property
    def streams(self) -> Streams:
        """Answers that are shown while they are made."""
        return self._desk.streams

    async def owes(self, chat: str) -> bool:
        """Return whether anything waits to be sent to a chat, as the outbox names it."""
        owed = await self._desk.database.read(lambda place: outbox_rows.first_owed(place, chat))
        return owed is not None

    async def yields(self, channel: str) -> bool:
        """Return whether parts of answers wait for what is owed: the channel's platform is busy."""
        if not self._desk.streams.is_busy(channel):
            return False

        owed = await self._desk.database.read(
            lambda place: outbox_rows.oldest_owed(place, channel, limit=1)
        )
        return bool(owed)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Deliver until cancelled; what an earlier run owes comes first.

        Cancellation: tries that are under way count as such of unknown outcome.
        """
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                for name in await self._desk.database.read(outbox_rows.channels_owed):
                    self._line(name)
                for line in self._lines.values():
                    tasks.start_soon(line.run)
                task_status.started()
                await anyio.sleep_forever()
            finally:
                self._tasks = None

    def wake(self, source: SessionSource) -> None:
        """Send what is owed to a source's channel, once it is committed; costs nothing to call."""
        if source.platform not in FETCHING:
            self._line(channel_of(source.platform, source.account)).wake()

    def wake_all(self) -> None:
        """Look again at what is owed to all channels."""
        for line in self._lines.values():
            line.wake()

    def reached(self, channel: Channel) -> None:
        """Take note that a channel can be reached: what waited for that is sent now."""
        self._line(channel_of(channel.platform, channel.account)).reached()

    async def drain(self) -> None:
        """Wait until everything that is due is sent, at most `DRAIN_S`; `run` still runs."""
        if self._tasks is None:
            return

        self.wake_all()
        with self._desk.clock.move_on_after(DRAIN_S):
            for line in list(self._lines.values()):
                await line.idle()

    async def count(self) -> None:
        """Count anew what `statistics` tells of the database, where that can be read."""
        with suppress(GatewayError):
            self._counted = await self._desk.database.read(outbox_rows.counts)

    def statistics(self) -> DeliveryStatistics:
        """Return what is owed, as it was last counted, and what was done since the start."""
        counted, counts = self._counted, self._desk.counts
        oldest_s = 0.0
        if counted.oldest_owed_at is not None:
            oldest_s = (self._desk.clock.now() - counted.oldest_owed_at).total_seconds()
        return DeliveryStatistics(
            owed=counted.owed,
            dead=counted.dead,
            oldest_owed_s=max(0.0, round(oldest_s, 3)),
            sent=counts["sent"],
            retried=counts["retried"],
            given_up=counts["given_up"],
        )

    async def retry(self, delivery_id: str) -> OutboxRow:
        """Have a reply sent that is owed or dead: at once, with a new time to live and all tries.

        Durability: on return the wish survives power loss.

        Raises:
            NotFoundError: there is no such reply.
            ConflictError: it was sent.
        """
        now = self._desk.clock.now()

        def work(transaction: Transaction) -> OutboxRow:
            outbox_changes.revive(transaction, _unsent(transaction, delivery_id), at=now)
            return _found(transaction, delivery_id)

        row = await self._desk.database.write(work)
        get_logger().info("outbox.revived", turn_id=row.delivery_id, channel=row.channel)
        self._line(row.channel).wake()
        return row

    async def drop(self, delivery_id: str) -> OutboxRow | None:
        """Give up a reply that is owed; delete one that is dead, and return None.

        One that is being sent may still be shown, and is then told as sent.

        Raises:
            NotFoundError: there is no such reply.
            ConflictError: it was sent.
        """
        now, why = self._desk.clock.now(), Bury(Reason.DROPPED, Reason.DROPPED)

        def work(transaction: Transaction) -> OutboxRow | None:
            row = _unsent(transaction, delivery_id)
            if row.state is OutboxState.DEAD:
                outbox_changes.remove(transaction, row)
                return None

            outbox_changes.bury(transaction, row, error=why.error, at=now)
            return _found(transaction, delivery_id)

        row = await self._desk.database.write(work)
        if row is None:
            get_logger().info("outbox.removed", turn_id=delivery_id)
        else:
            self._desk.note_dead(row, why)
            self._line(row.channel).wake()
        return row

    def _line(self, name: str, channel: Channel | None = None) -> Line:
        """Return the line of a channel; one that is not configured gets one as well."""
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = Line(name, channel, self._desk)
            if self._tasks is not None:
                self._tasks.start_soon(line.run)
        return line


def _unsent(transaction: Transaction, delivery_id: str) -> OutboxRow:
    row = _found(transaction, delivery_id)
    if row.state is OutboxState.SENT:
        raise ConflictError("This reply was sent.")

    return row


def _found(transaction: Transaction, delivery_id: str) -> OutboxRow:
    row = outbox_rows.find(transaction, delivery_id)
    if row is None:
        raise NotFoundError("There is no such reply to a channel.")

    return row
