"""Laws of fallback: where a provider fails, the next agent goes on, and the reply says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from structlog.testing import capture_logs

from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.agents.scripted import Hang
from gateway.errors import AgentFailure
from gateway.model import Message, ModelCall, Role, ToolCall, Usage
from gateway.turns.live import TOO_LONG
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
    transcript,
    users,
    wants,
)
from tests.support.state import START
from tests.support.toolbox import TestToolbox
from tests.support.turns import PlayedAgent, answer, echo, reply_of, running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import Agent, AgentEvent
    from gateway.agents.scripted import Step
    from tests.support.turns import Bench

_NO_EVENTS: tuple[AgentEvent, ...] = ()


def failing(failure: AgentFailure, *, after: Sequence[AgentEvent] = _NO_EVENTS) -> PlayedAgent:
    """Return an agent that fails after some events."""

    async def play(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        for event in after:
            yield event
        raise fails(failure)

    return PlayedAgent(play)


async def say(bench: Bench, text: str = "hello") -> tuple[str, str, str, list[tuple[str, str]]]:
    """Return of a reply: its status, its text, who answered, and who was passed over."""
    reply = await bench.say(text)
    passed_over = [(one.agent, one.reason) for one in reply.fallbacks]
    return reply.status, reply.text, reply.agent, passed_over


@pytest.mark.parametrize("failure", [AgentFailure.RATE_LIMIT, AgentFailure.OUTAGE])
async def test_where_a_provider_fails_the_next_agent_answers_and_all_records_say_so(
    tmp_path: Path, failure: AgentFailure
) -> None:
    async def second(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        assert users(messages) == ["hello"]
        for event in answer("here", Usage(input_tokens=5, output_tokens=2)):
            yield event

    agents = {"main": failing(failure), "second": PlayedAgent(second, model="other")}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "second")
        with capture_logs() as logs:
            reply = await bench.say("hello", message_id="m1")

        assert (reply.status, reply.text, reply.agent) == ("ok", "here", "second")
        assert reply.fallbacks == (Fallback("main", failure.value),)
        assert await bench.say("hello", message_id="m1") == reply
        assert await calls_made(bench, "agent", "input_tokens") == [("second", 5)]
        assert await bench.said() == [("user", "hello"), ("assistant", "here")]
        (completed,) = [line for line in logs if line["event"] == "turn.completed"]
        assert (completed["agent"], completed["answered_by"]) == ("main", "second")
        assert completed["fallbacks"] == [f"main: {failure}"]
        (failed,) = [line for line in logs if line["event"] == "agent.failed"]
        assert (failed["agent"], failed["failure"]) == ("main", failure)
        # The conversation stays the first one's.
        assert bench.entry().agent == "main"


async def test_an_agent_without_others_tells_its_failure_and_passes_nobody_over(
    tmp_path: Path,
) -> None:
    async with running_turns(tmp_path / "state", failing(AgentFailure.OUTAGE)) as bench:
        assert await say(bench) == ("failed", "outage!", "main", [])


async def test_where_all_fail_the_last_ones_words_are_told(tmp_path: Path) -> None:
    agents = {
        "main": failing(AgentFailure.RATE_LIMIT),
        "second": failing(AgentFailure.OUTAGE),
        "third": failing(AgentFailure.OTHER),
        "fourth": PlayedAgent(echo),
    }
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "second", "third")
        passed_over = [("main", "rate_limit"), ("second", "outage")]

        assert await say(bench) == ("failed", "other!", "third", passed_over)
        assert bench.turns.statistics().failed == 1
        fall_back(bench, "fourth")
        assert (await say(bench, "again"))[:3] == ("ok", "re: again", "fourth")


async def test_a_failure_that_would_be_the_same_elsewhere_moves_nothing_on(tmp_path: Path) -> None:
    other = PlayedAgent(echo)
    agents = {"main": failing(AgentFailure.OTHER), "second": other}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "second")

        assert await say(bench) == ("failed", "other!", "main", [])
        assert other.contexts == []


async def test_a_crash_moves_nothing_on(tmp_path: Path) -> None:
    async def crash(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        for event in _NO_EVENTS:
            yield event
        raise ZeroDivisionError

    agents = {"main": PlayedAgent(crash), "second": PlayedAgent(echo)}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "second")
        reply = await bench.say("hello")

        assert (reply.status, reply.agent, reply.fallbacks) == ("failed", "main", ())


_ASKS = MessageFinished(Message(Role.ASSISTANT, "", (ToolCall("c0", "look", "{}"),)))
_ANSWER = MessageFinished(Message(Role.ASSISTANT, "It is"))


@pytest.mark.parametrize(
    ("after", "text"),
    [
        pytest.param([TextDelta("It is")], "It is\n\noutage!", id="in-a-sentence"),
        pytest.param([_ASKS], "outage!", id="before-a-result"),
        pytest.param([TextDelta("It is"), _ANSWER], "It is\n\noutage!", id="after-the-answer"),
    ],
)
async def test_after_a_part_of_an_answer_no_other_agent_answers(
    tmp_path: Path, after: list[AgentEvent], text: str
) -> None:
    other = PlayedAgent(echo)
    agents = {"main": failing(AgentFailure.OUTAGE, after=after), "second": other}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "second")

        assert await say(bench) == ("failed", text, "main", [])
        assert other.contexts == []
        fall_back(bench)
        again = await bench.say("again")
        assert again.status == "failed"
        assert is_paired([m for m in await transcript(bench) if m.role is not Role.NOTICE])


async def test_the_next_agent_goes_on_with_what_the_tools_of_the_first_have_returned(
    tmp_path: Path,
) -> None:
    async def look() -> str:
        await anyio.lowlevel.checkpoint()
        return "a key"

    def first(messages: Sequence[Message]) -> Step:
        if results(messages):
            raise fails(AgentFailure.OUTAGE)

        return wants("look", text="Let me see.", messages=messages)

    tools = TestToolbox({"look": look})
    main = Looped(first, tools=tools)
    second = Looped(lambda messages: says("It is a key.", messages), model="other", tools=tools)
    agents = {"main": main.agent, "second": second.agent}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "second")
        ticket = await bench.submit("what is it?")
        reply = await reply_of(ticket)

        assert reply.text == "Let me see.\n\nIt is a key."
        assert "".join([delta async for delta in ticket.progress.deltas()]) == reply.text
        assert (reply.agent, reply.fallbacks) == ("second", (Fallback("main", "outage"),))
        assert len(tools.called) == 1
        (sent,) = second.sent
        assert results(sent) == ["a key"]
        assert is_paired(sent)
        assert is_extension(sent, main.sent[-1])
        rows = await calls_made(bench, "agent", "model", "input_tokens")
        assert [row[:2] for row in rows] == [("main", "looped"), ("second", "other")]
        assert rows[1][2] == counted(sent).input_tokens == reply.context.tokens
        assert reply.usage is not None
        assert reply.usage.output_tokens == 2
        sums = await bench.state.database.read(
            lambda conn: conn.execute("SELECT agent, calls FROM usage ORDER BY agent").fetchall()
        )
        assert sums == [("main", 1), ("second", 1)]


async def test_a_request_too_large_for_one_window_goes_to_a_larger_one(tmp_path: Path) -> None:
    small = PlayedAgent(echo, context_window_tokens=1_100, reserve_tokens=100)
    large = PlayedAgent(echo, model="large")
    agents = {"main": small, "second": large}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "second")
        text = "x" * 4_001

        assert await say(bench, text) == ("ok", f"re: {text}", "second", [("main", "overflow")])
    # What was answered stays in the conversation, question and answer.
    async with running_turns(tmp_path / "state", {"main": large}) as bench:
        await bench.say("and then?")
        assert [one.text for one in large.contexts[-1]] == [text, f"re: {text}", "and then?"]


async def test_a_message_that_no_window_has_room_for_is_never_sent(tmp_path: Path) -> None:
    small = PlayedAgent(echo, context_window_tokens=1_100, reserve_tokens=100)
    agents = {"main": small, "second": failing(AgentFailure.OUTAGE)}
    async with running_turns(tmp_path / "state", agents) as bench:
        await bench.say("short")
        fall_back(bench, "second")
        reply = await bench.say("x" * 4_001)
        assert (reply.status, reply.text) == ("failed", TOO_LONG)
        fall_back(bench)
        assert (await bench.say("x" * 4_001)).text == TOO_LONG

        reply = await bench.say("again")
        assert (reply.status, reply.context.turns_left_out) == ("ok", 2)
        assert users(small.contexts[-1]) == ["short", "again"]


async def test_an_overflow_that_a_provider_tells_of_moves_on_to_an_agent_with_more_room(
    tmp_path: Path,
) -> None:
    other = PlayedAgent(echo)
    agents = {"main": failing(AgentFailure.OVERFLOW), "second": other}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "second")

        assert await say(bench) == ("ok", "re: hello", "second", [("main", "overflow")])
        # Nothing is wrong with its provider: the next message asks it again.
        assert bench.turns.answering.breakers.resting() == {}


async def test_an_agent_whose_window_is_too_small_is_passed_over(tmp_path: Path) -> None:
    small = PlayedAgent(echo, context_window_tokens=1_100, reserve_tokens=100)
    large = PlayedAgent(echo)
    agents = {"main": failing(AgentFailure.OUTAGE), "small": small, "large": large}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "small", "large")
        passed_over = [("main", "outage"), ("small", "overflow")]
        text = "x" * 4_001

        assert await say(bench, text) == ("ok", f"re: {text}", "large", passed_over)
        assert small.contexts == []


async def test_while_the_first_one_rests_a_window_too_small_for_the_conversation_is_passed_over(
    tmp_path: Path,
) -> None:
    failures = iter([None, None, fails(AgentFailure.OUTAGE)])

    async def first(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        failure = next(failures)
        if failure is not None:
            raise failure

        for event in answer("y" * 2_000, counted(messages)):
            yield event

    small = PlayedAgent(echo, context_window_tokens=1_100, reserve_tokens=100)
    large = PlayedAgent(echo)
    agents = {"main": PlayedAgent(first), "small": small, "large": large}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "small", "large")
        for _ in range(2):
            assert (await say(bench, "x" * 2_000))[2] == "main"
        assert (await say(bench, "fails"))[2] == "large"
        passed_over = [("main", "resting"), ("small", "overflow")]

        assert await say(bench, "rests") == ("ok", "re: rests", "large", passed_over)
        assert small.contexts == []
        assert len(large.contexts[-1]) == 7


async def test_an_outage_makes_no_conversation_smaller(tmp_path: Path) -> None:
    small = PlayedAgent(echo, context_window_tokens=1_100, reserve_tokens=100)
    agents = {"main": failing(AgentFailure.OUTAGE), "small": small}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "small")
        replies = [await bench.say(letter * 600) for letter in "abcd"]

        # It answers as long as everything fits its window.
        assert [one.status for one in replies] == ["ok"] * 3 + ["failed"]
        assert replies[-1].text == "outage!"
        assert await bench.count("projections") == 0


@pytest.mark.parametrize(
    "others",
    [
        pytest.param(["gone", "second"], id="unknown"),
        pytest.param(["main", "second"], id="itself"),
        pytest.param(["second", "second", "main"], id="twice"),
    ],
)
async def test_names_that_stand_for_nobody_new_are_skipped(
    tmp_path: Path, others: list[str]
) -> None:
    asked: list[str] = []

    async def first(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        for event in _NO_EVENTS:
            yield event
        asked.append("main")
        raise fails(AgentFailure.OUTAGE)

    async def second(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        for event in _NO_EVENTS:
            yield event
        asked.append("second")
        raise fails(AgentFailure.RATE_LIMIT)

    agents = {"main": PlayedAgent(first), "second": PlayedAgent(second)}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, *others)

        passed_over = [("main", "outage"), ("second", "rate_limit")]
        assert await say(bench) == ("failed", "outage!", "second", passed_over)
        assert asked == ["main", "second"]


async def test_the_deadline_cuts_through_all_of_them(tmp_path: Path) -> None:
    asked = anyio.Event()

    def hang(_: Sequence[Message]) -> Step:
        asked.set()
        return Hang()

    third = PlayedAgent(echo)
    agents: dict[str, Agent] = {
        "main": failing(AgentFailure.OUTAGE),
        "second": Looped(hang).agent,
        "third": third,
    }
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "second", "third")
        ticket = await bench.submit("hello")
        with anyio.fail_after(30):
            await asked.wait()
        await bench.clock.advance(300)
        reply = await reply_of(ticket)

        assert (reply.status, reply.agent) == ("deadline", "second")
        assert reply.fallbacks == (Fallback("main", "outage"),)
        assert third.contexts == []


async def test_a_size_that_is_told_is_that_of_who_answered(tmp_path: Path) -> None:
    async def first(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        if messages[-1].text == "first":
            call = ToolCall("c0", "look", "{}")
            yield ModelCallFinished(ModelCall("played", START, Usage(input_tokens=50_000)))
            yield MessageFinished(Message(Role.ASSISTANT, "", (call,)))
            yield MessageFinished(Message(Role.TOOL, "seen", (), "c0", "look"))
        raise fails(AgentFailure.OUTAGE)

    other = PlayedAgent(echo, context_window_tokens=90_000, model="other")
    agents = {"main": PlayedAgent(first), "second": other}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "second")
        reply = await bench.say("first")

        assert (reply.agent, reply.context.window_tokens) == ("second", 90_000)
        assert reply.context.source == "estimate"
        assert reply.context.tokens < 100
