"""Laws of tools that hang, crash and flood: they cost their call and harm nobody else."""

from __future__ import annotations

import base64
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import orjson
import pytest

from gateway.clock import FakeClock, SystemClock
from gateway.turns.outcome import NO_RESULT
from tests.support import acting
from tests.support.daemon import Daemon, running_daemon
from tests.support.disk import disk_in_memory
from tests.support.long_sessions import KEY, STARTED, agent
from tests.support.mcp_server import PIXEL
from tests.support.upstream import upstream
from tests.tools.running import http_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from tests.support.upstream import Upstream

pytestmark = pytest.mark.alone
LARGEST_GROWTH_KIB: Final = 150_000
LONGEST_S: Final = 1.0
"""How long another session may wait for its answer while a tool floods."""
PAGE: Final = 'use box_page {"number": 7, "chars": 300}'
PAGED: Final = "It said: 7. "
ADD: Final = 'use box_add {"a": 2, "b": 40}'


@contextmanager
def server_over(transport: str) -> Generator[tuple[str, Callable[[], None]]]:
    """Return the table of a server, and what its operator does once it has crashed."""
    if transport == "stdio":
        yield STARTED, lambda: None
        return

    with http_server() as http:
        yield f'url = "http://127.0.0.1:{http.port}/mcp"', http.restart


def config(fake: Upstream, wire: str, server: str, *, deadline_s: float = 60) -> str:
    """Return a configuration with a model that uses tools, and an echo beside it."""
    return f"""{agent(fake, "main", wire, window_tokens=200_000, allow=["box_*"])}
[agents.mirror]
kind = "echo"

[turns]
turn_deadline_s = {deadline_s}

[tools.servers.{acting.SERVER}]
{server}
"""


async def use(daemon: Daemon, text: str, chat: str = "alice") -> str:
    """Send a message that must be answered well, and return the answer."""
    answer = await daemon.say(text, chat)
    assert answer["status"] == "ok", answer
    return str(answer["reply"])


@dataclass(slots=True)
class Beside:
    """What goes on in other sessions meanwhile."""

    daemon: Daemon
    replies: list[str] = field(default_factory=list)
    """What Bob got, whose agent uses the same server of tools."""
    worst_s: float = 0.0
    """How long an echo took at most."""

    async def bob(self) -> None:
        while True:
            self.replies.append(await use(self.daemon, PAGE, "bob"))

    async def echo(self) -> None:
        clock = SystemClock()
        while True:
            began = clock.monotonic()
            body = {"chat_id": "carol", "text": "hello", "agent": "mirror"}
            response = await self.daemon.post("/v1/messages", body)
            assert orjson.loads(response.content)["reply"] == "hello"
            self.worst_s = max(self.worst_s, clock.monotonic() - began)
            await clock.sleep(0.01)


@asynccontextmanager
async def others(daemon: Daemon) -> AsyncGenerator[Beside]:
    """Let other sessions go on meanwhile."""
    beside = Beside(daemon)
    async with anyio.create_task_group() as group:
        group.start_soon(beside.bob)
        group.start_soon(beside.echo)
        yield beside
        group.cancel_scope.cancel()


def memory_kib(daemon: Daemon, name: str) -> int:
    """Return a number of the daemon's memory: `VmRSS` now, `VmHWM` at most so far."""
    status = Path(f"/proc/{daemon.pid}/status").read_text(encoding="ascii")
    return int(status.partition(f"{name}:")[2].split()[0])


GONE: Final = "It said: The tool server box broke off the call: "
TOO_LARGE: Final = "it sent a message of more than 8,388,608 bytes"
OVER: Final = pytest.mark.parametrize(
    ("wire", "transport"), [("anthropic", "stdio"), ("openai", "http")]
)


