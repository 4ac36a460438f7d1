"""The real daemon in a process of its own, its log, and a client for its API."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx2
import orjson
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from anyio.abc import ByteReceiveStream

START_S: Final = 60.0
"""Longest wait for a start or an end; far above what either takes, for machines that are busy."""
MAX_LINE_BYTES: Final = 1_000_000
LIMITS: Final = httpx2.Limits(keepalive_expiry=1)
"""A connection that is idle for long may be closed by the daemon just as it is used again."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a daemon ended that did not get ready."""

    code: int
    log: list[dict[str, Any]]
    output: bytes
    """Everything it wrote, both streams."""


@dataclass(slots=True)
class Log:
    """The lines a daemon has written so far."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    """Everything as it came, both streams."""
    news: anyio.Event = field(default_factory=anyio.Event)
    whole: list[anyio.Event] = field(default_factory=lambda: [anyio.Event(), anyio.Event()])
    """Each set once a stream has ended."""

    def add(self, line: bytes) -> None:
        self.raw += line + b"\n"
        if line.startswith(b"{"):
            self.lines.append(orjson.loads(line))
        self._tell()

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]

    async def wait_for(self, event: str, *, count: int = 1) -> dict[str, Any]:
        """Return the latest line of an event, once there are that many."""
        with anyio.fail_after(START_S):
            while len(self.of(event)) < count:
                await self.news.wait()
        return self.of(event)[-1]

    def _tell(self) -> None:
        news, self.news = self.news, anyio.Event()
        news.set()


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon that is ready."""

    state_dir: Path
    process: Process
    log: Log
    client: httpx2.AsyncClient
    """Sends the token."""
    pid: int

    async def post(self, path: str, body: object = None) -> httpx2.Response:
        headers = {"Content-Type": "application/json"}
        return await self.client.post(path, content=orjson.dumps(body or {}), headers=headers)

    async def get(self, path: str) -> Any:  # noqa: ANN401 - whatever JSON it is
        """Return the JSON of an answer that must be a good one."""
        response = await self.client.get(path)
        assert response.status_code == 200, response.text
        return orjson.loads(response.content)

    async def send(self, text: str, chat: str = "alice", message_id: str = "") -> httpx2.Response:
        body = {"chat_id": chat, "text": text}
        return await self.post(
            "/v1/messages", body | ({"message_id": message_id} if message_id else {})
        )

    async def say(self, text: str, chat: str = "alice", message_id: str = "") -> dict[str, Any]:
        """Send a message that must be answered, and return the answer."""
        response = await self.send(text, chat, message_id)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = orjson.loads(response.content)
        return answer

    async def said(self, key: str) -> list[tuple[str, str]]:
        """Return role and text of each message of a session."""
        transcript = await self.get(f"/v1/sessions/{key}/transcript?limit=1000")
        return [(message["role"], message["text"]) for message in transcript["messages"]]

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Ask for the status until it is as wanted."""
        with anyio.fail_after(START_S):
            while not holds(await self.get("/v1/status")):
                pass

    async def until_tools_run(self) -> None:
        """Wait for the servers of tools; a daemon is ready without those that start slowly."""
        await self.until(lambda status: all(one["state"] == "running" for one in status["tools"]))

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def ended(self) -> int:
        """Return the exit code, once it has ended and its log is whole."""
        return await _ended(self.process, self.log)

    async def terminate(self) -> int:
        """Ask it to end, and return the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.ended()


class NeverReadyError(AssertionError):
    """The daemon ended before it was ready; with its exit code and all it wrote."""


