"""Laws of outages at the window: what passes by makes no conversation smaller for good.

A summary that fails since its provider is out of order is tried again with the next message, and an
agent that stands in for another is sent the conversation as it is, or nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from gateway.agents.scripted import Hang
from gateway.errors import AgentFailure
from gateway.model import AgentId, Role
from gateway.turns.outcome import NO_RESULT
from gateway.turns.ticket import Fallback
from tests.support.loops import (
    Looped,
    calls_made,
    counted,
    fails,
    fall_back,
    is_extension,
    is_paired,
    results,
    says,
    summaries_of,
    transcript,
    users,
    wants,
)
from tests.support.toolbox import TestToolbox
from tests.support.turns import PlayedAgent, answer, reply_of, running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import Agent, AgentEvent
    from gateway.agents.scripted import Step
    from gateway.model import Message
    from tests.support.turns import Bench

MAIN = AgentId("main")
PASSING = pytest.mark.parametrize("failure", [AgentFailure.RATE_LIMIT, AgentFailure.OUTAGE])


def ok(messages: Sequence[Message]) -> Step:
    return says("ok", messages)


def narrow(failure: AgentFailure | None = None) -> Looped:
    """Return an agent with room for 5,000 tokens, whose summaries may fail."""
    agent = Looped(ok, window_tokens=5_500, reserve_tokens=500)
    if failure is not None:
        agent.summary = fails(failure)
    return agent


async def fill(bench: Bench) -> None:
    """Say what fills the window of a narrow agent."""
    for letter in "abcdefghi":
        assert (await bench.say(letter * 2_098)).status == "ok"


@PASSING
async def test_a_summary_that_fails_for_an_outage_is_told_and_tried_with_the_next_message(
    tmp_path: Path, failure: AgentFailure
) -> None:
    agent = narrow(failure)
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        await fill(bench)
        before = agent.sent[-1]
        reply = await bench.say("j" * 2_098)

        assert (reply.status, reply.text) == ("failed", f"{failure}!")
        assert (len(agent.sent), len(agent.asked)) == (9, 1)
        assert await bench.count("projections") == 0
        assert bench.turns.contexts.telling.compactions == {"failed": 1}
        # It is the same provider that would answer.
        assert bench.turns.answering.breakers.resting() == {MAIN: 5}

        agent.summary = "They talked."
        reply = await bench.say("k")
        assert reply.status == "ok"
        (summary,) = await summaries_of(bench)
        assert summary.turns == reply.context.turns_left_out
        assert is_extension(agent.asked[-1], before[: 2 * summary.turns])
        assert [text[0] for text in users(agent.sent[-1])[-2:]] == ["j", "k"]


@PASSING
async def test_another_agent_then_answers_with_all_that_was_said(
    tmp_path: Path, failure: AgentFailure
) -> None:
    main, second = narrow(failure), Looped(ok, model="second")
    async with running_turns(
        tmp_path / "state", {"main": main.agent, "second": second.agent}
    ) as bench:
        await fill(bench)
        fall_back(bench, "second")
        reply = await bench.say("j" * 2_098)

        assert (reply.status, reply.agent) == ("ok", "second")
        assert reply.fallbacks == (Fallback("main", failure.value),)
        assert [text[0] for text in users(second.sent[-1])] == list("abcdefghij")
        assert second.asked == []
        assert reply.context.turns_left_out == 0


@PASSING
async def test_where_tools_have_run_the_other_agent_goes_on_with_their_results(
    tmp_path: Path, failure: AgentFailure
) -> None:
    async def page(**_: object) -> str:
        await anyio.lowlevel.checkpoint()
        return "p" * 2_000

    def step(messages: Sequence[Message]) -> Step:
        wanted = users(messages)[-1] == "read" and not results(messages)
        return wants("page", messages=messages) if wanted else ok(messages)

    tools = TestToolbox({"page": page})
    main = Looped(step, tools, window_tokens=5_500, reserve_tokens=500, summary=fails(failure))
    second = Looped(step, tools, model="second")
    async with running_turns(
        tmp_path / "state", {"main": main.agent, "second": second.agent}
    ) as bench:
        await fill(bench)
        fall_back(bench, "second")
        reply = await bench.say("read")

        assert (reply.status, reply.text, reply.agent) == ("ok", "ok", "second")
        assert len(tools.called) == 1
        (sent,) = second.sent
        assert results(sent) == ["p" * 2_000]
        assert is_paired(sent)
        assert is_extension(sent, main.sent[-1])


async def test_a_provider_that_overflows_while_it_is_out_of_order_makes_nothing_smaller(
    tmp_path: Path,
) -> None:
    def step(messages: Sequence[Message]) -> Step:
        if len(messages) > 5:
            raise fails(AgentFailure.OVERFLOW)

        return ok(messages)

    agent = Looped(step, summary=fails(AgentFailure.OUTAGE))
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        for letter in "abc":
            await bench.say(letter * 2_000)
        reply = await bench.say("d" * 2_000)

        assert (reply.status, reply.text) == ("failed", "overflow!")
        assert reply.context.turns_left_out == 0
        assert await bench.count("projections") == 0


async def test_who_stands_in_is_sent_the_same_and_leaves_nothing_behind_but_its_answer(
    tmp_path: Path,
) -> None:
    """Its window is nearly full, its cache is cold, and it could write summaries."""
    asked = iter(range(100))

    async def play(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        if 10 <= next(asked) < 12:
            raise fails(AgentFailure.OUTAGE)

        for event in answer("ok", counted(messages)):
            yield event

    main = PlayedAgent(play)
    second = narrow()
    agents: dict[str, Agent] = {"main": main, "second": second.agent}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "second")
        await fill(bench)
        await bench.say("j")
        before = main.contexts[-1]
        stood_in = await bench.say("k")
        await bench.clock.advance(5)
        too_much = await bench.say("l" * 2_098)
        await bench.clock.advance(300)
        reply = await bench.say("m")

        assert (stood_in.status, stood_in.agent) == ("ok", "second")
        assert is_extension(second.sent[-1], before)
        assert stood_in.context.window_tokens == 5_500
        # What has no room there is no reason to make a conversation smaller.
        assert (too_much.status, too_much.text) == ("failed", "outage!")
        assert too_much.fallbacks == (Fallback("main", "outage"), Fallback("second", "overflow"))
        assert len(second.sent) == 1
        assert second.asked == []
        assert await bench.count("projections") == 0
        assert await bench.count("summaries") == 0

        assert (reply.status, reply.agent) == ("ok", "main")
        assert is_extension(main.contexts[-1], second.sent[-1])
        assert [text[0] for text in users(main.contexts[-1])] == list("abcdefghijklm")
        verdicts = await calls_made(bench, "agent", "cache_verdict")
        # Nobody finds what another one's provider keeps.
        assert verdicts[-2:] == [("second", "cold_start"), ("main", "cold_start")]


async def test_what_tools_returned_before_the_deadline_is_kept_with_the_calls_that_did_not(
    tmp_path: Path,
) -> None:
    hangs = anyio.Event()

    async def look(no: int) -> str:
        if no == 1:
            hangs.set()
            await anyio.sleep_forever()
        return f"seen {no}"

    def step(messages: Sequence[Message]) -> Step:
        if users(messages)[-1] == "look":
            return wants('look {"no": 0}', 'look {"no": 1}', 'look {"no": 2}', text="So: ")

        return ok(messages)

    agent = Looped(step, TestToolbox({"look": look}))
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        ticket = await bench.submit("look")
        with anyio.fail_after(30):
            await hangs.wait()
        await bench.clock.advance(300)
        reply = await reply_of(ticket)

        assert reply.status == "deadline"
        said = await transcript(bench)
        assert results(said) == ["seen 0", NO_RESULT, "seen 2"]
        assert [one.tool_name for one in said if one.role is Role.TOOL] == ["look"] * 3
        assert is_paired(said)
        assert (await bench.say("and now?")).status == "ok"
        assert results(agent.sent[-1]) == ["seen 0", NO_RESULT, "seen 2"]
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        await bench.say("and then?")
        assert is_extension(agent.sent[-1], agent.sent[-2])


async def test_a_session_goes_on_after_who_stood_in_has_hung(tmp_path: Path) -> None:
    main = narrow()
    hanging = Looped(lambda _: Hang(), model="second")
    failure = iter([fails(AgentFailure.OUTAGE)])

    def once(messages: Sequence[Message]) -> Step:
        for error in failure:
            raise error

        return ok(messages)

    main.step = once
    async with running_turns(
        tmp_path / "state", {"main": main.agent, "second": hanging.agent}
    ) as bench:
        fall_back(bench, "second")
        ticket = await bench.submit("hello")
        with anyio.fail_after(30):
            while not hanging.sent:
                await anyio.lowlevel.checkpoint()
        await bench.clock.advance(300)
        assert (await reply_of(ticket)).status == "deadline"

        assert (await bench.say("again")).agent == "main"
        assert users(main.sent[-1]) == ["hello", "again"]
