"""`session_store_max_age_days` is mended, never refused, and never silently."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import load
from gateway.config.days import KEY, take_max_age

if TYPE_CHECKING:
    from pathlib import Path

ACCEPTED = "accepted is a number of days from 0, where 0 keeps sessions for ever"


def days_of(tmp_path: Path, value: str) -> tuple[float, tuple[str, ...]]:
    path = tmp_path / "gateway.toml"
    path.write_text(f"# a comment\nsession_store_max_age_days = {value}\n")
    loaded = load(path, {}, {})
    warnings = tuple(text.removeprefix(f"{path}:2: {KEY}: ") for text in loaded.warnings)
    return loaded.config.session_store_max_age_days, warnings


@pytest.mark.parametrize(
    ("value", "days"),
    [
        pytest.param("90", 90, id="whole"),
        pytest.param("0", 0, id="off"),
        pytest.param("0.5", 0.5, id="fraction"),
        pytest.param("-0.0", 0, id="negative-zero"),
        pytest.param("99999999999", 99_999_999_999, id="beyond-the-calendar"),
        pytest.param("1" + "0" * 400, sys.float_info.max, id="beyond-floats"),
    ],
)
def test_a_number_of_days_from_zero_is_taken_without_a_word(
    tmp_path: Path, value: str, days: float
) -> None:
    assert days_of(tmp_path, value) == (days, ())


@pytest.mark.parametrize(
    ("value", "days", "wrong"),
    [
        pytest.param("true", 90, "true is a truth value", id="true"),
        pytest.param("false", 90, "false is a truth value", id="false"),
        pytest.param("nan", 90, "nan is not finite", id="nan"),
        pytest.param("inf", 90, "inf is not finite", id="infinite"),
        pytest.param("-inf", 90, "-inf is not finite", id="minus-infinite"),
        pytest.param("-1", 0, "-1 is below 0", id="negative"),
        pytest.param("-0.5", 0, "-0.5 is below 0", id="negative-fraction"),
        pytest.param("-1" + "0" * 400, 0, "a huge number is below 0", id="huge-negative"),
        pytest.param('"30"', 30, '"30" is a string', id="string"),
        pytest.param('"1.5"', 1.5, '"1.5" is a string', id="string-with-fraction"),
        pytest.param('"-2"', 0, '"-2" is below 0', id="string-negative"),
        pytest.param('"nan"', 90, '"nan" is not a finite number', id="string-nan"),
        pytest.param('"1e999"', 90, '"1e999" is not a finite number', id="string-infinite"),
        pytest.param('"a month"', 90, '"a month" is not a finite number', id="string-of-words"),
        pytest.param('""', 90, '"" is not a finite number', id="string-empty"),
        pytest.param("[30]", 90, "is a list", id="list"),
        pytest.param("{ days = 30 }", 90, "is a table", id="table"),
        pytest.param("2026-01-01", 90, "is a date or time", id="date"),
    ],
)
def test_anything_else_is_mended_with_a_warning(
    tmp_path: Path, value: str, days: float, wrong: str
) -> None:
    assert days_of(tmp_path, value) == (days, (f"{wrong}, {days:g} is used, {ACCEPTED}",))


def test_a_missing_number_is_ninety() -> None:
    loaded = load(None, {}, {})

    assert (loaded.config.session_store_max_age_days, loaded.warnings) == (90, ())


def test_the_environment_is_text_and_its_numbers_are_no_fault() -> None:
    loaded = load(None, {"GATEWAY_SESSION_STORE_MAX_AGE_DAYS": "1.5"}, {})

    assert (loaded.config.session_store_max_age_days, loaded.warnings) == (1.5, ())


@pytest.mark.parametrize(
    ("text", "days", "wrong"),
    [
        pytest.param("true", 90, '"true" is not a finite number', id="true"),
        pytest.param("-7", 0, '"-7" is below 0', id="negative"),
    ],
)
def test_what_the_environment_has_wrong_is_warned_of_by_its_name(
    text: str, days: float, wrong: str
) -> None:
    name = "GATEWAY_SESSION_STORE_MAX_AGE_DAYS"
    loaded = load(None, {name: text}, {})

    assert loaded.config.session_store_max_age_days == days
    assert loaded.warnings == (f"environment {name}: {KEY}: {wrong}, {days:g} is used, {ACCEPTED}",)


@given(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())
)
def test_whatever_stands_there_becomes_a_finite_number_from_zero(value: object) -> None:
    tree = {KEY: value}
    take_max_age(tree)

    taken = tree[KEY]
    assert isinstance(taken, float)
    assert 0 <= taken <= sys.float_info.max
