"""Laws of tool calls: their ids, their arguments, and the forms that wires take."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.agents.calls import (
    fit_name,
    hashed_id,
    is_fit,
    parse_arguments,
    schema_of,
    sent_arguments,
    wire_chars,
    with_unique_ids,
)
from gateway.model import Message, Role, ToolCall, ToolSpec
from tests.agents.events import said

_IDS = st.lists(st.sampled_from(["", "a", "a_2", "a_3", "call_1", "call_2", "b:0"]), max_size=12)


def _calling(ids: list[str]) -> Message:
    calls = tuple(ToolCall(call_id, f"tool{place}", "{}") for place, call_id in enumerate(ids))
    return Message(Role.ASSISTANT, "so", calls)


@given(ids=_IDS, taken=_IDS)
def test_every_call_gets_an_id_that_no_other_call_of_the_turn_has(
    ids: list[str], taken: list[str]
) -> None:
    message = with_unique_ids(_calling(ids), taken)

    given_ids = [call.call_id for call in message.tool_calls]
    assert all(given_ids)
    assert len({*given_ids, *taken}) == len(given_ids) + len(set(taken))
    assert [call.name for call in message.tool_calls] == [f"tool{n}" for n in range(len(ids))]
    for first, call_id in enumerate(ids):
        if call_id and call_id not in taken and call_id not in given_ids[:first]:
            assert given_ids[first] == call_id


def test_an_answer_without_calls_stays_what_it_is() -> None:
    message = said("hi")

    assert with_unique_ids(message, ["a"]) is message


def test_ten_thousand_calls_of_one_id_are_told_apart_at_once() -> None:
    message = with_unique_ids(_calling(["same"] * 10_000), [])

    assert len({call.call_id for call in message.tool_calls}) == 10_000


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ('{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
        ('{"ü": "🙂"}', {"ü": "🙂"}),
        ("", {}),
        (" \n", {}),
        ("{}", {}),
        ('{"a": ', None),
        ('{"a": "x', None),
        ("[1]", None),
        ('"text"', None),
        ("null", None),
        ("5", None),
        ("NaN", None),
        ("{'a': 1}", None),
        ('{"a": "\\ud83d"}', None),
        ('{"a": 1} {"b": 2}', None),
        ('{"a":' * 5_000 + "1" + "}" * 5_000, None),
    ],
)
def test_arguments_are_a_json_object_or_nothing(text: str, parsed: dict[str, Any] | None) -> None:
    assert parse_arguments(text) == parsed
    assert sent_arguments(text) == ({"_raw": text} if parsed is None else parsed)


@given(st.text())
def test_every_name_takes_the_form_that_wires_take(name: str) -> None:
    fit = fit_name(name)

    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", fit)
    assert is_fit(fit)
    assert (fit == name) == (is_fit(name) and len(name) <= 64)


@given(st.text(), st.text())
def test_hashed_ids_are_fit_and_differ_where_the_ids_do(first: str, second: str) -> None:
    assert is_fit(hashed_id(first))
    assert len(hashed_id(first)) <= 40
    assert (hashed_id(first) == hashed_id(second)) == (first == second)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(schema=st.dictionaries(st.text(), _JSON, max_size=5))
def test_a_schema_is_the_same_bytes_in_whatever_order_its_keys_come(
    schema: dict[str, Any],
) -> None:
    turned = dict(reversed(schema.items()))

    sent = schema_of(ToolSpec("t", "", schema))

    assert orjson.dumps(sent) == orjson.dumps(schema_of(ToolSpec("t", "", turned)))
    assert sent == {"type": "object", **schema}


def test_a_schema_may_be_any_mapping() -> None:
    inner = MappingProxyType({"type": "string"})
    schema = MappingProxyType({"properties": MappingProxyType({"q": inner}), "required": ("q",)})

    assert schema_of(ToolSpec("t", "", schema)) == {
        "type": "object",
        "properties": {"q": {"type": "string"}},
        "required": ["q"],
    }


def test_definitions_are_counted_in_characters_as_they_are_sent() -> None:
    assert wire_chars([]) == 0
    assert wire_chars([{"n": 2**256}]) == len('{"n":') + len(str(2**256)) + len("}")
    assert wire_chars([{"a": "ü🙂"}, {}]) == len('{"a":"ü🙂"}') + len("{}")
