"""Who fails too often is locked out for a while, and the table stays bounded."""

from __future__ import annotations

from gateway.api.lockout import LOCKOUT_S, MAX_ADDRESSES, MAX_FAILURES, WINDOW_S, Lockout


def test_the_tenth_failure_within_the_window_locks_out_for_five_minutes() -> None:
    lockout = Lockout()

    locked = [lockout.note_failure("a", now=float(second)) for second in range(MAX_FAILURES)]

    assert locked == [False] * 9 + [True]
    assert lockout.remaining_s("a", now=9.0) == LOCKOUT_S == 300
    assert lockout.remaining_s("a", now=308.5) == 0.5
    assert lockout.remaining_s("a", now=309.0) == 0
    assert lockout.remaining_s("b", now=9.0) == 0


def test_failures_spread_wider_than_the_window_lock_nobody_out() -> None:
    lockout = Lockout()
    step_s = WINDOW_S / (MAX_FAILURES - 1) + 0.01

    assert not any(lockout.note_failure("a", now=step_s * n) for n in range(100))


def test_failures_before_a_lockout_do_not_count_after_it() -> None:
    lockout = Lockout()
    for _ in range(MAX_FAILURES):
        lockout.note_failure("a", now=0.0)

    assert not lockout.note_failure("a", now=LOCKOUT_S)
    assert lockout.remaining_s("a", now=LOCKOUT_S) == 0


def test_the_oldest_addresses_are_forgotten() -> None:
    lockout = Lockout()
    for number in range(MAX_ADDRESSES + 10):
        for _ in range(MAX_FAILURES):
            lockout.note_failure(str(number), now=0.0)

    assert len(lockout) == MAX_ADDRESSES
    assert lockout.remaining_s("9", now=0.0) == 0
    assert lockout.remaining_s("10", now=0.0) > 0
