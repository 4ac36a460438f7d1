"""Laws of the numbers in an entry: what was measured, of which call, and when."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from gateway.agents.base import AgentFacts, MessageFinished, ModelCallFinished, TextDelta
from gateway.agents.loop import ToolLoop
from gateway.agents.scripted import Fail, Reply, ScriptedModel
from gateway.agents.settings import AgentToolSettings
from gateway.clock import FakeClock
from gateway.context.estimate import estimate_context_chars
from gateway.errors import AgentError, AgentFailure
from gateway.model import ContextSource, Message, ModelCall, Role, ToolCall, Usage
from tests.support.loops import fails, fall_back
from tests.support.state import START
from tests.support.toolbox import TestToolbox
from tests.support.turns import Gate, PlayedAgent, answer, reply_of, running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent

_FIRST = Usage(input_tokens=1_000, output_tokens=50, cache_read_tokens=0, cache_write_tokens=200)
_LAST = Usage(input_tokens=100, output_tokens=30, cache_read_tokens=1_200, cache_write_tokens=7)


async def _two_calls(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
    call = ToolCall("a", "look", "{}")
    yield ModelCallFinished(ModelCall("model-1", START, _FIRST))
    yield MessageFinished(Message(Role.ASSISTANT, "", tool_calls=(call,)))
    yield MessageFinished(Message(Role.TOOL, "found", tool_call_id="a", tool_name="look"))
    yield TextDelta("done")
    yield ModelCallFinished(ModelCall("model-2", START + timedelta(seconds=9), _LAST))
    yield MessageFinished(Message(Role.ASSISTANT, "done"))


async def test_tokens_are_summed_by_field_and_the_context_is_the_last_call_alone(
    tmp_path: Path,
) -> None:
    async with running_turns(tmp_path / "state", PlayedAgent(_two_calls)) as bench:
        reply = await bench.say("hello")
        entry = bench.entry()

        assert reply.usage == _FIRST + _LAST
        assert (entry.input_tokens, entry.output_tokens) == (1_100, 80)
        assert (entry.cache_read_tokens, entry.cache_write_tokens) == (1_200, 207)
        assert entry.total_tokens == _FIRST.total_tokens + _LAST.total_tokens
        assert entry.context_tokens == 1_307
        assert reply.context.tokens == 1_307
        assert entry.context_source is reply.context.source is ContextSource.USAGE
        assert entry.context_window_tokens == 200_000
        assert entry.model == "model-2"
        assert entry.cache_touched_at == START + timedelta(seconds=9)
        # Both requests were measured, the first one while the turn went on.
        assert entry.context_step == 2


async def test_sums_grow_over_turns_and_the_context_does_not(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state", PlayedAgent(_two_calls)) as bench:
        for _ in range(3):
            await bench.say("hello")
        entry = bench.entry()

        assert (entry.turns, entry.context_step) == (3, 6)
        assert entry.total_tokens == 3 * (_FIRST.total_tokens + _LAST.total_tokens)
        assert entry.context_tokens == 1_307
        assert await bench.count("model_calls") == 6


async def test_where_nobody_counts_the_context_is_an_estimate_and_says_so(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        reply = await bench.say("x" * 400)
        entry = bench.entry()

        assert reply.usage is None
        assert entry.context_source is reply.context.source is ContextSource.ESTIMATE
        assert entry.context_tokens == 100
        assert entry.input_tokens == entry.output_tokens == 0
        assert entry.total_tokens == entry.context_tokens


async def test_the_total_is_never_below_the_context(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        for _ in range(5):
            await bench.say("x" * 400)
            entry = bench.entry()
            assert entry.total_tokens >= entry.context_tokens > 0


async def test_a_turn_that_sent_nothing_measures_nothing(tmp_path: Path) -> None:
    agent = PlayedAgent(_two_calls, context_window_tokens=2_000, reserve_tokens=100)
    async with running_turns(tmp_path / "state", agent) as bench:
        await bench.say("short")
        before = bench.entry()
        reply = await bench.say("x" * 40_000)
        entry = bench.entry()

        assert reply.status == "failed"
        assert reply.context.source is ContextSource.UNKNOWN
        assert entry.turns == 2
        assert entry.context_tokens == before.context_tokens
        assert entry.total_tokens == before.total_tokens
        assert entry.context_measured_at == before.context_measured_at


async def test_a_failed_turn_counts_the_calls_that_were_made(tmp_path: Path) -> None:
    async def play(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        yield ModelCallFinished(ModelCall("model-1", START, _FIRST))
        raise AgentError("cut")

    async with running_turns(tmp_path / "state", PlayedAgent(play)) as bench:
        reply = await bench.say("hello")

        assert (reply.status, reply.usage) == ("failed", _FIRST)
        assert bench.entry().total_tokens == _FIRST.total_tokens
        assert bench.entry().turns == 1


async def test_of_a_request_that_failed_an_estimate_is_told_and_not_what_the_one_before_counted(
    tmp_path: Path,
) -> None:
    async def look() -> str:
        await anyio.lowlevel.checkpoint()
        return "x" * 8_000

    steps = (Reply(usage=_FIRST, calls=(ToolCall("", "look", "{}"),)), Fail("It broke off."))
    model = ScriptedModel(steps, AgentFacts("scripted", 200_000, 1_000), FakeClock())
    agent = ToolLoop(model, TestToolbox({"look": look}), AgentToolSettings())
    async with running_turns(tmp_path / "state", agent) as bench:
        reply = await bench.say("hello")
        entry = bench.entry()

        assert reply.status == "failed"
        assert entry.context_source is reply.context.source is ContextSource.ESTIMATE
        assert entry.context_tokens == reply.context.tokens
        assert abs(entry.context_tokens - (_FIRST.context_tokens + 2_000)) < 50


async def test_of_an_agent_that_is_back_an_estimate_goes_on_from_its_own_providers_counts(
    tmp_path: Path,
) -> None:
    def played(model: str, times: int) -> PlayedAgent:
        async def play(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
            said = messages[-1].text
            if said == "fail" and model == "main":
                raise fails(AgentFailure.OUTAGE)
            yield TextDelta("So it is.")
            if said == "break":
                raise fails(AgentFailure.OUTAGE)
            counted = Usage(input_tokens=times * estimate_context_chars(messages) // 4)
            yield ModelCallFinished(ModelCall(model, START, counted))
            yield MessageFinished(Message(Role.ASSISTANT, "So it is."))

        return PlayedAgent(play, model=model)

    agents = {"main": played("main", 3), "spare": played("spare", 1)}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "spare")
        counted = (await bench.say("x" * 12_000)).context.tokens
        stood_in = await bench.say("fail")
        with anyio.fail_after(30):
            await bench.clock.advance(6)
        reply = await bench.say("break")

        assert (stood_in.agent, stood_in.context.source) == ("spare", ContextSource.USAGE)
        assert abs(stood_in.context.tokens - counted / 3) < 50
        assert (reply.agent, reply.status) == ("main", "failed")
        assert reply.context.source is ContextSource.ESTIMATE
        assert reply.context.tokens == bench.entry().context_tokens
        assert abs(reply.context.tokens - counted) < 100


async def test_an_entry_was_updated_when_its_message_was_accepted(tmp_path: Path) -> None:
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        ticket = await bench.submit("hello")
        await gate.reached("hello")
        with anyio.fail_after(30):
            await bench.clock.advance(60)
        gate.open("hello")
        await reply_of(ticket)

        entry = bench.entry()
        assert entry.created_at == entry.updated_at == START
        assert entry.context_measured_at == START + timedelta(seconds=60)

        with anyio.fail_after(30):
            await bench.clock.advance(60)
        gate.open("again")
        await bench.say("again")
        assert bench.entry().updated_at == START + timedelta(seconds=120)
        assert bench.entry().created_at == START


async def test_a_new_conversation_counts_from_nothing(tmp_path: Path) -> None:
    async def count(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        for event in answer("counted", _FIRST):
            yield event

    async with running_turns(tmp_path / "state", PlayedAgent(count)) as bench:
        await bench.say("hello")
        await bench.state.store.reset(bench.entry().session_key)
        assert bench.entry().total_tokens == bench.entry().context_step == 0
        await bench.say("hello")

        assert bench.entry().total_tokens == _FIRST.total_tokens
        assert bench.entry().turns == bench.entry().context_step == 1
