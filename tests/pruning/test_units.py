"""Durations and sizes as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pruning.units import (
    MAX_DURATION_S,
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


@given(st.datetimes(timezones=st.just(UTC)))
def test_an_instant_is_read_as_it_was_written(instant: datetime) -> None:
    assert parse_instant(instant_text(instant)) == instant


@pytest.mark.parametrize("text", ["2026-01-01T00:00:00", "soon", 5, None])
def test_an_instant_has_a_time_zone(text: object) -> None:
    with pytest.raises(ValueError, match=r"instant|isoformat"):
        parse_instant(text)
