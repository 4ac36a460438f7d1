"""Laws of cutting a long reply into pieces."""

from __future__ import annotations

import re
import resource
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.channels.base import REPEAT
from gateway.delivery.pieces import _LONG_CHARS, Piece, cut
from gateway.delivery.planning import NOTE_CHARS

TEXTS = st.text(st.sampled_from("ab. \n\u0301😀"), max_size=300)


def cuts(text: str, max_chars: int) -> list[Piece]:
    found: list[Piece] = []
    while not found or found[-1].end < len(text):
        found.append(cut(text, found[-1].end if found else 0, max_chars))
    return found


def pieces(text: str, max_chars: int) -> list[str]:
    return [one.shown(text) for one in cuts(text, max_chars)] if text else []


LINES = st.sampled_from(
    [
        *("", "word", "a few words here", "x" * 30, "    indented", "``two``", "a ``` in a line"),
        *("```", "```python", "```` text", "````", "~~~", "~~~ sh -x", "  ```", "   ~~~~", "- a"),
    ]
)
MARKED = st.lists(LINES, max_size=40).map("\n".join)


def open_fence(text: str) -> str:
    """Return the marks of the block of code that is open at the end; empty: none is."""
    mark = ""
    for line in text.split("\n"):
        found = re.fullmatch(r" {0,3}(`{3,}|~{3,})(.*)", line)
        if found is None:
            continue
        if not mark and (found[1][0] == "~" or "`" not in found[2]):
            mark = found[1]
        elif mark and found[1].startswith(mark) and not found[2].strip():
            mark = ""
    return mark


@given(text=TEXTS | MARKED, max_chars=st.integers(1, 80))
def test_pieces_are_the_text_and_none_is_empty_or_too_long(text: str, max_chars: int) -> None:
    found = cuts(text, max_chars) if text else []

    assert "".join(text[one.start : one.end] for one in found) == text
    assert all(one.end > one.start for one in found)
    assert all(len(one.shown(text)) <= max_chars for one in found)


@given(text=MARKED, max_chars=st.integers(64, 120))
def test_no_piece_leaves_a_block_of_code_open_that_it_did_not_leave_to_the_text(
    text: str, max_chars: int
) -> None:
    found = cuts(text, max_chars) if text else []

    assert not any(open_fence(one.shown(text)) for one in found[:-1])
    assert open_fence(found[-1].shown(text) if found else "") == open_fence(text)


PARAGRAPHS = st.sampled_from(["word", "a few words here", "x" * 30])
BLOCKS = st.lists(
    st.sampled_from(["a", "b = 1", "    c(d)", "e" * 20]), min_size=1, max_size=9
).map(lambda lines: "\n".join(["```py", *lines, "```"]))