@asynccontextmanager
async def running(
    wire: str, transport: str, *, more: str = "", deadline_s: float = 60
) -> AsyncGenerator[tuple[Daemon, Callable[[], None]]]:
    """Run a daemon, and return it with what a server's operator does after a crash."""
    async with upstream(FakeClock()) as fake:
        fake.answer(acting.obedient)
        with disk_in_memory() as path, server_over(transport) as (server, restart):
            table = config(fake, wire, f"{server}\n{more}", deadline_s=deadline_s)
            async with running_daemon(path / "state", table) as daemon:
                await daemon.until_tools_run()
                yield daemon, restart


@pytest.mark.slow
@OVER
async def test_a_tool_that_floods_or_crashes_costs_its_call_and_harms_no_other_session(
    wire: str, transport: str
) -> None:
    async with running(wire, transport) as (daemon, restart):
        assert await use(daemon, ADD) == "It said: 42"
        before_kib = memory_kib(daemon, "VmRSS")
        async with others(daemon) as beside:
            assert TOO_LARGE in await use(daemon, "use box_flood")
            assert await use(daemon, ADD) == "It said: 42"
            if transport == "stdio":
                flooded = await use(daemon, "use box_flood_stdout")
                assert flooded.startswith(f"{GONE}it sent an answer that is not JSON-RPC")
                assert await use(daemon, ADD) == "It said: 42"
            assert memory_kib(daemon, "VmHWM") - before_kib < LARGEST_GROWTH_KIB
            assert (await use(daemon, "use box_crash")).startswith(GONE)
            await anyio.to_thread.run_sync(restart)  # the echo is measured meanwhile
            assert await use(daemon, ADD) == "It said: 42"

        assert beside.worst_s < LONGEST_S
        assert [one for one in beside.replies if not one.startswith((PAGED, GONE))] == []
        assert (await use(daemon, PAGE, "bob")).startswith(PAGED)
        assert await use(daemon, "hello") == "pong"


@OVER
async def test_a_tool_that_hangs_is_cancelled_and_the_turn_goes_on(
    wire: str, transport: str
) -> None:
    async with running(wire, transport, more="call_timeout_s = 2") as (daemon, _):
        async with others(daemon) as beside:
            said = await use(daemon, 'use box_hang {"mark": "alice"}')
            assert said.startswith("It said: The tool gave no answer within 2 seconds")
            assert await use(daemon, ADD) == "It said: 42"
        assert await use(daemon, "use box_cancelled") == "It said: alice"

    assert beside.worst_s < LONGEST_S
    assert len(beside.replies) > 2
    assert [reply for reply in beside.replies if not reply.startswith(PAGED)] == []


@OVER
async def test_the_deadline_of_a_turn_reaches_the_tool_and_later_turns_are_answered(
    wire: str, transport: str
) -> None:
    async with running(wire, transport, deadline_s=3) as (daemon, _):
        async with others(daemon) as beside:
            answer = await daemon.say('use box_hang {"mark": "alice"}')
            assert answer["status"] == "deadline"
            assert answer["reply"].endswith("This took longer than 3 seconds and was stopped.")
            assert await use(daemon, "use box_cancelled") == "It said: alice"
        said = await daemon.said(KEY)

    assert beside.worst_s < LONGEST_S
    assert [reply for reply in beside.replies if not reply.startswith(PAGED)] == []
    roles = [role for role, _ in said]
    assert roles == [
        "user",
        "assistant",
        "tool",
        "notice",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert said[2] == ("tool", NO_RESULT)


@OVER
async def test_images_of_tools_reach_the_model_or_are_named_to_it(
    tmp_path: Path, wire: str, transport: str
) -> None:
    async with upstream(FakeClock()) as fake:
        fake.answer(acting.obedient)
        with server_over(transport) as (server, _):
            async with running_daemon(tmp_path / "state", config(fake, wire, server)) as daemon:
                await daemon.until_tools_run()
                await use(daemon, "use box_image")
                assert await use(daemon, ADD) == "It said: 42"
        *_, last = fake.requests

    pixel = base64.b64encode(PIXEL)
    assert (pixel in last.body) == (wire == "anthropic")
    assert (b"[image: image/png]" in last.body) == (wire == "openai")
