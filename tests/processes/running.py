"""A registry on a real database with real processes, and those that tests have it start."""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from gateway.clock import Clock, SystemClock
from gateway.durable.database import Database
from gateway.model import AgentId, SessionId, ToolCaller, TurnId
from gateway.processes import records
from gateway.processes.identity import open_keeper
from gateway.processes.records import ProcessRecord
from gateway.processes.registry import ProcessRegistry
from gateway.processes.settings import ProcessSettings
from gateway.processes.watching import stamp
from tests.support.state import key_of, source

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from gateway.durable.batch import Transaction

PATIENCE_S: Final = 30
"""How long anything may take before the test fails."""
PYTHON: Final = (sys.executable, "-I", "-S", "-u", "-c")
WAITS: Final = ("sleep", "1000")


def caller(chat_id: str = "alice") -> ToolCaller:
    return ToolCaller(
        key_of(chat_id), SessionId(f"main-{chat_id}"), AgentId("main"), source(chat_id), TurnId("t")
    )


def python(script: str) -> list[str]:
    """Return a command that runs a script of Python."""
    return [*PYTHON, script]


@dataclass(slots=True)
class Running:
    """A registry that runs, and what it has told."""

    registry: ProcessRegistry
    database: Database
    state_dir: Path
    clock: Clock
    told: list[ProcessRecord] = field(default_factory=list)
    refuse: bool = False
    """Whether to fail where an end is told."""
    _changed: anyio.Event = field(default_factory=anyio.Event)

    async def tell(self, record: ProcessRecord) -> None:
        """Be what tells a session: the mark and, elsewhere, the message are one transaction."""
        self._changed.set()
        self._changed = anyio.Event()
        if self.refuse:
            raise RuntimeError("not now")

        at = stamp(self.clock)
        stage = partial(records.stage_reported, process_id=record.process_id, at=at)
        if await self.database.write(stage):
            self.told.append(record)
            self._changed.set()
            self._changed = anyio.Event()

    async def told_of(self, process_id: str) -> ProcessRecord:
        """Return what was told of a process, once it is."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                for record in self.told:
                    if record.process_id == process_id:
                        return record
                await self._changed.wait()

    async def tried(self) -> None:
        """Return once somebody tries to tell an end."""
        with anyio.fail_after(PATIENCE_S):
            await self._changed.wait()

    async def output_has(self, process_id: str, text: str) -> str:
        """Return the output of a process once it holds a text."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                output = await self.registry.read_output(process_id, max_bytes=100_000)
                if text in output.text(100_000):
                    return output.text(100_000)
                await anyio.lowlevel.checkpoint()

    async def row(self, process_id: str) -> ProcessRecord | None:
        return await self.database.read(partial(records.find, process_id=process_id))

    async def deleted(self, process_id: str) -> None:
        """Return once the directory of a process is gone."""
        with anyio.fail_after(PATIENCE_S):
            while self.directory(process_id).exists():
                await anyio.lowlevel.checkpoint()

    def directory(self, process_id: str) -> Path:
        return self.state_dir / "processes" / process_id


@asynccontextmanager
async def running_registry(
    path: Path,
    *,
    clock: Clock | None = None,
    settings: Mapping[str, object] | None = None,
    leave: bool = False,
) -> AsyncGenerator[Running]:
    """Run a registry; at the end its processes are ended, unless they are to be left.

    With a fake clock no wait for a process is cut short: each takes as long as the machine does.
    """
    clock = clock or SystemClock()
    path.mkdir(mode=0o700, exist_ok=True)
    async with Database.open(path / "gateway.db", clock) as database:
        chosen = ProcessSettings.model_validate({"enabled": True, **(settings or {})})
        registry = ProcessRegistry(database, clock, chosen, path)
        running = Running(registry, database, path, clock)
        registry.on_ended = running.tell
        try:
            with anyio.fail_after(PATIENCE_S * 3):
                await registry.recover()
                async with anyio.create_task_group() as tasks:
                    await tasks.start(registry.run)
                    try:
                        yield running
                    finally:
                        tasks.cancel_scope.cancel()
        finally:
            for record in () if leave else await database.read(records.unreported):
                end_keeper(record, path)


async def execute(database: Database, statement: str) -> None:
    """Change the database behind the registry's back."""

    def work(transaction: Transaction) -> None:
        transaction.execute(statement)

    await database.write(work)


def end_keeper(record: ProcessRecord, state_dir: Path) -> None:
    """Have a keeper end its process, where it is there, and wait for it."""
    if record.keeper is None:
        return

    pidfd = open_keeper(record.keeper, state_dir / "processes" / record.process_id)
    if pidfd is None:
        return

    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    wait_readable(pidfd)
    with suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    os.close(pidfd)


def wait_readable(descriptor: int) -> None:
    ready, _, _ = select.select([descriptor], [], [], PATIENCE_S)
    assert ready, "it did not end"


def is_alive(pid: int) -> bool:
    """Return whether a process lives; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False

    return state not in "ZX"