@given(
    text=st.lists(PARAGRAPHS | BLOCKS, max_size=12).map("\n".join), max_chars=st.integers(64, 120)
)
def test_no_cut_makes_an_empty_block_of_code_or_divides_a_line_of_marks(
    text: str, max_chars: int
) -> None:
    for one in cuts(text, max_chars) if text else []:
        lines = one.shown(text).split("\n")
        assert not any(pair == ("```py", "```") for pair in pairwise(lines))
        marks = [line for line in lines if "`" in line or line == "py"]
        assert marks == ["```py", "```"] * (len(marks) // 2)


@given(text=MARKED, max_chars=st.integers(64, 120))
def test_what_is_added_are_whole_lines_of_marks(text: str, max_chars: int) -> None:
    for one in cuts(text, max_chars) if text else []:
        assert re.fullmatch(r"( *(`{3,}|~{3,})[^\n]*\n)?", one.before)
        assert re.fullmatch(r"(\n? *(`{3,}|~{3,}))?", one.after)


def test_a_block_of_code_is_closed_at_a_cut_and_opened_again_with_its_language() -> None:
    lines = [f"line_{number} = {number}" for number in range(20)]
    text = "Look:\n\n```python\n" + "\n".join(lines) + "\n```\n\nThat is all."

    found = pieces(text, 100)

    assert len(found) > 2
    coded = [piece for piece in found if "line_" in piece]
    assert all(piece.startswith("```python\n") for piece in coded[1:])
    assert all(piece.rstrip().endswith("```") for piece in coded)
    code = [line for piece in found for line in piece.split("\n") if line.startswith("line_")]
    assert code == lines


@pytest.mark.parametrize(
    ("text", "cut_as"),
    [
        pytest.param(
            "word " * 10 + "\n```sh\nls -la\n```\n" + "more " * 5,
            ["word " * 10 + "\n", "```sh\nls -la\n```\n" + "more " * 5],
            id="no-empty-block-before-a-cut",
        ),
        pytest.param(
            "```\n" + "ab cd\n" * 8 + "```\n" + "more " * 4,
            ["```\n" + "ab cd\n" * 8 + "```\n", "more " * 4],
            id="no-empty-block-after-a-cut",
        ),
        pytest.param(
            "````md\n```\nx\n```\n" + "ab cd\n" * 9 + "````",
            [
                "````md\n```\nx\n```\n" + "ab cd\n" * 6 + "````",
                "````md\n" + "ab cd\n" * 3 + "````",
            ],
            id="a-block-within-a-block",
        ),
        pytest.param(
            "```py\n" + "ab cd\n" * 4 + "    ```\n" + "ab cd\n" * 6 + "```",
            [
                "```py\n" + "ab cd\n" * 4 + "    ```\n" + "ab cd\n" * 3 + "```",
                "```py\n" + "ab cd\n" * 3 + "```",
            ],
            id="marks-within-code",
        ),
    ],
)
def test_a_cut_near_a_fence(text: str, cut_as: list[str]) -> None:
    assert pieces(text, 60) == cut_as


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        pytest.param(
            "one two\n\nthree four. five", ["one two\n\n", "three four. five"], id="paragraph"
        ),
        pytest.param("one two three\nfour five", ["one two three\n", "four five"], id="line"),
        pytest.param(
            "one two x. three four five", ["one two x. ", "three four five"], id="sentence"
        ),
        pytest.param("one two three four five", ["one two three ", "four five"], id="word"),
        pytest.param("x" * 20, ["x" * 16, "x" * 4], id="nowhere-better"),
        pytest.param("x" * 15 + "e\u0301yz", ["x" * 15, "e\u0301yz"], id="no-character-in-two"),
    ],
)
def test_a_text_is_cut_where_it_hurts_least(text: str, cut: list[str]) -> None:
    assert pieces(text, 16) == cut


def test_a_cut_in_a_line_of_marks_is_made_before_it() -> None:
    text = "word\n```python " + "title " * 8 + "\ncode\n```"

    assert pieces(text, 60)[0] == "word\n"


@given(text=MARKED, max_chars=st.integers(20, 80))
def test_a_long_text_is_cut_as_a_short_one(text: str, max_chars: int) -> None:
    beyond = "\n" + "word " * 4_000

    assert len(beyond) > _LONG_CHARS
    for one in cuts(text, max_chars)[:-2]:
        # What is far behind a cut has no say in it.
        if one.end + max_chars < len(text):
            assert cut(text + beyond, one.start, max_chars) == one


@pytest.mark.parametrize("line", ["```\n", "~~~a\n", "```py\nx = 1\n```\n", "word word.\n", " "])
def test_the_pieces_of_a_long_text_cost_no_more_each_than_of_a_short_one(line: str) -> None:
    text = line * (200_000 // len(line))
    began = resource.getrusage(resource.RUSAGE_SELF).ru_utime

    assert len(cuts(text, 1_920)) > 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - began < 2.0


def test_all_notes_together_fit_the_room_that_is_kept_for_them() -> None:
    late = "(Late: this was answered on 2026-01-01 at 00:00 UTC.)\n\n"

    assert len(late + REPEAT) <= NOTE_CHARS
