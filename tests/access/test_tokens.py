"""Tokens of clients: what is stored, whose a secret is, and how one ends."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.access import tokens
from gateway.access.tokens import ClientTokens
from gateway.clock import FakeClock
from gateway.errors import BadRequestError, ConflictError, DamagedDataError, NotFoundError
from tests.support.state import open_state

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.state import State


def owner_of(clients: ClientTokens, secret: str) -> str | None:
    token = clients.owner(secret.encode())
    return None if token is None else token.name


async def rows(state: State) -> list[tuple[Any, ...]]:
    return await state.database.read(
        lambda connection: list(
            connection.execute("SELECT name, hash, last_used_at FROM api_tokens ORDER BY position")
        )
    )


async def test_a_secret_is_random_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_state(tmp_path, clock) as state:
        clients = await ClientTokens.load(state.database, clock)
        (_, one), (_, other) = await clients.create("a"), await clients.create("b")
        stored = await rows(state)
        owners = [owner_of(clients, secret) for secret in (one, other, one[:-1], "")]
        again = await ClientTokens.load(state.database, clock)

        assert owner_of(again, other) == "b"
    assert one.startswith("sgw_")
    assert len(base64.urlsafe_b64decode(one.removeprefix("sgw_") + "=")) == 32
    assert [row[1] for row in stored] == [
        hashlib.sha256(secret.encode()).hexdigest() for secret in (one, other)
    ]
    assert owners == ["a", "b", None, None]
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or one.encode() not in path.read_bytes()


async def test_a_revoked_token_ends_at_once_and_keeps_its_name(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_state(tmp_path, clock) as state:
        clients = await ClientTokens.load(state.database, clock)
        first, secret = await clients.create("a")
        revoked = await clients.revoke("a")

        assert owner_of(clients, secret) is None
        assert owner_of(await ClientTokens.load(state.database, clock), secret) is None
        # What is empty is nobody's hash.
        assert owner_of(clients, "") is None
        assert revoked.revoked_at == clock.now()
        assert (await rows(state))[0][1] == ""
        with pytest.raises(ConflictError, match="revoked at"):
            await clients.revoke("a")
        with pytest.raises(ConflictError, match="would find its sessions"):
            await clients.create("a")
        with pytest.raises(ConflictError, match="ever had this name"):
            await clients.create("c", again=True)

        later, other = await clients.create("a", again=True)
        assert (owner_of(clients, secret), owner_of(clients, other)) == (None, "a")
        assert (clients.is_open(first), clients.is_open(later)) == (False, True)
        with pytest.raises(ConflictError, match="revoke it first"):
            await clients.create("a", again=True)
        with pytest.raises(NotFoundError):
            await clients.revoke("b")


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "a:b", "x" * 65, "operator", "\u00e9"])
async def test_a_name_that_is_none_makes_no_token(tmp_path: Path, name: str) -> None:
    clock = FakeClock()
    async with open_state(tmp_path, clock) as state:
        clients = await ClientTokens.load(state.database, clock)
        with pytest.raises(BadRequestError, match="accepted are 1 to 64"):
            await clients.create(name)

        assert not await rows(state)


async def test_the_last_use_is_noted_by_the_hour(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_state(tmp_path, clock) as state:
        clients = await ClientTokens.load(state.database, clock)
        token, _ = await clients.create("a")
        await clock.advance(600)
        before = state.database.statistics().transactions
        for _ in range(5):
            await clients.note_used(token)
        after = state.database.statistics().transactions
        (first,) = await clients.listing()
        await clock.advance(3_600)
        await clients.note_used(token)
        (second,) = await clients.listing()

    assert after - before == 1
    assert first.last_used_at == first.created_at
    assert second.last_used_at == first.created_at + timedelta(hours=1)


async def test_a_token_made_again_has_a_last_use_of_its_own(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_state(tmp_path, clock) as state:
        clients = await ClientTokens.load(state.database, clock)
        first, _ = await clients.create("a")
        await clients.note_used(first)
        await clients.revoke("a")
        later, _ = await clients.create("a", again=True)
        # A request of the old one that is only now noted.
        await clients.note_used(first)
        (before,) = await clients.listing()
        await clients.note_used(later)
        (after,) = await clients.listing()

    assert before.last_used_at is None
    assert after.last_used_at == clock.now()


async def test_secrets_are_compared_by_their_hashes_and_with_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the time that a look-up takes says nothing of any secret."""
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def noting(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    async with open_state(tmp_path, FakeClock()) as state:
        clients = await ClientTokens.load(state.database, FakeClock())
        secrets = [(await clients.create(name))[1] for name in ("a", "b")]
        compared.clear()
        owners = [owner_of(clients, secret) for secret in (secrets[0], "sgw_wrong")]

    hashes = [hashlib.sha256(secret.encode()).digest() for secret in secrets]
    wrong = hashlib.sha256(b"sgw_wrong").digest()
    assert compared == [(one, asked) for asked in (hashes[0], wrong) for one in hashes]
    assert owners == ["a", None]


async def test_there_is_a_bound_on_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_LIVING", 2)
    clock = FakeClock()
    async with open_state(tmp_path, clock) as state:
        clients = await ClientTokens.load(state.database, clock)
        await clients.create("a")
        await clients.create("b")
        with pytest.raises(ConflictError, match="There are 2 tokens"):
            await clients.create("c")

        await clients.revoke("a")
        await clients.create("c")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE api_tokens SET hash = ''",
        "UPDATE api_tokens SET hash = 'x'",
        "UPDATE api_tokens SET created_at = 'then'",
        "UPDATE api_tokens SET revoked_at = '2026-01-01T00:00:00Z'",
    ],
)
async def test_a_damaged_table_opens_nothing(tmp_path: Path, change: str) -> None:
    clock = FakeClock()
    async with open_state(tmp_path, clock) as state:
        clients = await ClientTokens.load(state.database, clock)
        await clients.create("a")
        await state.database.write(lambda transaction: list(transaction.execute(change)))
        with pytest.raises(DamagedDataError, match="tokens is damaged"):
            await ClientTokens.load(state.database, clock)
