"""Laws of when a session starts anew."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import ChatType, SessionKey, SessionSource
from gateway.sessions.policy import (
    Action,
    Decision,
    Guard,
    ResetPolicy,
    daily_boundary,
    decide,
    is_active,
    next_reset,
    policy_for,
)
from gateway.sessions.settings import ResetMode, ResetSettings, SessionSettings
from tests.support.state import START, entry, key_of

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
IDLE = timedelta(hours=1)
# The day begins at 4; a message at 5 is idle and of today, one at 3 within the hour never is.
AT_NOON, AT_FIVE = NOW, datetime(2026, 1, 10, 4, 30, tzinfo=UTC)
FIVE, THREE_FORTY = datetime(2026, 1, 10, 5, tzinfo=UTC), datetime(2026, 1, 10, 3, 40, tzinfo=UTC)


def _idle(_: SessionKey) -> bool:
    return False


def _active(_: SessionKey) -> bool:
    return True


def _raising(_: SessionKey) -> bool:
    raise RuntimeError("the guard is broken")


INSTANTS = st.datetimes(
    datetime(2026, 1, 1),  # noqa: DTZ001 - in UTC by `timezones`
    datetime(2027, 1, 1),  # noqa: DTZ001 - in UTC by `timezones`
    timezones=st.just(UTC),
)


def _policy(mode: ResetMode) -> ResetPolicy:
    return ResetPolicy(mode=mode, idle=IDLE, at_hour=4)


RESET_REASONS: dict[tuple[bool, bool], dict[str, str]] = {
    # (idle holds, daily holds): the reason by mode
    (False, False): {},
    (True, False): {"idle": "idle", "both": "idle"},
    (False, True): {"daily": "daily", "both": "daily"},
    (True, True): {"idle": "idle", "daily": "daily", "both": "idle", "all": "idle"},
}
SITUATIONS = {
    # (idle holds, daily holds): the last message and now
    (False, False): (NOW - timedelta(minutes=5), NOW),
    (True, False): (FIVE, AT_NOON),
    (False, True): (THREE_FORTY, AT_FIVE),
    (True, True): (THREE_FORTY, AT_NOON),
}


@pytest.mark.parametrize("mode", ResetMode)
@pytest.mark.parametrize(("idle", "daily"), SITUATIONS)
def test_each_mode_resets_exactly_when_it_says(mode: ResetMode, *, idle: bool, daily: bool) -> None:
    last, now = SITUATIONS[idle, daily]
    reason = RESET_REASONS[idle, daily].get(mode)

    decision = decide(entry(updated_at=last), _policy(mode), now, _idle)

    wanted = Decision(Action.CONTINUE) if reason is None else Decision(Action.RESET, reason)
    assert decision == wanted


@pytest.mark.parametrize(
    ("silence", "action"),
    [
        pytest.param(IDLE - timedelta(microseconds=1), Action.CONTINUE, id="just below"),
        pytest.param(IDLE, Action.RESET, id="exactly"),
    ],
)
def test_a_session_is_idle_once_the_silence_reaches_the_limit(
    silence: timedelta, action: Action
) -> None:
    decision = decide(entry(updated_at=NOW - silence), _policy(ResetMode.IDLE), NOW, _idle)

    assert decision.action is action


@pytest.mark.parametrize(
    ("before", "action"),
    [
        pytest.param(timedelta(0), Action.CONTINUE, id="at the boundary is today"),
        pytest.param(timedelta(microseconds=1), Action.RESET, id="just before is yesterday"),
    ],
)
def test_a_day_ends_at_its_hour(before: timedelta, action: Action) -> None:
    last = datetime(2026, 1, 10, 4, tzinfo=UTC) - before

    assert decide(entry(updated_at=last), _policy(ResetMode.DAILY), NOW, _idle).action is action


@pytest.mark.parametrize("mode", [mode for mode in ResetMode if mode is not ResetMode.NONE])
@pytest.mark.parametrize("guard", [_active, _raising])
def test_live_work_or_a_broken_guard_prevents_a_reset(mode: ResetMode, guard: Guard) -> None:
    last, now = SITUATIONS[True, True]

    assert decide(entry(updated_at=last), _policy(mode), now, guard) == Decision(Action.CONTINUE)


def test_the_guard_is_asked_by_session_key_and_only_where_a_reset_is_due() -> None:
    asked: list[str] = []

    def guard(key: SessionKey) -> bool:
        asked.append(key)
        return False

    decide(entry(updated_at=NOW), _policy(ResetMode.BOTH), NOW, guard)
    assert asked == []
    decide(entry(updated_at=START), _policy(ResetMode.BOTH), NOW, guard)
    assert asked == [key_of()]


@pytest.mark.parametrize("mode", ResetMode)
@pytest.mark.parametrize("guard", [_idle, _active, _raising])
def test_a_suspended_session_is_paused_and_never_reset(mode: ResetMode, guard: Guard) -> None:
    paused = entry(updated_at=START, suspended_at=START)

    assert decide(paused, _policy(mode), NOW, guard) == Decision(Action.PAUSED)


@pytest.mark.parametrize("mode", ResetMode)
@pytest.mark.parametrize(
    ("by", "resumes", "action"),
    [
        ("user", True, Action.RESUME),
        ("user", False, Action.PAUSED),
        ("operator", True, Action.PAUSED),
        ("restarts", True, Action.PAUSED),
        (None, True, Action.PAUSED),
    ],
)
def test_a_message_resumes_only_what_its_user_paused_and_only_if_told_to(
    mode: ResetMode, by: str | None, *, resumes: bool, action: Action
) -> None:
    paused = entry(updated_at=START, suspended_at=START, suspended_by=by)
    policy = replace(_policy(mode), message_resumes=resumes)

    assert decide(paused, policy, NOW, _idle) == Decision(action)


@pytest.mark.parametrize("mode", ResetMode)
@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Berlin", "America/Santiago", "Australia/Lord_Howe"]
)
@given(last=INSTANTS, later=st.timedeltas(timedelta(0), timedelta(days=9)))
def test_the_next_reset_is_when_the_next_message_is_the_first_to_reset(
    mode: ResetMode, zone: str, last: datetime, later: timedelta
) -> None:
    one, policy = entry(updated_at=last), replace(_policy(mode), at_hour=0, zone=ZoneInfo(zone))

    at = next_reset(one, policy, last)

    resets = decide(one, policy, last + later, _idle).action is Action.RESET
    assert resets == (at is not None and last + later >= at)


@pytest.mark.parametrize("mode", ResetMode)
def test_an_update_in_the_future_counts_as_now(mode: ResetMode) -> None:
    ahead = entry(updated_at=NOW + timedelta(days=400))

    assert decide(ahead, _policy(mode), NOW, _idle) == Decision(Action.CONTINUE)


def test_without_an_entry_a_session_is_new() -> None:
    assert decide(None, _policy(ResetMode.BOTH), NOW, _raising) == Decision(Action.NEW)


@pytest.mark.parametrize(("guard", "active"), [(_idle, False), (_active, True), (_raising, True)])
def test_a_guard_that_raises_counts_as_active(guard: Guard, *, active: bool) -> None:
    assert is_active(guard, key_of()) is active


def test_overrides_win_field_by_field() -> None:
    settings = ResetSettings.model_validate(
        {
            "mode": "idle",
            "idle_minutes": 10,
            "at_hour": 1,
            "timezone": "Asia/Tokyo",
            "by_chat_type": {"group": {"idle_minutes": 20, "at_hour": 2}},
            "by_platform": {"telegram": {"at_hour": 3, "mode": "both"}},
        }
    )
    tokyo = ZoneInfo("Asia/Tokyo")
    minutes = timedelta(minutes=1)

    def policy(platform: str, chat_type: ChatType) -> ResetPolicy:
        return policy_for(SessionSettings(reset=settings), SessionSource(platform, "c", chat_type))

    assert policy("http", ChatType.DM) == ResetPolicy(ResetMode.IDLE, 10 * minutes, 1, tokyo)
    assert policy("http", ChatType.GROUP) == ResetPolicy(ResetMode.IDLE, 20 * minutes, 2, tokyo)
    assert policy("telegram", ChatType.DM) == ResetPolicy(ResetMode.BOTH, 10 * minutes, 3, tokyo)
    assert policy("telegram", ChatType.GROUP) == ResetPolicy(ResetMode.BOTH, 20 * minutes, 3, tokyo)


def test_the_default_never_resets() -> None:
    policy = policy_for(SessionSettings(), SessionSource("http", "c"))

    assert decide(entry(updated_at=START - timedelta(days=999)), policy, NOW, _idle) == Decision(
        Action.CONTINUE
    )


@pytest.mark.parametrize(
    ("zone", "hour", "now", "boundary"),
    [
        # Berlin, 2026-03-29: 02:00 becomes 03:00 at 01:00 UTC.
        ("Europe/Berlin", 2, "2026-03-29T00:59:59+00:00", "2026-03-28T01:00:00+00:00"),
        ("Europe/Berlin", 2, "2026-03-29T01:00:00+00:00", "2026-03-29T01:00:00+00:00"),
        ("Europe/Berlin", 3, "2026-03-29T01:00:00+00:00", "2026-03-29T01:00:00+00:00"),
        ("Europe/Berlin", 2, "2026-03-30T00:00:00+00:00", "2026-03-30T00:00:00+00:00"),
        # Berlin, 2026-10-25: 03:00 becomes 02:00 at 01:00 UTC; hour 2 comes twice.
        ("Europe/Berlin", 2, "2026-10-25T00:00:00+00:00", "2026-10-25T00:00:00+00:00"),
        ("Europe/Berlin", 2, "2026-10-25T01:30:00+00:00", "2026-10-25T00:00:00+00:00"),
        ("Europe/Berlin", 3, "2026-10-25T01:59:00+00:00", "2026-10-24T01:00:00+00:00"),
        ("Europe/Berlin", 3, "2026-10-25T02:00:00+00:00", "2026-10-25T02:00:00+00:00"),
        # Lord Howe moves by half an hour: 2026-10-04, 02:00 becomes 02:30 at 15:30 UTC.
        ("Australia/Lord_Howe", 2, "2026-10-03T15:29:59+00:00", "2026-10-02T15:30:00+00:00"),
        ("Australia/Lord_Howe", 2, "2026-10-03T15:30:00+00:00", "2026-10-03T15:30:00+00:00"),
        # Apia had no 2011-12-30.
        ("Pacific/Apia", 4, "2011-12-30T13:59:59+00:00", "2011-12-29T14:00:00+00:00"),
        ("Pacific/Apia", 4, "2011-12-30T14:00:00+00:00", "2011-12-30T14:00:00+00:00"),
        ("Pacific/Apia", 4, "2011-12-31T13:59:59+00:00", "2011-12-30T14:00:00+00:00"),
        # St. John's went back at 00:01, so that midnight came twice; the first one counts.
        ("America/St_Johns", 0, "2006-10-29T02:30:30+00:00", "2006-10-29T02:30:00+00:00"),
        ("America/St_Johns", 0, "2006-10-29T02:45:00+00:00", "2006-10-29T02:30:00+00:00"),
        ("America/St_Johns", 0, "2006-10-29T03:45:00+00:00", "2006-10-29T02:30:00+00:00"),
    ],
)
def test_the_day_begins_once_whatever_the_clocks_do(
    zone: str, hour: int, now: str, boundary: str
) -> None:
    found = daily_boundary(datetime.fromisoformat(now), hour, ZoneInfo(zone))

    assert found == datetime.fromisoformat(boundary)


ZONES = st.sampled_from(sorted(available_timezones())).map(ZoneInfo)
NOWS = st.datetimes(datetime(1990, 1, 1), datetime(2036, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis wants naive bounds


@given(ZONES, st.integers(0, 23), NOWS)
def test_a_boundary_lies_at_most_a_day_and_its_change_of_clocks_back(
    zone: ZoneInfo, hour: int, now: datetime
) -> None:
    boundary = daily_boundary(now, hour, zone)

    assert boundary <= now
    # Zones that left out a calendar day had a single day of up to 48 hours, one hour more at most.
    assert now - boundary < timedelta(hours=49)
    assert daily_boundary(boundary, hour, zone) == boundary


@given(ZONES, st.integers(0, 23), NOWS)
def test_boundaries_never_go_back_and_lie_a_day_apart(
    zone: ZoneInfo, hour: int, start: datetime
) -> None:
    steps = [start + timedelta(minutes=15 * n) for n in range(4 * 24 * 4)]
    boundaries = [daily_boundary(now, hour, zone) for now in steps]

    assert boundaries == sorted(boundaries)
    # The longest step of a zone in these years is Vostok's of 7 hours, but for the days left out.
    apart = [b - a for a, b in itertools.pairwise(sorted(set(boundaries)))]
    assert all(timedelta(hours=17) <= gap <= timedelta(hours=49) for gap in apart)


@given(ZONES, st.integers(0, 23), NOWS)
def test_who_writes_often_is_reset_once_for_each_boundary(
    zone: ZoneInfo, hour: int, start: datetime
) -> None:
    policy = ResetPolicy(mode=ResetMode.DAILY, at_hour=hour, zone=zone)
    one, resets = entry(updated_at=start), []
    for now in (start + timedelta(minutes=20 * n) for n in range(1, 3 * 24 * 3)):
        if decide(one, policy, now, _idle).action is Action.RESET:
            resets.append(daily_boundary(now, hour, zone))
        one = entry(updated_at=now)

    assert resets == sorted(set(resets))
    assert 2 <= len(resets) <= 4
