"""Laws of turns that go wrong: a readable answer, nothing said is lost, the session is free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.errors import AgentError, StorageFullError, UnavailableError
from gateway.model import Message, ModelCall, Role, ToolCall, Usage
from gateway.turns.acceptance import before
from gateway.turns.outcome import NO_RESULT
from gateway.turns.runner import RETRY_S
from gateway.turns.running import FAILED
from gateway.turns.settings import TurnSettings
from gateway.turns.ticket import Reply
from tests.support.state import START, key_of
from tests.support.turns import PlayedAgent, answer, echo, full_disk, reply_of, running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent
    from tests.support.turns import Bench, Play

_NO_EVENTS: tuple[AgentEvent, ...] = ()
READABLE = "The model is asleep."


def _first_then_echo(first: Play) -> PlayedAgent:
    """Return an agent whose first turn goes wrong and whose later turns do not."""
    plays = iter([first])

    async def play(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        async for event in next(plays, echo)(messages):
            yield event

    return PlayedAgent(play)


def _calls(*ids: str) -> MessageFinished:
    calls = tuple(ToolCall(call_id, "look", "{}") for call_id in ids)
    return MessageFinished(Message(Role.ASSISTANT, "", tool_calls=calls))


def _result(call_id: str) -> MessageFinished:
    return MessageFinished(Message(Role.TOOL, "found", tool_call_id=call_id, tool_name="look"))


async def _fails(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
    for event in _NO_EVENTS:
        yield event
    raise AgentError("status 503 from the endpoint", user_text=READABLE)


async def _crashes(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
    for event in _NO_EVENTS:
        yield event
    raise ZeroDivisionError


async def _fails_after_deltas(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
    yield TextDelta("It is ")
    yield TextDelta("half")
    raise AgentError("cut", user_text=READABLE)


async def _fails_after_a_round(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
    yield TextDelta("Looking. ")
    calls = (ToolCall("a", "look", "{}"),)
    yield MessageFinished(Message(Role.ASSISTANT, "Looking. ", tool_calls=calls))
    yield ModelCallFinished(ModelCall("played", START, Usage(10, 1)))
    yield _result("a")
    yield TextDelta("So it")
    raise AgentError("cut", user_text=READABLE)


async def _fails_before_results(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
    yield _calls("a", "b")
    raise AgentError("tool broke", user_text=READABLE)


async def _fails_between_results(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
    yield _calls("a", "b")
    yield _result("a")
    raise AgentError("tool broke", user_text=READABLE)


async def _ends_between_results(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
    yield _calls("a", "b")
    yield _result("b")


async def _ends_in_the_middle(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
    yield TextDelta("It is half")


_NOTICE = ("notice", READABLE)
_CALLS = ("assistant", "")
_ROUND = [("assistant", "Looking. "), ("tool", "found"), ("assistant", "So it")]


@pytest.mark.parametrize(
    ("play", "text", "kept"),
    [
        pytest.param(_fails, READABLE, [_NOTICE], id="fails"),
        pytest.param(_crashes, FAILED, [("notice", FAILED)], id="crashes"),
        pytest.param(
            _fails_after_deltas,
            f"It is half\n\n{READABLE}",
            [("assistant", "It is half"), _NOTICE],
            id="after-deltas",
        ),
        pytest.param(
            _fails_after_a_round,
            f"Looking. \n\nSo it\n\n{READABLE}",
            [*_ROUND, _NOTICE],
            id="after-a-round-of-tools",
        ),
        pytest.param(
            _fails_before_results,
            READABLE,
            [_CALLS, ("tool", NO_RESULT), ("tool", NO_RESULT), _NOTICE],
            id="before-results",
        ),
        pytest.param(
            _fails_between_results,
            READABLE,
            [_CALLS, ("tool", "found"), ("tool", NO_RESULT), _NOTICE],
            id="between-results",
        ),
        pytest.param(
            _ends_between_results,
            "The agent could not answer. Please try again later.",
            [
                _CALLS,
                ("tool", "found"),
                ("tool", NO_RESULT),
                ("notice", "The agent could not answer. Please try again later."),
            ],
            id="ends-between-results",
        ),
        pytest.param(
            _ends_in_the_middle,
            "It is half\n\nThe agent could not answer. Please try again later.",
            [
                ("assistant", "It is half"),
                ("notice", "The agent could not answer. Please try again later."),
            ],
            id="ends-in-the-middle",
        ),
    ],
)
async def test_a_turn_that_fails_tells_why_keeps_what_was_said_and_the_next_one_works(
    tmp_path: Path, play: Play, text: str, kept: list[tuple[str, str]]
) -> None:
    agent = _first_then_echo(play)
    async with running_turns(tmp_path / "state", agent) as bench:
        ticket = await bench.submit("hello")
        reply = await reply_of(ticket)

        assert (reply.status, reply.text) == ("failed", text)
        assert "".join([delta async for delta in ticket.progress.deltas()]) == reply.text
        assert await bench.said() == [("user", "hello"), *kept]
        assert bench.entry().turns == 1
        assert bench.turns.statistics().failed == 1
        await _next_turn_is_given_only_answered_calls(bench, agent)


async def _next_turn_is_given_only_answered_calls(bench: Bench, agent: PlayedAgent) -> None:
    assert (await bench.say("again")).text == "re: again"
    context = agent.contexts[-1]
    asked = {call.call_id for message in context for call in message.tool_calls}
    assert asked == {m.tool_call_id for m in context if m.role is Role.TOOL}
    assert all(message.role is not Role.NOTICE for message in context)
    assert [m.text for m in context if m.role is Role.USER] == ["hello", "again"]


async def test_a_turn_past_its_deadline_is_stopped_and_says_so(tmp_path: Path) -> None:
    stuck, closed = anyio.Event(), anyio.Event()

    async def hang(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        try:
            yield TextDelta("Let me think")
            stuck.set()
            await anyio.sleep_forever()
        finally:
            closed.set()

    settings = TurnSettings(turn_deadline_s=300)
    agent = _first_then_echo(hang)
    async with running_turns(tmp_path / "state", agent, settings=settings) as bench:
        with anyio.fail_after(30):
            ticket = await bench.submit("hello")
            await stuck.wait()
            waiting = await bench.submit("again")
            await bench.clock.advance(299)
            assert not closed.is_set()
            await bench.clock.advance(1)
            reply = await reply_of(ticket)

        assert reply.status == "deadline"
        assert reply.text == "Let me think\n\nThis took longer than 300 seconds and was stopped."
        assert closed.is_set()
        assert (await reply_of(waiting)).text == "re: again"
        assert bench.turns.statistics().deadline == 1
        assert (await bench.said())[:2] == [("user", "hello"), ("assistant", "Let me think")]


async def test_no_space_at_acceptance_stores_nothing_and_service_returns(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        await bench.say("hello")
        async with full_disk(bench.state.database):
            with pytest.raises(StorageFullError):
                await bench.submit("x" * 100_000, "bob", message_id="m1")
            assert await bench.unfinished() == []
            assert len(bench.state.store) == 1
            assert len(await bench.said()) == 2

        reply = await bench.submit("x" * 100_000, "bob", message_id="m1")
        assert not reply.duplicate
        assert (await reply_of(reply)).status == "ok"


async def test_no_space_at_the_end_of_a_turn_keeps_the_message(tmp_path: Path) -> None:
    began, go_on = anyio.Event(), anyio.Event()

    async def talk(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        began.set()
        await go_on.wait()
        for event in answer("x" * 100_000):
            yield event

    async with running_turns(tmp_path / "state", _first_then_echo(talk)) as bench:
        ticket = await bench.submit("hello", message_id="m1")
        with anyio.fail_after(30):
            await began.wait()
        async with full_disk(bench.state.database):
            go_on.set()
            with pytest.raises(UnavailableError, match="send the same message id again"):
                await reply_of(ticket)
            assert [row.text for row in await bench.unfinished()] == ["hello"]
            assert bench.turns.statistics().running == 1
            assert await bench.said() == []

        later = await bench.submit("and then?", message_id="m2")
        with pytest.raises(UnavailableError, match="send the same message id again"):
            await reply_of(later)
        await bench.clock.advance(RETRY_S)
        with anyio.fail_after(30):
            await bench.turns.drain()
        replies = [
            await bench.state.database.read(lambda conn, one=one: before(conn, key_of(), one))  # type: ignore[misc]
            for one in ("m1", "m2")
        ]
        assert [reply.text for reply in replies if isinstance(reply, Reply)] == [
            "x" * 100_000,
            "re: and then?",
        ]
        assert [text[:9] for _, text in await bench.said()] == [
            "hello",
            "xxxxxxxxx",
            "and then?",
            "re: and t",
        ]
