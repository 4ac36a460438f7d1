"""Laws of what is shown of output."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.processes.output import KeptOutput, plain, tail


@given(st.text(st.sampled_from("ab\nü\u0301👍\u200d🏽"), max_size=60), st.integers(1, 40))
def test_a_tail_is_an_end_within_its_bound_and_of_whole_lines(text: str, most: int) -> None:
    shown = tail(text, most)

    assert text.endswith(shown)
    assert len(shown) <= most
    before = text[: len(text) - len(shown)]
    if "\n" in text[-most:-1]:
        assert not before or before.endswith("\n")


def test_of_one_long_line_the_end_stays() -> None:
    assert tail("x" * 100, 10) == "x" * 10
    assert tail("a\n" + "x" * 100 + "\n", 10) == "x" * 9 + "\n"


@given(st.binary(max_size=200))
def test_plain_text_holds_nothing_that_steers(data: bytes) -> None:
    text = plain(data)

    assert not any(ord(char) < 32 and char not in "\n\t" for char in text)
    assert "\x1b" not in text
    text.encode()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(b"\x1b]0;title\x07ok", "ok", id="title"),
        pytest.param(b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link", id="link"),
        pytest.param(b"\x1b[1;31mred\x1b[m", "red", id="colour"),
        pytest.param(b"a\r\nb\r\n", "a\nb\n", id="line-ends"),
        pytest.param(b"1%\r2%\r3%", "3%", id="progress"),
        pytest.param("\u202eü\tb".encode(), "\u202eü\tb", id="text-stays"),
    ],
)
def test_text_of_output(data: bytes, text: str) -> None:
    assert plain(data) == text


def test_what_is_left_out_is_told() -> None:
    assert KeptOutput(b"a\nb\n", 4).text(10) == "a\nb\n"
    assert KeptOutput(b"a\nb\n", 4).text(2) == "[the end of 4 bytes of output]\nb\n"
    assert KeptOutput(b"b\n", 4).text(10) == "[the end of 4 bytes of output]\nb\n"
    assert KeptOutput(b"", 0).text(10) == ""
