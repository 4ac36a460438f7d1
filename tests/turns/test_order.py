"""Laws of order: one running turn a session, in the order of acceptance, and nobody else waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.agents.base import MessageFinished, TextDelta
from gateway.errors import AgentError
from gateway.model import Message, Role, ToolCall
from gateway.turns.settings import TurnSettings
from tests.support.turns import Gate, PlayedAgent, reply_of, running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent


async def test_a_message_is_answered_and_both_sides_are_in_the_transcript(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        reply = await bench.say("hello")

        assert (reply.text, reply.status, reply.reset) == ("re: hello", "ok", None)
        assert reply.session_key == bench.entry().session_key
        assert reply.session_id == bench.entry().session_id
        assert await bench.said() == [("user", "hello"), ("assistant", "re: hello")]
        assert await bench.unfinished() == []


async def test_the_next_turn_is_given_what_was_said_before(tmp_path: Path) -> None:
    gate = Gate()
    gate.open("one", "two")
    agent = PlayedAgent(gate.play)
    async with running_turns(tmp_path / "state", agent) as bench:
        await bench.say("one")
        await bench.say("two")

    assert [[m.text for m in context] for context in agent.contexts] == [
        ["one"],
        ["one", "re: one", "two"],
    ]


async def test_an_agent_is_given_the_same_context_before_and_after_a_restart(
    tmp_path: Path,
) -> None:
    async def play(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        text = messages[-1].text
        if text == "look":
            calls = (ToolCall("call", "look", '{"at":"\u00e9"}'),)
            yield MessageFinished(Message(Role.ASSISTANT, "", tool_calls=calls))
            yield MessageFinished(
                Message(Role.TOOL, "found", tool_call_id="call", tool_name="look")
            )
        yield TextDelta(f"re: {text}")
        if text == "break":
            raise AgentError("as asked")
        yield MessageFinished(Message(Role.ASSISTANT, f"re: {text}"))

    before, after = PlayedAgent(play), PlayedAgent(play)
    async with running_turns(tmp_path / "state", before) as bench:
        for text in ("one", "look", "break", "probe"):
            await bench.say(text)
    async with running_turns(tmp_path / "state", after) as bench:
        await bench.say("probe again")

    assert len(before.contexts[-1]) == 9
    assert after.contexts[-1][:9] == before.contexts[-1]


async def test_turns_of_one_session_run_one_after_the_other_in_their_order(tmp_path: Path) -> None:
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        tickets = [await bench.submit(text) for text in "abc"]
        await gate.reached("a")
        gate.open("c", "b")
        assert gate.began == ["a"]
        assert bench.turns.statistics().waiting == 2

        gate.open("a")
        replies = [await reply_of(ticket) for ticket in tickets]

        assert [reply.text for reply in replies] == ["re: a", "re: b", "re: c"]
        assert [text for role, text in await bench.said() if role == "user"] == list("abc")
        assert not bench.turns.is_busy(bench.entry().session_key)


async def test_other_sessions_go_on_while_one_is_stuck(tmp_path: Path) -> None:
    gate = Gate()
    gate.open("quick")
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        await bench.submit("stuck", "alice")
        await gate.reached("stuck")

        assert (await bench.say("quick", "bob")).text == "re: quick"
        assert bench.turns.is_busy(bench.entry("alice").session_key)


async def test_one_chat_with_two_agents_is_two_sessions(tmp_path: Path) -> None:
    gate = Gate()
    gate.open("quick")
    agents = {"main": PlayedAgent(gate.play), "other": PlayedAgent(gate.play)}
    async with running_turns(tmp_path / "state", agents) as bench:
        await bench.submit("stuck", agent="main")
        await gate.reached("stuck")

        await bench.say("quick", agent="other")

        assert bench.entry(agent="other").session_id != bench.entry(agent="main").session_id
    assert [m.text for m in agents["other"].contexts[0]] == ["quick"]


async def test_no_more_turns_run_at_once_than_configured_and_the_rest_get_their_turn(
    tmp_path: Path,
) -> None:
    gate = Gate()
    settings = TurnSettings(max_running=2)
    async with running_turns(
        tmp_path / "state", PlayedAgent(gate.play), settings=settings
    ) as bench:
        tickets = [await bench.submit(chat, chat) for chat in ("a", "b", "c")]
        await gate.reached("a")
        await gate.reached("b")
        statistics = bench.turns.statistics()
        assert (statistics.running, statistics.waiting) == (2, 1)
        assert gate.began == ["a", "b"]

        gate.open("a", "b", "c")
        assert [(await reply_of(ticket)).text for ticket in tickets] == ["re: a", "re: b", "re: c"]
