"""Who was paired, who asked to be, and how often a code was guessed wrong: SQL over three tables.

Codes are never stored: a request keeps a salt and a hash. The hash is a fast one: a code lives for
an hour, and whoever reads the database could read the API's token beside it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

from gateway.errors import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.durable.batch import Queries, Transaction

ALPHABET: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""32 letters and digits; 0 and O, 1 and I are left out, for people read codes to each other."""
CODE_CHARS: Final = 8
CODE_LIFE: Final = timedelta(hours=1)
LOCK: Final = timedelta(hours=1)
"""How long none of an account's requests is approved after too many wrong codes."""
_SALT_BYTES: Final = 16
_HASH_BYTES: Final = 32
_CODE: Final = re.compile(f"[{ALPHABET}]{{{CODE_CHARS}}}")

Place: TypeAlias = tuple[str, str]
"""A platform and one of our accounts on it."""
User: TypeAlias = tuple[str, str, str]
"""A platform, one of our accounts on it, and the id of somebody there."""


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody who asked to be paired and waits."""

    platform: str
    account: str
    user_id: str
    user_name: str
    """As the platform tells it, cleaned."""
    asked_at: datetime
    told_at: datetime
    """When they were last told anything."""
    salt: str = field(repr=False)
    code_hash: str = field(repr=False)

    @property
    def user(self) -> User:
        """Who it is."""
        return self.platform, self.account, self.user_id

    @property
    def place(self) -> Place:
        """Where they write."""
        return self.platform, self.account

    @property
    def expires_at(self) -> datetime:
        """When the code ends."""
        return self.asked_at + CODE_LIFE

    def lives(self, now: datetime) -> bool:
        """Return whether the code counts; one from a future that a clock step undid does not."""
        return abs(now - self.asked_at) < CODE_LIFE


@dataclass(frozen=True, slots=True)
class Lock:
    """Wrong codes in a row at one account of a platform."""

    platform: str
    account: str
    failures: int
    locked_until: datetime | None

    @property
    def place(self) -> Place:
        """Which account."""
        return self.platform, self.account

    def holds(self, now: datetime) -> bool:
        """Return whether nothing is approved; twice the time bounds what a clock step makes."""
        until = self.locked_until
        return until is not None and now < until <= now + 2 * LOCK


@dataclass(frozen=True, slots=True)
class PairedUser:
    """Somebody who may talk in direct chats because a code of theirs was approved."""

    platform: str
    account: str
    user_id: str
    user_name: str
    paired_at: datetime

    @property
    def user(self) -> User:
        """Who it is."""
        return self.platform, self.account, self.user_id


def new_code() -> str:
    """Return a code that nobody can guess: 40 random bits."""
    return "".join(secrets.choice(ALPHABET) for _ in range(CODE_CHARS))


def plain_code(text: str) -> str:
    """Return a code as it was made, whatever case, spaces and hyphens people type.

    Raises:
        BadRequestError: no code looks like this.
    """
    code = "".join(text.split()).replace("-", "").upper()
    if not _CODE.fullmatch(code):
        raise BadRequestError(
            f"This is no code; accepted are {CODE_CHARS} letters and digits without 0, O, 1 and I."
        )

    return code


def new_request(user: User, user_name: str, code: str, at: datetime) -> Request:
    """Return a request of somebody who is told the code now."""
    salt = secrets.token_hex(_SALT_BYTES)
    return Request(*user, user_name, at, at, salt, _hashed(code, salt))


def fits(request: Request, code: str) -> bool:
    """Return whether a code is the request's, in a time that says nothing of it."""
    return hmac.compare_digest(_hashed(code, request.salt).encode(), request.code_hash.encode())


def requests(place: Queries) -> list[Request]:
    """Return every request, those whose time is over included, in the order they came.

    Raises:
        ValueError: a stored instant is none.
    """
    rows = place.execute(
        "SELECT platform, account, user_id, user_name, asked_at, told_at, salt, code_hash "
        "FROM pairing_requests ORDER BY position"
    )
    return [
        Request(*_texts(who), _instant(asked_at), _instant(told_at), str(salt), str(code_hash))
        for *who, asked_at, told_at, salt, code_hash in rows
    ]


