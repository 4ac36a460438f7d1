"""What an agent's run came to, for tests."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from gateway.agents.base import AgentEvent, MessageFinished, ModelCallFinished, TextDelta
from gateway.agents.registry import open_agents
from gateway.agents.settings import AnthropicSettings, OpenAISettings
from gateway.clock import FakeClock
from gateway.model import AgentId, Image, Message, Role, ToolCall, TurnId
from tests.agents.wire_server import WireServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from gateway.agents.base import Agent
    from gateway.model import ModelCall
    from tests.support.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Run:
    """The events of one run."""

    events: list[AgentEvent]

    @property
    def deltas(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, TextDelta)]

    @property
    def messages(self) -> list[Message]:
        return [event.message for event in self.events if isinstance(event, MessageFinished)]

    @property
    def calls(self) -> list[ModelCall]:
        return [event.call for event in self.events if isinstance(event, ModelCallFinished)]

    @property
    def text(self) -> str:
        """What the user reads; the deltas and the messages must agree on it."""
        spoken = [message.text for message in self.messages if message.role is Role.ASSISTANT]
        assert "".join(self.deltas) == "".join(spoken)
        return "".join(spoken)


def user(text: str, turn_id: str = "t1") -> Message:
    return Message(Role.USER, text, turn_id=TurnId(turn_id))


def said(text: str, turn_id: str = "t1") -> Message:
    return Message(Role.ASSISTANT, text, turn_id=TurnId(turn_id))


def called(*call_ids: str, text: str = "", turn_id: str = "t1") -> Message:
    """Return an assistant's message with these calls of one tool."""
    calls = tuple(ToolCall(call_id, "find", '{"q": "x"}') for call_id in call_ids)
    return Message(Role.ASSISTANT, text, calls, turn_id=TurnId(turn_id))


def result(call_id: str, text: str, *images: Image, turn_id: str = "t1") -> Message:
    return Message(
        Role.TOOL,
        text,
        tool_call_id=call_id,
        tool_name="find",
        turn_id=TurnId(turn_id),
        images=images,
    )


async def run_agent(
    agent: Agent,
    messages: Sequence[Message],
    into: list[AgentEvent] | None = None,
    *,
    cache_key: str = "",
) -> Run:
    """Run to the end; `into` keeps the events where the run fails."""
    events: list[AgentEvent] = [] if into is None else into
    with anyio.fail_after(5):
        async with aclosing(agent.run(messages, cache_key=cache_key)) as running:
            async for event in running:
                events.append(event)  # noqa: PERF401 - a failing run leaves what came before
    return Run(events)


@asynccontextmanager
async def anthropic_agent(fake: Upstream, **changes: object) -> AsyncGenerator[Agent]:
    """Hold an agent that asks a pretended provider."""
    table = {"model": "wire", "base_url": fake.url, "max_retries": 0, **changes}
    settings = AnthropicSettings.model_validate(table)
    async with open_agents({"a": settings}, FakeClock()) as agents:
        yield agents[AgentId("a")]


@asynccontextmanager
async def openai_agent(server: WireServer | Upstream, **changes: object) -> AsyncGenerator[Agent]:
    """Hold an agent that asks a pretended provider on the chat-completions wire."""
    fake = server.fake if isinstance(server, WireServer) else server
    table = {"model": "wire", "base_url": f"{fake.url}/v1", "max_retries": 0, **changes}
    settings = OpenAISettings.model_validate(table)
    async with open_agents({"a": settings}, FakeClock()) as agents:
        yield agents[AgentId("a")]
