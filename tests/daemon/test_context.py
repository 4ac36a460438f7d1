"""Laws of context pruning in a real daemon that talks to a provider with a prompt cache."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import anyio
import orjson
import pytest

from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.clock import FakeClock, SystemClock
from gateway.context.estimate import estimate_context_chars
from gateway.model import Message, ModelCall, Role, ToolCall, Usage
from tests.support.daemon import START_S, running_daemon
from tests.support.state import key_of
from tests.support.turns import PlayedAgent, running_turns
from tests.support.upstream import upstream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent
    from tests.support.daemon import Daemon
    from tests.support.upstream import Upstream

RESULTS: Final = 40
RESULT_CHARS: Final = 20_000
WINDOW_TOKENS: Final = 300_000
KEY: Final = str(key_of())
LONG_S: Final = 1e6
"""A time to live that is not over here."""
SHORT_S: Final = 1e-6
"""One that is over before the next request."""


def config(fake: Upstream, wire: str, ttl_s: float) -> str:
    path = "/v1" if wire == "openai" else ""
    return f"""
[agents.main]
kind = "{wire}"
model = "pretended"
base_url = "{fake.url}{path}"
system_prompt = "You are of use."
context_window_tokens = {WINDOW_TOKENS}

[[context.cache]]
model = "pretended"
ttl_s = {ttl_s}
input_usd_per_mtok = 3.0

[store]
snapshot_interval_s = 0.05
"""


async def read_forty_files(path: Path) -> None:
    """Make a session whose tools returned much, a short while ago."""
    clock = FakeClock(SystemClock().now() - timedelta(minutes=10))

    async def play(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        call = ToolCall(f"call-{messages[-1].turn_id}", "read_file", "{}")
        text = f"{messages[-1].text} " * RESULT_CHARS
        yield MessageFinished(Message(Role.ASSISTANT, "", (call,)))
        yield MessageFinished(
            Message(
                Role.TOOL, text[:RESULT_CHARS], tool_call_id=call.call_id, tool_name="read_file"
            )
        )
        sent = estimate_context_chars(messages) + RESULT_CHARS
        yield TextDelta("read")
        yield ModelCallFinished(ModelCall("pretended", clock.now(), Usage(sent // 4 + 100, 1)))
        yield MessageFinished(Message(Role.ASSISTANT, "read"))

    agent = PlayedAgent(play, context_window_tokens=WINDOW_TOKENS, model="pretended")
    async with running_turns(path, agent, clock=clock) as bench:
        for number in range(RESULTS):
            await bench.say(f"file {number}")


async def in_file(daemon: Daemon, source: str) -> dict[str, Any]:
    """Return the entry in `sessions.json` once its context was measured this way."""
    with anyio.fail_after(START_S):
        while True:
            count = len(daemon.log.of("store.snapshot"))
            document = orjson.loads((daemon.state_dir / "sessions.json").read_bytes())
            entry: dict[str, Any] = document["sessions"][KEY]
            if entry["context_source"] == source:
                return entry
            await daemon.log.wait_for("store.snapshot", count=count + 1)


def is_extension(fake: Upstream, place: int) -> bool:
    """Return whether a request begins with all of the one before it, byte for byte."""
    before, blocks = fake.requests[place - 1].blocks, fake.requests[place].blocks
    return blocks[: len(before)] == before


async def one_round(daemon: Daemon, fake: Upstream) -> None:
    """Send a message that is pruned for, and look at the numbers before and after its answer."""
    assert fake.gate is not None
    whole = fake.requests[-1]
    async with anyio.create_task_group() as group:
        group.start_soon(daemon.say, "cold")
        event = await daemon.log.wait_for("context.pruned")
        shown = await daemon.get(f"/v1/sessions/{KEY}")
        estimated = await in_file(daemon, "estimate")
        with anyio.fail_after(START_S):
            await fake.asked.wait()
        pruned = fake.requests[-1]
        fake.gate.set()

    assert event["trimmed"] + event["cleared"] == RESULTS
    assert pruned.tokens < whole.tokens / 4
    for entry in (shown, estimated):
        assert entry["context_tokens"] == event["tokens_after"]
    assert abs(estimated["context_tokens"] - pruned.tokens) < 0.1 * pruned.tokens
    counted = await in_file(daemon, "usage")
    assert counted["context_tokens"] == pruned.tokens
    assert counted["total_tokens"] >= counted["context_tokens"]
    transcript = await daemon.get(f"/v1/sessions/{KEY}/transcript?limit=1000")
    results = [m["text"] for m in transcript["messages"] if m["role"] == "tool"]
    assert [len(text) for text in results] == [RESULT_CHARS] * RESULTS


@pytest.mark.parametrize("wire", ["anthropic", "openai"])
async def test_a_long_session_is_pruned_once_and_every_number_is_true(
    tmp_path: Path, wire: str
) -> None:
    path = tmp_path / "state"
    await read_forty_files(path)
    async with upstream(FakeClock()) as fake:
        async with running_daemon(path, config(fake, wire, LONG_S)) as daemon:
            for _ in range(2):
                await daemon.say("still warm")
            whole = fake.requests[-1]
            assert whole.tokens > RESULTS * RESULT_CHARS / 4
            assert daemon.log.of("context.pruned") == []
            await daemon.kill()

        fake.gate, fake.asked = anyio.Event(), anyio.Event()
        async with running_daemon(path, config(fake, wire, SHORT_S)) as daemon:
            await one_round(daemon, fake)
            await daemon.kill()

        async with running_daemon(path, config(fake, wire, LONG_S)) as daemon:
            await daemon.say("warm again")
            await daemon.say("and again")
            await daemon.log.wait_for("turn.completed", count=2)
            completed = daemon.log.of("turn.completed")
            assert [line["cache"] for line in completed] == ["hit", "hit"]
            assert daemon.log.of("context.pruned") == []
        for place in (1, 3, 4):
            assert is_extension(fake, place)
            assert fake.requests[place].read > 0.9 * fake.requests[place - 1].tokens
        assert not is_extension(fake, 2)
        assert len(fake.requests) == 5
