"""Laws of the lanes: who may wait, and who works."""

from __future__ import annotations

import anyio
import pytest

from gateway.clock import FakeClock
from gateway.errors import BusyError
from gateway.model import SessionKey
from gateway.turns.lanes import Lanes
from gateway.turns.settings import TurnSettings

A, B = SessionKey("a"), SessionKey("b")


def _lanes(clock: FakeClock | None = None, **settings: object) -> Lanes[str]:
    return Lanes(TurnSettings.model_validate(settings), clock or FakeClock())


def _enter(lanes: Lanes[str], key: SessionKey, item: str) -> bool:
    lanes.reserve(key, "u")
    return lanes.join(key, item)


def test_the_first_item_of_a_lane_asks_for_a_worker_and_later_ones_do_not() -> None:
    lanes = _lanes()

    assert _enter(lanes, A, "1")
    assert not _enter(lanes, A, "2")
    assert _enter(lanes, B, "3")

    assert lanes.waiting == 3


def test_a_lane_is_busy_from_the_reservation_until_its_worker_found_nothing() -> None:
    lanes = _lanes()
    assert not lanes.is_busy(A)

    lanes.reserve(A, "u")
    assert lanes.is_busy(A)
    assert not lanes.has_turn(A)

    lanes.join(A, "1")
    assert lanes.has_turn(A)
    assert lanes.has_next(A)
    assert lanes.next(A) == "1"
    assert lanes.is_busy(A)
    assert lanes.has_turn(A)

    assert not lanes.has_next(A)
    assert not lanes.is_busy(A)
    assert lanes.waiting == 0


def test_items_leave_in_the_order_they_came() -> None:
    lanes = _lanes()
    for item in "123":
        _enter(lanes, A, item)

    assert [lanes.next(A) for _ in range(3) if lanes.has_next(A)] == ["1", "2", "3"]


def test_a_released_place_leaves_nothing_behind() -> None:
    lanes = _lanes()

    lanes.reserve(A, "u")
    lanes.release(A, "u")

    assert not lanes.is_busy(A)
    assert lanes.waiting == 0


@pytest.mark.parametrize("behind", [0, 1, 3])
def test_a_session_takes_one_running_item_and_so_many_behind_it(behind: int) -> None:
    lanes = _lanes(max_waiting_per_session=behind)
    _enter(lanes, A, "runs")
    assert lanes.next(A) == "runs"
    for _ in range(behind):
        _enter(lanes, A, "waits")

    with pytest.raises(BusyError) as caught:
        lanes.reserve(A, "u")

    assert caught.value.caller_limit
    assert lanes.waiting == behind
    _enter(lanes, B, "another session")


@pytest.mark.parametrize("behind", [0, 1, 3])
def test_an_item_that_has_not_begun_is_not_counted_as_behind_itself(behind: int) -> None:
    lanes = _lanes(max_waiting_per_session=behind)
    for _ in range(1 + behind):
        _enter(lanes, A, "waits for a slot")

    with pytest.raises(BusyError):
        lanes.reserve(A, "u")

    assert lanes.waiting == 1 + behind


def test_a_turn_that_ended_is_not_counted_as_running_while_the_next_waits_for_a_slot() -> None:
    lanes = _lanes(max_waiting_per_session=1)
    _enter(lanes, A, "ends")
    assert lanes.next(A) == "ends"
    _enter(lanes, A, "waits for a slot")
    assert lanes.has_next(A)

    _enter(lanes, A, "waits behind it")

    with pytest.raises(BusyError):
        lanes.reserve(A, "u")


def test_the_gateway_takes_so_many_waiting_items_over_all_sessions() -> None:
    lanes = _lanes(max_waiting=2)
    _enter(lanes, A, "1")
    lanes.reserve(B, "u")

    with pytest.raises(BusyError) as caught:
        lanes.reserve(SessionKey("c"), "u")

    assert not caught.value.caller_limit
    assert not lanes.is_busy(SessionKey("c"))
    assert lanes.next(A) == "1"
    lanes.reserve(SessionKey("c"), "u")


def test_what_a_restart_found_is_let_in_beyond_every_bound() -> None:
    lanes = _lanes(max_waiting=1, max_waiting_per_session=0, messages_per_minute=1)

    for item in "123":
        lanes.admit(A, item)

    assert lanes.waiting == 3
    assert lanes.idle_keys() == [A]


async def test_a_minute_of_messages_may_come_at_once_and_refills_evenly() -> None:
    clock = FakeClock()
    lanes = _lanes(clock, messages_per_minute=3)
    for _ in range(3):
        lanes.reserve(A, "u")

    with pytest.raises(BusyError) as caught:
        lanes.reserve(A, "u")
    assert caught.value.caller_limit
    assert caught.value.retry_after_s == pytest.approx(20)
    lanes.reserve(B, "u")

    with anyio.fail_after(30):
        await clock.advance(19.9)
        with pytest.raises(BusyError):
            lanes.reserve(A, "u")
        await clock.advance(0.2)
    lanes.reserve(A, "u")
    with pytest.raises(BusyError):
        lanes.reserve(A, "u")


async def test_a_forgotten_key_has_its_whole_minute_again() -> None:
    lanes = _lanes(messages_per_minute=1)
    lanes.reserve(A, "u")

    lanes.forget(A)

    lanes.reserve(A, "u")
