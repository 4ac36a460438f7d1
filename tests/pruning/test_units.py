"""Durations and sizes as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.pruning.conditions import Observation
from gateway.pruning.units import (
    MAX_DURATION_S,
    exact_size,
    format_duration,
    format_size,
    instant_text,
    parse_duration_s,
    parse_instant,
    parse_size_bytes,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("12h", 43_200),
        ("30d", 2_592_000),
        ("8w", 4_838_400),
        ("1.5h", 5_400),
        ("1h30m", 5_400),
        ("1d 12h", 129_600),
        ("250ms", 0.25),
        ("0s", 0),
        ("36525d", MAX_DURATION_S),
    ],
)
def test_a_duration_is_read_with_its_units(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "d",
        "-1d",
        "30 days",
        "1d1d",
        "1m1h",
        "nan",
        "1e3s",
        "٣d",
        "36526d",
        " 1d",
        "1d,2h",
    ],
)
def test_what_is_no_duration_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(ValueError, match="accepted is a duration such as 90s"):
        parse_duration_s(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500B", 500),
        ("100kB", 100_000),
        ("10MB", 10_000_000),
        ("64MiB", 67_108_864),
        ("2GiB", 2_147_483_648),
        ("1.5 KiB", 1_536),
        ("64mib", 67_108_864),
        ("0B", 0),
    ],
)
def test_a_size_is_read_with_its_unit(text: str, size: int) -> None:
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "64", "MiB", "-1B", "64 M", "1iB", "9999999TiB", "1GB2MB"])
def test_what_is_no_size_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(ValueError, match="accepted is a size such as 500B"):
        parse_size_bytes(text)


def test_what_is_shown_is_in_the_largest_unit_that_is_filled() -> None:
    assert [format_duration(one) for one in (0.5, 90, 5_400, 2_592_000)] == [
        "0.5s",
        "1.5m",
        "1.5h",
        "30d",
    ]
    assert [format_size(one) for one in (0, 1_023, 67_108_864)] == ["0B", "1023B", "64MiB"]


@pytest.mark.parametrize(
    ("size_bytes", "shown", "exact"),
    [
        (999, "999B", "999B"),
        (1_000, "1000B", "1kB"),
        (2_000, "1.95KiB", "2kB"),
        (2_048, "2KiB", "2KiB"),
        (2_049, "2.00KiB", "2049B"),
        (200_000, "195.3KiB", "200kB"),
        (1_500_000, "1.43MiB", "1.5MB"),
        (1_572_864, "1.50MiB", "1.5MiB"),
        (1_024_000, "1000KiB", "1024kB"),
        (3 * 2**40, "3TiB", "3TiB"),
    ],
)
def test_a_size_is_exact_or_has_decimals(size_bytes: int, shown: str, exact: str) -> None:
    assert format_size(size_bytes) == shown
    assert exact_size(size_bytes) == exact


@given(st.integers(0, 10**18 - 1))
def test_what_is_shown_of_a_size_is_true(size_bytes: int) -> None:
    shown = format_size(size_bytes)

    assert parse_size_bytes(exact_size(size_bytes)) == size_bytes
    assert abs(parse_size_bytes(shown) - size_bytes) <= size_bytes / 190
    assert "." in shown or parse_size_bytes(shown) == size_bytes


@pytest.mark.parametrize(
    "text", ["0B", "1B", "500B", "2kB", "2KiB", "100kB", "10MB", "64MiB", "1.5GiB", "2GB", "3TiB"]
)
def test_a_size_that_people_write_is_shown_as_they_wrote_it(text: str) -> None:
    assert exact_size(parse_size_bytes(text)) == text


@pytest.mark.parametrize("text", ["30d", "1.5d", "100m", "90s", "12h", "5m", "400d", "0.5s"])
def test_a_duration_that_people_write_is_not_changed_by_being_shown(text: str) -> None:
    assert parse_duration_s(format_duration(parse_duration_s(text))) == parse_duration_s(text)


@pytest.mark.parametrize(
    ("observation", "text"),
    [
        (Observation("size", 3_000, 2_000), "size 3kB > 2kB"),
        (Observation("size", 3_000, 2_048), "size 2.93KiB > 2KiB"),
        (Observation("total_size", 2_001, 2_000, "all"), "total_size of all 2,001B > 2,000B"),
        (Observation("size", 2_050, 2_048), "size 2,050B > 2,048B"),
        (Observation("size", 1_999, 2_000), "size 1,999B > 2,000B"),
        (Observation("total_size", 2**63, 2**62), "total_size 8388608TiB > 4194304TiB"),
        (Observation("age", 2_592_001, 2_592_000), "age 2,592,001s > 2,592,000s"),
        (Observation("count", 1_001, 1_000, "session"), "count of session 1,001 > 1,000"),
    ],
)
def test_what_was_seen_is_told_beside_the_limit_as_it_was_written(
    observation: Observation, text: str
) -> None:
    assert observation.text == text


@given(st.datetimes(timezones=st.just(UTC)))
def test_an_instant_is_read_as_it_was_written(instant: datetime) -> None:
    assert parse_instant(instant_text(instant)) == instant


@pytest.mark.parametrize("text", ["2026-01-01T00:00:00", "soon", 5, None])
def test_an_instant_has_a_time_zone(text: object) -> None:
    with pytest.raises(ValueError, match=r"instant|isoformat"):
        parse_instant(text)


AGES_S = st.one_of(
    st.integers(0, 200_000).map(float),
    st.integers(0, 10**9).map(lambda number: number / 1_000),
    st.integers(0, 36_000).map(lambda days: days * 86_400.0),
)


@given(AGES_S, AGES_S | st.none(), st.sampled_from([0.001, 1.0, 61.0, 1_801.0, 43_201.0]))
@example(3_660.0, None, 1.0)
def test_what_is_said_of_an_age_is_true(age_s: float, other_s: float | None, more_s: float) -> None:
    """Which of the two is more can be read off the texts as well."""
    limit_s = age_s if other_s is None else other_s
    age_s = round(age_s + more_s, 3) if other_s is None else age_s

    shown = Observation("age", age_s, limit_s).text.removeprefix("age ").replace(",", "")
    seen_s, than_s = map(parse_duration_s, shown.split(" > "))

    assert (seen_s > than_s) == (age_s > limit_s)
    assert (seen_s < than_s) == (age_s < limit_s)
