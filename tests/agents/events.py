"""What an agent's run came to, for tests."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from gateway.agents.asked import NOTHING_ASKED, Asked
from gateway.agents.base import (
    AgentEvent,
    AgentFacts,
    MessageFinished,
    ModelCallFinished,
    TextDelta,
)
from gateway.agents.loop import ToolLoop
from gateway.agents.registry import open_agents
from gateway.agents.scripted import ScriptedModel
from gateway.agents.settings import AgentToolSettings, AnthropicSettings, OpenAISettings
from gateway.agents.tools import NoTools
from gateway.clock import FakeClock
from gateway.model import AgentId, Image, Message, Role, ToolCall, ToolCaller, TurnId
from tests.agents.wire_server import WireServer
from tests.support.toolbox import CALLER

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from gateway.agents.base import Agent
    from gateway.agents.scripted import ReplyTo, Step
    from gateway.agents.tools import Toolbox
    from gateway.clock import Clock
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


@dataclass(slots=True)
class Talk:
    """A `gateway.agents.base.Conversation` that goes on with what an agent yields."""

    context: list[Message]
    cache_key: str = ""
    approves: bool = True
    """What the user answers."""
    spent_tokens: int = 0
    steps_before: int = 0
    asked_for: Asked = NOTHING_ASKED
    caller: ToolCaller = CALLER
    asked: list[ToolCall] = field(default_factory=list)
    """What the user was asked."""
    requests: int = 0
    """How often the messages were asked for."""

    async def messages(self) -> Sequence[Message]:
        self.requests += 1
        return list(self.context)

    def returned(self, message: Message) -> None:
        """Nothing is lost where nothing is cut off."""

    async def approve(self, call: ToolCall) -> bool:
        self.asked.append(call)
        await anyio.lowlevel.checkpoint()
        return self.approves

    def take(self, event: AgentEvent) -> None:
        """Go on, as a turn does."""
        if isinstance(event, MessageFinished):
            self.context.append(event.message)
        elif isinstance(event, ModelCallFinished) and event.call.usage is not None:
            self.spent_tokens += event.call.usage.total_tokens


FACTS = AgentFacts("scripted", 200_000, 16_384, completes=True)


def scripted_agent(
    steps: Sequence[Step | ReplyTo],
    clock: Clock,
    toolbox: Toolbox | None = None,
    settings: AgentToolSettings | None = None,
) -> ToolLoop:
    """Return an agent whose model plays these steps, with these tools if any."""
    model = ScriptedModel(steps, FACTS, clock)
    return ToolLoop(model, toolbox or NoTools(), settings or AgentToolSettings())


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
    messages: Sequence[Message] | Talk,
    into: list[AgentEvent] | None = None,
    *,
    cache_key: str = "",
) -> Run:
    """Run to the end; `into` keeps the events where the run fails."""
    events: list[AgentEvent] = [] if into is None else into
    talk = messages if isinstance(messages, Talk) else Talk(list(messages), cache_key)
    with anyio.fail_after(30):
        async with aclosing(agent.run(talk)) as running:
            async for event in running:
                events.append(event)
                talk.take(event)
    return Run(events)


@asynccontextmanager
async def anthropic_agent(
    fake: Upstream, toolbox: Toolbox | None = None, /, **changes: object
) -> AsyncGenerator[Agent]:
    """Hold an agent that asks a pretended provider, with these tools if any."""
    table = {"model": "wire", "base_url": fake.url, "max_retries": 0, **changes}
    settings = AnthropicSettings.model_validate(table)
    async with open_agents({"a": settings}, FakeClock(), lambda _: toolbox or NoTools()) as agents:
        yield agents[AgentId("a")]


@asynccontextmanager
async def openai_agent(
    server: WireServer | Upstream, toolbox: Toolbox | None = None, /, **changes: object
) -> AsyncGenerator[Agent]:
    """Hold an agent that asks a pretended provider on the chat-completions wire."""
    fake = server.fake if isinstance(server, WireServer) else server
    table = {"model": "wire", "base_url": f"{fake.url}/v1", "max_retries": 0, **changes}
    settings = OpenAISettings.model_validate(table)
    async with open_agents({"a": settings}, FakeClock(), lambda _: toolbox or NoTools()) as agents:
        yield agents[AgentId("a")]


@asynccontextmanager
async def wired(
    wire: str, fake: Upstream, toolbox: Toolbox | None = None, /, **changes: object
) -> AsyncGenerator[Agent]:
    """Hold an agent that asks a pretended provider on a wire of this name."""
    holding = anthropic_agent if wire == "anthropic" else openai_agent
    async with holding(fake, toolbox, **changes) as agent:
        yield agent
