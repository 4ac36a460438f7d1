"""All webhooks: events are staged in the transaction of what they tell, and posted by `run`.

Promise: what was staged and committed is posted until its endpoint takes it, at least once, under
one id, or is a dead letter that is listed. The order of events is not promised.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import orjson

from gateway.durable.batch import PASSING
from gateway.errors import ConflictError, GatewayError, NotFoundError
from gateway.log import get_logger
from gateway.webhooks import rows
from gateway.webhooks.line import Line, WebhookStatistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from anyio.abc import TaskStatus

    from gateway.clock import Clock
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.model import SessionKey
    from gateway.webhooks.rows import EventRow, EventState
    from gateway.webhooks.settings import EventKind, WebhookSettings

NOT_CONFIGURED: Final = "the webhook is not configured any more"
SLICE: Final = 1_000
"""How many events are changed at once where many are: 15 ms of the writer's time, about."""
UNKNOWN_KEEP: Final = 1_000
"""How many dead letters are kept of a webhook that is not configured any more, ..."""
UNKNOWN_KEEP_FOR: Final = timedelta(days=30)
"""... and for how long at least; starts delete them."""


class Webhooks:
    """Who is told of what."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        settings: Iterable[WebhookSettings],
        share: Callable[[], float] = random.random,
    ) -> None:
        """Take the webhooks there are; nothing is posted before `run`.

        Raises:
            ConfigurationError: a secret cannot be had, or is none.
        """
        self._database = database
        self._clock = clock
        self._lines = {one.name: Line(one, database, clock, share) for one in settings}
        self._counted: dict[str, rows.Counts] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def wants(self, kind: EventKind) -> bool:
        """Return whether anybody is told of events of a kind."""
        return any(kind in line.settings.events for line in self._lines.values())

    def stage(
        self,
        transaction: Transaction,
        kind: EventKind,
        session_key: SessionKey,
        data: Mapping[str, Any],
    ) -> None:
        """Queue an event for everybody who is told of its kind; runs in the writer thread.

        Args:
            transaction: That of what the event tells.
            kind: What happened.
            session_key: Whose; with the session its events are erased.
            data: Ids, keys, numbers and reasons: nothing that anybody wrote.
        """
        at = self._clock.now()
        told = {"type": kind, "timestamp": at, "data": data}
        body = orjson.dumps(told, option=orjson.OPT_UTC_Z).decode()
        for line in self._lines.values():
            if kind in line.settings.events:
                rows.add(
                    transaction,
                    event_id=f"msg_{secrets.token_hex(16)}",
                    webhook=line.name,
                    kind=kind,
                    session_key=session_key,
                    body=body,
                    at=at,
                )
                self._make_room(transaction, line, 1)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Post until cancelled; what an earlier run left comes first.

        Cancellation: what is being posted is posted again by the next run.
        """
        self._loop = asyncio.get_running_loop()
        try:
            await self._bury_unknown()
            async with anyio.create_task_group() as tasks:
                for line in self._lines.values():
                    tasks.start_soon(line.run)
                task_status.started()
                await anyio.sleep_forever()
        finally:
            self._loop = None

    async def count(self) -> None:
        """Count anew what `statistics` tells of the database, where that can be read."""
        with suppress(GatewayError):
            self._counted = await self._database.read(rows.counts)

    def statistics(self) -> tuple[WebhookStatistics, ...]:
        """Return what is known of each webhook, in the order of the configuration."""
        now = self._clock.now()
        return tuple(
            line.statistics(self._counted.get(name, rows.Counts()), now)
            for name, line in self._lines.items()
        )

    async def page(
        self, state: EventState, *, webhook: str = "", cursor: int = 0, limit: int
    ) -> list[EventRow]:
        """Return events that wait or are dead, the oldest first; see `rows.page`."""
        return await self._database.read(
            lambda place: rows.page(place, state, webhook=webhook, cursor=cursor, limit=limit)
        )

    async def retry(self, event_ids: Sequence[str]) -> int:
        """Have events posted at once, with all their tries; return how many.

        A webhook whose endpoint has answered 410 is tried again.

        Durability: on return the wish survives power loss; all of them, or none.

        Raises:
            NotFoundError: there is no such event; perhaps it was taken meanwhile.
            ConflictError: its webhook is not configured, or its queue is full.
        """

        def work(transaction: Transaction) -> list[EventRow]:
            found = [rows.find(transaction, one) for one in dict.fromkeys(event_ids)]
            events = [row for row in found if row is not None]
            if len(events) < len(found):
                raise NotFoundError("There is no such event; perhaps it was taken meanwhile.")

            for line in self._revive(transaction, events):
                transaction.on_commit(self._call_loop, line.enable)
            return events

        events = await self._database.write(work)
        for name, number in Counter(row.webhook for row in events).items():
            get_logger().info("webhook.revived", webhook=name, events=number)
        return len(events)

    async def retry_all(self, webhook: str) -> int:
        """Have all events of a webhook posted, dead letters as far as its queue has room.

        See `retry`; in slices, between which others write, and an error leaves those before it.

        Raises:
            NotFoundError: there is no such webhook.
        """
        line = self._lines.get(webhook)
        if line is None:
            raise NotFoundError("There is no webhook of this name.")

        def hasten(cursor: int, transaction: Transaction) -> list[int]:
            if not cursor:
                # Once, so that it may be disabled again meanwhile.
                transaction.on_commit(self._call_loop, line.enable)
            transaction.on_commit(self._call_loop, line.wake)
            now = self._clock.now()
            return rows.hasten(transaction, webhook, cursor=cursor, limit=SLICE, at=now)

        def revive(cursor: int, transaction: Transaction) -> list[int]:
            room = max(0, line.settings.max_queued - rows.queued(transaction, webhook))
            state, limit = rows.EventState.DEAD, min(SLICE, room)
            events = rows.page(transaction, state, webhook=webhook, cursor=cursor, limit=limit)
            self._revive(transaction, events)
            return [row.position for row in events]

        number = await self._in_slices(hasten) + await self._in_slices(revive)
        if number:
            get_logger().info("webhook.revived", webhook=webhook, events=number)
        return number

    async def _in_slices(self, work: Callable[[int, Transaction], list[int]]) -> int:
        """Go through events in the order of their positions; return how many there were."""
        number = cursor = 0
        while True:
            positions = await self._database.write(partial(work, cursor))
            number += len(positions)
            if len(positions) < SLICE:
                return number

            cursor = positions[-1]

    def _revive(self, transaction: Transaction, events: Sequence[EventRow]) -> list[Line]:
        """Queue events anew; return whose they are."""
        at = self._clock.now()
        for row in events:
            rows.revive(transaction, row, at=at)
        lines = [self._line(name) for name in {row.webhook for row in events}]
        for line in lines:
            # Else the oldest, which these may be, would be dead again at once.
            if rows.queued(transaction, line.name) > line.settings.max_queued:
                raise ConflictError(f"The queue of the webhook {line.name} is full.")

            self._make_room(transaction, line, len(events))
        return lines

    def _line(self, name: str) -> Line:
        line = self._lines.get(name)
        if line is None:
            raise ConflictError(f"The webhook {name} is not configured.")

        return line

    def _make_room(self, transaction: Transaction, line: Line, added: int) -> None:
        surplus = line.make_room(transaction, added, self._clock.now())
        if surplus:
            transaction.on_commit(self._call_loop, line.note_surplus, surplus)
        transaction.on_commit(self._call_loop, line.wake)

    def _call_loop(self, action: Callable[..., None], *arguments: object) -> None:
        """Run something in the event loop, where there is one that posts."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(action, *arguments)

    async def _bury_unknown(self) -> None:
        """Make dead letters of what waits for webhooks that are not configured any more."""
        await self.count()
        unknown = self._counted.keys() - self._lines.keys()
        if not unknown:
            return

        now = self._clock.now()

        def work(transaction: Transaction) -> int:
            for name in unknown:
                rows.discard_dead(transaction, name, before=now - UNKNOWN_KEEP_FOR)
            return rows.bury_unknown(
                transaction, self._lines, error=NOT_CONFIGURED, at=now, keep=UNKNOWN_KEEP
            )

        try:
            buried = await self._database.write(work)
        except PASSING as error:
            # They wait for the next start, and harm nobody meanwhile.
            get_logger().warning("webhook.waiting_for_storage", error=str(error))
            return

        if buried:
            get_logger().warning("webhook.unknown", given_up=buried)
