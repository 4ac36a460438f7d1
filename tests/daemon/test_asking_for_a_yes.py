"""Laws of tools that need the user's yes: a real daemon, asked and answered over its HTTP API."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import orjson
import pytest

from gateway.clock import FakeClock
from tests.support import acting
from tests.support.daemon import START_S, running_daemon
from tests.support.long_sessions import KEY, STARTED, agent
from tests.support.upstream import upstream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.upstream import Upstream

WIRES: Final = pytest.mark.parametrize("wire", ["anthropic", "openai"])
ADD: Final = 'use box_add {"a": 2, "b": 40}'
REFUSED: Final = "'box_add' was not run: the user did not allow it, or did not answer in time."
LIMIT_S: Final = 2 * START_S
Event = tuple[str, dict[str, Any]]


@asynccontextmanager
async def running(
    path: Path, wire: str, *, timeout_s: float = 60, grace_s: float = 5
) -> AsyncGenerator[tuple[Daemon, Upstream]]:
    """Run a daemon whose agent needs a yes for `box_add`."""
    async with upstream(FakeClock()) as fake:
        fake.answer(acting.obedient)
        config = f"""{agent(fake, "main", wire, ask=["box_a*"])}
[turns]
approval_timeout_s = {timeout_s}
turn_deadline_s = 900
grace_s = {grace_s}

[tools.servers.{acting.SERVER}]
{STARTED}
"""
        with anyio.fail_after(LIMIT_S):
            async with running_daemon(path / "state", config) as daemon:
                await daemon.until_tools_run()
                yield daemon, fake


@asynccontextmanager
async def streamed(daemon: Daemon, text: str) -> AsyncGenerator[AsyncIterator[Event]]:
    """Send a message and return the events of its answer as they come."""
    headers = {"Accept": "text/event-stream", "Content-Type": "application/json"}
    body = orjson.dumps({"chat_id": "alice", "text": text})
    async with daemon.client.stream(
        "POST", "/v1/messages", content=body, headers=headers
    ) as response:
        yield _events(response.aiter_lines())


async def _events(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    name = ""
    async for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, orjson.loads(value)


async def question(events: AsyncIterator[Event]) -> tuple[str, str]:
    """Return the question that the turn waits at, and what allows it."""
    async for name, data in events:
        if name == "delta" and data.get("question"):
            assert f'Answer "yes {data["number"]}" or "no"' in data["text"]
            return str(data["text"]), f"yes {data['number']}"
    raise AssertionError("nothing was asked")


async def done(events: AsyncIterator[Event]) -> dict[str, Any]:
    """Return the whole answer."""
    async for name, data in events:
        if name == "done":
            return data
    raise AssertionError("the stream ended before the answer")


async def calls(daemon: Daemon) -> int:
    """Return how many calls the server of tools got."""
    (server,) = (await daemon.get("/v1/status"))["tools"]
    return int(server["calls"])


@WIRES
async def test_a_tool_runs_once_the_user_has_said_yes_in_the_chat_and_not_before(
    tmp_path: Path, wire: str
) -> None:
    async with running(tmp_path, wire) as (daemon, fake):
        async with streamed(daemon, ADD) as events:
            asked, yes = await question(events)
            assert "box_add" in asked
            assert '{"a": 2, "b": 40}' in asked or '{"a":2,"b":40}' in asked
            assert (await calls(daemon), len(fake.requests)) == (0, 1)
            # Without its number it is no answer; who does not stream reads the question here.
            again = await daemon.say("yes")
            assert again["status"] == "answered"
            assert again["reply"].partition("\n")[0] == asked.partition("\n")[0]
            assert yes in again["reply"]
            assert (await calls(daemon), len(fake.requests)) == (0, 1)
            told = await daemon.say(yes)
            assert (told["status"], told["duplicate"]) == ("answered", False)
            whole = await done(events)
        assert (await calls(daemon), len(fake.requests)) == (1, 2)
        said = await daemon.said(KEY)

    assert whole["status"] == "ok"
    assert whole["reply"].endswith("box_add may be used (allowed by alice).\n\nIt said: 42")
    assert [text for role, text in said if role == "tool"] == ["42"]
    assert [text for role, text in said if role == "user"] == [ADD]


@WIRES
async def test_a_no_is_a_result_that_the_model_reads(tmp_path: Path, wire: str) -> None:
    async with running(tmp_path, wire) as (daemon, _):
        async with streamed(daemon, ADD) as events:
            await question(events)
            assert (await daemon.say("No!"))["status"] == "answered"
            whole = await done(events)
        assert await calls(daemon) == 0

        assert whole["status"] == "ok"
        assert whole["reply"].endswith(f"It said: {REFUSED}")
        # What needs no yes runs at once.
        said = await daemon.say('use box_echo {"text": "hello"}')
        assert said["reply"] == "It said: hello"


@WIRES
async def test_without_an_answer_a_tool_does_not_run_and_the_turn_goes_on(
    tmp_path: Path, wire: str
) -> None:
    async with running(tmp_path, wire, timeout_s=0.5) as (daemon, _):
        answer = await daemon.say(ADD)
        assert answer["status"] == "ok"
        assert answer["reply"].endswith(
            f"No answer came in time: box_add was not used.\n\nIt said: {REFUSED}"
        )
        assert await calls(daemon) == 0
        late = await daemon.say("yes")
        assert (late["status"], late["reply"]) == ("ok", "pong")
        assert await calls(daemon) == 0


async def test_another_message_does_not_answer_a_question_and_gets_its_own_turn_after_it(
    tmp_path: Path,
) -> None:
    replies: list[str] = []

    async def ask_more() -> None:
        replies.append((await daemon.say("yes, but why?"))["reply"])

    async with (
        running(tmp_path, "openai") as (daemon, _),
        anyio.create_task_group() as group,
        streamed(daemon, ADD) as events,
    ):
        _, yes = await question(events)
        group.start_soon(ask_more)
        await daemon.until(lambda status: status["turns"]["waiting"] == 1)
        assert await calls(daemon) == 0
        await daemon.say(yes)
        whole = await done(events)

    assert whole["reply"].endswith("It said: 42")
    assert replies == ["pong"]


async def test_a_stop_closes_an_open_question_and_the_turn_ends_long_before_the_grace(
    tmp_path: Path,
) -> None:
    async with (
        running(tmp_path, "openai", timeout_s=600, grace_s=600) as (daemon, _),
        streamed(daemon, ADD) as events,
    ):
        await question(events)
        daemon.signal(signal.SIGTERM)
        whole = await done(events)
        assert await daemon.ended() == 0

        assert whole["status"] == "ok"
        assert whole["reply"].endswith(
            f"The gateway is stopping: box_add was not used.\n\nIt said: {REFUSED}"
        )
        (line,) = daemon.log.of("tool.approval")
        assert (line["tool"], line["outcome"]) == ("box_add", "unanswered")
