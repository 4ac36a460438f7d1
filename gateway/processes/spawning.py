"""Starting a keeper: here, or by the runner that lives in a service of its own.

A keeper starts its command only once it was told to, over a pipe whose other end is here. So who it
is can be recorded first, and where the gateway dies before that, nothing was started.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

import anyio
import orjson

from gateway.errors import UnavailableError
from gateway.processes.identity import KeeperIdentity, boot_id, start_ticks

if TYPE_CHECKING:
    from collections.abc import Generator

    from gateway.clock import Clock

MAX_MESSAGE_BYTES: Final = 16_384
"""Of a request to the runner, and of its answer."""
RUNNER_TIMEOUT_S: Final = 10.0
"""How long the runner may take to answer."""
_KEEPER: Final = str(Path(__file__).with_name("keeper.py"))
_MAX_TOLD_BYTES: Final = 8_192


class Spawner(Protocol):
    """Starts keepers."""

    async def spawn(self, directory: Path, go: int, told: int) -> Spawned:
        """Start the keeper of a directory, with descriptors for its standard input and output.

        Where it is a child of this process, that reaps it.

        Raises:
            UnavailableError: It cannot be started.
        """
        ...


@dataclass(frozen=True, slots=True)
class Spawned:
    """A keeper that waits for the word."""

    identity: KeeperIdentity
    pidfd: int
    """A descriptor of it, the caller's to close."""


class OwnSpawner:
    """Starts them as children of this process."""

    async def spawn(self, directory: Path, go: int, told: int) -> Spawned:
        """Start a keeper; see `Spawner`."""
        return spawn_keeper(directory, go, told)


class RunnerSpawner:
    """Has the runner start them."""

    def __init__(self, socket: Path, clock: Clock) -> None:
        """Ask the runner at a socket."""
        self._socket = socket
        self._clock = clock

    async def spawn(self, directory: Path, go: int, told: int) -> Spawned:
        """Start a keeper; see `Spawner`."""
        answer: dict[str, Any] = {}
        pidfds: list[int] = []
        with self._clock.move_on_after(RUNNER_TIMEOUT_S):
            answer, pidfds = await self._ask(directory, go, told)
        if not pidfds:
            why = answer.get("error", "it does not answer")
            raise UnavailableError(f"the runner at {self._socket}: {why}")

        return Spawned(KeeperIdentity(**answer["keeper"]), pidfds[0])

    async def _ask(self, directory: Path, go: int, told: int) -> tuple[dict[str, Any], list[int]]:
        try:
            async with await anyio.connect_unix(self._socket) as stream:
                await stream.send_fds(orjson.dumps({"directory": str(directory)}), [go, told])
                answer, pidfds = await stream.receive_fds(MAX_MESSAGE_BYTES, 1)
                return orjson.loads(answer), pidfds
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError, ValueError) as exc:
            raise UnavailableError(
                f"the runner at {self._socket} is not to be had ({_said(exc)}); "
                "is it started (gateway-runner.service)?"
            ) from exc


@dataclass(frozen=True, slots=True)
class Handshake:
    """Two pipes to a keeper that waits for the word."""

    go: IO[bytes]
    """Its standard input."""
    told: IO[bytes]
    """Its standard output."""
    _going: IO[bytes]
    _telling: IO[bytes]

    async def start(self) -> str:
        """Let the keeper start its command; return why it could not be, empty where it runs.

        Cancellation: the command may have been started.
        """
        # Where the keeper has ended, nobody has the other ends any more.
        self.go.close()
        self.told.close()
        try:
            self._going.write(b"g")
        except BrokenPipeError:
            return await self._answer() or "its keeper has ended"
        self._going.close()
        answer = await self._answer()
        return "" if answer == "started" else answer or "its keeper has ended"

    async def _answer(self) -> str:
        told = b""
        while not told.endswith(b"\n") and len(told) < _MAX_TOLD_BYTES:
            await anyio.wait_readable(self._telling)
            piece = os.read(self._telling.fileno(), _MAX_TOLD_BYTES)
            if not piece:
                break
            told += piece
        # Of a keeper that broke, the last line of its traceback.
        lines = told.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


@contextmanager
def handshake() -> Generator[Handshake]:
    """Hold the pipes to a keeper; one that was not told to start ends once they are closed."""
    with ExitStack() as stack:
        ends = (*os.pipe(), *os.pipe())
        go, going, telling, told = (
            stack.enter_context(open(end, mode, buffering=0))  # noqa: PTH123 - a descriptor, closed by the stack
            for end, mode in zip(ends, ("rb", "wb", "rb", "wb"), strict=True)
        )
        yield Handshake(go, told, going, telling)


def spawn_keeper(directory: Path, go: int, told: int) -> Spawned:
    """Start the keeper of a directory as a child of this process; reap it once it has ended.

    Raises:
        UnavailableError: It cannot be started.
    """
    life = boot_id()
    argv = [sys.executable, "-I", "-S", _KEEPER, str(directory)]
    actions = [(os.POSIX_SPAWN_DUP2, go, 0), *((os.POSIX_SPAWN_DUP2, told, n) for n in (1, 2))]
    try:
        pid = os.posix_spawn(sys.executable, argv, {}, file_actions=actions)
    except OSError as exc:
        raise UnavailableError(f"no keeper can be started ({exc.strerror})") from exc

    # Not reaped yet, so the number is still its own.
    try:
        return Spawned(KeeperIdentity(pid, start_ticks(pid) or 0, life), os.pidfd_open(pid))
    except OSError as exc:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise UnavailableError(f"no keeper can be watched ({exc.strerror})") from exc


def reap(pidfd: int) -> None:
    """Reap a keeper that has ended, where it is a child of this process."""
    with suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
