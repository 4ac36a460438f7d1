"""One run of a program: its pipes, its process group, its end.

Bytes go in and bytes come out; what they mean `gateway.agents.command_wire` knows. A process that
makes a session of its own has left the group, and is out of reach.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, cast

import anyio
import anyio.lowlevel

from gateway.errors import AgentError, AgentFailure
from gateway.launch.starting import launching
from gateway.log import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterator

    from gateway.clock import Clock
    from gateway.launch.starting import Launch

NOT_STARTED: Final = "The agent cannot be started: the operator must check it."
GRACE_S: Final = 2.0
"""How long a group may take to end by itself."""
PIECE_BYTES: Final = 8_192
"""How much is read at once: little enough that what is made of it does not hold the event loop."""
MAX_NOTED_LINES: Final = 1_000
"""Of standard error: later lines are read and dropped."""
MAX_NOTED_BYTES: Final = 1_024
"""Of one line."""
_POLL_S: Final = 0.05
_KILL_S: Final = 5.0
"""A killed program is gone at once, but where the kernel itself waits for a device."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class Command:
    """What is started, and with what."""

    name: str
    """For the log."""
    argv: tuple[str, ...]
    """The program's absolute path and its arguments; no shell reads them."""
    cwd: Path | None
    """None: the daemon's own."""
    env: Mapping[str, str] = field(repr=False)
    """The whole environment, secrets and all."""


@asynccontextmanager
async def running(
    command: Command, pieces: Iterator[bytes], clock: Clock
) -> AsyncGenerator[Program]:
    """Hold a running program that is given the pieces on standard input.

    Cancellation: its process group is ended first, as it is at any other end.

    Raises:
        AgentError: It cannot be started.
    """
    with launching(command.argv, command.cwd) as launch:
        with _told_as_agent_error(command.name):
            popen, pidfd = _start(command, launch)
        program = Program(command.name, popen, pidfd, pieces, clock)
        try:
            with _told_as_agent_error(command.name):
                await launch.begun()
            yield program
        finally:
            await program.end()


class Program:
    """A program that runs, or has run and is not yet reaped.

    Until `end` its number stays taken, so that no signal can reach a stranger's group.
    """

    def __init__(
        self,
        name: str,
        popen: subprocess.Popen[bytes],
        pidfd: int,
        pieces: Iterator[bytes],
        clock: Clock,
    ) -> None:
        """Take over a started program with its three pipes."""
        self._name = name
        self._popen = popen
        self._pidfd = pidfd
        self._clock = clock
        self._input = _Input(cast("IO[bytes]", popen.stdin), pieces)
        self._output = cast("IO[bytes]", popen.stdout)
        self._notes = _Notes(cast("IO[bytes]", popen.stderr), name)
        for pipe in (popen.stdin, popen.stdout, popen.stderr):
            os.set_blocking(cast("IO[bytes]", pipe).fileno(), False)

    async def receive(self) -> bytes:
        """Return what it wrote next; empty once it has ended or closed its output.

        What others hold its output open for after its end is not waited for. Its input goes out,
        and its standard error comes in, while this waits and at no other time.

        Cancellation: nothing is lost.
        """
        await anyio.lowlevel.checkpoint()
        output = self._output.fileno()
        while True:
            # Asked first: what it wrote before its end is then there to be read.
            ended = self._exit() is not None
            received = _read(output)
            if received is not None:
                return received
            if ended:
                return b""

            await self._until_readable(output, self._pidfd)

    async def status(self) -> int | None:
        """Return its exit status, negative for a signal; None if it goes on for the grace."""
        with self._clock.move_on_after(GRACE_S):
            await self._until_readable(self._pidfd)
        return self._exit()

    async def end(self) -> None:
        """End its group: SIGTERM, and after the grace SIGKILL for whoever is still there."""
        self._input.close()
        self._output.close()
        try:
            self._signal(signal.SIGTERM)
            with self._clock.move_on_after(GRACE_S) as grace:
                grace.shield = True
                await self._gone()
            if grace.cancelled_caught:
                await self._kill()
        finally:
            self._notes.close()
            os.close(self._pidfd)

    async def _kill(self) -> None:
        log.warning("agent.program_killed", program=self._name, grace_s=GRACE_S)
        self._signal(signal.SIGKILL)
        if self._popen.returncode is not None:
            return

        with self._clock.move_on_after(_KILL_S) as scope:
            scope.shield = True
            await self._until_readable(self._pidfd)
            self._popen.wait()
        if scope.cancelled_caught:
            log.error("agent.program_stuck", program=self._name, pid=self._popen.pid)

    async def _gone(self) -> None:
        """Wait until nobody of the group is left; reaps the program as soon as it has ended."""
        await self._until_readable(self._pidfd)
        self._popen.wait()
        while _group_exists(self._popen.pid):
            await self._clock.sleep(_POLL_S)

    async def _until_readable(self, *descriptors: int) -> None:
        """Wait for one of them; feed the program and listen to it meanwhile."""

        async def wait(descriptor: int) -> None:
            await anyio.wait_readable(descriptor)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._input.feed)
            tasks.start_soon(self._notes.listen)
            for descriptor in descriptors:
                tasks.start_soon(wait, descriptor)

    def _exit(self) -> int | None:
        """Return the exit status of a program that is not reaped; None while it runs."""
        pid = self._popen.pid
        result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if result is None:
            return None

        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # gone, or it became another user's
            os.killpg(self._popen.pid, number)


