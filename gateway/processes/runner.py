"""The runner: a daemon of its own that starts keepers for the gateway.

Under systemd what a service has started ends with it. Keepers that the runner has started are its
own, so they outlive a restart of the gateway, and end with the runner. It is asked over a Unix
socket that only its own user may open, and that is checked again for each who connects: a request
names the directory of a process, which has to be this user's alone, and brings the keeper's
standard input and output as descriptors. It is told who the keeper is, and given a pidfd of it.
Commands come from the directory, words that no shell reads here.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import anyio
import orjson
from anyio.abc import SocketAttribute, UNIXSocketStream

from gateway.durable.directory import check_directory
from gateway.durable.files import storage_errors
from gateway.errors import AlreadyRunningError, BadRequestError, GatewayError, UnavailableError
from gateway.log import get_logger
from gateway.processes.leftovers import end_leftovers
from gateway.processes.spawning import MAX_MESSAGE_BYTES, Spawned, reap, spawn_keeper

if TYPE_CHECKING:
    from anyio.abc import SocketStream, TaskGroup, TaskStatus

    from gateway.clock import Clock

REQUEST_TIMEOUT_S: Final = 5.0
"""How long a request may take to arrive."""
_CREDENTIALS: Final = struct.Struct("3i")
"""`struct ucred`: process, user, group."""
_NOT_ALLOWED: Final = "only the runner's own user is served"
_MALFORMED: Final = "accepted is an object with an absolute directory, and two descriptors"

log = get_logger()


async def run_runner(
    path: Path, clock: Clock, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serve requests at a socket until cancelled; its keepers go on then.

    Raises:
        AlreadyRunningError: A runner answers there already.
        UnavailableError: The socket cannot be made.
    """
    await _check_free(path)
    try:
        listener = await anyio.create_unix_listener(path, mode=0o600)
    except OSError as exc:
        raise UnavailableError(f"{path}: {exc.strerror or exc}") from exc

    async with listener, anyio.create_task_group() as tasks:
        runner = _Runner(tasks, clock)
        task_status.started()
        await listener.serve(runner.serve)


async def _check_free(path: Path) -> None:
    try:
        stream = await anyio.connect_unix(path)
    except OSError:
        return

    await stream.aclose()
    raise AlreadyRunningError(path, "a runner answers there")


class _Runner:
    """Answers requests, and reaps the keepers that it started."""

    def __init__(self, tasks: TaskGroup, clock: Clock) -> None:
        self._tasks = tasks
        self._clock = clock

    async def serve(self, connected: SocketStream) -> None:
        """Answer one request, whatever becomes of it."""
        stream = cast("UNIXSocketStream", connected)
        async with stream:
            try:
                with self._clock.move_on_after(REQUEST_TIMEOUT_S):
                    await self._answer(stream)
            except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as exc:
                log.warning("runner.request_failed", error=str(exc), kind=type(exc).__name__)

    async def _answer(self, stream: UNIXSocketStream) -> None:
        try:
            directory, spawned = await self._spawned(stream)
        except GatewayError as exc:
            log.warning("runner.refused", error=str(exc))
            await stream.send(orjson.dumps({"error": str(exc)}))
            return

        self._tasks.start_soon(self._reap, spawned, directory)
        log.info("runner.started", pid=spawned.identity.pid)
        await stream.send_fds(orjson.dumps({"keeper": spawned.identity}), [spawned.pidfd])

    async def _spawned(self, stream: UNIXSocketStream) -> tuple[Path, Spawned]:
        own = stream.extra_attributes[SocketAttribute.raw_socket]()
        told = own.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(told)[1] != os.geteuid():
            raise BadRequestError(_NOT_ALLOWED)

        message, descriptors = await stream.receive_fds(MAX_MESSAGE_BYTES, 2)
        with ExitStack() as stack:
            for descriptor in descriptors:
                stack.callback(os.close, descriptor)
            directory = _directory(message)
            if len(descriptors) != 2:  # noqa: PLR2004 - as the sentence says
                raise BadRequestError(_MALFORMED)
            with storage_errors(directory):
                check_directory(directory, allowed=0o700)
            return directory, spawn_keeper(directory, *descriptors)

    async def _reap(self, spawned: Spawned, directory: Path) -> None:
        try:
            await anyio.wait_readable(spawned.pidfd)
            # Before its number is free: only until then all that it left is proven to be its.
            with suppress(GatewayError, OSError):
                await end_leftovers(spawned.identity, directory, self._clock)
            reap(spawned.pidfd)
        finally:
            os.close(spawned.pidfd)


def _directory(message: bytes) -> Path:
    try:
        directory = Path(orjson.loads(message)["directory"])
    except (KeyError, TypeError, ValueError) as exc:
        raise BadRequestError(_MALFORMED) from exc

    if not directory.is_absolute() or "\0" in str(directory):
        raise BadRequestError(_MALFORMED)

    return directory
