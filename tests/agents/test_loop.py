"""Laws of the tool loop, with a scripted model under it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest
import structlog
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from typing_extensions import override

from gateway.agents.asked import Asked
from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.agents.called import MAX_CALLS
from gateway.agents.loop import SAME_NAME
from gateway.agents.scripted import Fail, Hang, Reply
from gateway.agents.settings import AgentToolSettings
from gateway.clock import FakeClock
from gateway.errors import AgentError
from gateway.model import Image, Message, Role, ToolCall, ToolResult, Usage
from tests.agents.events import Talk, called, result, run_agent, said, scripted_agent, user
from tests.support.toolbox import TestToolbox, spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.agents.base import AgentEvent
    from gateway.agents.loop import ToolLoop
    from gateway.agents.scripted import ReplyTo, Step


async def find(q: str = "") -> str:
    await anyio.lowlevel.checkpoint()
    return f"found {q}"


def calls(*names: str, arguments: str = "{}") -> Reply:
    return Reply(calls=tuple(ToolCall(f"c{n}", name, arguments) for n, name in enumerate(names)))


def looped(
    *steps: Step | ReplyTo, toolbox: TestToolbox | None = None, **settings: object
) -> ToolLoop:
    checked = AgentToolSettings.model_validate(settings)
    return scripted_agent(steps, FakeClock(), toolbox or TestToolbox({"find": find}), checked)


def results(messages: Sequence[Message]) -> list[str]:
    return [message.text for message in messages if message.role is Role.TOOL]


async def test_a_tool_runs_and_the_model_is_asked_again_with_its_result() -> None:
    seen: list[list[Message]] = []

    def answer(messages: Sequence[Message]) -> Reply:
        seen.append(list(messages))
        return Reply(("It is ", "x."))

    asked = Reply(("Let me see.",), calls=(ToolCall("c1", "find", '{"q": "x"}'),))
    talk = Talk([user("what", "t7")])
    run = await run_agent(looped(asked, answer), talk)

    call, found, last = run.messages
    assert call == Message(Role.ASSISTANT, "Let me see.", asked.calls, turn_id=call.turn_id)
    assert found == Message(
        Role.TOOL, "found x", tool_call_id="c1", tool_name="find", turn_id=call.turn_id
    )
    assert last.text == "It is x."
    assert {message.turn_id for message in run.messages} == {"t7"}
    assert run.text == "Let me see.It is x."
    assert seen == [[user("what", "t7"), call, found]]
    assert talk.requests == 2
    kinds = [type(event) for event in run.events]
    assert kinds == [
        TextDelta,
        ModelCallFinished,
        MessageFinished,
        MessageFinished,
        TextDelta,
        TextDelta,
        ModelCallFinished,
        MessageFinished,
    ]


@examples(max_examples=30)
@given(
    delays=st.lists(st.integers(1, 5), min_size=1, max_size=20),
    most=st.integers(1, 8),
)
def test_results_come_in_the_order_of_the_calls_and_so_many_run_at_once(
    delays: list[int], most: int
) -> None:
    async def slow(place: int, checkpoints: int) -> str:
        for _ in range(checkpoints):
            await anyio.lowlevel.checkpoint()
        return f"result {place}"

    async def run() -> None:
        toolbox = TestToolbox({"slow": slow})
        step = Reply(
            calls=tuple(
                ToolCall(f"c{place}", "slow", f'{{"place": {place}, "checkpoints": {delay}}}')
                for place, delay in enumerate(delays)
            )
        )
        agent = looped(step, Reply(("done",)), toolbox=toolbox, max_parallel=most)
        messages = (await run_agent(agent, [user("go")])).messages
        assert results(messages) == [f"result {place}" for place in range(len(delays))]
        assert [message.tool_call_id for message in messages[1:-1]] == [
            call.call_id for call in step.calls
        ]
        assert toolbox.most == min(most, len(delays))

    anyio.run(run)


async def test_calls_of_an_answer_run_at_the_same_time() -> None:
    met = anyio.Event()

    async def first() -> str:
        await met.wait()
        return "one"

    async def second() -> str:
        met.set()
        return "two"

    toolbox = TestToolbox({"first": first, "second": second})
    agent = looped(calls("first", "second"), Reply(("done",)), toolbox=toolbox)

    assert results((await run_agent(agent, [user("go")])).messages) == ["one", "two"]


async def test_two_hundred_calls_of_one_answer_all_run() -> None:
    toolbox = TestToolbox({"find": find})
    agent = looped(calls(*["find"] * 200), Reply(("done",)), toolbox=toolbox)

    run = await run_agent(agent, [user("go")])

    assert len(results(run.messages)) == len(toolbox.called) == 200
    assert toolbox.most == 8


async def test_images_and_odd_text_of_a_result_go_on_and_nothing_of_it_is_a_command() -> None:
    image = Image("image/png", "aWNvbg==")

    async def odd() -> ToolResult:
        return ToolResult("/reset \0!call find {}\n\ud83d", (image,))

    toolbox = TestToolbox({"odd": odd, "find": find})
    run = await run_agent(looped(calls("odd"), Reply(("done",)), toolbox=toolbox), [user("go")])

    assert run.messages[1].text == "/reset !call find {}\n\N{REPLACEMENT CHARACTER}"
    assert run.messages[1].images == (image,)
    assert [name for name, _ in toolbox.called] == ["odd"]


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        pytest.param("", "{}", "no tool ''. There are: find, fragile", id="no-name"),
        pytest.param("Find", "{}", "no tool 'Find'", id="case"),
        pytest.param("x" * 100_000, "{}", "no tool 'xxx", id="endless-name"),
        pytest.param("find", '{"q": ', "not run: its arguments are no JSON object", id="cut"),
        pytest.param("find", "[1]", "not run: its arguments are no JSON object", id="list"),
        pytest.param("find", '{"z": 1}', "'find' failed: TypeError", id="wrong-arguments"),
        pytest.param("fragile", "{}", "'fragile' failed: RuntimeError", id="raises"),
    ],
)
async def test_a_call_that_cannot_run_is_a_result_that_the_model_reads(
    name: str, arguments: str, told: str
) -> None:
    async def fragile() -> str:
        raise RuntimeError("/home/canary")

    toolbox = TestToolbox({"find": find, "fragile": fragile})
    agent = looped(
        Reply(calls=(ToolCall("a", name, arguments), ToolCall("b", "find", '{"q": "y"}'))),
        Reply(("done",)),
        toolbox=toolbox,
    )

    with structlog.testing.capture_logs() as logs:
        run = await run_agent(agent, [user("go")])

    failed, found = results(run.messages)
    assert told in failed
    assert len(failed) < 300
    assert found == "found y"
    assert run.messages[-1].text == "done"
    assert "canary" not in failed + repr(logs)


async def test_a_toolbox_that_cancels_itself_costs_its_calls_and_not_the_turn() -> None:
    async def cancels() -> str:
        raise asyncio.CancelledError

    toolbox = TestToolbox({"cancels": cancels})
    agent = looped(calls("cancels", "cancels"), Reply(("done",)), toolbox=toolbox)

    run = await run_agent(agent, [user("go")])

    assert results(run.messages) == ["'cancels' was interrupted."] * 2
    assert run.messages[-1].text == "done"


async def test_a_toolbox_that_cannot_tell_what_needs_approval_runs_nothing() -> None:
    class Torn(TestToolbox):
        @override
        def needs_approval(self, name: str) -> bool:
            raise KeyError(name)

    toolbox = Torn({"find": find})
    run = await run_agent(looped(calls("find"), Reply(("done",)), toolbox=toolbox), [user("go")])

    assert results(run.messages) == ["'find' failed: KeyError."]
    assert toolbox.called == []


@pytest.mark.parametrize("approves", [True, False])
async def test_a_tool_that_needs_a_yes_runs_with_it_only(*, approves: bool) -> None:
    toolbox = TestToolbox({"find": find, "pay": find}, asks=frozenset({"pay"}))
    agent = looped(calls("pay", "find", "pay"), Reply(("done",)), toolbox=toolbox)
    talk = Talk([user("go")], approves=approves)

    run = await run_agent(agent, talk)

    assert [call.call_id for call in talk.asked] == ["c0", "c2"]
    assert [name for name, _ in toolbox.called] == (
        ["pay", "find", "pay"] if approves else ["find"]
    )
    first, second, third = results(run.messages)
    assert second == "found "
    assert ("did not allow it" in first) == ("did not allow it" in third) == (not approves)


async def test_nothing_of_an_answer_runs_before_all_its_questions_are_answered() -> None:
    told: list[str] = []

    class Slow(Talk):
        @override
        async def approve(self, call: ToolCall) -> bool:
            told.append(f"ask {call.name}")
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            told.append(f"yes {call.name}")
            return True

    async def noted() -> str:
        told.append("runs")
        return ""

    toolbox = TestToolbox({"free": noted, "a": noted, "b": noted}, asks=frozenset({"a", "b"}))
    agent = looped(calls("free", "a", "b"), Reply(("done",)), toolbox=toolbox)
    await run_agent(agent, Slow([user("go")]))

    assert told == ["ask a", "yes a", "ask b", "yes b", "runs", "runs", "runs"]


async def test_the_user_is_not_asked_for_a_call_that_cannot_run() -> None:
    toolbox = TestToolbox({"pay": find}, asks=frozenset({"pay", "gone"}))
    step = Reply(calls=(ToolCall("a", "pay", "[]"), ToolCall("b", "gone", "{}")))
    talk = Talk([user("go")])

    await run_agent(looped(step, Reply(("done",)), toolbox=toolbox), talk)

    assert talk.asked == []
    assert toolbox.called == []


async def test_cancellation_reaches_every_tool_that_runs() -> None:
    async def hang() -> str:
        await anyio.sleep_forever()
        return "never"

    toolbox = TestToolbox({"hang": hang})
    agent = looped(calls(*["hang"] * 5), toolbox=toolbox, max_parallel=3)
    clock = FakeClock()
    events: list[AgentEvent] = []

    async def turn() -> None:
        with clock.move_on_after(60) as scope:
            async with aclosing(agent.run(Talk([user("go")]))) as running:
                async for event in running:
                    events.append(event)  # noqa: PERF401 - the loop is cancelled on its way
        assert scope.cancelled_caught

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(turn)
            await clock.advance(59)
            assert (toolbox.running, toolbox.cancelled) == (3, [])
            await clock.advance(1)

    assert (toolbox.running, toolbox.cancelled) == (0, ["hang"] * 3)
    assert [type(event) for event in events] == [ModelCallFinished, MessageFinished]


async def test_a_run_that_is_left_between_results_leaves_nothing_behind() -> None:
    agent = looped(calls("find", "find"), Reply(("done",)))

    async with aclosing(agent.run(Talk([user("go")]))) as running:
        async for event in running:
            if isinstance(event, MessageFinished) and event.message.role is Role.TOOL:
                break

    assert (await run_agent(agent, [user("again")])).messages[-1].text == "done"


@pytest.mark.parametrize("max_steps", [1, 3])
async def test_after_so_many_steps_the_model_may_not_call_any_more(max_steps: int) -> None:
    """A scripted model is not told so; one that calls nevertheless has come to no answer."""
    agent = looped(calls("find"), max_steps=max_steps)
    events: list[AgentEvent] = []

    with structlog.testing.capture_logs() as logs, pytest.raises(AgentError) as caught:
        await run_agent(agent, [user("go")], events)

    assert "as much of its tools as one message may" in caught.value.user_text
    finished = [event.message for event in events if isinstance(event, MessageFinished)]
    assert [bool(message.tool_calls) for message in finished] == [True, False] * max_steps
    counted = sum(isinstance(event, ModelCallFinished) for event in events)
    assert counted == max_steps + 1
    assert logs == [
        {
            "event": "agent.bound_reached",
            "log_level": "warning",
            "model": "scripted",
            "bound": "max_steps",
            "steps": max_steps,
            "spent_tokens": 0,
        }
    ]


async def test_a_second_run_in_the_same_turn_goes_on_counting_steps() -> None:
    begun = [
        user("old"),
        called("x"),
        result("x", "r"),
        said("ok"),
        user("go"),
        called("a"),
        result("a", "r"),
        called("b"),
        result("b", "r"),
    ]
    with structlog.testing.capture_logs() as logs:
        run = await run_agent(looped(calls("find"), Reply(("done",)), max_steps=3), begun)

    assert [len(message.tool_calls) for message in run.messages] == [1, 0, 0]
    assert [line["steps"] for line in logs] == [3]


async def test_steps_before_a_caller_brought_results_do_not_count() -> None:
    begun = [user("go"), called("a"), result("a", "r"), called("b"), result("b", "r")]
    agent = looped(calls("find"), Reply(("done",)), max_steps=1)
    talk = Talk(list(begun), steps_before=2)
    with structlog.testing.capture_logs() as logs:
        async with aclosing(agent.run(talk)) as events:
            async for event in events:
                talk.take(event)

    assert talk.context[-1].text == "done"
    assert [line["steps"] for line in logs] == [1]


async def test_a_callers_tools_end_the_run_behind_the_results_of_ours() -> None:
    theirs = Asked(tools=(spec("weather"),))
    agent = looped(calls("find", "weather", "nobody", "weather"), Reply(("never",)))
    talk = Talk([user("go")], asked_for=theirs)
    async with aclosing(agent.run(talk)) as events:
        async for event in events:
            talk.take(event)

    answer, *results = talk.context[1:]
    assert len(answer.tool_calls) == 4
    assert [one.tool_name for one in results] == ["find", "nobody"]
    # It is told of both sides' tools.
    assert "weather" in results[1].text


async def test_more_calls_than_may_be_run_are_answered_whoever_runs_them() -> None:
    agent = looped(calls(*["weather"] * (MAX_CALLS + 1)), Reply(("never",)))
    talk = Talk([user("go")], asked_for=Asked(tools=(spec("weather"),)))
    async with aclosing(agent.run(talk)) as events:
        async for event in events:
            talk.take(event)

    (result_,) = talk.context[2:]
    assert result_.tool_call_id == talk.context[1].tool_calls[-1].call_id
    assert "at most" in result_.text


async def test_a_callers_tool_with_the_name_of_ours_is_no_answer() -> None:
    talk = Talk([user("go")], asked_for=Asked(tools=(spec("find"),)))
    with pytest.raises(AgentError) as caught:
        await anext(looped(calls("find")).run(talk))

    assert caught.value.user_text == SAME_NAME


@pytest.mark.parametrize(("spent", "bound"), [(99, 0), (99, 100), (100, 100), (101, 100)])
async def test_after_so_many_tokens_the_model_may_not_call_any_more(spent: int, bound: int) -> None:
    agent = looped(calls("find"), Reply(("done",)), max_turn_tokens=bound)
    talk = Talk([user("go")], spent_tokens=spent)

    if 0 < bound <= spent:
        with structlog.testing.capture_logs() as logs, pytest.raises(AgentError):
            await run_agent(agent, talk)
        assert [line["bound"] for line in logs] == ["max_turn_tokens"]
    else:
        assert (await run_agent(agent, talk)).messages[-1].text == "done"


async def test_tokens_are_counted_from_request_to_request() -> None:
    step = Reply(usage=Usage(input_tokens=30, output_tokens=10), calls=calls("find").calls)
    events: list[AgentEvent] = []

    with pytest.raises(AgentError):
        await run_agent(looped(step, max_turn_tokens=100), [user("go")], events)

    assert sum(isinstance(event, ModelCallFinished) for event in events) == 4


async def test_ids_of_calls_differ_within_a_turn_and_results_bear_them() -> None:
    same = Reply(calls=(ToolCall("", "find", "{}"), ToolCall("c", "find", '{"q": "b"}')))
    run = await run_agent(looped(same, same, same, Reply(("done",))), [user("go")])

    ids = [call.call_id for message in run.messages for call in message.tool_calls]
    assert len(set(ids)) == 6
    assert ids[1] == "c"
    assert [m.tool_call_id for m in run.messages if m.role is Role.TOOL] == ids


async def test_without_tools_a_call_ends_the_turn() -> None:
    agent = scripted_agent([calls("find")], FakeClock())

    with structlog.testing.capture_logs() as logs, pytest.raises(AgentError) as caught:
        await run_agent(agent, [user("go")])

    assert "does not have" in caught.value.user_text
    assert logs == []


async def test_an_error_between_steps_ends_the_turn_and_the_next_one_works() -> None:
    agent = looped(calls("find"), Fail("no more"), Reply(("well again",)))
    events: list[AgentEvent] = []

    with pytest.raises(AgentError, match="script says fail"):
        await run_agent(agent, [user("go")], events)

    finished = [event.message for event in events if isinstance(event, MessageFinished)]
    assert [message.role for message in finished] == [Role.ASSISTANT, Role.TOOL]
    assert (await run_agent(agent, [user("hi")])).text == "well again"


async def test_a_conversation_that_allows_no_further_request_ends_the_turn() -> None:
    class Budget(Talk):
        @override
        async def messages(self) -> Sequence[Message]:
            if self.requests:
                raise AgentError("a budget is used up", user_text="No more today.")
            return await Talk.messages(self)

    toolbox = TestToolbox({"find": find})
    agent = looped(calls("find"), Reply(("never",)), toolbox=toolbox)

    with pytest.raises(AgentError, match="budget"):
        await run_agent(agent, Budget([user("go")]))
    assert len(toolbox.called) == 1


async def test_a_completion_is_one_answer_without_tools() -> None:
    toolbox = TestToolbox({"find": find})
    agent = looped(
        Reply(("a sum", "mary"), Usage(5, 2)),
        replace(calls("find"), usage=Usage(6, 1)),
        Fail("no"),
        toolbox=toolbox,
    )

    done = await agent.complete([user("sum up")])

    assert (done.text, done.call.usage, done.error) == ("a summary", Usage(5, 2), None)
    # What it cost is told with the reason why it is none.
    refused = await agent.complete([user("sum up")])
    assert (refused.text, refused.call.usage) == ("", Usage(6, 1))
    assert "not offered" in str(refused.error)
    with pytest.raises(AgentError, match="fail"):
        await agent.complete([user("sum up")])
    assert toolbox.called == []


async def test_a_completion_can_be_cancelled() -> None:
    agent = looped(Hang(), Reply(("back",)))
    clock = FakeClock()

    async def complete() -> None:
        with clock.move_on_after(1):
            await agent.complete([user("sum up")])

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(complete)
            await clock.advance(1)

    assert (await agent.complete([user("sum up")])).text == "back"


async def test_the_facts_are_those_of_the_model_as_it_is_now() -> None:
    facts = looped(Reply(("x",))).facts()

    assert (facts.model, facts.window_tokens, facts.completes) == ("scripted", 200_000, True)
