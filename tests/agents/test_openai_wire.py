"""Laws of how a context and tools become a request of the chat-completions wire."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.agents.openai_wire import WireMessage, wire_messages, wire_tools
from gateway.model import Message, Role, ToolCall
from tests.agents.events import called, result, user
from tests.support.chat_wire import read_prompt
from tests.support.toolbox import spec


def taken(messages: list[WireMessage], **more: object) -> bool:
    """Tell that the pretended provider takes a request; it raises where it does not."""
    return bool(read_prompt({"model": "m", "messages": messages, **more}).blocks)


def test_a_tool_is_a_function_with_its_schema() -> None:
    (tool,) = wire_tools([spec("find")])

    assert tool == {
        "type": "function",
        "function": {
            "name": "find",
            "description": "What find does.",
            "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
        },
    }
    assert taken(wire_messages("", [user("a")]), tools=[tool], tool_choice="auto")


@pytest.mark.parametrize("call_id", ["c", "functions.find:0", "x" * 40])
def test_an_id_that_the_wire_takes_stays_as_it_is(call_id: str) -> None:
    _, call, answer = wire_messages("", [user("a"), called(call_id), result(call_id, "r")])

    assert call["tool_calls"][0]["id"] == answer["tool_call_id"] == call_id


@pytest.mark.parametrize("call_id", ["", "x" * 41, "toolu_" + "y" * 200])
def test_an_id_that_the_wire_does_not_take_becomes_another(call_id: str) -> None:
    wire = wire_messages("", [user("a"), called(call_id), result(call_id, "r")])

    assert taken(wire)
    assert wire[1]["tool_calls"][0]["id"] != call_id


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ('{"a": [1,  2]}', '{"a": [1,  2]}'),
        ("{}", "{}"),
        ("", "{}"),
        ("  ", "{}"),
        ('{"a": ', '{"_raw":"{\\"a\\": "}'),
        ("[1]", '{"_raw":"[1]"}'),
    ],
)
def test_arguments_are_sent_as_the_model_wrote_them_or_as_an_object(
    arguments: str, sent: str
) -> None:
    call = Message(Role.ASSISTANT, "", (ToolCall("c", "find", arguments),))

    (message,) = wire_messages("", [call])

    assert message["tool_calls"][0]["function"]["arguments"] == sent


@given(
    calls=st.lists(
        st.builds(
            ToolCall,
            st.text(max_size=60),
            st.text(max_size=80),
            st.text(max_size=20) | st.just('{"a": 1}'),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda call: call.call_id,
    )
)
def test_every_past_call_is_taken_and_is_the_same_bytes_each_time(calls: list[ToolCall]) -> None:
    context = [user("a"), Message(Role.ASSISTANT, "", tuple(calls))]
    context += (result(call.call_id, "r") for call in calls)

    wire = wire_messages("", context)

    assert taken(wire)
    assert orjson.dumps(wire) == orjson.dumps(wire_messages("", context))
