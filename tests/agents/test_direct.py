"""Laws of answers without a session, whoever gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.agents.anthropic_wire import ANTHROPIC_TAKES, request_parts
from gateway.agents.asked import Choice, Wishes
from gateway.agents.base import AgentFacts, MessageFinished
from gateway.agents.direct import Alone, Direct, DirectRequest
from gateway.agents.echo import EchoAgent
from gateway.agents.loop import NO_SUCH_TOOL, ToolLoop
from gateway.agents.openai import extra_parameters
from gateway.agents.openai_wire import OPENAI_TAKES
from gateway.agents.scripted import Reply, ScriptedModel
from gateway.agents.settings import AgentToolSettings, EchoSettings, OpenAISettings
from gateway.agents.tools import NoTools
from gateway.clock import FakeClock
from gateway.errors import AgentError
from gateway.model import Message, ToolCall, ToolSpec
from tests.agents.events import user

if TYPE_CHECKING:
    from gateway.agents.scripted import Step

TOOL = ToolSpec("f", "x" * 2_000, {"properties": {"b": {}, "a": {}}}, strict=True, verbatim=True)
SETTINGS = OpenAISettings(model="m", base_url="http://127.0.0.1:1/v1", max_output_tokens=50)


def loop(*steps: Step) -> ToolLoop:
    model = ScriptedModel(steps, AgentFacts("m", 1_000, 100), FakeClock())
    return ToolLoop(model, NoTools(), AgentToolSettings())


async def answer(agent: Direct, *tools: ToolSpec, wishes: Wishes | None = None) -> Message:
    """Return the last message of what an agent answers."""
    request = DirectRequest([user("hello")], tools, wishes or Wishes())
    events = [event async for event in agent.ask(request)]
    finished = [event for event in events if isinstance(event, MessageFinished)]
    return finished[-1].message


async def test_calls_are_the_callers_and_have_ids() -> None:
    calls = (ToolCall("", "f", "{}"), ToolCall("", "f", "{}"))
    agent = loop(Reply(("look ",), calls=calls))

    message = await answer(agent, TOOL)

    assert [call.call_id for call in message.tool_calls] == ["call_1", "call_2"]
    assert message.text == "look "


@pytest.mark.parametrize("tools", [(), (TOOL,)])
async def test_a_call_that_nobody_offered_is_no_answer(tools: tuple[ToolSpec, ...]) -> None:
    agent = loop(Reply(calls=(ToolCall("", "f", "{}"),)))
    wishes = Wishes(tool_choice="none")

    with pytest.raises(AgentError) as raised:
        await answer(agent, *tools, wishes=wishes)

    assert raised.value.user_text == NO_SUCH_TOOL


async def test_an_agent_without_a_model_takes_no_wishes() -> None:
    agent = EchoAgent(EchoSettings(), FakeClock())

    assert isinstance(agent, Direct)
    assert not agent.takes().tools
    assert not agent.takes().wishes
    assert (await answer(agent)).text == "hello"


async def test_a_conversation_of_one_request_allows_nothing() -> None:
    alone = Alone([user("hello")])

    assert await alone.messages() == [user("hello")]
    assert not await alone.approve(ToolCall("c", "f", "{}"))
    with pytest.raises(AssertionError, match="calls no tool"):
        _ = alone.caller


def test_only_wishes_that_there_are_have_a_name() -> None:
    assert Wishes().named() == frozenset()
    assert Wishes(seed=0, temperature=0.0).named() == {"seed", "temperature"}


@pytest.mark.parametrize(
    ("wishes", "openai", "anthropic"),
    [
        (Wishes(), "auto", {"type": "auto"}),
        (Wishes(tool_choice="required"), "required", {"type": "any"}),
        (
            Wishes(named_tool="f", parallel_calls=False),
            {"type": "function", "function": {"name": "f"}},
            {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        ),
    ],
)
def test_a_choice_of_tools_stands_on_each_wire(
    wishes: Wishes, openai: object, anthropic: object
) -> None:
    on_one: Any = extra_parameters(SETTINGS, "", [TOOL], wishes=wishes)
    on_other = request_parts("", [user("a")], "off", [TOOL], wishes=wishes)

    assert on_one["tool_choice"] == openai
    assert on_one.get("parallel_tool_calls") == wishes.parallel_calls
    assert on_other["tool_choice"] == anthropic


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_callers_tool_goes_to_the_model_as_it_is(choice: Choice) -> None:
    official = SETTINGS.model_copy(update={"base_url": "https://api.openai.com/v1"})
    wishes = Wishes(tool_choice=choice)
    on_one: Any = extra_parameters(official, "", [TOOL], wishes=wishes)
    (function,) = (tool["function"] for tool in on_one["tools"])
    (other,) = request_parts("", [user("a")], "off", [TOOL], wishes=wishes)["tools"]

    assert function["description"] == other["description"] == TOOL.description
    assert list(function["parameters"]["properties"]) == ["b", "a"]
    assert list(other["input_schema"]["properties"]) == ["b", "a"]
    assert function["strict"] is other["strict"] is True


@pytest.mark.parametrize(("wished", "sent"), [(None, 50), (10, 10), (90, 50)])
def test_the_operators_length_is_the_most_that_can_be_wished(wished: int | None, sent: int) -> None:
    parameters = extra_parameters(SETTINGS, "", wishes=Wishes(max_output_tokens=wished))

    assert parameters == {"max_tokens": sent}


def test_what_an_agent_takes_are_wishes() -> None:
    names = {*Wishes.__dataclass_fields__}

    assert OPENAI_TAKES.wishes == names
    assert ANTHROPIC_TAKES.wishes < names
