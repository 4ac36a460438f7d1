"""Whether every agent has its price where money has a limit: an unknown price would be no limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError

from gateway.agents.settings import AgentSettings, EchoSettings, ScriptedSettings
from gateway.config.keys import dotted
from gateway.context.cache import cache_policy
from gateway.context.prices import missing_prices
from gateway.context.settings import ContextSettings
from gateway.model import AgentId

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.config.keys import KeyPath

_LIMITS: Final = ("session_usd", "user_usd_per_day", "usd_per_day")
_AGENT: Final[TypeAdapter[AgentSettings]] = TypeAdapter(AgentSettings)
_LISTED: Final = 5


def unpriced_agents(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield a limit in dollars that agents without a price would pass, and what is missing.

    Takes values as they are in the file: what has a wrong type is another check's affair.
    """
    budgets, agents = data.get("budgets"), data.get("agents")
    if not isinstance(budgets, dict) or not isinstance(agents, dict):
        return

    limits = [key for key in _LIMITS if _is_positive(budgets.get(key))]
    if not limits:
        return

    try:
        context = ContextSettings.model_validate({"cache": _tables(data.get("context"))})
    except ValidationError:
        return

    lacking = [
        f"{dotted(('agents', name))} ({', '.join(keys)})"
        for name, agent in agents.items()
        if (keys := _missing(context, name, agent))
    ]
    if lacking:
        listed = ", ".join(lacking[:_LISTED]) + (", ..." if lacking[_LISTED:] else "")
        text = (
            "is a limit in dollars, accepted is one where the first [[context.cache]] table that "
            "matches an agent has its prices, 0 where it costs nothing; there is no price for "
        )
        yield ("budgets", limits[0]), text + listed


def _missing(context: ContextSettings, name: str, agent: object) -> tuple[str, ...]:
    """Return the keys that the price of an agent is missing."""
    try:
        settings = _AGENT.validate_python(agent)
    except ValidationError:
        return ()

    if isinstance(settings, EchoSettings | ScriptedSettings):
        return ()  # they ask nobody, and cost nothing

    return missing_prices(cache_policy(context, AgentId(name), settings.facts().model))


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and value > 0


def _tables(context: object) -> object:
    return context.get("cache", []) if isinstance(context, dict) else []
