"""Waits for the ends of processes, records them, and has their sessions told, each exactly once."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from gateway.errors import GatewayError
from gateway.log import get_logger
from gateway.processes import records
from gateway.processes.ending import end_of, may_have_left
from gateway.processes.leftovers import end_leftovers
from gateway.processes.records import EndReason, ProcessRecord
from gateway.processes.spawning import reap

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.processes.active import ActiveProcesses
    from gateway.processes.kept import Kept

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 300.0
"""Between tries to report an end."""

log = get_logger()

OnEnded = Callable[[ProcessRecord], Awaitable[None]]


class EndWatch:
    """Watches the processes that the registry keeps, and takes out those that are told of."""

    def __init__(
        self, database: Database, clock: Clock, active: ActiveProcesses, kept: dict[str, Kept]
    ) -> None:
        """Work on the registry's own tables of processes."""
        self.on_ended: OnEnded | None = None
        self.lost = self.reported = 0
        """How many were, since the start."""
        self._database = database
        self._clock = clock
        self._active = active
        self._kept = kept

    async def watch(self, kept: Kept) -> None:
        """Wait for the end of a process, record it and tell its session; tried until it works."""
        if kept.pidfd is not None:
            try:
                await self._gone(kept, kept.pidfd)
                # Before its number is free.
                await self._end_leftovers(kept)
                reap(kept.pidfd)
            finally:
                os.close(kept.pidfd)
                kept.pidfd = None
        elif kept.record.end is None:
            await self._end_leftovers(kept)
        await kept.begun.wait()
        pause_s = FIRST_PAUSE_S
        while not await self._settled(kept, pause_s):
            await self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _gone(self, kept: Kept, pidfd: int) -> None:
        with self._clock.move_on_after(self._active.guards_for_s(kept.since)):
            await anyio.wait_readable(pidfd)
            return

        log.warning(
            "process.no_longer_guards",
            **kept.facts(),
            guard_max_age_s=self._active.max_age_s,
        )
        await anyio.wait_readable(pidfd)

    async def _end_leftovers(self, kept: Kept) -> None:
        """Where a keeper was killed, end what its command had started, as far as that is proven."""
        keeper, directory = kept.record.keeper, kept.directory
        if keeper is None or not await anyio.to_thread.run_sync(
            may_have_left, kept.record, directory
        ):
            return

        # What was not ended is told to be there: nothing else depends on it.
        with suppress(GatewayError, OSError):
            child = await anyio.to_thread.run_sync(directory.child)
            kept.left = await end_leftovers(
                keeper, directory.path, self._clock, child=child, met=kept.met
            )

    async def _settled(self, kept: Kept, pause_s: float) -> bool:
        """Record and report an end; False where it has to be tried again."""
        try:
            await self.note_end(kept)
            if not kept.failure:
                if self.on_ended is None:
                    return True
                if not await self._report(kept.record.process_id, self.on_ended):
                    log.warning("process.not_reported", **kept.facts(), again_in_s=pause_s)
                    return False
        except Exception as exc:  # noqa: BLE001 - one report that fails must not end the others
            log.warning(
                "process.not_reported",
                **kept.facts(),
                error=str(exc),
                kind=type(exc).__name__,
                again_in_s=pause_s,
            )
            return False

        # Before the directory goes: who reads then reads the row.
        del self._kept[kept.record.process_id]
        self._active.ended(kept.record.session_key, kept.record.process_id)
        await anyio.to_thread.run_sync(kept.directory.remove)
        return True

    async def note_end(self, kept: Kept) -> None:
        """Record how a process ended whose keeper is not there; harmless where that is done."""
        if kept.record.end is not None:
            return

        record, at = kept.record, stamp(self._clock)
        end = await anyio.to_thread.run_sync(end_of, record, kept.directory, at, kept.left)
        if kept.failure:
            end = replace(end, reason=EndReason.FAILED, detail=kept.failure)

        def work(transaction: Transaction) -> None:
            records.note_end(transaction, record.process_id, end)
            if kept.failure:
                records.stage_reported(transaction, record.process_id, at)

        await self._database.write(work)
        kept.record = replace(kept.record, end=end)
        kept.ended.set()
        self.lost += end.reason is EndReason.LOST
        log.info(
            "process.ended",
            **kept.facts(),
            reason=end.reason,
            exit_status=end.exit_status,
            output_bytes=end.output_bytes,
        )

    async def _report(self, process_id: str, on_ended: OnEnded) -> bool:
        """Have a session told; return whether it is. Of an erased session nothing is told."""
        find = partial(records.find, process_id=process_id)
        row = await self._database.read(find)
        if row is not None and row.reported_at is None:
            await on_ended(row)
            row = await self._database.read(find)
            self.reported += row is not None and row.reported_at is not None
        return row is None or row.reported_at is not None


def stamp(clock: Clock) -> str:
    """Return the present instant as it is stored."""
    return clock.now().isoformat().replace("+00:00", "Z")
