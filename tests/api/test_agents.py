"""What settings tell of agents is what the agents say themselves; open ones say more."""

from __future__ import annotations

import sys

from gateway.agents.registry import open_agents
from gateway.api.agents import facts_of
from gateway.clock import FakeClock
from gateway.config import GatewayConfig
from gateway.model import AgentId
from tests.agents.test_loop_wires import find
from tests.support.toolbox import TestToolbox

ENDPOINT = {"base_url": "http://127.0.0.1:9", "model": "m-1", "system_prompt": "Be brief."}
WINDOW = {"context_window_tokens": 50_000, "reserve_tokens": 9_000}
AGENTS = {
    "main": {"kind": "echo", **WINDOW},
    "script": {"kind": "scripted", "replies": ["a"], **WINDOW},
    "helper": {"kind": "command", "argv": [sys.executable], **WINDOW},
    "gpt": {"kind": "openai", **ENDPOINT, **WINDOW},
    "claude": {"kind": "anthropic", **ENDPOINT, **WINDOW},
}


async def test_the_facts_of_every_kind_of_agent_are_what_it_says_itself() -> None:
    settings = GatewayConfig.from_dict({"agents": AGENTS}).agents

    async with open_agents(settings, FakeClock()) as opened:
        told = {name: agent.facts() for name, agent in opened.items()}

    assert facts_of(settings, {}) == told
    assert facts_of(settings, opened) == told


async def test_an_open_agent_knows_its_tools_as_they_are_now() -> None:
    settings = GatewayConfig.from_dict({"agents": AGENTS}).agents
    tools = {"find": find}

    async with open_agents(settings, FakeClock(), lambda _: TestToolbox(tools)) as opened:
        first = facts_of(settings, opened)[AgentId("gpt")].overhead_chars
        tools["look"] = find
        second = facts_of(settings, opened)[AgentId("gpt")].overhead_chars

    assert len("Be brief.") < first < second
