"""Laws of the agent that follows a script."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.agents.base import AgentEvent, TextDelta
from gateway.agents.scripted import Fail, Hang, Reply, parse_script
from gateway.clock import FakeClock
from gateway.errors import AgentError
from gateway.model import Usage
from tests.agents.events import Talk, run_agent, scripted_agent, user
from tests.support.toolbox import TestToolbox

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.agents.loop import ToolLoop
    from gateway.model import Message


def _agent(*lines: str) -> ToolLoop:
    return scripted_agent(parse_script(lines), FakeClock())


async def test_replies_come_in_turn_and_start_again() -> None:
    agent = _agent("one", "two")

    texts = [(await run_agent(agent, [user("hi")])).text for _ in range(5)]

    assert texts == ["one", "two", "one", "two", "one"]


async def test_usage_belongs_to_the_reply_after_it() -> None:
    agent = _agent("free", "!usage 100 20 30 4", "counted")

    first, second = [await run_agent(agent, [user("hi")]) for _ in range(2)]

    assert [call.usage for call in first.calls] == [None]
    assert [call.usage for call in second.calls] == [Usage(100, 20, 30, 4)]
    assert second.text == "counted"


async def test_chunks_are_streamed_one_by_one() -> None:
    run = await run_agent(_agent("!chunks a| b|c d"), [user("hi", "t7")])

    assert run.deltas == ["a", " b", "c d"]
    assert run.text == "a bc d"
    assert run.messages[0].turn_id == "t7"


@pytest.mark.parametrize(
    ("line", "calls"),
    [
        ('!call find {"q": "x"}', [("find", '{"q": "x"}')]),
        ("!call find", [("find", "{}")]),
        ("!call find   ", [("find", "{}")]),
        ('!call a {} && b {"n": 1}', [("a", "{}"), ("b", '{"n": 1}')]),
        ("!call a && a && a", [("a", "{}")] * 3),
        ('!call a {"q": "x && y {} && "} && b', [("a", '{"q": "x && y {} && "}'), ("b", "{}")]),
    ],
)
async def test_call_is_an_answer_that_calls_tools(line: str, calls: list[tuple[str, str]]) -> None:
    tools = {"a": note, "b": note, "find": note}
    steps = parse_script(["!usage 7 3 0 0", line, "done"])
    agent = scripted_agent(steps, FakeClock(), TestToolbox(tools))

    run = await run_agent(agent, [user("go")])

    asked = run.messages[0]
    assert [(call.name, call.arguments) for call in asked.tool_calls] == calls
    assert (asked.text, run.messages[-1].text) == ("", "done")
    assert [call.usage for call in run.calls] == [Usage(7, 3), None]


async def note(**_: object) -> str:
    return "noted"


async def test_fail_is_an_error_the_user_can_read() -> None:
    agent = _agent("!fail The sky is falling.", "well again")

    with pytest.raises(AgentError) as caught:
        await run_agent(agent, [user("hi")])

    assert caught.value.user_text == "The sky is falling."
    assert (await run_agent(agent, [user("hi")])).text == "well again"


async def test_hang_lasts_until_it_is_cancelled() -> None:
    clock = FakeClock()
    agent = scripted_agent([Hang(), Reply(("back",))], clock)
    events: list[AgentEvent] = []

    async def hang_for_a_day() -> None:
        with clock.move_on_after(86_400) as scope:
            await run_without_limit(agent, events)
        assert scope.cancelled_caught

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hang_for_a_day)
            await clock.advance(86_399)
            assert events == []
            await clock.advance(1)

    assert (await run_agent(agent, [user("hi")])).text == "back"


async def run_without_limit(agent: ToolLoop, events: list[AgentEvent]) -> None:
    async with aclosing(agent.run(Talk([user("hi")]))) as running:
        async for event in running:
            events.append(event)  # noqa: PERF401 - the loop is cancelled on its way


async def test_a_step_can_be_made_from_the_context() -> None:
    def count(messages: Sequence[Message]) -> Reply:
        return Reply((f"{len(messages)} messages",))

    agent = scripted_agent([count, lambda _: Fail("no more")], FakeClock())

    assert (await run_agent(agent, [user("a"), user("b")])).text == "2 messages"
    with pytest.raises(AgentError):
        await run_agent(agent, [user("c")])


async def test_other_tasks_run_between_chunks() -> None:
    seen: list[str] = []

    async def listen(chunks: str) -> None:
        async with aclosing(_agent(f"!chunks {chunks}").run(Talk([user("hi")]))) as running:
            async for event in running:
                seen.extend([event.text] if isinstance(event, TextDelta) else [])

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, "a|b|c")
            tasks.start_soon(listen, "1|2|3")

    assert "".join(seen) == "a1b2c3"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        pytest.param([], "at least one", id="nothing"),
        pytest.param(["!usage 1 2 3 4"], "after !usage", id="usage-at-the-end"),
        pytest.param(["!usage 1 2 3", "a"], "line 1: accepted is !usage INPUT", id="three-numbers"),
        pytest.param(["!usage 1 2 3 -4", "a"], "line 1: accepted is !usage INPUT", id="negative"),
        pytest.param(["a", "!usage 1 2 3 4", "!hang"], "line 3", id="usage-before-hang"),
        pytest.param(["!hang on"], "line 1: not a directive", id="hang-with-text"),
        pytest.param(["!fail"], "line 1: not a directive", id="fail-without-text"),
        pytest.param(["!chunks ||"], "line 1: not a directive", id="no-chunks"),
        pytest.param(["!call"], "line 1: accepted is !call NAME", id="call-without-name"),
        pytest.param(["!call a b"], "line 1: accepted is !call NAME", id="call-without-json"),
        pytest.param(["!call a [1]"], "line 1: accepted is !call NAME", id="call-with-a-list"),
        pytest.param(["!call a.b {}"], "line 1: accepted is !call NAME", id="call-with-odd-name"),
        pytest.param(["!call a && "], "line 1: accepted is !call NAME", id="call-and-nothing"),
        pytest.param(["a", "!call a {} && !b"], "line 2: accepted is !call", id="call-and-odd"),
        pytest.param(["!dance"], "!chunks A|B|C", id="unknown"),
    ],
)
def test_a_bad_script_is_told_where_and_what_is_accepted(lines: list[str], told: str) -> None:
    with pytest.raises(ValueError, match="accepted") as caught:
        parse_script(lines)

    assert told in str(caught.value)
