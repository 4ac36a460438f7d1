"""Laws of how a context becomes a request of the Messages API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.agents.anthropic_wire import CacheTtl, request_parts
from gateway.model import Image, Message, Role, ToolCall, TurnId
from tests.agents.events import called, result, said, user
from tests.support.messages_wire import read_prompt
from tests.support.toolbox import spec

if TYPE_CHECKING:
    from collections.abc import Sequence

PNG = Image("image/png", "aWNvbg==")
MARK = {"type": "ephemeral"}


def text_block(text: str, **more: object) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


def messages_of(*messages: Message) -> list[dict[str, Any]]:
    """Return a context's messages on the wire, without marks."""
    wire: list[dict[str, Any]] = request_parts("", messages, "off")["messages"]
    return wire


def blocks_of(parts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all blocks of a request in order."""
    said_blocks = (block for message in parts["messages"] for block in message["content"])
    return [*parts.get("system", ()), *said_blocks]


def marked(parts: dict[str, Any]) -> list[int]:
    """Return the places of the blocks with a mark."""
    return [place for place, block in enumerate(blocks_of(parts)) if "cache_control" in block]


def taken(parts: dict[str, Any]) -> bool:
    """Tell that the pretended provider takes a request; it raises where it does not."""
    return bool(read_prompt({"model": "m", "max_tokens": 1, **parts}).blocks)


def test_a_tool_step_is_one_message_of_calls_and_one_of_results() -> None:
    context = [
        Message(Role.SYSTEM, "The story so far."),
        user("look", "t1"),
        called("c1", "c2", text="Let me see."),
        result("c1", "first"),
        result("c2", "second", PNG),
        said("done"),
        Message(Role.NOTICE, "the session was reset", turn_id=TurnId("t2")),
        user("and now", "t2"),
    ]

    parts = request_parts("Be brief.", context, "5m")

    assert parts["system"] == [
        text_block("Be brief."),
        text_block("The story so far.", cache_control=MARK),
    ]
    assert parts["messages"] == [
        {"role": "user", "content": [text_block("look")]},
        {
            "role": "assistant",
            "content": [
                text_block("Let me see."),
                {"type": "tool_use", "id": "c1", "name": "find", "input": {"q": "x"}},
                {"type": "tool_use", "id": "c2", "name": "find", "input": {"q": "x"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [text_block("first")]},
                {
                    "type": "tool_result",
                    "tool_use_id": "c2",
                    "content": [
                        text_block("second"),
                        {
                            "type": "image",
                            "source": {
                                "type": "base64",
                                "media_type": "image/png",
                                "data": "aWNvbg==",
                            },
                        },
                    ],
                    "cache_control": MARK,
                },
            ],
        },
        {"role": "assistant", "content": [text_block("done", cache_control=MARK)]},
        {"role": "user", "content": [text_block("and now", cache_control=MARK)]},
    ]
    assert taken(parts)


def test_a_request_defines_a_tool_where_one_was_used_and_none_can_be_called() -> None:
    with_tools = request_parts("", [user("a"), called("c"), result("c", "r")], "off")

    assert [tool["name"] for tool in with_tools["tools"]] == ["past_tool"]
    assert with_tools["tool_choice"] == {"type": "none"}
    assert request_parts("", [user("a")], "off").keys() == {"messages"}


TOOLS = [spec("look"), spec("find")]


def test_tools_are_defined_by_name_and_may_be_called() -> None:
    parts = request_parts("", [user("a"), called("c"), result("c", "r")], "off", TOOLS)

    schema = {"type": "object", "properties": {"q": {"type": "string"}}}
    assert parts["tools"] == [
        {"name": "find", "description": "What find does.", "input_schema": schema},
        {"name": "look", "description": "What look does.", "input_schema": schema},
    ]
    assert parts["tool_choice"] == {"type": "auto"}
    assert taken(parts)


def test_tools_that_may_not_be_called_stay_defined() -> None:
    free = request_parts("", [user("a")], "5m", TOOLS)
    bound = request_parts("", [user("a")], "5m", TOOLS, may_call=False)

    assert bound == free | {"tool_choice": {"type": "none"}}


@pytest.mark.parametrize("system_prompt", ["", " ", "Be brief."])
@pytest.mark.parametrize("system_said", ["", "The story so far."])
def test_the_first_mark_stands_on_the_system_prompt_or_on_the_last_tool(
    system_prompt: str, system_said: str
) -> None:
    context = [Message(Role.SYSTEM, system_said), user("a"), said("b"), user("c")]

    parts = request_parts(system_prompt, context, "1h", TOOLS)

    with_system = bool((system_prompt + system_said).strip())
    marks = ["cache_control" in tool for tool in parts["tools"]]
    assert marks == [False, not with_system]
    assert len(marked(parts)) + sum(marks) == 4
    assert taken(parts)


def test_a_mark_on_a_tool_changes_no_tool_of_another_request() -> None:
    tools = [spec("find")]
    request_parts("", [user("a")], "5m", tools)
    request_parts("", [user("a"), called("c"), result("c", "r")], "5m")

    parts = request_parts("", [user("a"), called("c"), result("c", "r")], "off")

    assert "cache_control" not in str(request_parts("", [user("a")], "off", tools))
    assert "cache_control" not in str(parts)


def test_messages_of_one_role_are_blocks_of_one_message() -> None:
    wire = messages_of(user("a"), user("b"), said("c"), said("d"), user("e"))

    assert [message["role"] for message in wire] == ["user", "assistant", "user"]
    assert [len(message["content"]) for message in wire] == [2, 2, 1]


def test_a_conversation_that_an_assistant_begins_stays_as_it_is() -> None:
    wire = messages_of(said("Good morning."), user("hi"))

    assert [message["role"] for message in wire] == ["assistant", "user"]


@pytest.mark.parametrize("blank", ["", " ", "\n\t "])
def test_no_text_without_a_visible_character_is_sent(blank: str) -> None:
    context = [
        Message(Role.SYSTEM, blank),
        user(blank),
        called("c", text=blank),
        result("c", blank),
        said(blank),
        user("hi"),
    ]

    parts = request_parts(blank, context, "5m")

    assert "system" not in parts
    assert [block["type"] for block in blocks_of(parts)] == ["tool_use", "tool_result", "text"]
    assert "content" not in blocks_of(parts)[1]


def test_an_image_that_the_api_cannot_read_is_named() -> None:
    (message,) = messages_of(
        Message(Role.USER, "see", images=(Image("image/svg+xml", "PHN2Zz4="),))
    )

    assert message["content"] == [text_block("see"), text_block("[image: image/svg+xml]")]


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ('{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
        ("", {}),
        ('{"a": ', {"_raw": '{"a": '}),
        ("[1]", {"_raw": "[1]"}),
        ('"text"', {"_raw": '"text"'}),
        ("NaN", {"_raw": "NaN"}),
    ],
)
def test_arguments_are_an_object_or_kept_as_the_model_wrote_them(
    arguments: str, sent: dict[str, Any]
) -> None:
    call = Message(Role.ASSISTANT, "", (ToolCall("c", "find", arguments),))

    assert messages_of(call)[0]["content"][0]["input"] == sent


def test_an_id_that_is_too_long_takes_another_form() -> None:
    long = ["x" * 64, "x" * 65, "x" * 66]
    results = [result(call_id, "r") for call_id in long]

    wire = messages_of(user("a"), called(*long), *results)

    ids = [block["id"] for block in wire[1]["content"]]
    assert ids[0] == long[0]
    assert len(set(ids)) == 3
    assert max(map(len, ids)) <= 64


def test_ids_and_names_of_other_vendors_take_a_form_that_the_api_accepts() -> None:
    ids = ["functions.find:0", "functions_find_0", "", "né", "call_abc"]
    names = ["fs.read", "", "x" * 200]
    calls = tuple(ToolCall(call_id, "find", "{}") for call_id in ids)
    named = tuple(ToolCall(f"n{place}", name, "{}") for place, name in enumerate(names))
    results = [result(call.call_id, "r") for call in (*calls, *named)]

    parts = request_parts(
        "", [user("a"), Message(Role.ASSISTANT, "", calls + named), *results], "off"
    )

    wire = parts["messages"][1]["content"]
    assert taken(parts)
    assert len({block["id"] for block in wire}) == len(wire)
    assert (wire[1]["id"], wire[4]["id"]) == ("functions_find_0", "call_abc")
    assert [block["name"] for block in wire[5:]] == ["fs_read", "unnamed", "x" * 64]


@pytest.mark.parametrize(
    ("system_prompt", "context", "places"),
    [
        pytest.param("s", [user("a")], [0, 1], id="first-turn"),
        pytest.param("", [user("a")], [0], id="no-system-prompt"),
        pytest.param("s", [user("a"), said("b"), user("c")], [0, 1, 2, 3], id="second-turn"),
        pytest.param(
            "s",
            [user("a"), said("b"), user("c"), called("d"), result("d", "r")],
            [0, 2, 3, 5],
            id="second-step",
        ),
        pytest.param("s", [user("a"), user("b")], [0, 1, 2], id="no-answer-before"),
        pytest.param("s", [said("b")], [0, 1], id="no-user"),
    ],
)
def test_marks_stand_on_the_system_prompt_before_answer_and_live_turn_and_on_the_end(
    system_prompt: str, context: Sequence[Message], places: list[int]
) -> None:
    assert marked(request_parts(system_prompt, context, "5m")) == places
    assert marked(request_parts(system_prompt, context, "off")) == []


def test_a_mark_names_its_hour() -> None:
    (block,) = blocks_of(request_parts("", [user("a")], "1h"))

    assert block["cache_control"] == {"type": "ephemeral", "ttl": "1h"}


_TEXTS = st.sampled_from(["", " ", "a", "Grüße 🙂", "long " * 20])


@st.composite
def _turns(draw: st.DrawFn) -> list[Message]:
    """Draw whole turns, any of them with steps of tools."""
    context = draw(st.lists(st.just(said("Good morning.")), max_size=1))
    for turn in range(draw(st.integers(1, 4))):
        context.append(user(draw(_TEXTS), f"t{turn}"))
        for step in range(draw(st.integers(0, 3))):
            ids = [f"c{turn}.{step}.{place}" for place in range(draw(st.integers(1, 3)))]
            context.append(called(*ids, text=draw(_TEXTS)))
            images = draw(st.lists(st.just(PNG), max_size=1))
            context += (result(call_id, draw(_TEXTS), *images) for call_id in ids)
        context.append(said(draw(_TEXTS)))
    return [*context, user("at last")]


@given(
    context=_turns(), ttl=st.sampled_from(["5m", "1h", "off"]), prompt=st.sampled_from(["", "s"])
)
def test_with_tools_every_request_is_a_beginning_of_the_next(
    context: list[Message], ttl: CacheTtl, prompt: str
) -> None:
    before: list[bytes] = []
    for length in range(1, len(context) + 1):
        parts = request_parts(prompt, context[:length], ttl, TOOLS)
        if context[length - 1].role is Role.ASSISTANT or not parts["messages"]:
            continue  # nobody asks here
        if length < len(context) and context[length].role is Role.TOOL:
            continue  # results are missing still
        asked = read_prompt({"model": "m", "max_tokens": 1, **parts})
        blocks = [block.data for block in asked.blocks]
        assert blocks[: len(before)] == before
        before = blocks
    assert before


@given(context=_turns(), ttl=st.sampled_from(["5m", "1h", "off"]))
def test_every_context_becomes_a_request_that_is_taken_and_is_a_beginning_of_the_next(
    context: list[Message], ttl: CacheTtl
) -> None:
    tools = {block["type"] for block in blocks_of(request_parts("s", context, ttl))} & {"tool_use"}
    before: list[bytes] = []
    for length in range(1, len(context) + 1):
        parts = request_parts("s", context[:length], ttl)
        if context[length - 1].role is Role.ASSISTANT or not parts["messages"]:
            continue  # nobody asks here
        if length < len(context) and context[length].role is Role.TOOL:
            continue  # results are missing still
        if tools:
            # The first use of a tool puts its definition before all else.
            defined = {"name": "past_tool", "input_schema": {"type": "object"}}
            parts |= {"tools": [defined], "tool_choice": {"type": "none"}}
        prompt = read_prompt({"model": "m", "max_tokens": 1, **parts})
        blocks = [block.data for block in prompt.blocks]
        assert blocks[: len(before)] == before
        before = blocks
    assert before
