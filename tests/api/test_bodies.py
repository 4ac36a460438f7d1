"""JSON bodies: what is parsed, what is refused before it costs anything, what is mended."""

from __future__ import annotations

import subprocess
import sys
import threading

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api import bodies
from gateway.api.bodies import parse_object
from gateway.api.problems import ProblemError
from gateway.api.settings import HttpSettings
from gateway.clock import FakeClock
from gateway.strict_json import MAX_DEPTH, MAX_NODES

LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


@given(st.dictionaries(st.text(), TREES, max_size=8))
def test_every_json_object_within_the_bounds_is_parsed(value: dict[str, object]) -> None:
    assert parse_object(orjson.dumps(value)) == value


@given(st.text(st.sampled_from('ab\\"u/'), max_size=12), st.sampled_from(["\ud83d", "\ude00"]))
def test_a_lone_surrogate_becomes_a_replacement_character(text: str, lone: str) -> None:
    escaped = orjson.dumps(text)[1:-1] + b"\\u%x" % ord(lone) + orjson.dumps(text)[1:-1]

    assert parse_object(b'{"text": "%b"}' % escaped) == {"text": f"{text}�{text}"}


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert parse_object(b'{"text": "\\ud83d\\ude00\\uD83D"}') == {"text": "😀�"}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        pytest.param(b"", "is not JSON", id="nothing"),
        pytest.param(b"{", "is not JSON", id="cut"),
        pytest.param(b"\xef\xbb\xbf{}", "is not JSON", id="bom"),
        pytest.param(b'{"a": "\xff"}', "is not JSON", id="not-utf-8"),
        pytest.param(b'{"a": NaN}', "is not JSON", id="nan"),
        pytest.param(b'{"a": Infinity}', "is not JSON", id="infinity"),
        pytest.param(b'{"a": 1e999}', "is not JSON", id="too-large-number"),
        pytest.param(b'{"a": %b}' % (b"9" * 5000), "is not JSON", id="5000-digits"),
        pytest.param(b"[]", "not a JSON object", id="list"),
        pytest.param(b"null", "not a JSON object", id="null"),
        pytest.param(b'"a:b"', "not a JSON object", id="string"),
        pytest.param(b'{"a": 1, "a": 2}', "the key 'a' twice", id="duplicate"),
        pytest.param(b'{"a": 1, "\\u0061": 2}', "the key 'a' twice", id="duplicate-escaped"),
        pytest.param(b'{"a": {"b": 1, "b": 2}}', "the key 'b' twice", id="duplicate-inside"),
        pytest.param(b'{"a": %b}' % (b"[" * 9_000), "nested too deep", id="deep"),
        pytest.param(b'{"a": %b}' % (b"[" * 100_000), "too many values", id="very-deep"),
        pytest.param(
            b'{"a": %b%b}' % (b"[" * MAX_DEPTH, b"]" * MAX_DEPTH), "too deep", id="one-too-deep"
        ),
        pytest.param(b'{"a": [%b]}' % b",".join([b"0"] * MAX_NODES), "too many values", id="many"),
    ],
)
def test_what_is_no_bounded_json_object_is_refused(body: bytes, told: str) -> None:
    with pytest.raises(ProblemError) as caught:
        parse_object(body)

    assert caught.value.problem.status == 400
    assert told in caught.value.problem.detail


def test_depth_and_number_of_values_may_reach_their_bounds() -> None:
    levels = MAX_DEPTH - 1
    deep = b'{"a": %b%b}' % (b"[" * levels, b"]" * levels)
    many = b'{"a": [%b]}' % b",".join([b"0"] * (MAX_NODES - 3))

    assert parse_object(deep)
    assert parse_object(many)


def test_brackets_and_colons_in_strings_do_not_count() -> None:
    text = '[{":,' * 20_000

    assert parse_object(orjson.dumps({"text": text})) == {"text": text}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"a": "' + b'\\"' * 500_000, id="a string of escaped quotes without end"),
        pytest.param(b'{"a": "' + b'\\"' * 500_000 + b"\\", id="ending in half an escape"),
        pytest.param(b'{"a":' + b'"' * 1_000_001, id="nothing but quotes"),
    ],
)
def test_a_body_made_to_be_slow_is_refused_in_linear_time(body: bytes) -> None:
    """In a child with a time limit: the square of this length would take many minutes."""
    code = (
        "import sys; from gateway.api.bodies import parse_object\n"
        "try: parse_object(sys.stdin.buffer.read())\n"
        "except Exception as error: print(type(error).__name__)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], input=body, capture_output=True, check=True, timeout=30
    )
    assert child.stdout.strip() == b"ProblemError"


@pytest.mark.parametrize("large", [False, True])
async def test_large_bodies_are_read_beside_the_loop(*, large: bool) -> None:
    threads: list[bool] = []

    def read(fields: dict[str, object]) -> object:
        threads.append(threading.current_thread() is threading.main_thread())
        return fields["text"]

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    text = "x" * (bodies.AT_ONCE_BYTES if large else 10)
    body = orjson.dumps({"text": text})
    scope = {"type": "http", "headers": [(b"content-type", b"application/json")]}
    found = await bodies.read_as(scope, receive, HttpSettings(), FakeClock(), read)

    assert found == text
    assert threads == [not large]
