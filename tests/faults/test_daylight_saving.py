"""Laws of the daily reset in every time zone of the package `tzdata`, through three years.

The oracle knows nothing of the policy's way to reckon: it looks at what the clock on the wall shows
from one instant to the next, and a day begins when that has come to its hour for the first time.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from importlib.metadata import version
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from gateway.sessions.policy import Action, ResetPolicy, daily_boundary, decide
from gateway.sessions.settings import ResetMode
from tests.support.state import entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Count = Callable[[str, int], None]

BEGIN, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)
DAY, QUARTER = timedelta(days=1), timedelta(minutes=15)
MOST_SKIPPED = 2
"""The hour that most clocks skip or repeat."""
GAP = timedelta(hours=2)
"""The longest time that a clock skips in these years, Troll's."""


def _zones() -> dict[str, ZoneInfo]:
    """Return the zones of the package, those of one content once, by the first of their names."""
    database = files("tzdata.zoneinfo")
    found: dict[bytes, str] = {}
    for name in (files("tzdata") / "zones").read_text().split():
        found.setdefault(database.joinpath(*name.split("/")).read_bytes(), name)
    zones = {}
    for name in found.values():
        with database.joinpath(*name.split("/")).open("rb") as file:
            zones[name] = ZoneInfo.from_file(file, key=name)
    return zones


def _changes(zone: ZoneInfo) -> list[datetime]:
    """Return the days, in UTC, at whose end the zone has another offset than at their beginning."""
    days = [BEGIN + n * DAY for n in range((END - BEGIN).days + 1)]
    offsets = [day.astimezone(zone).utcoffset() for day in days]
    return [days[n] for n, (one, other) in enumerate(pairwise(offsets)) if one != other]


def _instants(changes: list[datetime], step: timedelta) -> Iterator[datetime]:
    """Yield each day's beginning in UTC, and on the days around a change each step of them."""
    near = {day + n * DAY for day in changes for n in range(-1, 3)}
    day = BEGIN
    while day < END:
        yield from (day + n * step for n in range(DAY // step if day in near else 1))
        day += DAY


def _day_shown(now: datetime, hour: int, zone: ZoneInfo) -> date:
    """Return the day that the clock on the wall has come to, one beginning at the hour."""
    shown = now.astimezone(zone).replace(tzinfo=None)
    return (shown - timedelta(hours=hour)).date()


def _is_skipped(day: date, hour: int, zone: ZoneInfo) -> bool:
    """Tell whether the clock on the wall never shows an hour of a day."""
    local = datetime.combine(day, time(hour), tzinfo=zone)
    return local.astimezone(UTC).astimezone(zone).replace(tzinfo=zone) != local


def _check_boundaries(zone: ZoneInfo, hour: int, instants: list[datetime]) -> int:
    """Compare the policy with the clock on the wall; return how many days began."""
    days, newest, began_at, before = 0, date.min, BEGIN, datetime.min.replace(tzinfo=UTC)
    for now in instants:
        # A clock that goes back over the hour shows a day once more that is over.
        if (shown := _day_shown(now, hour, zone)) > newest:
            newest, began_at = shown, now
        boundary = daily_boundary(now, hour, zone)
        assert before <= boundary <= now, (zone.key, hour, now)
        days += boundary > before
        before = boundary
        if _day_shown(boundary, hour, zone) != newest:
            # In the middle of a gap of two hours the day begins with the hour of before it.
            assert _is_skipped(newest, hour, zone), (zone.key, hour, now)
            assert now - began_at < GAP, (zone.key, hour, now)
    assert days == (newest - _day_shown(instants[0], hour, zone)).days + 1, (zone.key, hour)
    return days


def test_the_zones_are_those_of_the_package_that_is_depended_on() -> None:
    zones = (files("tzdata") / "zones").read_text().split()

    assert version("tzdata") >= "2026.1"
    assert len(zones) > 590
    assert {"Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca"} <= {*zones}


@pytest.mark.parametrize(
    ("hours", "step", "each"),
    [
        pytest.param([MOST_SKIPPED], timedelta(hours=1), 4, id="some"),
        pytest.param(range(24), QUARTER, 1, id="all", marks=pytest.mark.torture),
    ],
)
def test_in_every_zone_each_day_of_three_years_begins_exactly_once(
    hours: Iterable[int], step: timedelta, each: int, torture_count: Count
) -> None:
    changing = days = 0
    zones = list(_zones().values())
    assert len(zones) > 300
    for zone in zones[::each]:
        changes = _changes(zone)
        changing += bool(changes)
        for hour in hours:
            days += _check_boundaries(zone, hour, list(_instants(changes, step)))
    assert changing > 50 / each
    assert days > len(zones) / each * 1_000
    torture_count("days of a time zone", days)


@pytest.mark.parametrize("name", ["Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca"])
@pytest.mark.parametrize("hour", [0, MOST_SKIPPED, 4])
def test_who_writes_every_quarter_of_an_hour_is_reset_once_a_day(name: str, hour: int) -> None:
    zone = _zones()[name]
    policy = ResetPolicy(mode=ResetMode.DAILY, at_hour=hour, zone=zone)
    for change in _changes(zone):
        first = change - 2 * DAY
        one, resets = entry(updated_at=first), list[date]()
        for now in (first + n * QUARTER for n in range(1, 5 * 96)):
            if decide(one, policy, now, lambda _: False).action is Action.RESET:
                resets.append(_day_shown(now, hour, zone))
            one = entry(updated_at=now)
        assert len(resets) >= 4
        assert resets == [resets[0] + n * DAY for n in range(len(resets))]


def test_the_oracle_catches_a_day_that_begins_by_utc_or_twice() -> None:
    zone = _zones()["Europe/Berlin"]
    instants = list(_instants(_changes(zone), QUARTER))
    # The wall shows days of another zone: what a policy that forgot its zone would keep to.
    for other in (ZoneInfo("UTC"), _zones()["America/New_York"]):
        boundaries = [daily_boundary(now, 2, other) for now in instants]
        began = [later > earlier for earlier, later in pairwise(boundaries)]
        shown = [_day_shown(now, 2, zone) for now in instants]
        assert began != [later > earlier for earlier, later in pairwise(shown)]
