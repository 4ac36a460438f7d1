"""The provider's prompt cache, as far as the gateway can know it, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from gateway.context.settings import CacheSettings

if TYPE_CHECKING:
    from gateway.context.settings import ContextSettings
    from gateway.model import AgentId, Usage

_USUAL: Final = CacheSettings()
_WRITE_5M: Final = 1.25
"""What writing costs where it is kept for five minutes, or where it is not known how long."""
_SAME: Final = 0.5
"""A request that read at least this share of the one before found its prefix."""


class CacheVerdict(StrEnum):
    """What became of a request at the provider's prompt cache."""

    HIT = "hit"
    TTL_EXPIRY = "ttl_expiry"
    """The cache had run out."""
    PREFIX_CHANGE = "prefix_change"
    """It was warm, and what was sent begins otherwise than before; or the provider dropped it."""
    COLD_START = "cold_start"
    """There was no request before, or another model answered it."""
    BELOW_MINIMUM = "below_minimum"
    """Too short to be cached."""
    UNKNOWN = "unknown"
    """The provider counted nothing, or tells nothing of its cache, or was told to keep nothing."""


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """What the prompt cache of a model is like."""

    ttl_s: float
    write_multiplier: float
    read_multiplier: float
    min_tokens: int
    input_usd_per_mtok: float | None
    output_usd_per_mtok: float | None = None
    write_1h_multiplier: float = 2.0
    cold_multiplier: float = 1.25
    """What a token costs that the cache does not have; 1 where nothing is charged for writing."""


@dataclass(frozen=True, slots=True)
class LastRequest:
    """The last successful request of a session."""

    started_at: datetime
    model: str
    tokens: int
    """Its size as the provider counted it; 0 where it did not."""


def cache_policy(
    settings: ContextSettings, agent: AgentId, model: str, ttl_s: float | None = None
) -> CachePolicy:
    """Return what the cache of a model is like.

    Args:
        settings: Whose first table that matches counts.
        agent: Who asks the model.
        model: Its name.
        ttl_s: How long the agent has it live, where it says so; a table knows better.
    """
    tables = settings.cache
    table = next((one for one in tables if _matches(one, agent, model)), _USUAL)
    written = {300.0: _WRITE_5M, 3_600.0: table.write_1h_multiplier}.get(ttl_s or 0.0, 1.0)
    if table.ttl_s is not None:
        ttl_s = table.ttl_s
    return CachePolicy(
        ttl_s=settings.pruning.ttl_s if ttl_s is None else ttl_s,
        write_multiplier=_WRITE_5M if table.write_multiplier is None else table.write_multiplier,
        read_multiplier=table.read_multiplier,
        min_tokens=table.min_tokens,
        input_usd_per_mtok=table.input_usd_per_mtok,
        output_usd_per_mtok=table.output_usd_per_mtok,
        write_1h_multiplier=table.write_1h_multiplier,
        cold_multiplier=written if table.write_multiplier is None else table.write_multiplier,
    )


def _matches(table: CacheSettings, agent: AgentId, model: str) -> bool:
    return fnmatchcase(agent, table.agent) and fnmatchcase(model, table.model)


def is_cold(last: LastRequest | None, model: str, policy: CachePolicy, now: datetime) -> bool:
    """Return whether the next request finds no prompt cache.

    Unknown is cold, another model is cold, and so is a clock that was before the request it was
    read after: nothing is known then.
    """
    if last is None or last.model != model:
        return True

    age_s = (now - last.started_at).total_seconds()
    return age_s < 0 or age_s >= policy.ttl_s


def verdict(
    usage: Usage | None,
    last: LastRequest | None,
    model: str,
    policy: CachePolicy,
    started_at: datetime,
    *,
    cache_counted: bool = True,
) -> CacheVerdict:
    """Return what became of a request.

    Args:
        usage: What the provider counted of it.
        last: The request before.
        model: The model it went to.
        policy: What its cache is like.
        started_at: When it began.
        cache_counted: Whether the provider tells what was read from its cache.
    """
    if usage is None:
        return CacheVerdict.UNKNOWN

    known = last is not None and last.model == model
    before = last.tokens if last is not None and known else 0
    if usage.cache_read_tokens > 0 and usage.cache_read_tokens >= _SAME * before:
        return CacheVerdict.HIT

    if not cache_counted or policy.ttl_s == 0:
        return CacheVerdict.UNKNOWN

    if usage.context_tokens < policy.min_tokens:
        return CacheVerdict.BELOW_MINIMUM

    return _miss(last if known else None, before, policy, started_at)


def _miss(
    last: LastRequest | None, before: int, policy: CachePolicy, started_at: datetime
) -> CacheVerdict:
    if last is None:
        return CacheVerdict.COLD_START

    if is_cold(last, last.model, policy, started_at):
        return CacheVerdict.TTL_EXPIRY

    return CacheVerdict.BELOW_MINIMUM if before < policy.min_tokens else CacheVerdict.PREFIX_CHANGE


def saved_usd(
    policy: CachePolicy, *, saved_tokens: int, kept_tokens: int, cold: bool
) -> float | None:
    """Return what a round saves at the next request, in US dollars; None where no price is known.

    At a cold cache the whole prompt is written anew, and what left it is not. At a warm one, what
    left would have been read, and what stands behind the first change is written anew.

    Args:
        policy: What the cache costs.
        saved_tokens: What left the prompt.
        kept_tokens: What of it stands behind the first change.
        cold: Whether the cache had run out.
    """
    if policy.input_usd_per_mtok is None:
        return None

    write, read = policy.cold_multiplier, policy.read_multiplier
    tokens = saved_tokens * write if cold else saved_tokens * read - kept_tokens * (write - read)
    return tokens * policy.input_usd_per_mtok / 1_000_000