@dataclass(frozen=True, slots=True)
class Started:
    """A daemon that may not be ready yet, and may never be."""

    state_dir: Path
    process: Process
    log: Log

    @asynccontextmanager
    async def ready(self) -> AsyncGenerator[Daemon]:
        """Wait until it is ready.

        Raises:
            NeverReadyError: it ended before.
        """
        ready = await _ready(self.process, self.log)
        token = (self.state_dir / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(
            base_url=ready["url"], headers=headers, timeout=START_S, limits=LIMITS
        ) as client:
            yield Daemon(self.state_dir, self.process, self.log, client, ready["pid"])

    async def ended(self) -> int:
        """Return the exit code, once it has ended and its log is whole."""
        return await _ended(self.process, self.log)


@asynccontextmanager
async def started_daemon(
    state_dir: Path,
    config: str = "",
    *,
    env: Mapping[str, str] | None = None,
    umask: int = 0o022,
    tracer: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    port: int = 0,
) -> AsyncGenerator[Started]:
    """Start a daemon; leaving ends it, by force if need be.

    Args:
        state_dir: Made if it is not there.
        config: TOML, kept beside the state directory as `<its name>.toml`; may be replaced there.
        env: Added to the environment.
        umask: What it inherits.
        tracer: A command that runs the daemon as its child.
        pass_fds: Descriptors that it inherits.
        port: Where it listens; 0: on one that is free.
    """
    log = Log()
    process = await _start(
        state_dir, config, env or {}, umask, port, tracer=tracer, pass_fds=tuple(pass_fds)
    )
    async with anyio.create_task_group() as group, process:
        group.start_soon(_collect, process.stdout, log, log.whole[0])
        group.start_soon(_collect, process.stderr, log, log.whole[1])
        try:
            yield Started(state_dir, process, log)
        finally:
            if process.returncode is None:
                # A tracer that is killed leaves its child behind: both are in one group. Both may
                # have ended since.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            with anyio.move_on_after(START_S, shield=True):
                await process.wait()


@asynccontextmanager
async def running_daemon(
    state_dir: Path,
    config: str = "",
    *,
    env: Mapping[str, str] | None = None,
    umask: int = 0o022,
) -> AsyncGenerator[Daemon]:
    """Start a daemon and wait until it is ready; see `started_daemon`."""
    async with (
        started_daemon(state_dir, config, env=env, umask=umask) as started,
        started.ready() as daemon,
    ):
        yield daemon


async def run_to_end(state_dir: Path, config: str = "", *, port: int = 0) -> Ended:
    """Start a daemon that must end by itself."""
    log = Log()
    process = await _start(state_dir, config, {}, 0o022, port)
    async with process:
        try:
            with anyio.fail_after(START_S):
                async with anyio.create_task_group() as group:
                    group.start_soon(_collect, process.stdout, log, log.whole[0])
                    group.start_soon(_collect, process.stderr, log, log.whole[1])
                code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
    return Ended(code, log.lines, bytes(log.raw))


async def _start(
    state_dir: Path,
    config: str,
    env: Mapping[str, str],
    umask: int,
    port: int = 0,
    *,
    tracer: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
) -> Process:
    file = state_dir.with_name(f"{state_dir.name}.toml")
    file.write_text(config)
    inherited = {name: value for name, value in os.environ.items() if "GATEWAY" not in name}
    command = [sys.executable, "-m", "gateway", "run", "--config", str(file)]
    return await anyio.open_process(
        [*tracer, *command, "--state-dir", str(state_dir), "--port", str(port)],
        cwd=state_dir.parent,
        env=inherited | dict(env),
        umask=umask,
        start_new_session=True,
        pass_fds=pass_fds,
    )


async def _ready(process: Process, log: Log) -> dict[str, Any]:
    """Return the line that says where it listens."""
    found: list[dict[str, Any]] = []

    async def wait() -> None:
        found.append(await log.wait_for("gateway.ready"))
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        code = await process.wait()
        group.cancel_scope.cancel()
    if not found:
        raise NeverReadyError(f"the daemon ended with {code}: {log.raw.decode()}")
    return found[0]


async def _ended(process: Process, log: Log) -> int:
    """Return the exit code, once all that was written is read as well."""
    with anyio.fail_after(START_S):
        code = await process.wait()
        for whole in log.whole:
            await whole.wait()
    return code


async def _collect(stream: ByteReceiveStream | None, log: Log, whole: anyio.Event) -> None:
    assert stream is not None
    lines = BufferedByteReceiveStream(stream)
    with suppress(anyio.EndOfStream, anyio.IncompleteRead, anyio.ClosedResourceError):
        while True:
            log.add(await lines.receive_until(b"\n", MAX_LINE_BYTES))
    whole.set()
