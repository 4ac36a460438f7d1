"""The background processes of all sessions: started, watched, ended, and told of exactly once.

A row is durable before a keeper is there, and the keeper's identity before the command is started
(`spawning`); so after any end of the gateway each process is either adopted, or its end is known,
or it is recorded as lost. One task waits for each keeper; nothing is polled.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from gateway.durable.batch import PASSING
from gateway.errors import (
    BadRequestError,
    ConflictError,
    DamagedDataError,
    NotFoundError,
    UnavailableError,
)
from gateway.log import get_logger
from gateway.processes import records
from gateway.processes.active import ActiveProcesses
from gateway.processes.counts import ProcessStatistics, check_limits
from gateway.processes.directory import ProcessDirectory, remove_strangers
from gateway.processes.ending import may_have_left
from gateway.processes.input import write_input
from gateway.processes.kept import Kept
from gateway.processes.launching import NOT_STARTED, Launcher
from gateway.processes.output import KeptOutput
from gateway.processes.records import ProcessRecord
from gateway.processes.requests import requested
from gateway.processes.settings import words_of
from gateway.processes.watching import EndWatch, OnEnded, stamp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anyio.abc import TaskGroup, TaskStatus

    from gateway.clock import Clock
    from gateway.durable.database import Database
    from gateway.model import SessionKey, ToolCaller
    from gateway.processes.settings import ProcessSettings

STOP_WAIT_S: Final = 10.0
"""How long `stop` waits for the end."""
NOT_FOUND: Final = "not found; the next start says what became of it"
KEPT_DAYS: Final = 7
"""How long rows stay of processes that were reported, for who calls `records.discard_reported`."""

log = get_logger()


class ProcessRegistry:
    """Owns a task for each live process."""

    def __init__(
        self, database: Database, clock: Clock, settings: ProcessSettings, state_dir: Path
    ) -> None:
        """Know of none; `look` or `recover` reads what the database knows."""
        self.settings = settings
        self._database = database
        self._clock = clock
        self._state_dir = state_dir
        self._active = ActiveProcesses(clock, settings.guard_max_age_s)
        self._kept: dict[str, Kept] = {}
        self._ends = EndWatch(database, clock, self._active, self._kept)
        self._launcher = Launcher(database, clock, settings)
        self._tasks: TaskGroup | None = None
        self._started = self._adopted = 0

    @property
    def on_ended(self) -> OnEnded | None:
        """Tells a session of an end.

        It marks that with `records.stage_reported` in the transaction that tells; where it raises
        or does not mark it, it is called again, with a pause. None: ends stay unreported until a
        start that has one.
        """
        return self._ends.on_ended

    @on_ended.setter
    def on_ended(self, tell: OnEnded | None) -> None:
        self._ends.on_ended = tell

    async def look(self) -> None:
        """Read which processes keep which session, and look which are there; changes nothing.

        What is not there keeps its session until the next start has told it.

        Raises:
            DamagedDataError: A row cannot be read.
        """
        await self._load()
        for kept in (one for one in self._kept.values() if one.runs):
            with suppress(UnavailableError):
                pidfd = kept.open_keeper()
                kept.gone = pidfd is None
                if pidfd is not None:
                    os.close(pidfd)

    async def _load(self) -> None:
        try:
            rows = await self._database.read(records.unreported)
        except (KeyError, TypeError, ValueError) as exc:
            reason = "the table of processes is damaged; `gateway store check` says more"
            raise DamagedDataError(self._database.path, reason) from exc

        for record in rows:
            self._keep(record).begun.set()

    async def recover(self) -> None:
        """Load, adopt what still runs, and record how the others ended, or that nobody knows.

        Before anything asks `has_active_for_session`; `run` then watches and reports, and ends
        what those have left whose keepers were killed.

        Raises:
            DamagedDataError: A row cannot be read.
        """
        await self._load()
        for kept in self._kept.values():
            if kept.record.end is None:
                with suppress(UnavailableError):
                    kept.pidfd = kept.open_keeper()
            if kept.pidfd is not None:
                kept.met = True
                self._adopted += 1
                log.info("process.adopted", **kept.facts())
            elif not await anyio.to_thread.run_sync(may_have_left, kept.record, kept.directory):
                # On a full disk, or where a file cannot be read, `run` tries again.
                with suppress(*PASSING, OSError):
                    await self._ends.note_end(kept)
        await anyio.to_thread.run_sync(remove_strangers, self._state_dir, set(self._kept))

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Watch what was recovered and what is started, and report ends, until cancelled.

        Cancellation: processes go on; the next `recover` finds them.
        """
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for kept in list(self._kept.values()):
                    self._watch(kept, tasks)
                task_status.started()
                await anyio.sleep_forever()
        finally:
            self._tasks = None

    async def start(
        self, caller: ToolCaller, command: str | Sequence[str], *, request: str = ""
    ) -> ProcessRecord:
        """Start a command for a session; on return it runs, or has already ended.

        The same request again, also after a crash, starts nothing anew; while the first try is
        under way it waits for it, and where that has failed it fails too.

        Durability: that it was about to be started is on disk before it is, and so is its keeper.
        Cancellation: comes through once the start is over; the process goes on.

        Args:
            caller: Whose it is.
            command: A list of words, or a text for the configured shell.
            request: A name that no other request of the session has; empty: none has the same.

        Raises:
            BadRequestError: Processes are off, or it is no command, or cannot be executed.
            BusyError: Too many run already.
            UnavailableError: The gateway is stopping, keepers cannot be started, or the request
                failed before.
        """
        words = words_of(self.settings, command)
        process_id = records.process_id(caller.session_key, request)
        if request:
            before = await requested(process_id, self._kept, self._database)
            if before is not None:
                return before

        kept = self._keep(self._admit(caller, words, process_id))
        try:
            await self._launcher.launch(kept, self._begin_watch)
        except Exception as exc:
            kept.failure = str(exc).removeprefix(NOT_STARTED) or type(exc).__name__
            self._abandon(kept)
            raise
        finally:
            kept.begun.set()
        self._started += 1
        log.info("process.started", **kept.facts())
        return kept.record

    async def get(self, process_id: str) -> ProcessRecord:
        """Return a process that runs or whose row is still there.

        Raises:
            NotFoundError: There is none.
        """
        if process_id in self._kept:
            return self._kept[process_id].record

        record = await self._database.read(partial(records.find, process_id=process_id))
        if record is None:
            raise NotFoundError("There is no process with this id.")

        return record

    async def list(
        self, session_key: SessionKey | None = None, *, limit: int = 100
    ) -> tuple[ProcessRecord, ...]:
        """Return the latest processes, those that have not ended first."""
        query = partial(records.latest, session_key=session_key, limit=limit)
        return tuple(await self._database.read(query))

    async def read_output(self, process_id: str, *, max_bytes: int) -> KeptOutput:
        """Return the end of what a process wrote so far.

        Of one that ended and was reported, what its row has.

        Raises:
            NotFoundError: There is none.
        """
        if process_id in self._kept:
            directory = self._kept[process_id].directory
            output = await anyio.to_thread.run_sync(directory.output, max_bytes)
            if process_id in self._kept:
                return output
            # The directory went meanwhile, or a part of it.

        end = (await self.get(process_id)).end
        if end is None:
            return KeptOutput(b"", 0)

        data = end.output.encode()
        whole = end.output_whole and len(data) <= max_bytes
        return KeptOutput(data[-max_bytes:], end.output_bytes, whole=whole)

    async def write(self, process_id: str, text: str, *, last: bool = False) -> None:
        """Write to the standard input of a process; `last` closes it afterwards.

        Raises:
            NotFoundError: There is none.
            BadRequestError: The text is too long.
            ConflictError: It has ended, or does not read.
        """
        kept = await self._live(process_id)
        async with kept.writing:
            await write_input(kept.directory.input, text, self._clock)
            if last:
                self._signal(kept, signal.SIGUSR1)

    async def stop(self, process_id: str) -> ProcessRecord:
        """End a process and all of its group, and wait a while for it; SIGKILL follows SIGTERM.

        Raises:
            NotFoundError: There is none.
            ConflictError: It has ended.
        """
        kept = await self._live(process_id)
        self._signal(kept, signal.SIGTERM)
        if self._tasks is not None:
            with self._clock.move_on_after(STOP_WAIT_S):
                await kept.ended.wait()
        return kept.record

    def has_active_for_session(self, session_key: SessionKey) -> bool:
        """Return whether a process keeps a session; from any thread.

        The argument is the session key. One that is too old keeps nothing.
        """
        return self._active.has_active_for_session(session_key)

    def blocking(self, session_key: SessionKey) -> tuple[str, ...]:
        """Return the processes that keep a session from being reset and pruned."""
        return self._active.blocking(session_key)

    def guards(self, record: ProcessRecord) -> bool:
        """Return whether a process keeps its session."""
        return record.process_id in self._active.blocking(record.session_key)

    def is_gone(self, process_id: str) -> bool:
        """Return whether `look` did not find a process that is not known to have ended."""
        kept = self._kept.get(process_id)
        return kept is not None and kept.gone

    def running_of(self, session_key: SessionKey) -> int:
        """Return how many of a session have not ended, as far as is known."""
        return sum(
            kept.runs and kept.record.session_key == session_key for kept in self._kept.values()
        )

    def overdue(self) -> tuple[ProcessRecord, ...]:
        """Return the processes that run and are too old to keep their sessions."""
        return tuple(
            kept.record
            for kept in self._kept.values()
            if kept.runs and not self._active.guards(kept.since)
        )

    def unreported(self) -> tuple[ProcessRecord, ...]:
        """Return the processes that have ended and whose sessions are not told yet."""
        return tuple(kept.record for kept in self._kept.values() if kept.record.end is not None)

    def statistics(self) -> ProcessStatistics:
        """Return what became of the processes since the start."""
        return ProcessStatistics(
            running=len(self),
            unreported=len(self.unreported()),
            overdue=len(self.overdue()),
            started=self._started,
            adopted=self._adopted,
            lost=self._ends.lost,
            reported=self._ends.reported,
        )

    def __len__(self) -> int:
        """Return the number of processes that have not ended, as far as is known."""
        return sum(kept.runs for kept in self._kept.values())

    def _admit(self, caller: ToolCaller, words: tuple[str, ...], process_id: str) -> ProcessRecord:
        """Return the record of a process that may be started now."""
        settings = self.settings
        if not settings.enabled:
            raise BadRequestError("Background processes are off (enabled of [processes]).")
        if self._tasks is None:
            raise UnavailableError("The gateway starts no process now.")

        of_session = self.running_of(caller.session_key)
        check_limits(settings, of_session=of_session, of_all=len(self))
        return ProcessRecord(
            process_id=process_id,
            session_key=caller.session_key,
            session_id=caller.session_id,
            agent=caller.agent,
            source=caller.source,
            command=words,
            cwd=str(settings.cwd or ProcessDirectory(self._state_dir, process_id).work()),
            created_at=stamp(self._clock),
        )

    def _keep(self, record: ProcessRecord) -> Kept:
        kept = Kept(record, ProcessDirectory(self._state_dir, record.process_id))
        self._kept[record.process_id] = kept
        self._active.begun(record.session_key, record.process_id, kept.since)
        return kept

    def _begin_watch(self, kept: Kept, pidfd: int) -> None:
        if self._tasks is None:
            # The gateway is stopping; the next one finds it.
            os.close(pidfd)
            return

        kept.pidfd, kept.met = pidfd, True
        self._watch(kept, self._tasks)

    def _watch(self, kept: Kept, tasks: TaskGroup) -> None:
        kept.watched = True
        tasks.start_soon(self._ends.watch, kept)

    def _abandon(self, kept: Kept) -> None:
        """Have the end of a failed start recorded; whoever asked for it is told."""
        if not kept.stored:
            del self._kept[kept.record.process_id]
            self._active.ended(kept.record.session_key, kept.record.process_id)
        elif kept.pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(kept.pidfd, signal.SIGTERM)
        elif self._tasks is not None and not kept.watched:
            self._watch(kept, self._tasks)

    async def _live(self, process_id: str) -> Kept:
        record = await self.get(process_id)
        kept = self._kept.get(process_id)
        if kept is None or record.end is not None:
            raise ConflictError("The process has ended.")
        if kept.gone:
            raise ConflictError(f"The process is {NOT_FOUND}.")

        return kept

    def _signal(self, kept: Kept, number: signal.Signals) -> None:
        """Send a signal to a keeper that is proven to be it."""
        pidfd = kept.open_keeper()
        if pidfd is None:
            raise ConflictError("The process is ending, or has just begun.")

        try:
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError as exc:
            raise ConflictError("The process has ended.") from exc
        finally:
            os.close(pidfd)
