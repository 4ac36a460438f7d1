"""Unknown people in direct chats: they get a code, and whoever runs the gateway approves it.

The tables are the truth; who is paired and who waits is in memory too, changed by the writer thread
once it is durable, so that a message costs no read and a flood of strangers no write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.access import approval, records
from gateway.access.approval import MAX_FAILURES, Answer, Asked, answer_to
from gateway.access.records import Lock, PairedUser, Request, User
from gateway.access.settings import usable_id
from gateway.errors import ConflictError, DamagedDataError, NotFoundError
from gateway.log import get_logger
from gateway.model import clean_name

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.durable.batch import Transaction
    from gateway.durable.connection import Connection
    from gateway.durable.database import Database
    from gateway.model import SessionSource


@dataclass(frozen=True, slots=True)
class Listing:
    """Everybody who waits or is paired, and what is locked."""

    pending: Sequence[Request]
    paired: Sequence[PairedUser]
    locks: Sequence[Lock]
    """The accounts on which nothing is approved."""


@dataclass(slots=True)
class PairingStatistics:
    """What happened since the start, and how many there are."""

    paired: int = 0
    """Users who are paired."""
    pending: int = 0
    """Requests kept, those that ended and were not discarded yet included."""
    codes: int = 0
    """Codes given."""
    approved: int = 0
    wrong_codes: int = 0
    locked: int = 0
    """How often wrong codes locked an account."""
    revoked: int = 0


class Pairing:
    """Pairs people and parts with them."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Begin with nobody; use `load`."""
        self._database = database
        self._clock = clock
        # All are changed by the database's writer thread alone, in the order of its commits.
        self._paired: set[User] = set()
        self._pending: Sequence[Request] = ()
        self._locks: Sequence[Lock] = ()
        self._counts = PairingStatistics()

    @classmethod
    async def load(cls, database: Database, clock: Clock) -> Pairing:
        """Return the pairing of a database.

        Raises:
            DamagedDataError: what it holds cannot be read.
        """
        made = cls(database, clock)

        def query(connection: Connection) -> Listing:
            try:
                return _all(connection)
            except ValueError as exc:
                reason = "the pairing is damaged; `gateway store check` says more"
                raise DamagedDataError(Path(connection.filename), reason) from exc

        found = await database.read(query)
        made._pending, made._locks = found.pending, found.locks
        made._paired = {one.user for one in found.paired}
        return made

    def is_paired(self, source: SessionSource) -> bool:
        """Return whether a sender was paired; what that is worth in a group, others decide."""
        user = user_of(source)
        return bool(user[-1]) and user in self._paired

    async def ask(self, source: SessionSource) -> Asked:
        """Answer a stranger in a direct chat.

        The code must be neither stored nor logged by whoever passes it on.

        Durability: a code that is returned is durable; a repeat within minutes writes nothing.

        Raises:
            StorageFullError, StorageBusyError: nothing was stored; the stranger has no code.
        """
        user, now = user_of(source), self._clock.now()
        answer = answer_to(user, self._pending, self._locks, now)
        if answer in {Answer.QUIET, Answer.FULL, Answer.LOCKED}:
            return Asked(answer)

        code = records.new_code()
        request = records.new_request(user, clean_name(source.user_name), code, now)

        def work(transaction: Transaction) -> Asked:
            asked = approval.ask(transaction, request, code)
            self._show(transaction)
            return asked

        asked = await self._database.write(work)
        if asked.answer is Answer.CODE:
            self._counts.codes += 1
            get_logger().info("pairing.asked", **_named(user))
        return asked

    async def approve(self, code: str, platform: str = "", account: str = "") -> PairedUser:
        """Pair whoever got a code.

        Args:
            code: As they were told it; case, spaces and hyphens do not matter.
            platform: Where they write; empty: anywhere.
            account: Which of our accounts they write to; empty: any.

        Durability: on return the user is paired; a wrong code is counted before it is refused.

        Raises:
            BadRequestError: it does not look like a code; this counts for nothing.
            NotFoundError: nobody waits with this code.
            ConflictError: too many codes were wrong; the message says until when none is taken.
        """
        plain, now = records.plain_code(code), self._clock.now()

        def work(transaction: Transaction) -> PairedUser | approval.Wrong:
            found = approval.approve(transaction, plain, platform, account, now)
            if isinstance(found, PairedUser):
                transaction.on_commit(self._paired.add, found.user)
            self._show(transaction)
            return found

        found = await self._database.write(work)
        if isinstance(found, PairedUser):
            self._counts.approved += 1
            get_logger().info("pairing.approved", **_named(found.user))
            return found

        self._counts.locked += len(found.new)
        for lock in found.new:
            get_logger().warning(
                "pairing.locked",
                platform=lock.platform,
                account=lock.account,
                failures=lock.failures,
                locked_until=lock.locked_until,
            )
        locked = _said(found.held) if found.held else ""
        if found.held and not found.tried:
            raise ConflictError(locked)

        self._counts.wrong_codes += 1
        nobody = "Nobody waits with this code: it is wrong, was used, or is more than an hour old."
        raise NotFoundError(f"{nobody} {locked}".strip())

    async def revoke(self, platform: str, user_id: str, account: str = "") -> list[PairedUser]:
        """End the pairing of a user, at all of our accounts or at one; return what ended.

        Durability: on return the user's next message is a stranger's, also after a restart.

        Raises:
            NotFoundError: no such user is paired.
        """
        user_id = usable_id(user_id)

        def work(transaction: Transaction) -> list[PairedUser]:
            ended = [
                one
                for one in records.paired_users(transaction)
                if (one.platform, one.user_id) == (platform, user_id)
                and account in {"", one.account}
            ]
            for one in ended:
                records.remove_paired(transaction, one.user)
                transaction.on_commit(self._paired.discard, one.user)
            return ended

        ended = await self._database.write(work)
        if not ended:
            raise NotFoundError("No such user is paired.")

        self._counts.revoked += len(ended)
        for one in ended:
            get_logger().info("pairing.revoked", **_named(one.user))
        return ended

    async def listing(self) -> Listing:
        """Return everybody who waits or is paired; a code is known to nobody."""
        now = self._clock.now()

        def query(connection: Connection) -> Listing:
            found = _all(connection)
            return Listing(
                [one for one in found.pending if one.lives(now)],
                found.paired,
                [lock for lock in found.locks if lock.holds(now)],
            )

        return await self._database.read(query)

    async def discard_expired(self) -> int:
        """Delete requests whose time is over, and locks; return how many requests went."""
        now = self._clock.now()

        def work(transaction: Transaction) -> int:
            ended = approval.discard(transaction, now)
            self._show(transaction)
            return ended

        return await self._database.write(work)

    def statistics(self) -> PairingStatistics:
        """Return what happened since the start."""
        return replace(self._counts, paired=len(self._paired), pending=len(self._pending))

    def _show(self, transaction: Transaction) -> None:
        """Let memory have the requests and locks as they are now, once this is durable."""
        pending, locks = records.requests(transaction), records.locks(transaction)
        transaction.on_commit(self._set, tuple(pending), tuple(locks.values()))

    def _set(self, pending: Sequence[Request], locks: Sequence[Lock]) -> None:
        self._pending, self._locks = pending, locks


def user_of(source: SessionSource) -> User:
    """Return who sent a message; the id is empty where they have none that could match."""
    return source.platform, source.account, usable_id(source.user_id)


def _all(connection: Connection) -> Listing:
    """Return everything, what has ended included.

    Raises:
        ValueError: a stored instant is none.
    """
    pending, paired = records.requests(connection), records.paired_users(connection)
    return Listing(pending, paired, list(records.locks(connection).values()))


def _said(locks: Sequence[Lock]) -> str:
    """Return one sentence on all locks."""
    places: dict[str, list[str]] = {}
    for lock in locks:
        where = f"{lock.platform}/{lock.account}" if lock.account else lock.platform
        places.setdefault(f"{lock.locked_until:%Y-%m-%d %H:%M} UTC", []).append(where)
    none = ", ".join(f"on {', '.join(where)} until {until}" for until, where in places.items())
    return f"{MAX_FAILURES} codes in a row were wrong: none is taken {none}."


def _named(user: User) -> dict[str, str]:
    platform, account, user_id = user
    return {"platform": platform, "account": account, "user_id": clean_name(user_id)}
