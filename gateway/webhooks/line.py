"""Posting the events of one webhook: a few at once, each until it is taken or dead.

What waits, and when it is due, stands in the database alone; in memory is only what is being
posted. A kill in between has the same event posted once more, under the same id.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import anyio

from gateway.durable.batch import PASSING
from gateway.errors import ConfigurationError
from gateway.log import get_logger
from gateway.settings import SecretError
from gateway.signing.posting import Answer, Poster, PostError
from gateway.signing.signatures import key_of
from gateway.webhooks import rows
from gateway.webhooks.planning import LONGEST_PAUSE_S, Again, GiveUp, Gone, after_failure

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from anyio.abc import TaskGroup

    from gateway.clock import Clock
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.webhooks.rows import EventRow
    from gateway.webhooks.settings import WebhookSettings

MAX_PARALLEL: Final = 4
"""How many events of a webhook are posted at once."""
RETRY_S: Final = 2.0
"""How long to wait for a storage that is full or busy."""
LOOK_S: Final = 3_600.0
"""How often dead letters are looked at, whose time may be over."""
TELL_S: Final = 60.0
"""How often at most the log tells that a queue is full."""
BURIED_AT_ONCE: Final = 50
"""Of a full queue one event in so many is given up at once."""
FULL: Final = "the queue was full"


class WebhookState(StrEnum):
    """What a webhook does."""

    STOPPED = "stopped"
    RUNNING = "running"
    DISABLED = "disabled"
    """Its endpoint has answered 410: events wait for the next start, or the operator's wish."""


@dataclass(frozen=True, slots=True)
class WebhookStatistics:
    """What is known of a webhook."""

    webhook: str
    url: str
    state: WebhookState
    queued: int
    """Events that wait, as they were last counted."""
    dead: int
    """Dead letters that are kept, as they were last counted."""
    oldest_queued_s: float
    """How long ago the oldest of what waits happened, in seconds; 0: nothing waits."""
    delivered: int
    """Since the start, as all that follows."""
    failed: int
    """Posts that failed."""
    given_up: int
    """Events that became dead letters."""
    last_error: str
    """Why the last post that failed did; empty: none has."""


