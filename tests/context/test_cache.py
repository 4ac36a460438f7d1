"""Laws of what is known of the provider's prompt cache."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gateway.context.cache import (
    CachePolicy,
    CacheVerdict,
    LastRequest,
    cache_policy,
    is_cold,
    saved_usd,
    verdict,
)
from gateway.context.settings import CacheSettings, ContextSettings, PruningSettings
from gateway.model import AgentId, Usage

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = CachePolicy(300.0, 1.25, 0.1, min_tokens=1_024, input_usd_per_mtok=4.0)
LAST = LastRequest(BEGAN, "m", 10_000)


@pytest.mark.parametrize(
    ("age", "cold"),
    [
        pytest.param(timedelta(0), False, id="just-begun"),
        pytest.param(timedelta(seconds=300, microseconds=-1), False, id="just-before-the-ttl"),
        pytest.param(timedelta(seconds=300), True, id="exactly-at-the-ttl"),
        pytest.param(timedelta(days=400), True, id="long-ago"),
        pytest.param(timedelta(microseconds=-1), True, id="a-clock-that-went-back"),
    ],
)
def test_a_cache_is_cold_once_its_ttl_has_passed(
    age: timedelta,
    cold: bool,  # noqa: FBT001 - a column
) -> None:
    assert is_cold(LAST, "m", POLICY, BEGAN + age) == cold


def test_another_model_and_an_unknown_request_are_cold() -> None:
    assert is_cold(LAST, "other", POLICY, BEGAN)
    assert is_cold(None, "m", POLICY, BEGAN)


def _usage(fresh: int = 0, *, read: int = 0, written: int = 0) -> Usage:
    return Usage(input_tokens=fresh, cache_read_tokens=read, cache_write_tokens=written)


@pytest.mark.parametrize(
    ("usage", "last", "age_s", "expected"),
    [
        pytest.param(None, LAST, 1, CacheVerdict.UNKNOWN, id="nothing-counted"),
        pytest.param(_usage(900, read=10_000), LAST, 1, CacheVerdict.HIT, id="all-read"),
        pytest.param(_usage(6_000, read=5_000), LAST, 1, CacheVerdict.HIT, id="half-read"),
        pytest.param(_usage(0, read=10_000), LAST, 900, CacheVerdict.HIT, id="lived-longer"),
        pytest.param(
            _usage(0, read=1),
            LastRequest(BEGAN, "m", 0),
            1,
            CacheVerdict.HIT,
            id="read-and-none-counted-before",
        ),
        pytest.param(_usage(500, read=500), None, 1, CacheVerdict.HIT, id="read-what-others-wrote"),
        pytest.param(
            _usage(6_001, read=4_999), LAST, 1, CacheVerdict.PREFIX_CHANGE, id="less-than-half-read"
        ),
        pytest.param(
            _usage(0, written=11_000), LAST, 299, CacheVerdict.PREFIX_CHANGE, id="warm-miss"
        ),
        pytest.param(_usage(11_000), LAST, 300, CacheVerdict.TTL_EXPIRY, id="ran-out"),
        pytest.param(_usage(11_000), LAST, -5, CacheVerdict.TTL_EXPIRY, id="clock-behind"),
        pytest.param(_usage(11_000), None, 1, CacheVerdict.COLD_START, id="first-request"),
        pytest.param(
            _usage(11_000),
            LastRequest(BEGAN, "other", 10_000),
            1,
            CacheVerdict.COLD_START,
            id="another-model",
        ),
        pytest.param(_usage(1_023), None, 1, CacheVerdict.BELOW_MINIMUM, id="too-short"),
        pytest.param(_usage(1_023), LAST, 900, CacheVerdict.BELOW_MINIMUM, id="too-short-and-late"),
        pytest.param(_usage(1_024), None, 1, CacheVerdict.COLD_START, id="just-long-enough"),
        pytest.param(
            _usage(2_000),
            LastRequest(BEGAN, "m", 1_023),
            1,
            CacheVerdict.BELOW_MINIMUM,
            id="the-one-before-was-too-short",
        ),
    ],
)
def test_each_request_gets_its_verdict(
    usage: Usage | None, last: LastRequest | None, age_s: int, expected: CacheVerdict
) -> None:
    began = BEGAN + timedelta(seconds=age_s)

    assert verdict(usage, last, "m", POLICY, began) is expected


@pytest.mark.parametrize("usage", [_usage(11_000), _usage(1_000), _usage(0, written=11_000)])
@pytest.mark.parametrize("last", [LAST, None, LastRequest(BEGAN, "other", 10_000)])
@pytest.mark.parametrize("age_s", [1, 900])
def test_what_nobody_can_know_of_a_cache_is_unknown(
    usage: Usage, last: LastRequest | None, age_s: int
) -> None:
    began = BEGAN + timedelta(seconds=age_s)
    keeps_nothing = replace(POLICY, ttl_s=0.0)

    untold = verdict(usage, last, "m", POLICY, began, cache_counted=False)
    assert untold is verdict(usage, last, "m", keeps_nothing, began) is CacheVerdict.UNKNOWN
    assert verdict(usage, last, "m", POLICY, began) is not CacheVerdict.UNKNOWN


def test_what_was_read_from_a_cache_is_a_hit_although_nothing_should_be_kept() -> None:
    keeps_nothing = replace(POLICY, ttl_s=0.0)

    assert verdict(_usage(0, read=10_000), LAST, "m", keeps_nothing, BEGAN) is CacheVerdict.HIT


def test_a_round_at_a_cold_cache_saves_what_would_have_been_written() -> None:
    usd = saved_usd(POLICY, saved_tokens=100_000, kept_tokens=900_000, cold=True)

    assert usd == pytest.approx(100_000 * 1.25 * 4 / 1e6)


def test_a_round_at_a_warm_cache_saves_reads_and_costs_writes() -> None:
    usd = saved_usd(POLICY, saved_tokens=100_000, kept_tokens=10_000, cold=False)

    assert usd == pytest.approx((100_000 * 0.1 - 10_000 * (1.25 - 0.1)) * 4 / 1e6)
    lost = saved_usd(POLICY, saved_tokens=1_000, kept_tokens=10_000, cold=False)
    assert lost is not None
    assert lost < 0


def test_without_a_price_no_money_is_told() -> None:
    policy = CachePolicy(300.0, 1.25, 0.1, min_tokens=0, input_usd_per_mtok=None)

    assert saved_usd(policy, saved_tokens=1, kept_tokens=1, cold=True) is None


def test_the_first_table_that_matches_agent_and_model_counts() -> None:
    settings = ContextSettings(
        pruning=PruningSettings(ttl_s=200.0),
        cache=[
            CacheSettings(agent="main", model="claude-*", ttl_s=3600.0, write_multiplier=2.0),
            CacheSettings(model="claude-*", min_tokens=2_048, input_usd_per_mtok=3.0),
            CacheSettings(agent="b?b", read_multiplier=0.5),
        ],
    )

    def of(agent: str, model: str) -> CachePolicy:
        return cache_policy(settings, AgentId(agent), model)

    assert of("main", "claude-x") == CachePolicy(3600.0, 2.0, 0.1, 1_024, None, cold_multiplier=2.0)
    assert of("other", "claude-x") == CachePolicy(200.0, 1.25, 0.1, 2_048, 3.0, cold_multiplier=1.0)
    assert of("bob", "gpt") == CachePolicy(200.0, 1.25, 0.5, 1_024, None, cold_multiplier=1.0)
    assert of("main", "gpt") == CachePolicy(200.0, 1.25, 0.1, 1_024, None, cold_multiplier=1.0)


@pytest.mark.parametrize(("ttl_s", "usd"), [(None, 2.0), (0.0, 2.0), (300.0, 2.5), (3_600.0, 4.0)])
def test_writing_costs_as_the_agent_keeps_its_prompt_unless_a_table_says_it(
    ttl_s: float | None, usd: float
) -> None:
    table = CacheSettings(input_usd_per_mtok=2.0)
    for tables, expected in (
        ([table], usd),
        ([table.model_copy(update={"write_multiplier": 3.0})], 6.0),
    ):
        policy = cache_policy(ContextSettings(cache=tables), AgentId("a"), "m", ttl_s)
        saved = saved_usd(policy, saved_tokens=1_000_000, kept_tokens=0, cold=True)
        assert saved == pytest.approx(expected)
