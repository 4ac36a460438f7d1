"""Laws of cutting a long reply into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.pieces import piece_end
from gateway.delivery.planning import NOTE_CHARS, REPEAT

TEXTS = st.text(st.sampled_from("ab. \n\u0301😀"), max_size=300)


def pieces(text: str, max_chars: int) -> list[str]:
    found, start = [], 0
    while start < len(text):
        end = piece_end(text, start, max_chars)
        found.append(text[start:end])
        start = end
    return found


@given(text=TEXTS, max_chars=st.integers(1, 80))
def test_pieces_are_the_text_and_none_is_empty_or_too_long(text: str, max_chars: int) -> None:
    found = pieces(text, max_chars)

    assert "".join(found) == text
    assert all(0 < len(piece) <= max_chars for piece in found)


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


def test_all_notes_together_fit_the_room_that_is_kept_for_them() -> None:
    late = "(Late: this was answered on 2026-01-01 at 00:00 UTC.)\n\n"

    assert len(late + REPEAT) <= NOTE_CHARS
