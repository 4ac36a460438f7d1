"""Laws of tools from a real server of the SDK, over both transports."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from structlog.testing import capture_logs

from gateway.clock import SystemClock
from gateway.model import clean_text
from gateway.tools.client import SdkConnector
from gateway.tools.connection import Target
from gateway.tools.server import McpServer, ServerState
from gateway.tools.toolbox import McpServers
from tests.support.mcp_server import ODD_TEXT, PIXEL
from tests.support.toolbox import CALLER
from tests.tools.fakes import Choice
from tests.tools.running import (
    HttpServer,
    PatientClock,
    Running,
    http_server,
    is_gone,
    real,
    running,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from contextlib import AbstractAsyncContextManager

    from gateway.clock import Clock
    from gateway.tools.client import SdkConnection
    from gateway.tools.connection import Watch
    from gateway.tools.settings import McpServerSettings

LARGEST_GROWTH_BYTES: Final = 100_000_000
LONGEST_BLOCK_S: Final = 0.05
LOST: Final = "The tool server odd broke off the call: "


@dataclass(slots=True)
class Transport:
    """How a server is reached, and started again where we do not do it."""

    http: HttpServer | None

    def settings(self, **settings: Any) -> McpServerSettings:  # noqa: ANN401 - of any key
        """Return what reaches it."""
        return self.http.settings(**settings) if self.http else real(**settings)

    def crashed(self) -> None:
        """Do what its operator does once it has crashed."""
        if self.http is not None:
            self.http.restart()


@contextmanager
def transport_of(kind: str) -> Generator[Transport]:
    """Have a server ready."""
    if kind == "stdio":
        yield Transport(None)
        return

    with http_server(*(["--json"] if kind == "json" else [])) as http:
        yield Transport(http)


@pytest.fixture(scope="module")
def shared() -> Generator[dict[str, Transport]]:
    """Each way to reach a server; `json` is HTTP without streams. No test may crash these."""
    with transport_of("http") as http, transport_of("json") as json:
        yield {"stdio": Transport(None), "http": http, "json": json}


class _Ticker:
    """Measures how long the event loop was held, and how much the process has grown."""

    def __init__(self) -> None:
        self.worst_s = 0.0
        self.growth_bytes = 0

    async def run(self) -> None:
        """Measure until cancelled."""
        clock, before = SystemClock(), _resident_bytes()
        last = clock.monotonic()
        while True:
            await clock.sleep(0.001)
            now = clock.monotonic()
            self.worst_s = max(self.worst_s, now - last - 0.001)
            self.growth_bytes = max(self.growth_bytes, _resident_bytes() - before)
            last = clock.monotonic()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


KINDS: Final = ("stdio", "http", "json")


@pytest.mark.parametrize("kind", KINDS)
async def test_tools_are_told_and_run(shared: dict[str, Transport], kind: str) -> None:
    async with running(shared[kind].settings()) as server:
        specs = {spec.name: spec for spec in server.box.specs()}
        picture = await server.box.call("odd_image", {}, caller=CALLER)
        texts = {
            "add": await server.call("add", a=2, b=40),
            "echo": await server.call("echo", text="\u202eodd 日本 👩\u200d👩"),
            "odd": await server.call("odd"),
            "structured": await server.call("structured"),
            "slow": await server.call("slow"),
            "ask_user": await server.call("ask_user"),
            "mixed": await server.call("mixed"),
        }

    assert specs["odd_add"].description == "Add two numbers."
    assert specs["odd_add"].schema["required"] == ["a", "b"]
    assert all(spec.schema["type"] == "object" for spec in specs.values())
    assert [(image.media_type, len(image.data)) for image in picture.images] == [
        ("image/png", 4 * ((len(PIXEL) + 2) // 3))
    ]
    assert texts["add"] == "42"
    assert texts["echo"] == "\u202eodd 日本 👩\u200d👩"
    assert texts["odd"] == clean_text(ODD_TEXT)
    assert '"answer": 42' in texts["structured"]
    assert texts["slow"] == "done"
    assert texts["ask_user"] == "refused 3"
    assert texts["mixed"].splitlines()[0] == "before"
    assert "[audio left out: audio/wav, 4 bytes of base64]" in texts["mixed"]


@pytest.mark.parametrize("kind", KINDS)
async def test_calls_run_at_once_and_tools_that_fail_or_hang_harm_no_other(
    shared: dict[str, Transport], kind: str
) -> None:
    results: list[str] = []

    async def add(a: int) -> None:
        results.append(await server.call("add", a=a, b=0))

    async with running(shared[kind].settings(max_parallel=4)) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.call, "hang")
            for a in range(30):
                tasks.start_soon(add, a)
            await until(lambda: len(results) == 30)
            tasks.cancel_scope.cancel()
        failed = [
            await server.call("error"),
            await server.call("add", a="no number", b=1),
            await server.call("add"),
        ]
        told = server.told()

        assert await server.call("add", a=1, b=2) == "3"

    assert sorted(map(int, results)) == list(range(30))
    assert all(text.startswith("[The tool reports an error.]\n") for text in failed)
    assert (told.calls, told.failures, told.restarts) == (34, 3, 0)


@pytest.mark.parametrize("kind", ["stdio", "http"])
async def test_every_later_call_works_after_each_that_misbehaved(kind: str) -> None:
    with transport_of(kind) as transport:
        await _misbehave(transport)


async def _hung(server: Running, clock: PatientClock, mark: str = "") -> str:
    """Return what is told of a call that hangs until its time is over."""
    texts: list[str] = []

    async def hang() -> None:
        texts.append(await server.call("hang", mark=mark))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hang)
        await server.call("until_hung", mark=mark)
        clock.run_out()
    return texts[0]


def _runs_again(server: Running, restarts: int) -> bool:
    told = server.told()
    return told.restarts >= restarts and told.state is ServerState.RUNNING


async def _misbehave(transport: Transport) -> None:
    clock = PatientClock()
    async with running(transport.settings(), clock=clock, limit_s=120) as server:
        texts = {"hang": await _hung(server, clock)}
        assert await server.call("add", a=1, b=2) == "3"
        restarts = 0
        for tool, arguments in (
            ("crash", {}),
            ("parts", {"count": 3_000}),
            ("values", {"count": 60_000}),
            ("error", {}),
        ):
            texts[tool] = await server.call(tool, **arguments)
            if tool == "crash":
                transport.crashed()
            # At an address, somebody else starts it, and what is sent anew reaches it.
            restarts += transport.http is None and tool in {"crash", "values"}
            await until(partial(_runs_again, server, restarts), limit_s=60)
            assert await server.call("add", a=1, b=2) == "3", tool
        told = server.told()

    assert "no answer within 60 seconds" in texts["hang"]
    assert texts["crash"].startswith(LOST)
    assert texts["parts"].endswith("[cut: these are the first 1000 of 3000 parts]")
    assert "a message of more than 50,000 values" in texts["values"]
    assert (told.calls, told.failures, told.timeouts) == (11, 4, 1)


@pytest.mark.alone
@pytest.mark.parametrize("kind", KINDS)
async def test_a_flood_costs_neither_memory_nor_time(
    shared: dict[str, Transport], kind: str
) -> None:
    async with running(shared[kind].settings(), limit_s=120) as server:
        largest = await server.call("flood", size=8_000_000)
        ticker = _Ticker()
        blocks: list[float] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ticker.run)
            # What another program takes of the machine is no fault of ours: the best of three.
            while len(blocks) < 3 and min(blocks, default=1.0) > LONGEST_BLOCK_S:
                ticker.worst_s = 0.0
                text = await server.call("flood")
                blocks.append(ticker.worst_s)
                assert "more than 8,388,608 bytes" in text or "8388608 byte limit" in text
                assert await server.call("add", a=1, b=2) == "3"
            tasks.cancel_scope.cancel()

    assert largest == f"{'x' * 50_000}\n[cut: these are the first 50000 of 8000000 characters]"
    assert ticker.growth_bytes < LARGEST_GROWTH_BYTES
    assert min(blocks) < LONGEST_BLOCK_S


async def test_a_flood_of_the_output_itself_ends_the_program() -> None:
    async with running(real(), limit_s=60) as server:
        ticker = _Ticker()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ticker.run)
            text = await server.call("flood_stdout")
            tasks.cancel_scope.cancel()
        after = await server.call("add", a=1, b=2)

    # What else the server wrote may have ended the line.
    reasons = ("a message of more than 8,388,608 bytes.", "an answer that is not JSON-RPC.")
    assert text.startswith(tuple(f"{LOST}it sent {reason}" for reason in reasons))
    assert ticker.growth_bytes < LARGEST_GROWTH_BYTES
    assert after == "3"


# Without streams, a server of the SDK does not notice that nobody waits any more.
@pytest.mark.parametrize("kind", ["stdio", "http"])
async def test_cancelling_a_call_reaches_the_tool(shared: dict[str, Transport], kind: str) -> None:
    clock = SystemClock()
    async with running(shared[kind].settings()) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(server.call, "hang", mark=f"cancelled-{kind}"))
            await server.call("until_hung", mark=f"cancelled-{kind}")
            tasks.cancel_scope.cancel()

        while f"cancelled-{kind}" not in (await server.call("cancelled")).split():
            await clock.sleep(0.01)
        assert server.told().restarts == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tool_that_comes_is_offered(kind: str) -> None:
    with transport_of(kind) as transport:
        async with running(transport.settings()) as server:
            before = server.box.specs()
            assert await server.call("grow") == "grown"
            await until(lambda: server.box.specs() is not before)
            names = [spec.name for spec in server.box.specs()]

            assert "odd_grown" in names
            assert names == sorted(names)
            assert await server.call("grown") == clean_text(ODD_TEXT)


@asynccontextmanager
async def running_older(settings: McpServerSettings, clock: Clock) -> AsyncGenerator[Running]:
    """Run a server to which only the older handshake is spoken."""
    connector = SdkConnector(clock)

    def connect(
        target: Target, watch: Watch, *, legacy: bool
    ) -> AbstractAsyncContextManager[SdkConnection]:
        assert not legacy
        return connector.connect(target, watch, legacy=True)

    server = McpServer(Target("odd", settings), connect, clock)
    servers = McpServers([server])
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run)
            await server.settled.wait()
            yield Running(servers, servers.toolbox_for(Choice()), "odd")
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["stdio", "http"])
async def test_the_older_handshake_serves_as_well(kind: str) -> None:
    with transport_of(kind) as transport:
        await _serve_older(transport)


async def _serve_older(transport: Transport) -> None:
    clock = PatientClock()
    async with running_older(transport.settings(), clock) as server:
        before = server.box.specs()
        hung = await _hung(server, clock, "older")
        while await server.call("cancelled") != "older":
            await clock.sleep(0.01)
        texts = [
            await server.call("ask_user"),
            await server.call("slow"),
            await server.call("grow"),
        ]
        await until(lambda: server.box.specs() is not before)

        assert "no answer within 60 seconds" in hung
        assert texts == ["refused 3", "done", "grown"]
        assert server.told().restarts == 0


async def test_a_server_that_was_restarted_by_others_is_connected_to_anew() -> None:
    with transport_of("http") as transport:
        async with running_older(transport.settings(), PatientClock()) as server:
            assert await server.call("add", a=1, b=2) == "3"
            transport.crashed()

            assert await server.call("add", a=1, b=2) == "3"
            assert server.told().failures == 0


async def test_a_program_is_kept_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its variables, what it writes beside the protocol, and its children."""
    monkeypatch.setenv("CANARY", "secret")
    async with running(real()) as server:
        assert await server.call("chatter", lines=300) == "chattered"
        assert "CANARY" not in (await server.call("env")).split()
        child = int(await server.call("spawn"))
        pid = int((await server.call("where")).split()[1])
        assert not is_gone(child)

    assert is_gone(pid)
    await until(lambda: is_gone(child))


@pytest.mark.parametrize("kind", ["stdio", "http"])
async def test_what_tools_are_told_and_return_never_reaches_the_log(
    shared: dict[str, Transport], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    clock = PatientClock()
    with capture_logs() as logs:
        async with running(shared[kind].settings(), clock=clock) as server:
            assert await server.call("echo", text="canary 1") == "canary 1"
            await server.call("add", a="canary 2", b=1)
            await _hung(server, clock, "canary 3")
            await server.call("values", count=60_000)
    ours = [line for line in logs if line["event"] != "tools.server_stderr"]

    assert len(ours) >= 1
    assert "canary" not in str(ours)
    assert "canary" not in caplog.text
