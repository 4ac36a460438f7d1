"""Real servers of tools, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
from typing_extensions import override

from gateway.clock import Clock, SystemClock
from gateway.tools.server import LOOK_TIMEOUT_S
from gateway.tools.settings import McpServerSettings, ToolsSettings
from gateway.tools.toolbox import AgentToolbox, McpServers, open_servers
from tests.support.ports import free_port
from tests.support.toolbox import CALLER
from tests.tools.fakes import Choice

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from gateway.tools.server import ServerStatistics

ROOT: Final = Path(__file__).parents[2]
TINY: Final = str(Path(__file__).with_name("tiny_server.py"))
REAL: Final = [sys.executable, "-m", "tests.support.mcp_server"]
T = TypeVar("T")


class PatientClock(SystemClock):
    """The machine's clock, on which long limits run out by hand alone: real programs may be slow.

    So do those of the lengths that it is given.
    """

    def __init__(self, *by_hand_s: float) -> None:
        self._by_hand_s = by_hand_s
        self._limits: list[anyio.CancelScope] = []

    @override
    def move_on_after(self, duration_s: float) -> anyio.CancelScope:
        if duration_s < LOOK_TIMEOUT_S and duration_s not in self._by_hand_s:
            return super().move_on_after(duration_s)

        self._limits.append(anyio.CancelScope())
        return self._limits[-1]

    def run_out(self) -> None:
        """Let all of these limits be over that are waited by now."""
        for limit in self._limits:
            limit.cancel()
        self._limits.clear()


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs, and all its tools."""

    servers: McpServers
    box: AgentToolbox
    name: str

    async def call(self, tool: str, **arguments: Any) -> str:  # noqa: ANN401 - as a model gives them
        """Run a tool and return the text of its result."""
        return (await self.box.call(f"{self.name}_{tool}", arguments, caller=CALLER)).text

    def told(self) -> ServerStatistics:
        """Return its statistics."""
        (told,) = self.servers.statistics()
        return told


def tiny(*behaviour: str, **settings: Any) -> McpServerSettings:  # noqa: ANN401 - of any key
    """Return the settings of a server that starts at once."""
    command = [sys.executable, TINY, *behaviour]
    return McpServerSettings.model_validate({"command": command, **settings})


def real(**settings: Any) -> McpServerSettings:  # noqa: ANN401 - of any key
    """Return the settings of a server of the SDK over stdio."""
    return McpServerSettings.model_validate({"command": REAL, "cwd": str(ROOT), **settings})


@asynccontextmanager
async def running(
    settings: McpServerSettings, *, clock: Clock | None = None, limit_s: float = 60
) -> AsyncGenerator[Running]:
    """Run a server and offer all its tools; whatever takes longer than the limit fails."""
    with anyio.fail_after(limit_s):
        async with open_servers(
            ToolsSettings(servers={"odd": settings}), clock or PatientClock()
        ) as servers:
            yield Running(servers, servers.toolbox_for(Choice()), "odd")


@dataclass(slots=True)
class HttpServer:
    """A server of the SDK over HTTP."""

    port: int = field(default_factory=free_port)
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    def settings(self, **settings: Any) -> McpServerSettings:  # noqa: ANN401 - of any key
        """Return what reaches it."""
        url = f"http://127.0.0.1:{self.port}/mcp"
        return McpServerSettings.model_validate({"url": url, **settings})

    def start(self) -> None:
        """Start it, always at the same port."""
        self.process = subprocess.Popen(
            [*REAL, "--http", str(self.port), *self.options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        assert int(self.process.stdout.readline()) == self.port

    def stop(self) -> None:
        """End it, if it has not ended."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def restart(self) -> None:
        """Start it again."""
        self.stop()
        self.start()


@contextmanager
def http_server(*options: str) -> Generator[HttpServer]:
    """Run a server of the SDK over HTTP."""
    server = HttpServer(options=options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def until(holds: Callable[[], T], limit_s: float = 30) -> T:
    """Return what is true at last; it fails after the limit."""
    clock = SystemClock()
    with anyio.fail_after(limit_s):
        while not (found := holds()):
            await clock.sleep(0.01)
    return found


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, though nobody may have asked how."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return True

    return stat.rpartition(")")[2].split()[0] in {"Z", "X"}
