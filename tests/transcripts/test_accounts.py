"""Laws of a session's account of its context."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import settings as running
from hypothesis import strategies as st

from gateway.agents.base import AgentFacts
from gateway.clock import FakeClock
from gateway.context.estimate import CHARS_PER_TOKEN_ESTIMATE
from gateway.context.window import room_chars
from gateway.durable.database import Database
from gateway.model import SessionId, clean_text
from gateway.transcripts import accounts
from gateway.transcripts.accounts import ContextAccount
from gateway.turns.preparing import needed_tokens

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
        account = _counted(account, counted, estimated)
        assert account.tokens(estimated) == counted

    _close(account, 35_000, fixed_tokens + rate * 35_000)


def _counted(account: ContextAccount, tokens: float, estimated: int) -> ContextAccount:
    return account.with_request("m", tokens=round(tokens), estimated=estimated, verdict="hit")


def _close(account: ContextAccount, estimated: int, tokens: float, spare: int = 0) -> None:
    """Check that a request is told within a tenth."""
    assert abs(account.tokens(estimated) - tokens) <= 0.1 * tokens + spare


CONSTANTS = st.integers(0, 20_000)
RATES = st.one_of(st.floats(0.3, 4), st.sampled_from([0.3, 1.0, 4.0]))
CHANGES = st.one_of(
    st.integers(1, 20_000).map(lambda more: ("grow", more)),
    st.floats(0.1, 0.8).map(lambda share: ("shrink", share)),
)


@given(CONSTANTS, RATES, st.integers(100, 150_000), st.lists(CHANGES, min_size=2, max_size=15))
def test_the_next_request_is_told_within_a_tenth_once_as_much_change_was_seen(
    constant: int, rate: float, estimated: int, changes: list[tuple[str, float]]
) -> None:
    """From the second count on, for any constant, rate and history of growths and rounds."""
    account = _counted(ContextAccount(), constant + rate * estimated, estimated)
    seen = 0
    for kind, amount in changes:
        change = round(amount if kind == "grow" else -amount * estimated)
        after = estimated + change
        # A round that takes out four fifths of all may be no more than was seen either.
        for then in (after, estimated // 5):
            if abs(then - estimated) <= seen:
                _close(account, then, constant + rate * then, 0 if then >= 5_000 else 500)
        account = _counted(account, constant + rate * after, after)
        estimated, seen = after, seen + abs(change)
        assert account.tokens(0) >= 0


@given(
    CONSTANTS,
    RATES,
    st.lists(st.integers(1_000, 20_000), min_size=10, max_size=10),
    st.lists(st.tuples(CONSTANTS, st.lists(st.integers(1, 10_000), min_size=2)), max_size=3),
)
def test_after_the_constant_has_jumped_the_next_requests_are_told_within_a_tenth(
    constant: int, rate: float, growth: list[int], jumps: list[tuple[int, list[int]]]
) -> None:
    """Once ten requests have told the rate: a jump is no rate, however much grows with it."""
    account, estimated = ContextAccount(), 0
    for more in growth:
        estimated += more
        account = _counted(account, constant + rate * estimated, estimated)
    for constant_then, growth_then in jumps:
        for place, more in enumerate(growth_then):
            estimated += more
            tokens = constant_then + rate * estimated
            if place:
                _close(account, estimated, tokens, spare=500)
            account = _counted(account, tokens, estimated)


def test_a_jump_of_the_constant_is_not_taken_for_rate() -> None:
    account = ContextAccount()
    for estimated in range(2_000, 42_000, 2_000):
        account = _counted(account, 1_000 + estimated, estimated)
    account = _counted(account, 1_000 + 40_050 + 10_000, 40_050)

    assert account.tokens_per_estimate == pytest.approx(1, abs=0.001)
    _close(account, 8_000, 19_000)


def test_one_count_of_a_large_context_says_its_rate() -> None:
    """As after a change of the model: what is pruned then is told by the rate, not the constant."""
    for rate, constant in ((1.8, 0), (1.8, 2_000), (3.5, 4_000), (0.9, 500)):
        account = _counted(ContextAccount(), constant + rate * 100_000, 100_000)

        _close(account, 20_000, constant + rate * 20_000)


def test_before_anything_has_grown_a_small_excess_is_taken_for_constant() -> None:
    account = ContextAccount().with_request("m", tokens=1_500, estimated=1_000, verdict="hit")

    assert (account.overhead_tokens, account.tokens_per_estimate) == (500, 1.0)
    assert account.tokens(400) == 900
    assert _counted(ContextAccount(), 5_000, 1_000).overhead_tokens == 4_000
    # What is counted below the estimate is rate at once: there is no constant below nothing.
    assert _counted(ContextAccount(), 800, 1_000).tokens(500) == 400


@pytest.mark.parametrize("step", [500, 2_000, 8_000])
@pytest.mark.parametrize("before", [20_000, 400_000])
def test_a_change_of_script_is_followed_within_six_requests(before: int, step: int) -> None:
    account, estimated = ContextAccount(), 0
    while estimated < before:
        estimated += 5_000
        account = _counted(account, 1_000 + estimated, estimated)
    tokens: float = 1_000 + estimated
    for _ in range(6):
        estimated, tokens = estimated + step, tokens + 4 * step
        account = _counted(account, tokens, estimated)

    more = account.tokens(estimated + 10_000) - account.tokens(estimated)
    assert 29_000 < more <= 40_000
    # What is left of a context of both is told by the average of both.
    left, average = estimated // 5, tokens / estimated
    _close(account, left, average * left, spare=4_000)


def test_small_messages_do_not_bend_the_rate() -> None:
    """Each message costs some tokens of framing, which is much beside a short text."""
    account, tokens = ContextAccount(), 700
    for number in range(1, 101):
        tokens += 10
        account = _counted(account, tokens, number)

    assert 1 <= account.tokens_per_estimate < 1.3


def test_messages_that_leave_take_their_framing_with_them() -> None:
    """A provider counts 4 tokens for each message; most of these are short."""
    account, estimated, tokens = ContextAccount(), 0, 200
    for number in range(400):
        more = 4_000 if number % 20 == 0 else 5
        estimated, tokens = estimated + more, tokens + more + 4
        account = _counted(account, tokens, estimated)
    # What is cleared leaves its message; what is summarised does not.
    estimated, tokens = estimated - 78_000, tokens - 78_000
    account = _counted(account, tokens, estimated)
    left = 1_000 + (tokens - estimated) - 4 * 390

    _close(account.without_messages(390), 1_000, left)
    assert account.without_messages(0) == account
    assert account.tokens(1_000) > 1.5 * left
    nothing = ContextAccount().without_messages(9)
    assert (nothing.request_tokens, nothing.overhead_tokens) == (0, 0)


def test_images_that_a_wire_does_not_send_lower_the_rate_with_their_share() -> None:
    """A picture is estimated at 2,000 tokens; what is sent for it is a marker of 10."""
    account, estimated, tokens = ContextAccount(), 20_000, 20_500
    for number in range(12):
        account = _counted(account, tokens, estimated)
        with_image = number % 6 == 5
        estimated += 1_500 + 2_000 * with_image
        tokens += 1_500 + 10 * with_image
        _close(account, estimated, tokens)


@pytest.mark.parametrize("tokens", [0, 1, 10**9])
def test_a_provider_that_counts_nonsense_bends_the_rate_within_bounds(tokens: int) -> None:
    account = ContextAccount().with_request("m", tokens=1_000, estimated=1_000, verdict="hit")
    account = account.with_request("m", tokens=tokens, estimated=9_000_000, verdict="hit")

    for rate in (account.tokens_per_estimate, account.average_rate):
        assert 0.25 <= rate <= 8
    assert account.tokens(9_000_000) == tokens
    assert account.tokens(0) >= 0
    assert needed(account, 10_000) >= 7_000


@given(NUMBERS, NUMBERS, st.floats(0.25, 8), NUMBERS, st.integers(0, 10**7), st.integers(0, 10**7))
def test_any_account_that_was_stored_can_go_on(
    last: int, overhead: int, rate: float, weight: int, tokens: int, estimated: int
) -> None:
    account = ContextAccount("m", last, overhead, rate, weight)
    assert min(account.tokens(estimated), needed(account, estimated)) >= 0

    after = _counted(account, tokens, estimated)
    assert 0.25 <= after.tokens_per_estimate <= 8
    assert 0 < after.weighed_tokens <= 30_000
    # The estimate of the last request is found back to the next few tokens.
    assert abs(after.tokens(estimated) - tokens) <= 16


@given(CONSTANTS, st.floats(0.5, 4), st.integers(4, 24), st.integers(10, 200))
def test_two_counts_of_one_conversation_tell_what_a_message_costs(
    constant: int, rate: float, each: int, fewer: int
) -> None:
    account = ContextAccount("m", 0, 0, rate, 30_000)
    estimated, messages = 20_000, 50 + fewer
    tokens = round(constant + rate * estimated + each * messages)
    account = replace(
        account, request_tokens=tokens, overhead_tokens=tokens - round(rate * estimated)
    )
    less = round(constant + rate * 9_000 + each * (messages - fewer))

    assert account.message_tokens(less, 9_000, fewer) == pytest.approx(each, abs=0.3)
    gone = account.without_messages(40, each)
    assert account.tokens(estimated) - gone.tokens(estimated) == min(
        40 * each, max(0, account.overhead_tokens)
    )


@pytest.mark.parametrize(
    ("tokens", "fewer", "told"),
    [
        pytest.param(9_000, 9, 4, id="too-few-messages"),
        pytest.param(0, 100, 24, id="nonsense"),
        pytest.param(10**9, 100, 4, id="more-than-the-whole"),
    ],
)
def test_what_no_message_costs_is_not_believed(tokens: int, fewer: int, told: int) -> None:
    account = ContextAccount().with_request("m", tokens=20_000, estimated=20_000, verdict="")

    assert account.message_tokens(tokens, 9_000, fewer) == told
    assert ContextAccount().message_tokens(tokens, 9_000, fewer) == 4


def needed(account: ContextAccount, estimated: int) -> int:
    """Return what of a large window a request of an estimated size surely takes."""
    facts = AgentFacts("m", 10**9, reserve_tokens=0)
    return needed_tokens(account, facts, CHARS_PER_TOKEN_ESTIMATE * estimated)


def test_what_guards_a_window_counts_what_the_provider_counts_and_never_much_less() -> None:
    chinese, sparing = ContextAccount(), ContextAccount()
    for estimated in range(2_000, 22_000, 2_000):
        chinese = _counted(chinese, 600 + 4 * estimated, estimated)
        sparing = _counted(sparing, 0.3 * estimated, estimated)

    assert 4 * 10_000 <= needed(chinese, 10_000) <= 1.1 * (600 + 4 * 10_000)
    assert needed(chinese, 50_000) >= 0.95 * 4 * 50_000
    assert needed(sparing, 10_000) == 7_000
    assert sparing.guarding_rate == 0.7
    assert needed(ContextAccount(), 10_000) == 10_000


@given(CONSTANTS, RATES, st.integers(1_000, 100_000), st.integers(0, 200_000))
def test_room_found_at_the_guarding_rate_is_filled_by_no_more_than_fits(
    constant: int, rate: float, estimated: int, own: int
) -> None:
    """What the window has room for beside what cannot leave is counted as no more than that."""
    account = ContextAccount()
    for share in (0.5, 1):
        size = round(share * estimated)
        account = _counted(account, constant + rate * size, size)
    window = 2 * needed(account, own) + 1_000
    facts = AgentFacts("m", window, reserve_tokens=0)
    own_chars = CHARS_PER_TOKEN_ESTIMATE * own
    room = room_chars(window, 0, needed_tokens(account, facts, own_chars), account.guarding_rate)
    room //= CHARS_PER_TOKEN_ESTIMATE

    if own + room <= estimated:
        assert account.tokens(own + room) <= window + 2


def test_another_model_counts_anew() -> None:
    account = ContextAccount(rounds=3)
    for size in (1_000, 9_000):
        account = account.with_request("m", tokens=2 * size, estimated=size, verdict="hit")
    assert account.tokens_per_estimate > 1.5

    other = account.of("n")
    assert (other.model, other.overhead_tokens, other.tokens_per_estimate) == ("n", 0, 1.0)
    assert (other.rounds, other.weighed_tokens, other.tokens(50)) == (3, 0, 50)
    assert account.with_request("n", tokens=70, estimated=50, verdict="").overhead_tokens == 20


def test_a_model_that_was_asked_before_goes_on_from_its_own_counts() -> None:
    first = ContextAccount(cleared=1).with_request("m", tokens=9_000, estimated=3_000, verdict="")
    second = first.of("n").with_request("n", tokens=3_300, estimated=3_300, verdict="hit")
    again = replace(second, cleared=2).of("m", {"m": first, "n": second})

    assert (again.tokens(3_000), again.request_tokens) == (9_000, 9_000)
    assert again.tokens_per_estimate == first.tokens_per_estimate > 1.5
    assert again.weighed_tokens == first.weighed_tokens > 0
    assert (again.cleared, again.cache_verdict) == (2, "hit")
    assert second.of("other", {"m": first}).tokens(3_000) == 3_000
