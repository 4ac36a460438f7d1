"""What the API knows of the agents: their settings are enough, none of them need be open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.model import AgentId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.agents.base import Agent, AgentFacts
    from gateway.agents.settings import AgentSettings


def facts_of(
    settings: Mapping[str, AgentSettings], agents: Mapping[AgentId, Agent]
) -> dict[AgentId, AgentFacts]:
    """Return what the agents say of themselves, by id.

    Args:
        settings: All that are configured.
        agents: Those that are open: they know their tools as well.
    """
    return {AgentId(name): agents.get(AgentId(name), one).facts() for name, one in settings.items()}
