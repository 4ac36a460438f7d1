"""Laws of the agent that answers with the text it got."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from gateway.agents.echo import MAX_DELTAS, MAX_TOOL_CHARS, EchoAgent, split_words
from gateway.agents.settings import EchoSettings
from gateway.clock import FakeClock
from gateway.errors import AgentError
from gateway.model import Message, Role
from tests.agents.events import Talk, run_agent, user

if TYPE_CHECKING:
    from collections.abc import Sequence


def _echo() -> EchoAgent:
    return EchoAgent(EchoSettings(), FakeClock())


@pytest.mark.parametrize(
    "text", ["hello", "one two  three\n\nfour", " ", "", "!toolbox", "!", "ü🙂"]
)
async def test_echo_answers_with_the_text_it_got(text: str) -> None:
    run = await run_agent(_echo(), [user(text)])

    assert run.text == text
    assert [(call.model, call.usage) for call in run.calls] == [("echo", None)]


async def test_echo_answers_the_last_user_message() -> None:
    before = [user("old", "t1"), Message(Role.ASSISTANT, "old")]
    run = await run_agent(_echo(), [*before, user("new", "t2")])

    assert run.text == "new"
    assert {message.turn_id for message in run.messages} == {"t2"}


@given(st.text())
def test_pieces_are_few_and_make_the_text(text: str) -> None:
    pieces = list(split_words(text))

    assert "".join(pieces) == text
    assert len(pieces) <= MAX_DELTAS
    assert all(pieces)


def test_pieces_end_between_words() -> None:
    assert list(split_words("to be or not")) == ["to ", "be ", "or ", "not"]


@pytest.mark.parametrize("chars", [1, 44, 45, 46, 1000, MAX_TOOL_CHARS])
async def test_a_tool_result_has_exactly_the_size_asked_for(chars: int) -> None:
    run = await run_agent(_echo(), [user(f"!tool {chars}", "t9")])

    asked, result, answer = run.messages
    (call,) = asked.tool_calls
    assert (asked.role, asked.text, call.name) == (Role.ASSISTANT, "", "echo_tool")
    assert call.arguments == f'{{"chars": {chars}}}'
    assert (result.role, result.tool_name) == (Role.TOOL, "echo_tool")
    assert result.tool_call_id == call.call_id
    assert len(result.text) == chars
    assert re.search(rf"\b{chars}\b", answer.text)
    assert run.text == answer.text
    assert {message.turn_id for message in run.messages} == {"t9"}
    assert [call.usage for call in run.calls] == [None, None]


async def test_call_ids_are_the_same_for_a_turn_and_differ_between_turns() -> None:
    async def call_id(turn_id: str) -> str:
        run = await run_agent(_echo(), [user("!tool 5", turn_id)])
        return run.messages[0].tool_calls[0].call_id

    assert await call_id("t1") == await call_id("t1")
    assert await call_id("t1") != await call_id("t2")


@pytest.mark.parametrize(
    "text",
    [
        "!tool",
        "!tool 0",
        "!tool -1",
        "!tool 5000001",
        "!tool 1.5",
        "!tool x",
        "!tool \N{ARABIC-INDIC DIGIT ONE}",
        "!tool 1 2",
        pytest.param("!tool " + "9" * 10_000, id="huge"),
    ],
)
async def test_a_bad_tool_request_is_told_what_is_accepted(text: str) -> None:
    run = await run_agent(_echo(), [user(text)])

    (answer,) = run.messages
    assert "1 to 5000000" in answer.text
    assert answer.tool_calls == ()
    assert run.text == answer.text


async def test_a_tool_round_is_two_requests_and_the_second_has_its_result() -> None:
    class Noted(Talk):
        @override
        async def messages(self) -> Sequence[Message]:
            seen.append(len(self.context))
            return await Talk.messages(self)

    seen: list[int] = []
    await run_agent(_echo(), Noted([user("!tool 5")]))

    assert seen == [1, 3]


async def test_echo_completes_nothing_and_says_so() -> None:
    assert not _echo().facts().completes
    with pytest.raises(AgentError, match="completes nothing"):
        await _echo().complete([user("sum up")])
