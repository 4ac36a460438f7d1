"""The way of a request, each step in a transaction: somebody asks, a code is right or wrong."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from gateway.access import records
from gateway.access.records import Lock, PairedUser, Place, Request, User

if TYPE_CHECKING:
    from gateway.durable.batch import Transaction

MAX_PENDING: Final = 3
"""How many requests may wait at one account of a platform."""
TOLD_AGAIN_AFTER: Final = timedelta(minutes=10)
"""How long a stranger who asks again hears nothing."""
MAX_FAILURES: Final = 5
"""So many wrong codes in a row lock the approving of an account's requests."""


class Answer(StrEnum):
    """What somebody who wants to be paired is told."""

    CODE = "code"
    """A new code."""
    AGAIN = "again"
    """That they have one already; it cannot be told again, for nobody knows it."""
    QUIET = "quiet"
    """Nothing, for they were told a short time ago."""
    FULL = "full"
    """Nothing, for too many wait already."""
    LOCKED = "locked"
    """That it is not possible now: wrong codes have locked the account, and a code would end before
    the lock does."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The answer to somebody who wants to be paired."""

    answer: Answer
    code: str = field(default="", repr=False)
    """Of a new code: the code, known nowhere else."""
    expires_at: datetime | None = None
    """When the code ends; None where nothing is told."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """A code that nobody waits with."""

    held: Sequence[Lock]
    """The locks that hold, those that this code has brought about among them."""
    new: Sequence[Lock]
    """Those alone."""
    tried: int
    """Among how many requests it was looked for."""


def answer_to(
    user: User, pending: Collection[Request], locks: Collection[Lock], now: datetime
) -> Answer:
    """Return what somebody is told who asks, given all requests and locks there are. Pure."""
    if any(lock.place == user[:2] and lock.holds(now) for lock in locks):
        return Answer.LOCKED

    living = [one for one in pending if one.place == user[:2] and one.lives(now)]
    for one in living:
        if one.user == user:
            told_lately = abs(now - one.told_at) < TOLD_AGAIN_AFTER
            return Answer.QUIET if told_lately else Answer.AGAIN

    return Answer.FULL if len(living) >= MAX_PENDING else Answer.CODE


def ask(transaction: Transaction, request: Request, code: str) -> Asked:
    """Store a request whose time begins now, unless another answer is due."""
    now = request.asked_at
    pending = records.requests(transaction)
    answer = answer_to(request.user, pending, records.locks(transaction).values(), now)
    match answer:
        case Answer.CODE:
            discard(transaction, now)
            records.add_request(transaction, request)
            return Asked(answer, code, request.expires_at)
        case Answer.AGAIN:
            (waiting,) = (one for one in pending if one.user == request.user)
            records.note_told(transaction, request.user, now)
            return Asked(answer, expires_at=waiting.expires_at)
        case _:
            return Asked(answer)


def approve(
    transaction: Transaction, code: str, platform: str, account: str, now: datetime
) -> PairedUser | Wrong:
    """Pair whoever waits with a code; count it as wrong only where it might have been right.

    An empty platform or account is any.
    """
    locks = records.locks(transaction)
    meant = [
        one
        for one in records.requests(transaction)
        if one.lives(now) and platform in {"", one.platform} and account in {"", one.account}
    ]
    places = dict.fromkeys(one.place for one in meant)
    held = [locks[place] for place in places if place in locks and locks[place].holds(now)]
    closed = {lock.place for lock in held}
    tried = [one for one in meant if one.place not in closed]
    # Every one is compared, so that the time says nothing of which.
    fitting = [one for one in tried if records.fits(one, code)]
    if fitting:
        return _pair(transaction, fitting[0], now)

    counted = [_counted(locks, place, now) for place in places if place not in closed]
    for lock in counted:
        records.set_lock(transaction, lock)
    new = [lock for lock in counted if lock.holds(now)]
    return Wrong([*held, *new], new, len(tried))


def discard(transaction: Transaction, now: datetime) -> int:
    """Delete requests whose time is over, and locks; return how many requests went."""
    ended = [one for one in records.requests(transaction) if not one.lives(now)]
    for one in ended:
        records.remove_request(transaction, one.user)
    for lock in records.locks(transaction).values():
        if lock.locked_until is not None and not lock.holds(now):
            records.remove_lock(transaction, lock.place)
    return len(ended)


def _pair(transaction: Transaction, request: Request, now: datetime) -> PairedUser:
    paired = PairedUser(*request.user, request.user_name, now)
    records.remove_request(transaction, request.user)
    records.remove_lock(transaction, request.place)
    records.add_paired(transaction, paired)
    return paired


def _counted(locks: dict[Place, Lock], place: Place, now: datetime) -> Lock:
    """Return the wrong codes of an account with one more; what a lock has ended counts no more."""
    before = locks.get(place)
    failures = 1 if before is None or before.locked_until else before.failures + 1
    return Lock(*place, failures, now + records.LOCK if failures >= MAX_FAILURES else None)
