"""Tokens of API clients: each opens the OpenAI-compatible routes under a name of its own.

Only a hash is stored: a secret has 256 random bits, so that a fast one is enough. The table is the
truth; the living tokens are in memory too, changed by the writer thread once it is durable, so that
each request looks anew and a revoked token ends at once.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.durable.batch import PASSING
from gateway.errors import BadRequestError, ConflictError, DamagedDataError, NotFoundError
from gateway.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.clock import Clock
    from gateway.durable.batch import Queries, Transaction
    from gateway.durable.connection import Connection
    from gateway.durable.database import Database

PREFIX: Final = "sgw_"
"""What every secret begins with, so that scanners find one that leaked."""
SECRET_BYTES: Final = 32
OPERATOR: Final = "operator"
"""What whoever has the gateway's own token is called where a name is needed."""
MAX_LIVING: Final = 256
"""How many tokens may open the API at a time; each request compares with all of them."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_COLUMNS: Final = ("name", "hash", "created_at", "last_used_at", "revoked_at")


@dataclass(frozen=True, slots=True)
class ClientToken:
    """One token; the secret itself is known to nobody but its client."""

    name: str
    """Unique for ever: the client's sessions and its usage are kept under it."""
    digest: bytes = field(repr=False)
    """SHA-256 of the secret; empty once it is revoked."""
    created_at: datetime
    last_used_at: datetime | None = None
    """The hour in which it was last used; None: never."""
    revoked_at: datetime | None = None


class ClientTokens:
    """Makes tokens, ends them, and says whose a secret is."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Begin with none; use `load`."""
        self._database = database
        self._clock = clock
        # Replaced by the database's writer thread alone, in the order of its commits.
        self._living: dict[str, ClientToken] = {}
        self._noted: dict[str, tuple[bytes, datetime]] = {}
        """By name, the token and the hour that are noted of its use already."""

    @classmethod
    async def load(cls, database: Database, clock: Clock) -> ClientTokens:
        """Return the tokens of a database.

        Raises:
            DamagedDataError: what it holds cannot be read.
        """
        made = cls(database, clock)

        def query(connection: Connection) -> list[ClientToken]:
            try:
                return _all(connection)
            except ValueError as exc:
                reason = "the table of tokens is damaged; `gateway store check` says more"
                raise DamagedDataError(Path(connection.filename), reason) from exc

        made._show(await database.read(query))
        return made

    def owner(self, secret: bytes) -> ClientToken | None:
        """Return the living token whose secret this is; None where it is none's.

        It takes a time that says nothing of any secret: the hashes of all are compared.
        """
        digest = hashlib.sha256(secret).digest()
        found = None
        for token in self._living.values():
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found

    def is_open(self, token: ClientToken) -> bool:
        """Return whether a token opens the API still: it, not a later one of its name."""
        living = self._living.get(token.name)
        return living is not None and living.digest == token.digest

    async def create(self, name: str, *, again: bool = False) -> tuple[ClientToken, str]:
        """Make a token; return it with its secret, which is known nowhere else.

        Args:
            name: 1 to 64 characters A-Z a-z 0-9 _ . -, beginning with a letter or a digit.
            again: Whether it may be the name of a revoked one, whose sessions it finds then.

        Durability: on return it opens the API, also after a restart.

        Raises:
            BadRequestError: the name is none.
            ConflictError: a token has this name, or had it, or there are too many.
        """
        if not _NAME.fullmatch(name) or name == OPERATOR:
            raise BadRequestError(
                "name: accepted are 1 to 64 characters A-Z a-z 0-9 _ . -, beginning with a letter "
                f"or a digit; {OPERATOR} is taken."
            )

        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        digest = hashlib.sha256(secret.encode()).digest()
        token = ClientToken(name, digest, self._clock.now())

        def work(transaction: Transaction) -> None:
            _check_free(_all(transaction), name, again=again)
            transaction.execute("DELETE FROM api_tokens WHERE name = ?", (name,))
            transaction.execute(
                "INSERT INTO api_tokens (name, hash, created_at) VALUES (?, ?, ?)",
                (name, digest.hex(), _stamp(token.created_at)),
            )
            transaction.on_commit(self._show, _all(transaction))

        await self._database.write(work)
        get_logger().info("client_token.created", name=name)
        return token, secret

    async def revoke(self, name: str) -> ClientToken:
        """End a token; its name stays taken, for its sessions are under it.

        Durability: on return it opens nothing any more, also after a restart.

        Raises:
            NotFoundError: there is none of this name.
            ConflictError: it was revoked before.
        """
        now = self._clock.now()

        def work(transaction: Transaction) -> ClientToken:
            found = next((one for one in _all(transaction) if one.name == name), None)
            if found is None:
                raise NotFoundError("There is no token of this name.")
            if found.revoked_at is not None:
                raise ConflictError(f"It was revoked at {_stamp(found.revoked_at)}.")

            transaction.execute(
                "UPDATE api_tokens SET hash = '', revoked_at = ? WHERE name = ?",
                (_stamp(now), name),
            )
            transaction.on_commit(self._show, _all(transaction))
            return replace(found, digest=b"", revoked_at=now)

        revoked = await self._database.write(work)
        get_logger().info("client_token.revoked", name=name)
        return revoked

    async def listing(self) -> list[ClientToken]:
        """Return all tokens, revoked ones included, in the order they were made."""
        return await self._database.read(_all)

    async def note_used(self, token: ClientToken) -> None:
        """Note that a token is used, once an hour at most.

        A disk that takes nothing now costs the note, not the request.
        """
        hour = self._clock.now().replace(minute=0, second=0, microsecond=0)
        noted = (token.digest, hour)
        if self._noted.get(token.name) == noted:
            return

        def work(transaction: Transaction) -> None:
            transaction.execute(
                "UPDATE api_tokens SET last_used_at = ? WHERE name = ? AND hash = ?",
                (_stamp(hour), token.name, token.digest.hex()),
            )

        # At once, so that requests at the same time do not all write.
        self._noted[token.name] = noted
        try:
            await self._database.write(work)
        except PASSING:
            get_logger().debug("client_token.use_not_noted", name=token.name)

    def _show(self, tokens: list[ClientToken]) -> None:
        self._living = {one.name: one for one in tokens if one.revoked_at is None}


