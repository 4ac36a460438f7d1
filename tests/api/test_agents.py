"""What settings tell of agents is what the agents say themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.agents.registry import open_agents
from gateway.api.agents import facts_of
from gateway.clock import FakeClock
from gateway.config import GatewayConfig
from gateway.turns.preparing import AgentFacts

if TYPE_CHECKING:
    from gateway.agents.base import Agent

ENDPOINT = {"base_url": "http://127.0.0.1:9", "model": "m-1", "system_prompt": "Be brief."}
WINDOW = {"context_window_tokens": 50_000, "reserve_tokens": 9_000}


def facts(agent: Agent) -> AgentFacts:
    return AgentFacts(
        model=agent.model,
        window_tokens=agent.context_window_tokens,
        reserve_tokens=agent.reserve_tokens,
        overhead_chars=agent.overhead_chars(),
        cache_ttl_s=agent.cache_ttl_s,
    )


async def test_the_facts_of_every_kind_of_agent_are_what_it_says_itself() -> None:
    agents = {
        "main": {"kind": "echo", **WINDOW},
        "script": {"kind": "scripted", "replies": ["a"], **WINDOW},
        "gpt": {"kind": "openai", **ENDPOINT, **WINDOW},
        "claude": {"kind": "anthropic", **ENDPOINT, **WINDOW},
    }
    settings = GatewayConfig.from_dict({"agents": agents}).agents

    async with open_agents(settings, FakeClock()) as opened:
        assert facts_of(settings) == {name: facts(agent) for name, agent in opened.items()}
