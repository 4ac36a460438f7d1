"""Laws of names and usage."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import MAX_NAME_CODE_POINTS, Usage, clean_name, clean_text

ANY_TEXT = st.text(st.characters(codec=None))


@given(ANY_TEXT)
def test_clean_text_can_be_stored_and_sent(text: str) -> None:
    clean = clean_text(text)

    assert clean.encode().decode() == clean
    assert "\0" not in clean


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_clean_text_leaves_good_text_alone(text: str) -> None:
    assert clean_text(text) == text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        pytest.param("a\ud800b", "a�b", id="a lone half in the middle"),
        pytest.param("\ud83d", "�", id="a lone half at the end"),
        pytest.param("\udc00x", "�x", id="a second half alone"),
        pytest.param("\ud83d\ude00", "😀", id="two halves that belong together"),
        pytest.param("\ufeffx", "\ufeffx", id="a byte order mark is text"),
        pytest.param("a\0b", "ab", id="NUL goes"),
    ],
)
def test_clean_text_mends_what_no_encoding_takes(text: str, clean: str) -> None:
    assert clean_text(text) == clean


@given(ANY_TEXT)
def test_a_clean_name_is_one_short_line_without_tricks(text: str) -> None:
    name = clean_name(text)

    assert len(name) <= MAX_NAME_CODE_POINTS
    assert len(name.splitlines()) <= 1
    assert not [char for char in name if unicodedata.category(char).startswith("C")]
    assert clean_name(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param("Zoe\N{COMBINING DIAERESIS}", "Zoë", id="composed"),
        pytest.param("a\nb\x1b[31m", "a�b�[31m", id="control characters"),
        pytest.param("a\u202eb", "a�b", id="direction override"),
        pytest.param("a\u2028b\u2029c", "a�b�c", id="line and paragraph separators"),
        pytest.param("x" * 129, "x" * 128, id="capped"),
    ],
)
def test_names_are_cleaned(text: str, name: str) -> None:
    assert clean_name(text) == name


COUNTS = st.integers(0, 10**9)
USAGES = st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS)


@given(st.lists(USAGES))
def test_usage_adds_up_field_by_field(usages: list[Usage]) -> None:
    whole = sum(usages, Usage())

    assert whole.input_tokens == sum(one.input_tokens for one in usages)
    assert whole.cache_read_tokens == sum(one.cache_read_tokens for one in usages)
    assert whole.cache_write_tokens == sum(one.cache_write_tokens for one in usages)
    assert whole.total_tokens == sum(one.total_tokens for one in usages)
    assert whole.context_tokens == whole.total_tokens - sum(one.output_tokens for one in usages)
