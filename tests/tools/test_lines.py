"""Laws of taking messages out of what a server writes."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import types

from gateway.metering import TooManyValuesError
from gateway.tools.lines import MAX_MENDED_BYTES, MAX_NOISE, MessageLines, UnusableOutputError


def answer(number: int, text: str) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": number, "result": {"text": text}})


def read(*pieces: bytes, max_bytes: int = 1_000_000) -> list[types.JSONRPCMessage]:
    lines = MessageLines(max_bytes)
    return [message for piece in pieces for message in lines.feed(piece)]


def texts(messages: list[types.JSONRPCMessage]) -> list[str]:
    return [
        message.result["text"] for message in messages if isinstance(message, types.JSONRPCResponse)
    ]


@given(st.lists(st.text(max_size=20), max_size=5), st.lists(st.integers(0, 500), max_size=8))
def test_messages_are_the_same_however_the_bytes_are_cut(said: list[str], cuts: list[int]) -> None:
    stream = b"".join(answer(number, text) + b"\n" for number, text in enumerate(said))
    edges = sorted({0, *(min(cut, len(stream)) for cut in cuts), len(stream)})

    assert texts(read(*(stream[start:end] for start, end in pairwise(edges)))) == said


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    with suppress(UnusableOutputError, TooManyValuesError):
        read(data, b"\n")


@pytest.mark.parametrize(
    "noise", [b"", b"hello", b"[INFO] ready", b"{}", b'{"a": 1}', b"\xff\xfe", b"{'jsonrpc': 1}"]
)
def test_lines_that_are_no_messages_are_passed_over(noise: bytes) -> None:
    assert texts(read(noise + b"\n" + answer(1, "a") + b"\r\n")) == ["a"]


def test_a_line_may_be_as_long_as_is_allowed_and_no_longer() -> None:
    line = answer(1, "x" * 100)

    assert texts(read(line + b"\n", max_bytes=len(line))) == ["x" * 100]
    with pytest.raises(UnusableOutputError, match="more than 100 bytes"):
        read(line[:60], line[60:], max_bytes=100)


def test_a_flood_without_an_end_of_line_is_refused_before_it_is_gathered() -> None:
    lines = MessageLines(100_000)
    piece = b"x" * 65_536

    assert list(lines.feed(piece)) == []
    with pytest.raises(UnusableOutputError):
        list(lines.feed(piece))


def test_what_would_take_long_to_parse_is_refused() -> None:
    with pytest.raises(TooManyValuesError):
        read(b'{"jsonrpc":"2.0","id":1,"result":{"a":[' + b"[]," * 50_000)


def test_many_small_messages_are_no_large_one() -> None:
    small = answer(1, "a") + b"\n"

    assert len(read(*([small * 1_000] * 60))) == 60_000


def test_so_many_lines_that_are_no_messages_are_refused() -> None:
    with pytest.raises(UnusableOutputError, match="1,000 lines that are no messages"):
        read(b"noise\n" * (MAX_NOISE + 1))

    assert len(read((b"noise\n" * MAX_NOISE + answer(1, "a") + b"\n") * 3)) == 3


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        pytest.param(rb"cut \ud83d", "cut �", id="first-half-of-a-pair"),
        pytest.param(rb"\ude00 cut", "� cut", id="second-half-of-a-pair"),
        pytest.param(rb"\ud83d\ude00 \ud83d\n\\ud83d", "\U0001f600 �\n\\ud83d", id="pairs-stay"),
        pytest.param(b"caf\xc3", "caf�", id="half-a-character-in-utf-8"),
    ],
)
def test_a_text_cut_within_a_character_is_mended(written: bytes, meant: str) -> None:
    line = b'{"jsonrpc":"2.0","id":1,"result":{"text":"' + written + b'"}}\n'

    assert texts(read(line)) == [meant]


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":1,"result":{"text":"a}}',
        b'{"jsonrpc":"2.0","id":1,"result":7}',
        b'{"jsonrpc":"2.0","id":1,"result":{"text":"' + b"x" * MAX_MENDED_BYTES + rb'\ud83d"}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"text":' + b"[" * 900 + b"]" * 900 + b"}}",
    ],
    ids=["no-json", "no-object", "too-long-to-mend", "too-deep"],
)
def test_an_answer_that_cannot_be_read_is_refused_and_not_quoted(line: bytes) -> None:
    with pytest.raises(UnusableOutputError, match=r"^an answer that is not JSON-RPC$") as caught:
        read(line + b"\n")

    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
