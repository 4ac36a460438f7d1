"""What the delivery to all channels shares: the storage, the clock, the settings, the counts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from gateway.clock import Clock
from gateway.delivery.settings import DeliverySettings
from gateway.delivery.streams import Streams
from gateway.durable.batch import PASSING
from gateway.durable.database import Database
from gateway.log import get_logger

if TYPE_CHECKING:
    from gateway.delivery.planning import Bury
    from gateway.durable.batch import Transaction
    from gateway.transcripts.outbox_rows import OutboxRow

T = TypeVar("T")

RETRY_S: Final = 2.0
"""How long to wait for a storage that is full or busy."""
MAX_PAUSES: Final = 10_000
"""Chats whose pauses are counted at most; with more, all are counted anew."""


@dataclass(slots=True)
class Desk:
    """What all lines work with."""

    database: Database
    clock: Clock
    settings: DeliverySettings
    """May be replaced at any time."""
    share: Callable[[], float] = random.random
    """Returns random numbers from 0 to 1."""
    counts: Counter[str] = field(default_factory=Counter)
    """What was done since the start: `sent`, `retried`, `given_up`."""
    pauses: Counter[str] = field(default_factory=Counter)
    """By chat, how often in a row its platform asked for a pause; in memory only."""
    streams: Streams = field(init=False)
    """Answers that are shown while they are made."""

    def __post_init__(self) -> None:
        """Begin without a stream."""
        self.streams = Streams(self.clock)

    async def stored(self, work: Callable[[Transaction], T]) -> T:
        """Store something, as often as it takes while the storage refuses for a time.

        Cancellation: what was begun is stored; a wait for the storage ends without it.
        """
        while True:
            try:
                return await self.database.write_through(work)
            except PASSING as error:
                get_logger().warning("outbox.waiting_for_storage", error=str(error))
            await self.clock.sleep(RETRY_S)

    def note_pause(self, chat: str, *, asked: bool) -> int:
        """Take note whether a try was answered with the wish for a pause.

        Returns how often in a row it was before.
        """
        before = self.pauses.pop(chat, 0)
        if asked:
            if len(self.pauses) >= MAX_PAUSES:
                self.pauses.clear()
            self.pauses[chat] = before + 1
        return before

    def note_dead(self, row: OutboxRow, why: Bury) -> None:
        """Tell of a reply that was given up; of what it says nothing, nor of what others say."""
        self.counts["given_up"] += 1
        self.streams.forget(row.delivery_id)
        get_logger().warning(
            "outbox.dead",
            reason=why.reason,
            turn_id=row.delivery_id,
            session_key=row.session_key,
            channel=row.channel,
            attempts=row.attempts,
            age_s=round((self.clock.now() - row.created_at).total_seconds(), 3),
        )
