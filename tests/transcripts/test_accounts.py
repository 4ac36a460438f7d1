"""Laws of a session's account of its context."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import settings as running
from hypothesis import strategies as st

from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.model import SessionId, clean_text
from gateway.transcripts import accounts
from gateway.transcripts.accounts import ContextAccount

if TYPE_CHECKING:
    from pathlib import Path

ID, OTHER = SessionId("s1"), SessionId("s2")
AT = "2026-01-01T00:00:00Z"
NUMBERS = st.integers(-(2**62), 2**62)
TEXTS = st.text(max_size=20).map(clean_text)
ACCOUNTS = st.builds(
    ContextAccount,
    model=TEXTS,
    request_tokens=NUMBERS,
    overhead_tokens=NUMBERS,
    tokens_per_estimate=st.floats(0.25, 8),
    weighed_tokens=NUMBERS,
    cache_verdict=TEXTS,
    rounds=NUMBERS,
    trimmed=NUMBERS,
    cleared=NUMBERS,
    saved_tokens=NUMBERS,
    saved_usd=st.none() | st.floats(-1e9, 1e9),
    last_round_at=st.none() | st.just(AT),
)


@running(max_examples=30)
@given(first=ACCOUNTS, second=ACCOUNTS)
async def test_the_last_account_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, first: ContextAccount, second: ContextAccount
) -> None:
    path = tmp_path_factory.mktemp("accounts") / "gateway.db"
    async with Database.open(path, FakeClock()) as database:
        for one in (first, second):
            await database.write(lambda tx, one=one: accounts.keep(tx, ID, one))  # type: ignore[misc]
            assert await database.read(lambda conn: accounts.read(conn, ID)) == one

        assert await database.read(lambda conn: accounts.read(conn, OTHER)) == ContextAccount()


async def test_the_account_of_a_session_of_which_nothing_is_known_is_empty(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        empty = await database.read(lambda conn: accounts.read(conn, ID))

    assert empty == ContextAccount()
    assert (empty.rounds, empty.saved_usd, empty.last_round_at) == (0, None, None)


@pytest.mark.parametrize(
    ("before", "saved", "after"),
    [
        pytest.param(None, None, None, id="no-price"),
        pytest.param(None, 0.5, 0.5, id="first-price"),
        pytest.param(0.5, 0.25, 0.75, id="both"),
        pytest.param(0.5, None, 0.5, id="price-taken-away"),
        pytest.param(0.5, -1.0, -0.5, id="a-loss"),
    ],
)
def test_a_round_adds_to_the_account(
    before: float | None, saved: float | None, after: float | None
) -> None:
    account = ContextAccount(
        model="m", rounds=1, trimmed=2, cleared=3, saved_tokens=4, saved_usd=before
    )
    added = account.with_round(trimmed=10, cleared=20, saved_tokens=30, saved_usd=saved, at=AT)

    assert added == replace(
        account,
        rounds=2,
        trimmed=12,
        cleared=23,
        saved_tokens=34,
        saved_usd=after,
        last_round_at=AT,
    )


@pytest.mark.parametrize("fixed_tokens", [0, 700, 12_000])
@pytest.mark.parametrize("rate", [0.8, 1.0, 1.33, 2.5, 4.0])
def test_what_remains_after_a_round_is_told_within_a_tenth(rate: float, fixed_tokens: int) -> None:
    """Whether the provider counts something beside the messages, or denser than estimated."""
    account, estimated = ContextAccount(), 0
    for _ in range(40):
        estimated += 5_000
        counted = fixed_tokens + round(rate * estimated)
        account = account.with_request("m", tokens=counted, estimated=estimated, verdict="hit")
        assert account.tokens(estimated) == counted

    pruned = 35_000
    real = fixed_tokens + rate * pruned
    assert abs(account.tokens(pruned) - real) < 0.1 * real


def test_before_anything_has_grown_the_excess_is_taken_for_constant() -> None:
    account = ContextAccount().with_request("m", tokens=1_500, estimated=1_000, verdict="hit")

    assert (account.overhead_tokens, account.tokens_per_estimate) == (500, 1.0)
    assert account.tokens(400) == 900


@pytest.mark.parametrize("tokens", [0, 1, 10**9])
def test_a_provider_that_counts_nonsense_bends_the_rate_within_bounds(tokens: int) -> None:
    account = ContextAccount().with_request("m", tokens=1_000, estimated=1_000, verdict="hit")
    account = account.with_request("m", tokens=tokens, estimated=9_000_000, verdict="hit")

    assert 0.25 <= account.tokens_per_estimate <= 8
    assert account.tokens(9_000_000) == tokens
    assert account.tokens(0) >= 0


def test_another_model_counts_anew() -> None:
    account = ContextAccount(rounds=3)
    for size in (1_000, 9_000):
        account = account.with_request("m", tokens=2 * size, estimated=size, verdict="hit")
    assert account.tokens_per_estimate > 1.5

    other = account.of("n")
    assert (other.model, other.overhead_tokens, other.tokens_per_estimate) == ("n", 0, 1.0)
    assert other.rounds == 3
    assert account.with_request("n", tokens=70, estimated=50, verdict="").overhead_tokens == 20
