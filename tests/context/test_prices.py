"""Laws of what a call costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.context.cache import CachePolicy, cache_policy
from gateway.context.prices import call_usd, missing_prices
from gateway.context.settings import CacheSettings, ContextSettings
from gateway.model import AgentId, Usage

PRICED = CacheSettings(input_usd_per_mtok=4.0, output_usd_per_mtok=20.0)
MILLION = 1_000_000
COUNTS = st.integers(0, 10 * MILLION)
USAGES = st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS)


def policy(table: CacheSettings = PRICED) -> CachePolicy:
    return cache_policy(ContextSettings(cache=[table]), AgentId("main"), "m", ttl_s=300.0)


@pytest.mark.parametrize(
    ("usage", "usd"),
    [
        pytest.param(Usage(input_tokens=MILLION), 4.0, id="input"),
        pytest.param(Usage(output_tokens=MILLION), 20.0, id="output"),
        pytest.param(Usage(cache_read_tokens=MILLION), 0.4, id="read"),
        pytest.param(Usage(cache_write_tokens=MILLION), 5.0, id="written-for-5-minutes"),
        pytest.param(
            Usage(cache_write_tokens=MILLION, cache_write_1h_tokens=MILLION), 8.0, id="for-an-hour"
        ),
        pytest.param(
            Usage(cache_write_tokens=MILLION, cache_write_1h_tokens=MILLION // 4), 5.75, id="mixed"
        ),
        pytest.param(
            Usage(cache_write_tokens=MILLION, cache_write_1h_tokens=9 * MILLION),
            8.0,
            id="more-for-an-hour-than-at-all",
        ),
        pytest.param(
            Usage(output_tokens=100, reasoning_tokens=90), 0.002, id="reasoning-is-output"
        ),
        pytest.param(Usage(MILLION, MILLION, MILLION, MILLION), 29.4, id="all"),
        pytest.param(Usage(), 0.0, id="nothing"),
    ],
)
def test_each_kind_of_token_has_its_price(usage: Usage, usd: float) -> None:
    assert call_usd(policy(), usage) == pytest.approx(usd)


def test_a_table_says_what_writing_and_reading_cost() -> None:
    table = CacheSettings(
        input_usd_per_mtok=1.0,
        output_usd_per_mtok=0.0,
        write_multiplier=3.0,
        write_1h_multiplier=5.0,
        read_multiplier=0.5,
    )
    usage = Usage(0, MILLION, MILLION, 2 * MILLION, MILLION)

    assert call_usd(policy(table), usage) == pytest.approx(0.5 + 3.0 + 5.0)


@pytest.mark.parametrize(
    ("table", "usage", "missing"),
    [
        pytest.param(
            CacheSettings(),
            Usage(1, 1),
            ("input_usd_per_mtok", "output_usd_per_mtok"),
            id="no-price",
        ),
        pytest.param(CacheSettings(), Usage(), ("input_usd_per_mtok",), id="no-price-no-tokens"),
        pytest.param(
            CacheSettings(input_usd_per_mtok=1.0),
            Usage(1, 1),
            ("output_usd_per_mtok",),
            id="output",
        ),
    ],
)
def test_without_a_price_that_is_needed_there_is_none(
    table: CacheSettings, usage: Usage, missing: tuple[str, ...]
) -> None:
    assert call_usd(policy(table), usage) is None
    assert missing_prices(policy(table), with_output=usage.output_tokens > 0) == missing


def test_a_call_without_output_needs_no_price_of_output() -> None:
    table = CacheSettings(input_usd_per_mtok=1.0)

    assert call_usd(policy(table), Usage(input_tokens=MILLION)) == 1.0


def test_a_model_that_costs_nothing_has_a_price() -> None:
    free = CacheSettings(input_usd_per_mtok=0.0, output_usd_per_mtok=0.0)

    assert call_usd(policy(free), Usage(5, 5, 5, 5)) == 0.0
    assert missing_prices(policy(free)) == ()


def test_the_first_table_that_matches_has_the_price_or_nobody() -> None:
    settings = ContextSettings(cache=[CacheSettings(model="m-*"), PRICED])

    assert call_usd(cache_policy(settings, AgentId("main"), "m-1"), Usage(1)) is None
    assert call_usd(cache_policy(settings, AgentId("main"), "n"), Usage(MILLION)) == 4.0


@given(first=USAGES, second=USAGES)
def test_what_two_calls_cost_is_what_they_cost_together(first: Usage, second: Usage) -> None:
    apart = (call_usd(policy(), first) or 0.0) + (call_usd(policy(), second) or 0.0)

    assert call_usd(policy(), first + second) == pytest.approx(apart)
