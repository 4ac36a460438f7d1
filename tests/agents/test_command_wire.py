"""Laws of the JSON lines between the gateway and a program, without any program."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.agents.base import AgentEvent, MessageFinished, ModelCallFinished, TextDelta
from gateway.agents.command_wire import (
    MAX_CALLS,
    MAX_ERROR_CHARS,
    MAX_LINE_VALUES,
    Answer,
    turn_line,
)
from gateway.errors import AgentError
from gateway.model import Message, Role, ToolCall, TurnId

AT = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime(2026, 1, 2, tzinfo=UTC)
TEXTS = st.text(max_size=20)

Line = dict[str, Any]


def _answer(max_bytes: int = 1_000_000, max_line_bytes: int = 100_000) -> Answer:
    return Answer("prog", "m", TurnId("t1"), AT, max_bytes=max_bytes, max_line_bytes=max_line_bytes)


def _bytes(lines: list[Line]) -> bytes:
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


def _read(pieces: list[bytes], answer: Answer | None = None) -> list[AgentEvent]:
    """Return the events of an output that comes in these pieces."""
    answer = answer or _answer()
    return [event for piece in pieces if not answer.done for event in answer.take(piece, LATER)]


def _told(pieces: list[bytes]) -> tuple[list[AgentEvent], AgentError | None]:
    """Return the events of an output, and the error that it ends with, if any."""
    answer, events = _answer(), list[AgentEvent]()
    try:
        for piece in pieces:
            for event in answer.take(piece, LATER):
                events.append(event)
    except AgentError as error:
        return events, error
    return events, None


def _messages(events: list[AgentEvent]) -> list[Message]:
    return [event.message for event in events if isinstance(event, MessageFinished)]


def _said(events: list[AgentEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@st.composite
def answers(draw: st.DrawFn) -> list[Line]:
    """Draw the lines of a good answer: texts, usage, tools in any overlap."""
    lines: list[Line] = [{"type": "text", "text": draw(st.text(min_size=1))}]
    open_calls: list[str] = []
    for number in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(["text", "usage", "tool_call", "tool_result"]))
        if kind == "text":
            lines.append({"type": "text", "text": draw(TEXTS)})
        elif kind == "usage":
            tokens = draw(st.integers(0, 1_000_000_000))
            lines.append({"type": "usage", "input_tokens": tokens, "output_tokens": 1})
        elif kind == "tool_call":
            open_calls.append(f"c{number}")
            arguments = draw(st.dictionaries(TEXTS, TEXTS, max_size=2))
            call = {"type": kind, "id": open_calls[-1], "name": "look", "arguments": arguments}
            lines.append(call)
        elif open_calls:
            call_id = draw(st.sampled_from(open_calls))
            open_calls.remove(call_id)
            lines.append({"type": kind, "id": call_id, "text": draw(TEXTS)})
    lines += [{"type": "tool_result", "id": call_id, "text": ""} for call_id in open_calls]
    return [*lines, {"type": "text", "text": "."}, {"type": "done"}]


@given(answers())
def test_every_call_is_answered_right_after_and_the_messages_are_the_deltas(
    lines: list[Line],
) -> None:
    events = _read([_bytes(lines)])
    messages = _messages(events)

    waiting: list[str] = []
    for message in messages:
        if message.role is Role.TOOL:
            assert message.tool_call_id == waiting.pop(0)
        else:
            assert not waiting
            waiting = [call.call_id for call in message.tool_calls]
    assert not waiting
    spoken = [message.text for message in messages if message.role is Role.ASSISTANT]
    assert "".join(spoken) == _said(events)
    assert _said(events) == "".join(
        line["text"].replace("\0", "") for line in lines if line["type"] == "text"
    )
    called = [line["id"] for line in lines if line["type"] == "tool_call"]
    assert [call.call_id for message in messages for call in message.tool_calls] == called
    counted = sum(line["type"] == "usage" for line in lines)
    assert sum(isinstance(event, ModelCallFinished) for event in events) == max(1, counted)


@given(answers(), st.lists(st.integers(0, 10_000)))
def test_where_an_output_is_cut_into_pieces_does_not_matter(
    lines: list[Line], cuts: list[int]
) -> None:
    output = _bytes(lines)
    places = sorted({min(cut, len(output)) for cut in cuts} | {0, len(output)})
    pieces = [output[start:end] for start, end in pairwise(places)]
    whole, cut = _read([output]), _read(pieces)

    assert _messages(cut) == _messages(whole)
    assert _said(cut) == _said(whole)


def test_an_output_may_come_byte_by_byte() -> None:
    output = _bytes([{"type": "text", "text": "ü🙂\u2028\x00x"}, {"type": "done"}])
    events = _read([bytes([byte]) for byte in output])

    assert _said(events) == "ü🙂\u2028x"


@given(st.lists(st.binary(min_size=1)))
def test_bytes_that_are_no_answer_are_an_error_or_nothing_yet(pieces: list[bytes]) -> None:
    events, error = _told([*pieces, b""])

    assert events == []
    assert (error is not None) == bool(pieces)
    assert str(error or "prog: ").startswith("prog: ")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_NAMES = st.sampled_from(["id", "name", "arguments", "text", "input_tokens", "output_tokens", "x"])
_KINDS = st.sampled_from(["text", "tool_call", "tool_result", "usage", "error", "done"])


@given(st.lists(st.tuples(_KINDS, st.dictionaries(_NAMES, _VALUES, max_size=3)), max_size=4))
def test_lines_with_any_values_are_read_or_an_error(parts: list[tuple[str, Line]]) -> None:
    events, error = _told([_bytes([{**fields, "type": kind} for kind, fields in parts])])
    spoken = "".join(m.text for m in _messages(events) if m.role is Role.ASSISTANT)

    assert _said(events).startswith(spoken)
    if parts and parts[0][0] != "text":
        assert error or parts[0][0] in {"tool_call", "usage"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ('{"a":' * 300 + "1" + "}" * 300, "line 1 of its output is nested too deeply"),
        ('{"a":' * 2_000 + "1" + "}" * 2_000, "line 1 of its output is not JSON"),
        ('{"a":1e999}', "line 1 of its output is not JSON"),
        ('{"a":"\\ud800"}', "line 1 of its output is not JSON"),
    ],
)
def test_json_that_cannot_be_kept_is_refused(arguments: str, reason: str) -> None:
    line = f'{{"type":"tool_call","id":"1","name":"t","arguments":{arguments}}}\n'
    events, error = _told([line.encode()])

    assert (events, str(error)) == ([], f"prog: {reason}")


@pytest.mark.parametrize(
    ("stored", "sent"),
    [
        ('{"a": 1.50}', '{"a": 1.50}'),
        ('{\n"a":\r\n1}', '{ "a":  1}'),
        ('{"a":' * 300 + "1" + "}" * 300, '{"a":' * 300 + "1" + "}" * 300),
        ("", '""'),
        ("[1]", '"[1]"'),
        ('{"a":', '"{\\"a\\":"'),
    ],
)
def test_arguments_of_past_calls_are_an_object_or_the_text_as_it_stands(
    stored: str, sent: str
) -> None:
    message = Message(Role.ASSISTANT, "", (ToolCall("c", "t", stored),))
    line = b"".join(turn_line("key", [message])).decode()

    assert f'"arguments":{sent}}}' in line
    assert line.index("\n") == len(line) - 1


def test_calls_are_counted_from_when_they_were_asked() -> None:
    lines: list[Line] = [
        {"type": "usage", "input_tokens": 1, "output_tokens": 1},
        {"type": "text", "text": "x"},
        {"type": "usage", "input_tokens": 2, "output_tokens": 1},
        {"type": "done"},
    ]
    calls = [event.call for event in _read([_bytes(lines)]) if isinstance(event, ModelCallFinished)]

    assert [call.started_at for call in calls] == [AT, LATER]


def test_what_came_before_a_mistake_is_told_first() -> None:
    events, error = _told([b'{"type":"text","text":"so far"}\nnonsense\n'])

    assert events == [TextDelta("so far")]
    assert str(error) == "prog: line 2 of its output is not JSON"


@pytest.mark.parametrize(
    ("output", "fits"),
    [
        pytest.param(b"x" * 100, True, id="no-end-yet"),
        pytest.param(b"x" * 101, False, id="no-end"),
        pytest.param(b'{"type":"text","text":"' + b"x" * 75 + b'"}\n', True, id="exactly"),
        pytest.param(b'{"type":"text","text":"' + b"x" * 76 + b'"}\n', False, id="one-more"),
        pytest.param(
            b'{"type":"text","text":"a"}\n{"type":"text","text":"' + b"x" * 76 + b'"}\n',
            False,
            id="not-the-first",
        ),
        pytest.param(b'{"type":"text","text":"a"}\n' + b"x" * 101, False, id="behind-a-good-line"),
    ],
)
def test_a_line_has_a_longest_length(output: bytes, fits: bool) -> None:  # noqa: FBT001 - a column
    answer = _answer(max_line_bytes=100)
    if fits:
        list(answer.take(output, AT))
    else:
        with pytest.raises(AgentError, match="a line is longer than 100 bytes"):
            list(answer.take(output, AT))


def test_an_output_has_a_longest_length() -> None:
    line = _bytes([{"type": "text", "text": "x"}])
    answer = _answer(max_bytes=3 * len(line))
    for _ in range(3):
        list(answer.take(line, AT))

    with pytest.raises(AgentError, match=f"its output is longer than {3 * len(line)} bytes"):
        list(answer.take(b"\n", AT))


def _call_with(values: int) -> bytes:
    """Return a line with so many values in a list."""
    head = b'{"type":"tool_call","id":"%d","name":"t","arguments":{"a":[' % values
    return head + b"1," * (values - 1) + b"1]}}\n"


def test_a_line_with_more_values_than_it_may_have_is_not_even_read_to_its_end() -> None:
    answer = _answer(max_line_bytes=1_000_000)
    with pytest.raises(AgentError, match="a line has more than 10000 values"):
        list(answer.take(_call_with(MAX_LINE_VALUES + 1)[:-10], AT))


def test_the_values_of_each_line_are_counted_alone_and_what_stands_in_a_text_is_none() -> None:
    half = MAX_LINE_VALUES // 2
    text = _bytes([{"type": "text", "text": "[,{" * MAX_LINE_VALUES}])
    stray = b'{"type":"text","text":"a\\""}\n'
    output = [_call_with(half), text, stray, _call_with(half + 1), _call_with(half + 2)]

    answer = _answer(max_line_bytes=1_000_000)
    _read([b"".join(output)], answer)
    (asked,) = _messages(list(answer.unfinished()))

    assert [call.call_id for call in asked.tool_calls] == [str(half + more) for more in range(3)]


def test_a_message_calls_so_many_tools_and_no_more() -> None:
    lines = [{"type": "tool_call", "id": str(number), "name": "t"} for number in range(MAX_CALLS)]
    answer = _answer()
    _read([_bytes(lines)], answer)

    with pytest.raises(AgentError, match="a message of its output calls more than 1000 tools"):
        _read([_bytes([{"type": "tool_call", "id": "x", "name": "t"}])], answer)


def test_a_line_of_many_unknown_keys_is_refused_in_one_sentence() -> None:
    line: Line = {"type": "text", "text": "a"} | {f"k{number}": 1 for number in range(5_000)}
    _, error = _told([_bytes([line])])

    assert str(error) == "prog: line 1 of its output has more than 16 keys"


def test_what_a_user_reads_of_an_error_is_bounded() -> None:
    with pytest.raises(AgentError) as caught:
        _read([_bytes([{"type": "error", "text": "e" * 50_000}])])

    assert caught.value.user_text == "e" * MAX_ERROR_CHARS


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=100)))
def test_a_conversation_is_one_line_however_long(texts: list[str]) -> None:
    messages = [Message(Role.USER, text) for text in texts]
    line = b"".join(turn_line("key", messages))

    assert line.index(b"\n") == len(line) - 1
    assert orjson.loads(line)["messages"] == [{"role": "user", "text": text} for text in texts]


def test_a_long_conversation_is_made_piece_by_piece() -> None:
    messages = [Message(Role.USER, "x" * 1_000) for _ in range(1_000)]
    pieces = list(turn_line("key", messages))

    assert len(pieces) > 10
    assert max(map(len, pieces)) < 70_000
    assert len(orjson.loads(b"".join(pieces))["messages"]) == 1_000