class Line:
    """The events of one webhook."""

    def __init__(
        self,
        settings: WebhookSettings,
        database: Database,
        clock: Clock,
        share: Callable[[], float],
    ) -> None:
        """Take the settings; nothing is posted before `run`.

        Raises:
            ConfigurationError: the secret cannot be had, or is none.
        """
        self.settings = settings
        self._database = database
        self._clock = clock
        self._share = share
        key = _key(settings)
        self._poster = Poster(settings.url, [key], clock, settings.timeout_s)
        self._active: set[str] = set()
        """Ids of events that are being posted."""
        self._wake = anyio.Event()
        self._state = WebhookState.STOPPED
        self._look_at = 0.0
        self._counts: Counter[str] = Counter()
        self._last_error = ""
        self._untold = 0
        """Events given up for want of room that the log does not tell yet."""
        self._tell_at = 0.0
        self._queued_at_most: float = float("inf")
        """An upper bound on what waits; the writer thread's alone."""

    @property
    def name(self) -> str:
        """What the webhook is called."""
        return self.settings.name

    def wake(self) -> None:
        """Look again at what is due; may be called at any time in the event loop."""
        self._wake.set()

    def enable(self) -> None:
        """Post again, though the endpoint has said that it is gone; in the event loop."""
        if self._state is WebhookState.DISABLED:
            self._state = WebhookState.RUNNING
        self.wake()

    def make_room(self, transaction: Transaction, added: int, at: datetime) -> int:
        """Bury the oldest events where too many wait, in the writer thread; return how many.

        Counted only where too many may wait, and buried some at once: a queue that stays full
        costs next to nothing for each event.
        """
        self._queued_at_most += added
        most = self.settings.max_queued
        if self._queued_at_most <= most:
            return 0

        number = rows.queued(transaction, self.name)
        surplus = max(0, number - most)
        if surplus:
            surplus = min(number, surplus + most // BURIED_AT_ONCE)
            keep = self.settings.dead_keep
            rows.bury_oldest(transaction, self.name, surplus, error=FULL, at=at, keep=keep)
        self._queued_at_most = number - surplus
        return surplus

    def note_surplus(self, number: int) -> None:
        """Tell that so many events were given up for want of room."""
        self._counts["given_up"] += number
        self._last_error = FULL
        self._untold += number
        now = self._clock.monotonic()
        if now >= self._tell_at:
            # A full queue stays full: each event gives one up.
            get_logger().warning("webhook.queue_full", webhook=self.name, given_up=self._untold)
            self._untold, self._tell_at = 0, now + TELL_S

    def statistics(self, counted: rows.Counts, now: datetime) -> WebhookStatistics:
        """Return what is known of it, with what was last counted."""
        oldest_s = 0.0
        if counted.oldest_queued_at:
            oldest_s = (now - rows.instant(counted.oldest_queued_at)).total_seconds()
        return WebhookStatistics(
            webhook=self.name,
            url=self.settings.url,
            state=self._state,
            queued=counted.queued,
            dead=counted.dead,
            oldest_queued_s=max(0.0, round(oldest_s, 3)),
            delivered=self._counts["delivered"],
            failed=self._counts["failed"],
            given_up=self._counts["given_up"],
            last_error=self._last_error,
        )

    async def run(self) -> None:
        """Post until cancelled.

        Cancellation: what is being posted may have been taken, and is posted again.
        """
        self._state = WebhookState.RUNNING
        try:
            async with self._poster.opened(), anyio.create_task_group() as tasks:
                while True:
                    self._wake = anyio.Event()
                    try:
                        wait_s = await self._begin_due(tasks)
                    except PASSING as error:
                        get_logger().warning("webhook.waiting_for_storage", error=str(error))
                        wait_s = RETRY_S
                    with self._clock.move_on_after(wait_s):
                        await self._wake.wait()
        finally:
            self._state = WebhookState.STOPPED

    async def _begin_due(self, tasks: TaskGroup) -> float:
        """Begin what is due; return after how many seconds to look again."""
        await self._discard_dead()
        if self._state is WebhookState.DISABLED:
            return self._look_in_s()

        now = self._clock.now()
        horizon = now + timedelta(seconds=LONGEST_PAUSE_S)
        # What ends while this is read is due as well in what is read.
        busy = frozenset(self._active)
        limit = MAX_PARALLEL + len(busy)
        due = await self._database.read(
            lambda place: rows.due(place, self.name, now=now, horizon=horizon, limit=limit)
        )
        for row in due.rows:
            if len(self._active) >= MAX_PARALLEL:
                break
            if row.event_id not in busy:
                self._active.add(row.event_id)
                tasks.start_soon(self._post, row)
        if due.next_at is None:
            return self._look_in_s()

        # Reading took its time.
        return min(self._look_in_s(), (due.next_at - self._clock.now()).total_seconds())

    def _look_in_s(self) -> float:
        return self._look_at - self._clock.monotonic()

    async def _discard_dead(self) -> None:
        """Delete dead letters whose time is over, now and then."""
        now = self._clock.monotonic()
        if now >= self._look_at:
            before = self._clock.now() - timedelta(days=self.settings.dead_keep_days)
            await self._database.write(lambda tx: rows.discard_dead(tx, self.name, before=before))
            self._look_at = now + LOOK_S

    async def _post(self, row: EventRow) -> None:
        try:
            outcome = await self._outcome(row)
            if outcome is None:
                self._counts["delivered"] += 1
                await self._stored(lambda tx: self._leave(tx, rows.remove(tx, row)))
            else:
                await self._note_failed(row, outcome)
        finally:
            self._active.discard(row.event_id)
            self.wake()

    async def _outcome(self, row: EventRow) -> Answer | PostError | None:
        """Post an event once; return why it was not taken, None where it was."""
        try:
            answer = await self._poster.post(row.event_id, row.body.encode())
        except PostError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the boundary of an endpoint: no fault of it ends more
            get_logger().exception("webhook.post_crashed", webhook=self.name)
            return PostError(type(error).__name__, sent=True)

        return None if answer.accepted else answer

    async def _note_failed(self, row: EventRow, outcome: Answer | PostError) -> None:
        decision = after_failure(outcome, row.attempts + 1, self._share())
        self._counts["failed"] += 1
        self._last_error = decision.error
        now, keep = self._clock.now(), self.settings.dead_keep
        facts = {"webhook": self.name, "event_id": row.event_id, "type": row.kind}
        match decision:
            case Again(error, pause_s):
                due_at = now + timedelta(seconds=pause_s)
                await self._stored(lambda tx: rows.note_failed(tx, row, error=error, due_at=due_at))
                get_logger().info(
                    "webhook.post_failed",
                    **facts,
                    attempt=row.attempts + 1,
                    reason=error,
                    pause_s=round(pause_s, 3),
                )
            case Gone(error):
                if self._state is WebhookState.RUNNING:
                    self._state = WebhookState.DISABLED
                    get_logger().warning("webhook.disabled", webhook=self.name, reason=error)
                await self._stored(lambda tx: rows.note_failed(tx, row, error=error, due_at=now))
            case GiveUp(error):
                self._counts["given_up"] += 1
                await self._stored(
                    lambda tx: self._leave(tx, rows.bury(tx, row, error=error, at=now, keep=keep))
                )
                get_logger().warning("webhook.dead", **facts, reason=error)

    def _leave(self, transaction: Transaction, number: int) -> None:
        """Note that so many events wait no more, once that is stored; in the writer thread."""
        transaction.on_commit(self._note_left, number)

    def _note_left(self, number: int) -> None:
        self._queued_at_most -= number

    async def _stored(self, work: Callable[[Transaction], None]) -> None:
        """Have a note stored, however long the disk is full or busy."""
        while True:
            try:
                await self._database.write(work)
            except PASSING as error:
                get_logger().warning("webhook.waiting_for_storage", error=str(error))
                await self._clock.sleep(RETRY_S)
            else:
                return


def _key(settings: WebhookSettings) -> bytes:
    try:
        return key_of(settings.secret.resolve())
    except (SecretError, ValueError) as error:
        raise ConfigurationError([f"webhooks: {settings.name}: secret: {error}"]) from error
