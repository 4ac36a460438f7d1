"""Laws of what stands in place of a tool result."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.context.projection import project, tool_item
from gateway.context.settings import SoftTrimSettings
from gateway.model import Message, Projection, ProjectionMode, TurnId
from tests.context.conversations import PICTURE, RESULT_TEXTS, result

CLEAR = Projection("t/0/c", ProjectionMode.CLEAR, placeholder="[gone]")
AWKWARD = "a-\n\r\u0301\u200d\ufe0f\u0928\u093f👩🏽❤🇩🇪\u1112\u1161\u11ab\U000e0067"


def _trim(head: int, tail: int, *, most: int | None = None) -> Projection:
    return Projection(
        "t/0/c",
        ProjectionMode.TRIM,
        max_chars=head + tail if most is None else most,
        head_chars=head,
        tail_chars=tail,
    )


def _ends(text: str) -> tuple[str, str]:
    """Return the beginning and the end that a trimmed text shows."""
    shown, _, note = text.rpartition("\n")
    assert note.startswith("[trimmed: ")
    head, _, tail = shown.partition("\n...\n")
    return head, tail


def test_a_trim_shows_both_ends_and_says_how_much_there_was() -> None:
    text = "begin" + "m" * 200 + "finish"

    assert project(result("t", text), _trim(5, 6)).text == (
        "begin\n...\nfinish\n[trimmed: the first 5 and the last 6 of 211 characters]"
    )


@pytest.mark.parametrize(
    ("head", "tail", "text"),
    [
        pytest.param(0, 1, "\n...\nz\n[trimmed: the first 0 and the last 1 of 301 characters]"),
        pytest.param(1, 0, "a\n...\n\n[trimmed: the first 1 and the last 0 of 301 characters]"),
        pytest.param(0, 0, "\n...\n\n[trimmed: the first 0 and the last 0 of 301 characters]"),
    ],
)
def test_an_end_of_no_size_shows_nothing(head: int, tail: int, text: str) -> None:
    said = "a" + "m" * 299 + "z"

    assert project(result("t", said), _trim(head, tail)).text == text


def test_a_clearing_leaves_the_placeholder_alone() -> None:
    said = result("t", "x" * 500, call_id="c7", name="look", images=2)

    assert project(said, CLEAR) == result("t", "[gone]", call_id="c7", name="look")


def test_a_trim_keeps_call_id_tool_name_turn_and_role() -> None:
    said = result("t", "x" * 500, call_id="c7", name="look", images=2)
    trimmed = project(said, _trim(10, 10))

    assert trimmed == result("t", trimmed.text, call_id="c7", name="look")


@pytest.mark.parametrize(
    "character",
    [
        pytest.param("e\u0301", id="combining-mark"),
        pytest.param("a" + "\u0300\u0316" * 5, id="ten-combining-marks"),
        pytest.param("\u0928\u093f", id="vowel-sign-of-class-0"),
        pytest.param("\u0e01\u0e33", id="sara-am"),
        pytest.param("\u1112\u1161\u11ab", id="decomposed-hangul"),
        pytest.param("👩\u200d👩\u200d👧\u200d👦", id="family"),
        pytest.param("👨🏽\u200d👩🏿\u200d👧🏻\u200d👦🏼", id="family-with-skin-tones"),
        pytest.param("👍🏽", id="skin-tone"),
        pytest.param("❤\ufe0f", id="variation-selector"),
        pytest.param("1\ufe0f\u20e3", id="keycap"),
        pytest.param("🇩🇪", id="flag"),
        pytest.param("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", id="tags"),
        pytest.param("\r\n", id="line-end"),
        pytest.param("x", id="letter"),
    ],
)
def test_cuts_at_both_ends_fall_between_whole_characters(character: str) -> None:
    text = character * 8 + "-" * 500 + character * 8
    for size in range(8 * len(character)):
        head, tail = _ends(project(result("t", text), _trim(size, size)).text)

        for end in (head, tail):
            assert end == character * (len(end) // len(character))
        assert size - len(character) < len(head) <= size
        assert size <= len(tail) < size + len(character)


@given(
    st.lists(st.sampled_from(AWKWARD), min_size=200, max_size=400).map("".join),
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_a_trim_of_any_text_shows_its_ends_and_counts_them(text: str, head: int, tail: int) -> None:
    shown = project(result("t", text), _trim(head, tail)).text
    note = shown.rpartition("\n")[2]
    numbers = [int(word) for word in note.split() if word.isdigit()]

    assert numbers[2] == len(text)
    assert shown == f"{text[: numbers[0]]}\n...\n{text[len(text) - numbers[1] :]}\n{note}"
    assert head - 32 < numbers[0] <= head
    assert tail <= numbers[1] < tail + 32


@pytest.mark.parametrize("size", [0, 1, 999, 1_000])
def test_a_text_that_is_not_longer_than_the_bound_stays_whole(size: int) -> None:
    said = result("t", "x" * size)

    assert project(said, _trim(10, 10, most=1_000)) == said


def test_a_trim_that_would_lengthen_the_text_leaves_it() -> None:
    said = result("t", "x" * 101, images=1)

    assert project(said, _trim(50, 50)).text == "x" * 101 + "\n[image removed: image/png]"


def test_images_become_markers_after_the_text() -> None:
    assert project(result("t", "seen", images=2), _trim(9, 9)).text == (
        "seen\n[image removed: image/png]\n[image removed: image/png]"
    )
    assert project(result("t", "", images=1), _trim(9, 9)).text == "[image removed: image/png]"
    assert project(result("t", "x" * 500, images=1), _trim(0, 0)).text == (
        "\n...\n\n[trimmed: the first 0 and the last 0 of 500 characters]\n"
        "[image removed: image/png]"
    )


@given(RESULT_TEXTS, st.integers(0, 2), st.integers(0, 50), st.integers(0, 50))
def test_the_same_projection_gives_the_same_bytes(
    text: str, images: int, head: int, tail: int
) -> None:
    for made in (_trim(head, tail), CLEAR):
        first = project(result("t", text, images=images), made)
        again = project(result("t", text, images=images), made)

        assert first.text.encode() == again.text.encode()
        assert first == again
        assert first.images == ()


@given(RESULT_TEXTS.map(lambda text: text * 100), st.integers(0, 2))
def test_a_projection_applied_twice_changes_nothing_more(text: str, images: int) -> None:
    sizes = SoftTrimSettings()
    trim = _trim(sizes.head_chars, sizes.tail_chars, most=sizes.max_chars)
    trimmed = project(result("t", text), trim)

    assert project(trimmed, trim) == trimmed
    cleared = project(result("t", text, images=images), CLEAR)
    assert project(cleared, CLEAR) == cleared
    assert project(project(result("t", text, images=images), trim), CLEAR) == cleared


_NAMES = st.tuples(
    st.sampled_from(["t1", "t2"]).map(TurnId),
    st.text("/#012c", max_size=4),
    st.integers(0, 12),
)


@given(_NAMES, _NAMES)
def test_different_results_have_different_names(
    one: tuple[TurnId, str, int], other: tuple[TurnId, str, int]
) -> None:
    assert (tool_item(*one) == tool_item(*other)) == (one == other)


def test_a_projection_leaves_the_message_it_is_made_from() -> None:
    said = result("t", "x" * 500, images=1)
    project(said, CLEAR)
    project(said, _trim(1, 1))

    assert said == Message(
        said.role, "x" * 500, (), "c", "look", turn_id=TurnId("t"), images=(PICTURE,)
    )
