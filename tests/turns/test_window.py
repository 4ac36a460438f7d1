"""Laws of the window: what does not fit is left out by whole turns, and the reply says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.agents.base import MessageFinished, TextDelta
from gateway.model import Message, Role, ToolCall
from gateway.turns.live import TOO_LONG
from tests.support.turns import PlayedAgent, echo, running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent
    from tests.support.turns import Play


def _small(play: Play = echo) -> PlayedAgent:
    """Return an agent with room for 1,000 tokens, which is 4,000 characters."""
    return PlayedAgent(play, context_window_tokens=1_100, reserve_tokens=100)


async def _ok(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
    yield TextDelta("ok")
    yield MessageFinished(Message(Role.ASSISTANT, "ok"))


async def _looks(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
    call_id = f"call-{messages[-1].turn_id}"
    calls = (ToolCall(call_id, "look", "{}"),)
    yield MessageFinished(Message(Role.ASSISTANT, "", tool_calls=calls))
    yield MessageFinished(Message(Role.TOOL, "x" * 1_000, tool_call_id=call_id, tool_name="look"))
    yield TextDelta("ok")
    yield MessageFinished(Message(Role.ASSISTANT, "ok"))


async def test_the_oldest_turns_are_left_out_and_counted_and_stay_in_the_transcript(
    tmp_path: Path,
) -> None:
    agent = _small(_ok)
    async with running_turns(tmp_path / "state", agent) as bench:
        left_out = []
        for letter in "abcdef":
            reply = await bench.say(letter * 998)
            left_out.append(reply.context.turns_left_out)
            assert reply.context.tokens <= 1_000

        # Each turn has 1,000 characters, the last one 998: four fit. When the fifth does not, two
        # leave at once, so that the next request begins as this one does.
        assert left_out == [0, 0, 0, 0, 2, 2]
        sent = [m.text[0] for m in agent.contexts[-1] if m.role is Role.USER]
        assert sent == ["c", "d", "e", "f"]
        said = await bench.said()
        assert [text[0] for role, text in said if role == "user"] == list("abcdef")


async def test_a_tool_call_never_loses_its_result_by_the_window(tmp_path: Path) -> None:
    agent = _small(_looks)
    async with running_turns(tmp_path / "state", agent) as bench:
        replies = [await bench.say("look") for _ in range(6)]

        assert replies[-1].context.turns_left_out > 0
        for context in agent.contexts:
            asked = {call.call_id for message in context for call in message.tool_calls}
            assert asked == {m.tool_call_id for m in context if m.role is Role.TOOL}


async def test_a_message_too_large_alone_is_refused_in_words_and_the_next_one_works(
    tmp_path: Path,
) -> None:
    agent = _small()
    async with running_turns(tmp_path / "state", agent) as bench:
        reply = await bench.say("x" * 4_001)

        assert (reply.status, reply.text) == ("failed", TOO_LONG)
        assert agent.contexts == []
        after = await bench.say("short")
        assert (after.status, after.text) == ("ok", "re: short")
        assert after.context.turns_left_out == 1
        assert [m.text for m in agent.contexts[0]] == ["short"]


async def test_a_message_too_large_alone_costs_the_conversation_nothing(tmp_path: Path) -> None:
    agent = _small(_ok)
    async with running_turns(tmp_path / "state", agent) as bench:
        for letter in "abc":
            await bench.say(letter * 998)
        assert (await bench.say("x" * 4_001)).status == "failed"

        reply = await bench.say("d")
        assert reply.context.turns_left_out == 1
        assert [m.text[0] for m in agent.contexts[-1] if m.role is Role.USER] == list("abcd")
    async with running_turns(tmp_path / "state", agent) as bench:
        reply = await bench.say("e")
        assert reply.context.turns_left_out == 1
        assert [m.text[0] for m in agent.contexts[-1] if m.role is Role.USER] == list("abcde")


async def test_a_message_that_just_fits_is_answered(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state", _small()) as bench:
        reply = await bench.say("x" * 4_000)

        assert reply.status == "ok"
        assert reply.context.tokens == 1_000
