"""Laws of an answer that is put together from pieces, whichever vendor sends them."""

from __future__ import annotations

import pytest

from gateway.agents.answer import MAX_ANSWER_CHARS, MAX_TOOL_NAME_CHARS, Answer, FinishReasons
from gateway.agents.failures import NO_BALANCE
from gateway.errors import AgentError, AgentFailure
from gateway.model import ToolCall, TurnId

REASONS = FinishReasons(cut=frozenset({"length"}), failed={"unpaid": NO_BALANCE})
TURN = TurnId("t1")


def answer() -> Answer:
    return Answer("m", REASONS, finish_reason="stop")


def test_pieces_of_calls_are_put_together_by_their_index() -> None:
    whole = answer()
    whole.add_text("Let me ")
    whole.add_call(0, call_id="a", name="find")
    whole.add_call(1, call_id="b", name="lo")
    whole.add_call(0, arguments='{"q":')
    whole.add_call(1, name="ok", arguments="{}")
    whole.add_text("see.")
    whole.add_call(0, call_id="a", arguments="1}")

    message = whole.message(TURN)

    assert message.text == "Let me see."
    assert message.tool_calls == (ToolCall("a", "find", '{"q":1}'), ToolCall("b", "look", "{}"))
    assert message.turn_id == TURN


def test_an_id_that_comes_late_belongs_to_its_call() -> None:
    whole = answer()
    whole.add_call(0, name="find")
    whole.add_call(0, call_id="a", arguments="{}")

    assert whole.message(TURN).tool_calls == (ToolCall("a", "find", "{}"),)


def test_arguments_of_many_small_pieces_take_no_longer_than_a_large_one() -> None:
    whole = answer()
    for _ in range(300_000):
        whole.add_call(0, arguments="12345")

    assert len(whole.message(TURN).tool_calls[0].arguments) == 1_500_000


def test_calls_without_any_text_have_an_end_too() -> None:
    whole = answer()

    def flood() -> None:
        for index in range(MAX_ANSWER_CHARS):
            whole.add_call(index)

    with pytest.raises(AgentError, match="has no end") as caught:
        flood()

    assert caught.value.failure is AgentFailure.OTHER


def test_what_no_store_takes_is_not_in_a_call() -> None:
    whole = answer()
    whole.add_call(0, call_id="a\0", name="fi\0nd" + "x" * 1_000, arguments='{"q": "\ud83d"}')

    (call,) = whole.message(TURN).tool_calls

    assert (call.call_id, call.arguments) == ("a", '{"q": "\N{REPLACEMENT CHARACTER}"}')
    assert len(call.name) == MAX_TOOL_NAME_CHARS


@pytest.mark.parametrize(
    ("reason", "failure", "told"),
    [
        ("", AgentFailure.OUTAGE, "ended before the answer did"),
        ("unpaid", AgentFailure.OTHER, "finish reason 'unpaid'"),
        ("stop", AgentFailure.OTHER, "finish reason 'stop'"),
        ("length", AgentFailure.OTHER, "finish reason 'length'"),
    ],
)
def test_an_answer_that_is_none_says_so(reason: str, failure: AgentFailure, told: str) -> None:
    nothing = Answer("m", REASONS, finish_reason=reason)
    if reason != "stop":
        nothing.add_call(0, call_id="a", name="find")

    with pytest.raises(AgentError, match=r"^m: ") as caught:
        nothing.message(TURN)

    assert told in str(caught.value)
    assert caught.value.failure is failure