def add_request(transaction: Transaction, request: Request) -> None:
    """Store a request in the place of the user's one before."""
    remove_request(transaction, request.user)
    transaction.execute(
        "INSERT INTO pairing_requests (platform, account, user_id, user_name, salt, code_hash, "
        "asked_at, told_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *request.user,
            request.user_name,
            request.salt,
            request.code_hash,
            _stamp(request.asked_at),
            _stamp(request.told_at),
        ),
    )


def note_told(transaction: Transaction, user: User, at: datetime) -> None:
    """Note that somebody who waits was told so again."""
    transaction.execute(
        "UPDATE pairing_requests SET told_at = ? "
        "WHERE platform = ? AND account = ? AND user_id = ?",
        (_stamp(at), *user),
    )


def remove_request(transaction: Transaction, user: User) -> None:
    """Take out the request of a user, if there is one."""
    transaction.execute(
        "DELETE FROM pairing_requests WHERE platform = ? AND account = ? AND user_id = ?", user
    )


def locks(place: Queries) -> dict[Place, Lock]:
    """Return the wrong codes in a row of each account that has any.

    Raises:
        ValueError: a stored instant is none.
    """
    rows = place.execute("SELECT platform, account, failures, locked_until FROM pairing_locks")
    found = [
        Lock(str(platform), str(account), int(str(failures)), _instant(until) if until else None)
        for platform, account, failures, until in rows
    ]
    return {(lock.platform, lock.account): lock for lock in found}


def set_lock(transaction: Transaction, lock: Lock) -> None:
    """Store how often a code was wrong, and until when nothing is approved."""
    until = None if lock.locked_until is None else _stamp(lock.locked_until)
    transaction.execute(
        "INSERT OR REPLACE INTO pairing_locks (platform, account, failures, locked_until) "
        "VALUES (?, ?, ?, ?)",
        (lock.platform, lock.account, lock.failures, until),
    )


def remove_lock(transaction: Transaction, at: Place) -> None:
    """Forget the wrong codes of an account."""
    transaction.execute("DELETE FROM pairing_locks WHERE platform = ? AND account = ?", at)


def paired_users(place: Queries) -> list[PairedUser]:
    """Return everybody who is paired, in the order they were.

    Raises:
        ValueError: a stored instant is none.
    """
    rows = place.execute(
        "SELECT platform, account, user_id, user_name, paired_at FROM paired_users "
        "ORDER BY position"
    )
    return [PairedUser(*_texts(who), _instant(paired_at)) for *who, paired_at in rows]


def add_paired(transaction: Transaction, paired: PairedUser) -> None:
    """Store that a user is paired."""
    remove_paired(transaction, paired.user)
    transaction.execute(
        "INSERT INTO paired_users (platform, account, user_id, user_name, paired_at) "
        "VALUES (?, ?, ?, ?, ?)",
        (*paired.user, paired.user_name, _stamp(paired.paired_at)),
    )


def remove_paired(transaction: Transaction, user: User) -> None:
    """Take out a user, if they are paired."""
    transaction.execute(
        "DELETE FROM paired_users WHERE platform = ? AND account = ? AND user_id = ?", user
    )


def _hashed(code: str, salt: str) -> str:
    keyed = hashlib.blake2b(code.encode(), key=salt.encode(), digest_size=_HASH_BYTES)
    return keyed.hexdigest()


def _texts(who: Sequence[object]) -> tuple[str, str, str, str]:
    platform, account, user_id, user_name = map(str, who)
    return platform, account, user_id, user_name


def _stamp(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _instant(value: object) -> datetime:
    at = datetime.fromisoformat(str(value))
    if at.tzinfo is None:
        raise ValueError(f"{value!r} is no instant")

    return at
