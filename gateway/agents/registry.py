"""Builds the configured agents and closes them.

The one place that knows every kind of agent. An SDK is imported only where an agent needs it.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from gateway.agents.command import CommandAgent, command_of
from gateway.agents.echo import EchoAgent
from gateway.agents.loop import ToolLoop
from gateway.agents.scripted import ScriptedModel, parse_script
from gateway.agents.settings import (
    AnthropicSettings,
    CommandSettings,
    EchoSettings,
    ScriptedSettings,
)
from gateway.agents.tools import NoTools
from gateway.errors import ConfigurationError
from gateway.model import AgentId
from gateway.secret_values import secret_at

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from gateway.agents.base import Agent
    from gateway.agents.loop import Model
    from gateway.agents.settings import AgentSettings, AgentToolSettings, OpenAISettings
    from gateway.agents.tools import Toolbox
    from gateway.clock import Clock

CLOSE_TIMEOUT_S: Final = 5.0
"""How long an agent may take to close its connections."""


def no_tools(settings: AgentToolSettings) -> Toolbox:
    """Return the toolbox of every agent where there are no tools at all."""
    return NoTools()


@asynccontextmanager
async def open_agents(
    settings: Mapping[str, AgentSettings],
    clock: Clock,
    toolbox_for: Callable[[AgentToolSettings], Toolbox] = no_tools,
) -> AsyncGenerator[Mapping[AgentId, Agent]]:
    """Hold the configured agents by id, ready to run.

    Args:
        settings: One table an agent.
        clock: The daemon's.
        toolbox_for: Makes an agent's toolbox; it must outlive the agent.

    Raises:
        ConfigurationError: Some cannot be built; all problems are told at once.
    """
    agents: dict[AgentId, Agent] = {}
    problems: list[str] = []
    async with AsyncExitStack() as stack:
        for agent_id, agent_settings in settings.items():
            try:
                agent = _build(agent_id, agent_settings, clock, toolbox_for)
            except ConfigurationError as exc:
                problems.extend(exc.problems)
            else:
                agents[AgentId(agent_id)] = agent
                stack.push_async_callback(_close, agent, clock)

        if problems:
            raise ConfigurationError(problems)

        yield agents


async def _close(agent: Agent, clock: Clock) -> None:
    with clock.move_on_after(CLOSE_TIMEOUT_S) as scope:
        scope.shield = True
        await agent.aclose()


def _build(
    agent_id: str,
    settings: AgentSettings,
    clock: Clock,
    toolbox_for: Callable[[AgentToolSettings], Toolbox],
) -> Agent:
    if isinstance(settings, EchoSettings):
        return EchoAgent(settings, clock)

    if isinstance(settings, CommandSettings):
        return CommandAgent(settings, command_of(agent_id, settings), clock)

    toolbox = toolbox_for(settings.tools)
    if isinstance(settings, ScriptedSettings):
        model: Model = ScriptedModel(parse_script(settings.replies), settings.facts(), clock)
    else:
        model = _build_vendor(agent_id, settings, clock)
    return ToolLoop(model, toolbox, settings.tools)


def _build_vendor(
    agent_id: str, settings: OpenAISettings | AnthropicSettings, clock: Clock
) -> Model:
    try:
        return _build_with_sdk(agent_id, settings, clock)
    except ImportError as exc:
        name = settings.kind
        problem = (
            f"the {name} SDK cannot be imported ({exc}); pip install '.[{name}]' in the checkout "
            "of session-gateway brings it"
        )
        raise ConfigurationError([f"agents.{agent_id}.kind: {problem}"]) from exc


def _build_with_sdk(
    agent_id: str, settings: OpenAISettings | AnthropicSettings, clock: Clock
) -> Model:
    if isinstance(settings, AnthropicSettings):
        from gateway.agents.anthropic import AnthropicModel  # noqa: PLC0415 - imports the SDK

        return AnthropicModel(settings, _api_key(agent_id, settings), clock)

    from gateway.agents.openai import OpenAIModel  # noqa: PLC0415 - imports the SDK, an extra

    return OpenAIModel(settings, _api_key(agent_id, settings), clock)


def _api_key(agent_id: str, settings: OpenAISettings | AnthropicSettings) -> str:
    if settings.api_key is None:
        return ""

    return secret_at(f"agents.{agent_id}.api_key", settings.api_key, _problem_of_key)


def _problem_of_key(key: str) -> str:
    if key.isascii() and key.isprintable() and " " not in key:
        return ""

    # Such a key cannot stand in a header, and the error of who tries would show it.
    return "not a key; accepted is one line of printable ASCII without blanks"
