"""What the API knows of the agents: their settings are enough, none of them need be open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.agents.echo import EchoAgent
from gateway.agents.scripted import ScriptedAgent
from gateway.agents.settings import AnthropicSettings, EchoSettings, ScriptedSettings
from gateway.model import AgentId
from gateway.turns.preparing import AgentFacts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.agents.settings import AgentSettings


def facts_of(agents: Mapping[str, AgentSettings]) -> dict[AgentId, AgentFacts]:
    """Return what the agents will say of themselves, by id."""
    return {AgentId(name): _facts(settings) for name, settings in agents.items()}


def _facts(settings: AgentSettings) -> AgentFacts:
    if isinstance(settings, EchoSettings):
        model, prompt = EchoAgent.model, ""
    elif isinstance(settings, ScriptedSettings):
        model, prompt = ScriptedAgent.model, ""
    else:
        model, prompt = settings.model, settings.system_prompt
    return AgentFacts(
        model=model,
        window_tokens=settings.context_window_tokens,
        reserve_tokens=settings.reserve_tokens,
        overhead_chars=len(prompt),
        cache_ttl_s=settings.cache_ttl_s if isinstance(settings, AnthropicSettings) else None,
    )