def _check_free(tokens: list[ClientToken], name: str, *, again: bool) -> None:
    """Refuse a name whose sessions would pass to somebody else unasked."""
    before = next((one for one in tokens if one.name == name), None)
    if before is not None and before.revoked_at is None:
        raise ConflictError("A token has this name; revoke it first.")
    if before is not None and not again:
        raise ConflictError(
            "A revoked token had this name: a new one would find its sessions. "
            "Choose another name, or say that it may: --again, in a request again = true."
        )
    if before is None and again:
        raise ConflictError(
            "No token ever had this name, so none can be made again: leave out --again, in a "
            "request again."
        )
    if sum(one.revoked_at is None for one in tokens) >= MAX_LIVING:
        raise ConflictError(f"There are {MAX_LIVING} tokens; revoke one first.")


def token_of(fields: Mapping[str, object]) -> ClientToken:
    """Return the token of a row.

    Raises:
        ValueError: it is none; the message says why.
    """
    name, digest = str(fields["name"]), str(fields["hash"])
    revoked_at = _instant(fields["revoked_at"])
    created_at = _instant(fields["created_at"])
    if not _NAME.fullmatch(name) or created_at is None:
        raise ValueError("not a name or an instant")
    if not (_HASH.fullmatch(digest) if revoked_at is None else digest == ""):
        raise ValueError("not a hash")

    used_at = _instant(fields["last_used_at"])
    return ClientToken(name, bytes.fromhex(digest), created_at, used_at, revoked_at)


def _all(place: Queries) -> list[ClientToken]:
    """Return every token.

    Raises:
        ValueError: one cannot be read.
    """
    rows = place.execute(f"SELECT {', '.join(_COLUMNS)} FROM api_tokens ORDER BY position")  # noqa: S608 - constant column names
    return [token_of(dict(zip(_COLUMNS, row, strict=True))) for row in rows]


def _instant(value: object) -> datetime | None:
    if value is None:
        return None

    at = datetime.fromisoformat(str(value))
    if at.tzinfo is None:
        raise ValueError("not an instant")

    return at


def _stamp(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
