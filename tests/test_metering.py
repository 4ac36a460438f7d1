"""Laws of counting the values of JSON text while it arrives."""

from __future__ import annotations

from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metering import MAX_VALUES, TooManyValuesError, ValueMeter

JSON = st.recursive(
    st.one_of(st.none(), st.integers(0, 9), st.text(alphabet='a,[{"\\\n', max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


def marks(value: object) -> int:
    """Count what separates or opens the values of a JSON text."""
    if isinstance(value, dict):
        return 1 + max(0, len(value) - 1) + sum(map(marks, value.values()))
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(marks, value))

    return 0


def refuses(*pieces: bytes) -> bool:
    meter = ValueMeter()
    try:
        for piece in pieces:
            meter.feed(piece)
    except TooManyValuesError:
        return True

    return False


@given(JSON, st.lists(st.integers(0, 200), max_size=6))
def test_what_stands_in_strings_does_not_count_however_the_text_is_cut(
    value: object, cuts: list[int]
) -> None:
    text = orjson.dumps(value)
    edges = sorted({0, *(min(cut, len(text)) for cut in cuts), len(text)})
    pieces = [text[start:end] for start, end in pairwise(edges)]
    room = MAX_VALUES - marks(value)

    assert not refuses(b"\n" * room, *pieces)
    assert refuses(b"\n" * (room + 1), *pieces)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"[" + b"1," * MAX_VALUES + b"1]", id="numbers"),
        pytest.param(b"[" * (MAX_VALUES + 1), id="lists"),
        pytest.param(b"[" + b"{}," * MAX_VALUES + b"1]", id="objects"),
        pytest.param(b"[" + b'"",' * MAX_VALUES + b'""]', id="strings"),
        pytest.param(b': "\ndata: [' + b"1," * MAX_VALUES, id="behind-a-stray-quote"),
        pytest.param(b'"\\\\",' * (MAX_VALUES + 1), id="behind-escaped-backslashes"),
    ],
)
def test_more_than_the_most_values_are_refused(text: bytes) -> None:
    assert refuses(text)


@pytest.mark.parametrize(
    "text", [b'"' + b",[{" * 100_000 + b'"', b'"' + b'\\"' * 100_000 + b'"', b'"\\\\' * 100_000]
)
def test_a_long_string_is_one_value(text: bytes) -> None:
    assert not refuses(text)


def test_each_message_is_counted_alone() -> None:
    meter = ValueMeter()
    for _ in range(3):
        meter.feed(b"," * MAX_VALUES)
        meter.restart()
    meter.feed(b"," * MAX_VALUES)
    with pytest.raises(TooManyValuesError, match="more than 50,000 values"):
        meter.feed(b",")
