"""When an event is posted again, and when it is given up."""

from __future__ import annotations

import pytest

from gateway.signing.posting import Answer, PostError
from gateway.webhooks.planning import (
    JITTER,
    LONGEST_WISH_S,
    MAX_ATTEMPTS,
    Again,
    GiveUp,
    Gone,
    after_failure,
)

SCHEDULE_S = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400]


def test_pauses_are_those_of_standard_webhooks() -> None:
    decisions = [after_failure(Answer(500), attempt, 0.0) for attempt in range(1, MAX_ATTEMPTS)]

    assert decisions == [Again("answered 500", pause_s) for pause_s in SCHEDULE_S]


def test_after_the_last_try_an_event_is_given_up() -> None:
    lost = PostError("ReadError", sent=True)

    assert after_failure(lost, MAX_ATTEMPTS, 0.0) == GiveUp("given up after 10 tries: ReadError")


@pytest.mark.parametrize("attempt", range(1, MAX_ATTEMPTS))
def test_pauses_are_longer_by_chance_and_never_shorter(attempt: int) -> None:
    pause_s = SCHEDULE_S[attempt - 1]

    longest = after_failure(Answer(500), attempt, 1.0)

    assert isinstance(longest, Again)
    assert longest.pause_s == pytest.approx(pause_s * (1 + JITTER))


@pytest.mark.parametrize(
    ("wish_s", "pause_s"), [(None, 5), (0.0, 5), (3.0, 5), (60.0, 60), (1e9, LONGEST_WISH_S)]
)
def test_a_longer_pause_is_granted_where_the_endpoint_asks(
    wish_s: float | None, pause_s: float
) -> None:
    assert after_failure(Answer(429, wish_s), 1, 0.0) == Again("answered 429", pause_s)


@pytest.mark.parametrize("attempt", [1, MAX_ATTEMPTS])
def test_an_endpoint_that_is_gone_is_left_alone(attempt: int) -> None:
    assert after_failure(Answer(410), attempt, 0.0) == Gone("answered 410")
