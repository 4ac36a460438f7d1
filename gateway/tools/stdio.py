"""A server as a program of ours: its messages go over its standard input and output.

The SDK's own transport gathers a line without bound, and hands the program's errors to our standard
error; this one does neither. The program leads a process group, and none of the group outlives the
connection.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, cast

import anyio
from mcp.shared.message import SessionMessage

from gateway.launch.starting import launching
from gateway.log import get_logger
from gateway.metering import TooManyValuesError
from gateway.tools.lines import MessageLines, UnusableOutputError
from gateway.tools.programs import inherited_environment

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import ByteReceiveStream, ByteSendStream, Process
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from gateway.clock import Clock
    from gateway.tools.connection import Target, Watch
    from gateway.tools.wire import Incoming, Outgoing

GRACE_S: Final = 1.0
"""How long a program may take to end once its input is closed, and again after SIGTERM."""
DRAIN_S: Final = 0.5
"""How long what an ended program has written may take to be read."""
MAX_ERROR_LINE_BYTES: Final = 1_000
"""How much of a line of its errors is logged."""
MAX_ERROR_LINES: Final = 50
"""How many lines of one piece of its errors are logged."""
_QUEUED: Final = 64
"""How many messages may wait to be written, so that a cancellation seldom waits for the others."""

log = get_logger()


@asynccontextmanager
async def open_stdio(
    target: Target, watch: Watch, clock: Clock
) -> AsyncGenerator[tuple[Incoming, Outgoing]]:
    """Run the program of a server and hold the streams of its messages.

    Raises:
        OSError: It cannot be started; may come in a group.
    """
    settings = target.settings
    with launching(settings.command or (), settings.cwd) as launch:
        # Cancelled amid its start it would be killed, but nobody would wait for its end.
        with anyio.CancelScope(shield=True):
            process = await anyio.open_process(
                launch.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**inherited_environment(settings), **target.secret_env},
                start_new_session=True,
                pass_fds=launch.pass_fds,
            )
        # No await before the task group: what is cancelled here would leave the program running.
        program = _Program(process, target, watch, clock)
        received, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        outgoing, to_send = anyio.create_memory_object_stream[SessionMessage](_QUEUED)
        with received, incoming, outgoing, to_send:
            async with anyio.create_task_group() as tasks:
                try:
                    await launch.begun()
                    tasks.start_soon(program.read, received)
                    tasks.start_soon(program.write, to_send)
                    tasks.start_soon(program.log_errors)
                    tasks.start_soon(program.notice_exit)
                    yield incoming, outgoing
                finally:
                    # Each wait within is bounded; more than all together is never needed.
                    with clock.move_on_after(4 * GRACE_S) as scope:
                        scope.shield = True
                        await program.stop()
                    tasks.cancel_scope.cancel()


class _Program:
    """A running program and its pipes."""

    def __init__(self, process: Process, target: Target, watch: Watch, clock: Clock) -> None:
        self._process = process
        self._stdin = cast("ByteSendStream", process.stdin)
        self._stdout = cast("ByteReceiveStream", process.stdout)
        self._stderr = cast("ByteReceiveStream", process.stderr)
        self._target = target
        self._watch = watch
        self._clock = clock
        self._reading = anyio.CancelScope()
        self._drained = anyio.Event()
        self._stopping = False

    async def read(self, received: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        """Hand over what the program says, until it ends or cannot be taken."""
        with received:
            with self._reading:
                await self._hand_over(received)
            self._drained.set()
            if not self._watch.ended:
                with self._clock.move_on_after(DRAIN_S):
                    await self._process.wait()
            if not self._stopping:
                # Before the stream closes, for the first reason stays.
                self._watch.end(self._how_it_ended())

    async def _hand_over(
        self, received: MemoryObjectSendStream[SessionMessage | Exception]
    ) -> None:
        lines = MessageLines(self._target.settings.max_message_bytes)
        try:
            async for data in self._stdout:
                for message in lines.feed(data):
                    await received.send(SessionMessage(message))
        except (UnusableOutputError, TooManyValuesError) as exc:
            self._watch.end(f"it sent {exc}")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            pass  # the pipe broke, or nobody listens any more

    async def write(self, to_send: MemoryObjectReceiveStream[SessionMessage]) -> None:
        """Write what the program is told."""
        try:
            async for item in to_send:
                text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                await self._stdin.send(text.encode() + b"\n")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError, RuntimeError):
            # RuntimeError: uvloop's word for a pipe that broke before. Whether the program has
            # ended, the reader finds out.
            self._reading.cancel()

    async def notice_exit(self) -> None:
        """End the reading once the program has ended, though a child of it may hold the pipe."""
        await self._process.wait()
        with self._clock.move_on_after(DRAIN_S):
            await self._drained.wait()
        self._reading.cancel()

    async def log_errors(self) -> None:
        """Log the beginnings of the lines that the program writes to its standard error."""
        pending = b""
        try:
            async for data in self._stderr:
                *lines, pending = (pending + data).split(b"\n")
                pending = pending[:MAX_ERROR_LINE_BYTES]
                for line in lines[:MAX_ERROR_LINES]:
                    self._log_error(line)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            pass  # the pipe broke
        finally:
            if pending:
                self._log_error(pending)

    def _log_error(self, line: bytes) -> None:
        text = line[:MAX_ERROR_LINE_BYTES].decode("utf-8", "replace")
        log.debug("tools.server_stderr", server=self._target.name, line=text)

    async def stop(self) -> None:
        """End the whole group: its input closes, then SIGTERM, then SIGKILL.

        Cancellation: the group is killed all the same.
        """
        self._stopping = True
        try:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                await self._stdin.aclose()
            if not await self._ends_in_time():
                self._signal(signal.SIGTERM)
                await self._ends_in_time()
        finally:
            # Also where the program itself has ended: it may have left children behind.
            self._signal(signal.SIGKILL)
        await self._process.aclose()

    async def _ends_in_time(self) -> bool:
        with self._clock.move_on_after(GRACE_S):
            await self._process.wait()
        return self._process.returncode is not None

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _how_it_ended(self) -> str:
        status = self._process.returncode
        if status is None:
            return "it closed its output or its input"
        if status < 0:
            return f"it was ended by signal {-status}"

        return f"it ended with status {status}"
