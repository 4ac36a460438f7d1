"""What a model call costs, by the prices of a `[[context.cache]]` table. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.context.cache import CachePolicy
    from gateway.model import Usage

_MTOK: Final = 1_000_000


def call_usd(policy: CachePolicy, usage: Usage) -> float | None:
    """Return what a call costs in US dollars; None where a price that it needs is not known.

    Args:
        policy: The prices of its model.
        usage: What its provider counted.
    """
    if missing_prices(policy, with_output=usage.output_tokens > 0):
        return None

    written_1h = min(usage.cache_write_1h_tokens, usage.cache_write_tokens)
    as_input = (
        usage.input_tokens
        + usage.cache_read_tokens * policy.read_multiplier
        + (usage.cache_write_tokens - written_1h) * policy.write_multiplier
        + written_1h * policy.write_1h_multiplier
    )
    usd = as_input * (policy.input_usd_per_mtok or 0.0)
    return (usd + usage.output_tokens * (policy.output_usd_per_mtok or 0.0)) / _MTOK


def missing_prices(policy: CachePolicy, *, with_output: bool = True) -> tuple[str, ...]:
    """Return the keys of a `[[context.cache]]` table that the price of a call is missing.

    Args:
        policy: The prices of its model.
        with_output: Whether the call has output, which every answer has.
    """
    prices = {"input_usd_per_mtok": policy.input_usd_per_mtok}
    if with_output:
        prices["output_usd_per_mtok"] = policy.output_usd_per_mtok
    return tuple(key for key, price in prices.items() if price is None)
