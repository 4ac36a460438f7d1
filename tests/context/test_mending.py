"""Laws of what is sent of a conversation that rules took messages from."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.agents import anthropic_wire, openai_wire
from gateway.context.mending import GONE, Mend, mended, sent
from gateway.context.summary import summary_message
from gateway.model import Message, Role, TurnId
from tests.context.conversations import PICTURE, calls, notice, result, says, user

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypothesis.strategies import DrawFn


@st.composite
def conversations(draw: DrawFn) -> list[Message]:
    """Return turns as agents make them: every call has its result, nothing is empty."""
    said = []
    for number in range(draw(st.integers(0, 5))):
        turn = f"t{number}"
        said += [user(turn), *([notice(turn)] * draw(st.integers(0, 1)))]
        for step in range(draw(st.integers(0, 2))):
            ids = [f"c{step}-{one}" for one in range(draw(st.integers(1, 3)))]
            said += [calls(turn, *ids), *(result(turn, "found", call_id=one) for one in ids)]
        said += [says(turn)] * draw(st.integers(0, 1))
    return said


@st.composite
def left_over(draw: DrawFn) -> list[Message]:
    """Return what any rules leave of such turns: messages gone, or with nothing in them."""
    left = []
    for message in draw(conversations()):
        fate = draw(st.sampled_from(["stays", "stays", "goes", "empty"]))
        if fate == "empty":
            left.append(replace(message, text=" \n"))
        elif fate == "stays":
            left.append(message)
    return left


def _problems(messages: Sequence[Message]) -> list[str]:
    """Return why a provider may refuse a context; written anew, and plainly."""
    problems = []
    if messages and messages[0].role is not Role.USER:
        problems.append("begins with no user message")
    waiting: list[str] = []
    for message in messages:
        if message.role is Role.TOOL:
            if message.tool_call_id in waiting:
                waiting.remove(message.tool_call_id)
            else:
                problems.append("a result without a call")
            continue
        if waiting:
            problems.append("a call without a result")
        waiting = [call.call_id for call in message.tool_calls]
        if not (message.text.strip() or message.images or message.tool_calls):
            problems.append("an empty message")
    return problems + ["a call without a result at the end"] * bool(waiting)


def _without_notices(messages: Sequence[Message]) -> list[Message]:
    return [message for message in messages if message.role is not Role.NOTICE]


@given(left_over())
def test_whatever_is_left_becomes_a_request_that_every_provider_takes(left: list[Message]) -> None:
    made = _without_notices(list(sent(left, leads=True)))
    assert _problems(made) == []
    lead = summary_message("so far", TurnId("t-1"))
    behind = _without_notices(list(sent(left, leads=False)))
    assert _problems([lead, *behind]) == []


@given(left_over(), st.booleans())
def test_mending_twice_is_mending_once_and_nothing_else_is_changed(
    left: list[Message],
    leads: bool,  # noqa: FBT001 - drawn
) -> None:
    made = list(mended(left, leads=leads))
    once = [message for message, mend in made if mend.is_sent]

    assert list(sent(once, leads=leads)) == once
    assert [message for message, mend in made if mend is not Mend.ADDED] == left
    assert {message.text for message, mend in made if mend is Mend.ADDED} <= {GONE}


@given(conversations())
def test_what_no_rule_has_touched_is_sent_as_it_was_said(said: list[Message]) -> None:
    assert list(mended(said, leads=True)) == [(message, Mend.KEPT) for message in said]


def _mends(messages: Sequence[Message], *, leads: bool = True) -> list[str]:
    return [mend.name for _, mend in mended(messages, leads=leads)]


@pytest.mark.parametrize(
    ("left", "mends"),
    [
        pytest.param(
            [says("t0"), user("t1"), says("t1")],
            ["NO_QUESTION", "KEPT", "KEPT"],
            id="an-answer-in-front-leaves",
        ),
        pytest.param(
            [calls("t0", "c"), result("t0", "x"), says("t0")],
            ["NO_QUESTION"] * 3,
            id="where-nobody-asked-nothing-is-left",
        ),
        pytest.param(
            [user("t0"), says("t0"), says("t1"), user("t2")],
            ["KEPT"] * 4,
            id="an-answer-amid-the-conversation-stays",
        ),
        pytest.param(
            [user("t0"), result("t0", "x"), says("t0")],
            ["KEPT", "NO_CALL", "KEPT"],
            id="a-result-without-its-call-leaves",
        ),
        pytest.param(
            [user("t0"), calls("t0", "c"), user("t1"), result("t1", "x")],
            ["KEPT", "KEPT", "ADDED", "KEPT", "NO_CALL"],
            id="a-call-of-another-turn-is-another-call",
        ),
        pytest.param(
            [user("t0"), calls("t0", "a", "b", "c"), result("t0", "x", call_id="b"), says("t0")],
            ["KEPT", "KEPT", "KEPT", "ADDED", "ADDED", "KEPT"],
            id="each-missing-result-is-stood-for",
        ),
        pytest.param(
            [user("t0"), calls("t0", "c", "c"), result("t0", "x"), result("t0", "y")],
            ["KEPT"] * 4,
            id="two-calls-of-one-id-have-two-results",
        ),
        pytest.param(
            [user("t0"), calls("t0", "c"), notice("t0"), result("t0", "x")],
            ["KEPT"] * 4,
            id="a-notice-parts-no-pair",
        ),
        pytest.param(
            [user("t0", " "), says("t0"), user("t1"), says("t1", "")],
            ["EMPTY", "NO_QUESTION", "KEPT", "EMPTY"],
            id="an-empty-question-is-none",
        ),
        pytest.param(
            [replace(user("t0", ""), images=(PICTURE,)), calls("t0", "c"), result("t0", "")],
            ["KEPT"] * 3,
            id="a-picture-a-call-and-an-empty-result-are-something",
        ),
        pytest.param(
            [Message(Role.SYSTEM, "be kind"), says("t0"), user("t1")],
            ["KEPT", "NO_QUESTION", "KEPT"],
            id="a-system-message-is-no-question",
        ),
    ],
)
def test_what_becomes_of_each_message(left: list[Message], mends: list[str]) -> None:
    assert _mends(left) == mends


def test_behind_a_summary_an_answer_may_come_first() -> None:
    assert _mends([says("t0"), user("t1")], leads=False) == ["KEPT", "KEPT"]


def test_a_refused_question_begins_no_request() -> None:
    left = [user("t0"), says("t1"), user("t2")]
    made = mended(left, leads=True, skipped={"t0"})
    assert [mend.name for _, mend in made] == ["KEPT", "NO_QUESTION", "KEPT"]


def test_a_missing_result_names_its_call_its_tool_and_its_turn() -> None:
    (_, _, (added, _)) = mended([user("t0"), calls("t0", "c7", name="look")], leads=True)
    assert added == Message(Role.TOOL, GONE, (), "c7", "look", TurnId("t0"))


@given(left_over())
def test_both_wires_pair_all_calls_and_begin_with_the_user(left: list[Message]) -> None:
    made = list(sent(left, leads=True))
    asked = [*made, user("now")]
    openai = openai_wire.wire_messages("", asked)
    anthropic = anthropic_wire.request_parts("", asked, "5m")["messages"]

    assert openai[0]["role"] == anthropic[0]["role"] == "user"
    assert _openai_ids(openai) == []
    for before, after in pairwise(anthropic):
        assert _ids(after, "tool_result", "tool_use_id") == _ids(before, "tool_use", "id")
    assert all(one["content"] for one in anthropic)


def _ids(message: dict[str, Any], kind: str, name: str) -> list[str]:
    return sorted(block[name] for block in message["content"] if block["type"] == kind)


def _openai_ids(messages: Sequence[dict[str, Any]]) -> list[str]:
    """Return the calls that have no result right behind them, and results that have no call."""
    waiting: list[str] = []
    wrong: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            call_id = message["tool_call_id"]
            if call_id in waiting:
                waiting.remove(call_id)
            else:
                wrong.append(call_id)
        else:
            wrong += waiting
            waiting = [call["id"] for call in message.get("tool_calls", ())]
    return wrong + waiting
