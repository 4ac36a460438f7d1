"""Starts a process in the one order that survives any end of the gateway.

The row, synced; the directory; the keeper, which waits; who it is, synced; the word to start.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio.to_thread

from gateway.errors import BadRequestError, UnavailableError
from gateway.processes import records
from gateway.processes.directory import Spec
from gateway.processes.identity import boot_id
from gateway.processes.spawning import OwnSpawner, RunnerSpawner, Spawner, handshake
from gateway.variables import environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import Clock
    from gateway.durable.database import Database
    from gateway.processes.kept import Kept
    from gateway.processes.records import ProcessRecord
    from gateway.processes.settings import ProcessSettings

GRACE_S: Final = 5.0
"""How long a process group may take to end after SIGTERM."""
NOT_STARTED: Final = "The process could not be started: "
START_TIMEOUT_S: Final = 30.0
"""How long a start may take."""


class Launcher:
    """Starts processes, here or by the runner."""

    def __init__(self, database: Database, clock: Clock, settings: ProcessSettings) -> None:
        """Start as the settings say."""
        self._database = database
        self._clock = clock
        self._settings = settings
        self._spawner: Spawner = (
            RunnerSpawner(settings.runner, clock) if settings.runner else OwnSpawner()
        )

    async def launch(self, kept: Kept, begin_watch: Callable[[Kept, int], None]) -> None:
        """Start the command of a process; its keeper is handed to `begin_watch` before.

        Cancellation: comes through once this is over.

        Raises:
            BadRequestError: It cannot be executed.
            UnavailableError: No keeper can be started, or not in time.
            StorageError: It could not be recorded, so it was not started.
        """
        with self._clock.move_on_after(START_TIMEOUT_S) as scope:
            scope.shield = True
            await self._launch(kept, begin_watch)
        if scope.cancelled_caught:
            kept.stored = True  # what was begun to be written may be written yet
            raise UnavailableError(f"The process did not start within {START_TIMEOUT_S:g} s.")

    async def _launch(self, kept: Kept, begin_watch: Callable[[Kept, int], None]) -> None:
        spec = self._spec(kept.record)
        await self._database.write(partial(records.add, record=kept.record))
        kept.stored = True
        await anyio.to_thread.run_sync(kept.directory.make, spec)
        with handshake() as shaking:
            fds = (shaking.go.fileno(), shaking.told.fileno())
            spawned = await self._spawner.spawn(kept.directory.path, *fds)
            begin_watch(kept, spawned.pidfd)
            kept.record = replace(kept.record, keeper=spawned.identity)
            await self._database.write(
                partial(
                    records.note_keeper,
                    process_id=kept.record.process_id,
                    keeper=spawned.identity,
                )
            )
            failure = await shaking.start()
        if failure:
            raise BadRequestError(NOT_STARTED + failure)

    def _spec(self, record: ProcessRecord) -> Spec:
        settings = self._settings
        env, missing = environment(settings.inherit_env, settings.env, settings.secret_env)
        for name, why in missing.items():
            raise UnavailableError(f"processes.secret_env.{name}: {why}")

        return Spec(
            argv=record.command,
            env=env,
            cwd=settings.cwd,
            timeout_s=settings.timeout_s,
            grace_s=GRACE_S,
            max_output_bytes=settings.max_output_bytes,
            boot_id=boot_id(),
        )
