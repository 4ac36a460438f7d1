"""How runs end, noted for the history and told to the log: each once, whoever waited for it."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from gateway.errors import ConflictError, GatewayError
from gateway.pruning import PruningResult, RunStatus
from gateway.retention.runs import failed_row, log_run, note_end, note_failed, run_row
from gateway.transcripts.pruned import RunCause

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.clock import Clock
    from gateway.durable.database import Database
    from gateway.pruning.records import RunStarted
    from gateway.retention.items import SqliteItemStore

Ran = TypeVar("Ran", bound=PruningResult | None)

_NUMBER: Final = re.compile(r"[0-9][0-9,.]*")


class RunNotes:
    """Notes the runs of one manager."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        items: SqliteItemStore,
        is_running: Callable[[], bool],
    ) -> None:
        """Note runs over these items; `is_running` tells whether one is in progress."""
        self._database = database
        self._clock = clock
        self._items = items
        self._is_running = is_running
        self._started: RunStarted | None = None
        self._refused = self._noted = ""

    def begun(self, started: RunStarted) -> None:
        """Take note of a run that begins."""
        self._started = started
        self._items.begin_run(started)

    async def of(self, run: Awaitable[Ran]) -> Ran:
        """Let a run go on, note how it ended, and return what came of it.

        Raises:
            Exception: what the run raises; that is noted as well.
        """
        try:
            result = await run
            if result is not None:
                await self._note(result)
        except ConflictError:
            raise
        except Exception as error:
            await self._note_failed(error)
            raise
        finally:
            if not self._is_running():
                self._items.end_run()
        return result

    async def _note(self, result: PruningResult) -> None:
        """Note and tell how a run ended, if it changed something or could not."""
        if result.dry_run or result.id == self._noted:
            return

        self._noted = result.id
        refused = result.detail if result.status is RunStatus.REFUSED else ""
        # One that is due is tried again and again: but for its numbers it is the same news.
        known, refused = self._refused, _NUMBER.sub("", refused)
        if result.trigger == RunCause.DUE:
            self._refused = refused
        else:
            known = ""
        is_news = bool(result.pruned_items or result.errors) or refused not in {"", known}
        if is_news:
            row = run_row(result)
            await self._database.write(lambda tx: note_end(tx, row))
            log_run(result)

    async def _note_failed(self, error: Exception) -> None:
        started = self._started
        if started is None or started.dry_run or started.run_id == self._noted:
            return

        self._noted = started.run_id
        row = failed_row(started, self._clock.now(), error)
        # A storage that failed takes no note either.
        with suppress(GatewayError):
            await self._database.write(lambda tx: note_failed(tx, row))