class _Input:
    """What a program is given on standard input, as fast as it takes it."""

    def __init__(self, pipe: IO[bytes], pieces: Iterator[bytes]) -> None:
        self._pipe = pipe
        self._pieces = pieces
        self._unsent = memoryview(b"")

    async def feed(self) -> None:
        """Write until all is written; cancelled at any point, another call goes on from there."""
        while not self._pipe.closed:
            await anyio.wait_writable(self._pipe.fileno())
            self._write()

    def close(self) -> None:
        """Give it no more; it reads the end."""
        self._pipe.close()

    def _write(self) -> None:
        self._unsent = self._unsent or memoryview(next(self._pieces, b""))
        if not self._unsent:
            self.close()
            return

        try:
            written = os.write(self._pipe.fileno(), self._unsent)
        except BlockingIOError:
            return
        except BrokenPipeError:  # it reads no more, which is its own affair
            self.close()
            return

        self._unsent = self._unsent[written:]


class _Notes:
    """What a program writes to standard error: lines for the log at debug, within bounds.

    It may quote what users write, which no other line of the log does.
    """

    def __init__(self, pipe: IO[bytes], name: str) -> None:
        self._pipe = pipe
        self._name = name
        self._rest = b""
        self._lines = 0

    async def listen(self) -> None:
        """Read until its end."""
        while not self._pipe.closed:
            await anyio.wait_readable(self._pipe.fileno())
            self._take()

    def close(self) -> None:
        """Read what is there already, as a crash leaves it, and no more."""
        for _ in range(MAX_NOTED_LINES * MAX_NOTED_BYTES // PIECE_BYTES):
            if self._pipe.closed or not self._take():
                break
        self._note(self._rest)
        self._pipe.close()

    def _take(self) -> bool:
        """Read a piece; False where there is none."""
        received = _read(self._pipe.fileno())
        if received is None:
            return False

        *lines, rest = (self._rest + received).split(b"\n")
        for line in lines:
            self._note(line)
        # The beginning of a line that may be endless.
        self._rest = rest[:MAX_NOTED_BYTES]
        if not received:
            self._pipe.close()
        return bool(received)

    def _note(self, line: bytes) -> None:
        if line.strip() and self._lines < MAX_NOTED_LINES:
            self._lines += 1
            text = line[:MAX_NOTED_BYTES].decode(errors="replace")
            log.debug("agent.program_said", program=self._name, line=text)


@contextmanager
def _told_as_agent_error(name: str) -> Generator[None]:
    try:
        yield
    except OSError as exc:
        raise AgentError(
            f"{name}: cannot be started ({exc.strerror})",
            user_text=NOT_STARTED,
            failure=AgentFailure.OUTAGE,
        ) from exc


def _start(command: Command, launch: Launch) -> tuple[subprocess.Popen[bytes], int]:
    """Start a program in a session of its own; return it and a descriptor that tells of its end.

    In the thread of the event loop, for `launching` asks for one that lasts. It takes a millisecond
    or two: the program itself, which may lie on a slow disk, is looked for in the new process.
    """
    popen = subprocess.Popen(  # noqa: S603 - the operator's own command, and no shell reads it
        launch.argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=command.env,
        start_new_session=True,
        pass_fds=launch.pass_fds,
    )
    try:
        return popen, os.pidfd_open(popen.pid)
    except OSError:
        with popen:
            os.killpg(popen.pid, signal.SIGKILL)
        raise


def _read(descriptor: int) -> bytes | None:
    """Return what there is to read, empty at the end; None where nothing is there yet."""
    try:
        return os.read(descriptor, PIECE_BYTES)
    except BlockingIOError:
        return None


def _group_exists(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
