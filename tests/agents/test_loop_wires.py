"""Laws of the tool loop on both wires, through the SDKs, on a pretended provider."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from typing_extensions import override

from gateway.agents.anthropic_wire import wire_tools as messages_tools
from gateway.agents.openai_wire import wire_tools as chat_tools
from gateway.clock import FakeClock
from gateway.errors import AgentError
from gateway.model import Image, Message, Role, ToolCall, ToolResult, ToolSpec
from tests.agents.events import Talk, called, result, run_agent, said, user, wired
from tests.support.answers import Answer
from tests.support.toolbox import TestToolbox, spec
from tests.support.upstream import upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.answers import Json

WIRES: Final = pytest.mark.parametrize("wire", ["anthropic", "openai"])
LONG: Final = "word " * 1_200
"""1,500 tokens: more than the least that is kept."""


async def find(q: str = "") -> str:
    await anyio.lowlevel.checkpoint()
    return f"found {q}"


def calling(*calls: tuple[str, str, str], text: str = "") -> Answer:
    """Return an answer with these calls: id, name, arguments."""
    return Answer(text, tool_calls=tuple(ToolCall(*call) for call in calls))


def names(body: Json) -> list[str]:
    return [tool.get("function", tool)["name"] for tool in body.get("tools", ())]


def choice(body: Json) -> str:
    chosen = body.get("tool_choice", "")
    return chosen if isinstance(chosen, str) else str(chosen["type"])


def steps(count: int, then: str = "done") -> Callable[[Json], Answer]:
    """Return a model that calls `find` in so many answers of a turn, where it may, then answers."""

    def answer(body: Json) -> Answer:
        turn = 0
        for message in body["messages"]:
            content = message["content"]
            blocks = content if isinstance(content, list) else []
            asks = message["role"] == "user" and not any(
                block["type"] == "tool_result" for block in blocks
            )
            of_call = bool(message.get("tool_calls")) or any(
                block["type"] == "tool_use" for block in blocks
            )
            turn = 0 if asks else turn + of_call
        if turn >= count or choice(body) == "none":
            return Answer(then)

        return calling(("", "find", f'{{"q": "{turn}"}}'), text=f"Step {turn}. ")

    return answer


@WIRES
async def test_calls_and_results_go_over_the_wire_as_it_takes_them(wire: str) -> None:
    async def show() -> ToolResult:
        return ToolResult("seen", (Image("image/png", "aWNvbg=="),))

    toolbox = TestToolbox({"find": find, "show": show, "never": find})
    async with upstream(FakeClock()) as fake, wired(wire, fake, toolbox) as agent:
        fake.answer(
            calling(("c1", "find", '{"q": "ü🙂"}'), ("c2", "show", "{}"), text="Let me see."),
            "That is it.",
        )
        run = await run_agent(agent, [user("what", "t3")])

    assert run.text == "Let me see.That is it."
    assert toolbox.called == [("find", {"q": "ü🙂"}), ("show", {})]
    assert len(run.calls) == 2
    first, second = (request.json for request in fake.requests)
    assert names(first) == names(second) == ["find", "never", "show"]
    assert first["tools"] == second["tools"]
    assert choice(first) == choice(second) == "auto"
    assert second["messages"][0]["role"] == "user"
    sent = without_marks(second["messages"][1:])
    assert sent == (MESSAGES_SENT if wire == "anthropic" else CHAT_SENT)


MESSAGES_SENT: Final = [
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "Let me see."},
            {"type": "tool_use", "id": "c1", "name": "find", "input": {"q": "ü🙂"}},
            {"type": "tool_use", "id": "c2", "name": "show", "input": {}},
        ],
    },
    {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "c1",
                "content": [{"type": "text", "text": "found ü🙂"}],
            },
            {
                "type": "tool_result",
                "tool_use_id": "c2",
                "content": [
                    {"type": "text", "text": "seen"},
                    {
                        "type": "image",
                        "source": {
                            "type": "base64",
                            "media_type": "image/png",
                            "data": "aWNvbg==",
                        },
                    },
                ],
            },
        ],
    },
]
CHAT_SENT: Final = [
    {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "find", "arguments": '{"q": "ü🙂"}'},
            },
            {"id": "c2", "type": "function", "function": {"name": "show", "arguments": "{}"}},
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "found ü🙂"},
    {"role": "tool", "tool_call_id": "c2", "content": "seen\n[image: image/png]"},
]


def without_marks(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {key: without_marks(inner) for key, inner in value.items() if key != "cache_control"}
    return [without_marks(inner) for inner in value] if isinstance(value, list) else value


@WIRES
@pytest.mark.parametrize("system_prompt", ["", LONG], ids=["no-prompt", "prompt"])
async def test_each_request_of_a_turn_reads_what_the_one_before_wrote(
    wire: str, system_prompt: str
) -> None:
    async def read(q: str) -> str:
        return f"{q} {LONG}"

    toolbox = TestToolbox({"find": read})
    async with (
        upstream(FakeClock()) as fake,
        wired(wire, fake, toolbox, system_prompt=system_prompt) as agent,
    ):
        fake.answer(steps(5))
        talk = Talk([user(f"one {LONG}", "t1")])
        await run_agent(agent, talk)
        talk.context.append(user("two", "t2"))
        await run_agent(agent, talk)

    assert len(fake.requests) == 12
    assert len({str(request.json["tools"]) for request in fake.requests}) == 1
    for before, request in pairwise(fake.requests):
        assert request.blocks[: len(before.blocks)] == before.blocks
        assert request.read == before.read + before.written
        # The automatic cache keeps whole steps of 128 tokens.
        assert before.tokens - request.read < (1 if wire == "anthropic" else 128)


@WIRES
@pytest.mark.parametrize(
    "bound", [{"max_steps": 2}, {"max_turn_tokens": 1}], ids=["steps", "tokens"]
)
async def test_at_a_bound_the_tools_stay_defined_and_the_model_answers_without_them(
    wire: str, bound: dict[str, int]
) -> None:
    toolbox = TestToolbox({"find": find})
    async with (
        upstream(FakeClock()) as fake,
        wired(wire, fake, toolbox, system_prompt=LONG, tools=bound) as agent,
    ):
        fake.answer(steps(9, then="as far as I got"))
        run = await run_agent(agent, [user("go")])

    *before, last = fake.requests
    assert run.messages[-1].text == "as far as I got"
    assert len(before) == bound.get("max_steps", 1)
    assert [choice(request.json) for request in before] == ["auto"] * len(before)
    assert choice(last.json) == "none"
    assert names(last.json) == ["find"]
    # What the provider keeps of tools and prompt is read though the choice is another one.
    assert last.read >= 1_024


@WIRES
async def test_a_model_that_calls_beyond_a_bound_has_come_to_no_answer(wire: str) -> None:
    toolbox = TestToolbox({"find": find})
    async with (
        upstream(FakeClock()) as fake,
        wired(wire, fake, toolbox, tools={"max_steps": 1}) as agent,
    ):
        fake.answer(calling(("c", "find", "{}")))
        with pytest.raises(AgentError, match="not offered"):
            await run_agent(agent, [user("go")])
        assert len(fake.requests) == 2
        fake.answer("well again")
        assert (await run_agent(agent, [user("hi")])).text == "well again"
    assert len(toolbox.called) == 1


ODD: Final = {
    "same ids": (("c", "find", "{}"), ("c", "find", "{}")),
    "odd ids": (("functions.find:0", "find", "{}"), ("é" * 50, "find", "{}")),
    "unknown tool": (("c", "gone", "{}"),),
    "odd name": (("c", "fs.read file\n", "{}"), ("d", "x" * 200, "{}")),
    "cut arguments": (("c", "find", '{"q": "x'),),
    "no object": (("c", "find", "[1]"),),
    "no arguments": (("c", "find", ""),),
    "number for text": (("c", "find", '{"q": 5}'),),
    "other arguments": (("c", "find", '{"z": 5}'),),
    "200 calls": tuple((f"c{place}", "find", "{}") for place in range(200)),
}


@WIRES
@pytest.mark.parametrize("calls", ODD.values(), ids=ODD.keys())
async def test_odd_calls_get_results_and_every_later_turn_is_taken(
    wire: str, calls: tuple[tuple[str, str, str], ...]
) -> None:
    toolbox = TestToolbox({"find": find})
    async with upstream(FakeClock()) as fake, wired(wire, fake, toolbox) as agent:
        fake.answer(calling(*calls), calling(*calls), "done")
        talk = Talk([user("go", "t1")])
        run = await run_agent(agent, talk)
        talk.context.append(user("and now", "t2"))
        assert (await run_agent(agent, talk)).text == "done"

    assert run.text == "done"
    ids = [call.call_id for message in run.messages for call in message.tool_calls]
    assert len(set(ids)) == len(ids) == 2 * len(calls)
    assert [m.tool_call_id for m in run.messages if m.role is Role.TOOL] == ids
    assert len(fake.requests) == 4


@WIRES
async def test_the_same_id_in_every_turn_is_taken(wire: str) -> None:
    toolbox = TestToolbox({"find": find})
    async with upstream(FakeClock()) as fake, wired(wire, fake, toolbox) as agent:
        talk = Talk([])
        for number in range(3):
            fake.answer(calling(("call_0", "find", "{}")), "done")
            talk.context.append(user("go", f"t{number}"))
            assert (await run_agent(agent, talk)).messages[-1].text == "done"

    assert len(fake.requests) == 6


@WIRES
async def test_calls_of_tools_that_are_not_offered_any_more_stay_in_the_history(wire: str) -> None:
    context = [user("a"), called("c1"), result("c1", "r"), said("ok"), user("b", "t2")]
    async with (
        upstream(FakeClock()) as fake,
        wired(wire, fake, TestToolbox({"other": find})) as with_others,
        wired(wire, fake) as without,
    ):
        for agent in (with_others, without):
            assert (await run_agent(agent, context)).text == "pong"

    bodies = [request.json for request in fake.requests]
    past = ["past_tool"] if wire == "anthropic" else []
    assert [names(body) for body in bodies] == [["other"], past]
    assert [choice(body) for body in bodies] == ["auto", "none" if past else ""]


@WIRES
async def test_silence_in_a_tool_calling_answer_ends_the_turn_and_the_next_one_works(
    wire: str,
) -> None:
    toolbox = TestToolbox({"find": find})
    async with (
        upstream(FakeClock()) as fake,
        wired(wire, fake, toolbox, read_timeout_s=1.0) as agent,
    ):
        call = ToolCall("c", "find", '{"q": "a long one"}')
        fake.answer(Answer("Let me see.", tool_calls=(call,), then="hangs"))
        with pytest.raises(AgentError, match="silent for too long"):
            await run_agent(agent, [user("go")])
        with anyio.fail_after(30):
            await fake.client_left.wait()
        fake.answer(calling(("c", "find", "{}")), "well again")
        assert (await run_agent(agent, [user("go")])).messages[-1].text == "well again"
    assert len(toolbox.called) == 1


@WIRES
async def test_a_cancelled_turn_reaches_its_tools_and_the_next_one_works(wire: str) -> None:
    async def hang() -> str:
        await anyio.sleep_forever()
        return "never"

    toolbox = TestToolbox({"find": find, "hang": hang})
    async with upstream(FakeClock()) as fake, wired(wire, fake, toolbox) as agent:
        fake.answer(calling(("a", "hang", "{}"), ("b", "hang", "{}")))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_agent, agent, [user("go")])
            with anyio.fail_after(30):
                await toolbox.begun.wait()
            await anyio.wait_all_tasks_blocked()
            assert toolbox.running == 2
            tasks.cancel_scope.cancel()
        assert toolbox.cancelled == ["hang", "hang"]
        fake.answer(calling(("c", "find", "{}")), "well again")
        assert (await run_agent(agent, [user("go")])).messages[-1].text == "well again"


@WIRES
async def test_an_answer_that_reached_its_length_calls_only_what_is_whole(wire: str) -> None:
    """A last call without arguments may have been cut before them."""
    reason = "max_tokens" if wire == "anthropic" else "length"
    toolbox = TestToolbox({"find": find})
    async with upstream(FakeClock()) as fake, wired(wire, fake, toolbox) as agent:
        cut = (ToolCall("a", "find", '{"q": "x"}'), ToolCall("b", "find", '{"q": '))
        fake.answer(Answer("", tool_calls=cut, finish=reason), "done")
        run = await run_agent(agent, [user("go")])
        bare = (ToolCall("a", "find", '{"q": "y"}'), ToolCall("b", "find", ""))
        fake.answer(Answer("", tool_calls=bare, finish=reason), "done")
        again = await run_agent(agent, [user("go")])
        fake.answer(Answer("", tool_calls=bare[1:], finish=reason))
        with pytest.raises(AgentError, match="no answer"):
            await run_agent(agent, [user("go")])

    assert toolbox.called == [("find", {"q": "x"}), ("find", {"q": "y"})]
    assert [len(message.tool_calls) for message in run.messages] == [2, 0, 0, 0]
    assert [len(message.tool_calls) for message in again.messages] == [1, 0, 0]


@WIRES
async def test_a_completion_defines_the_tools_and_forbids_them(wire: str) -> None:
    toolbox = TestToolbox({"find": find})
    async with upstream(FakeClock()) as fake, wired(wire, fake, toolbox) as agent:
        fake.answer("a summary", calling(("c", "find", "{}")))
        done = await agent.complete([user("sum up")], cache_key="k")
        refused = await agent.complete([user("sum up")])

    assert done.text == "a summary"
    assert done.call.usage is not None
    assert done.call.usage.context_tokens == fake.requests[0].tokens
    assert refused.call.usage is not None
    assert refused.call.usage.context_tokens == fake.requests[1].tokens
    assert "not offered" in str(refused.error)
    assert [choice(request.json) for request in fake.requests] == ["none", "none"]
    assert names(fake.requests[0].json) == ["find"]
    assert toolbox.called == []


@WIRES
async def test_the_overhead_is_what_the_request_has_beside_its_messages(wire: str) -> None:
    tools = {f"tool_{place}": find for place in range(7)}
    async with (
        upstream(FakeClock()) as fake,
        wired(wire, fake, TestToolbox(tools), system_prompt="Be brief. ü🙂") as agent,
        wired(wire, fake, system_prompt="Be brief. ü🙂") as bare,
    ):
        await run_agent(agent, [user("hi")])
        await run_agent(bare, [user("hi")])
        chars = agent.facts().overhead_chars - bare.facts().overhead_chars

    assert bare.facts().overhead_chars == len("Be brief. ü🙂")
    more = fake.requests[0].tokens - fake.requests[1].tokens
    # Each definition is counted in tokens begun.
    assert chars / 4 <= more < chars / 4 + len(tools)
    assert agent.facts().completes


@WIRES
async def test_a_schema_with_numbers_of_any_size_is_sent(wire: str) -> None:
    class Large(TestToolbox):
        @override
        def specs(self) -> Sequence[ToolSpec]:
            whole = {"type": "integer", "maximum": 2**256}
            return [ToolSpec("pay", "Pays.", {"type": "object", "properties": {"n": whole}})]

    async with (
        upstream(FakeClock()) as fake,
        wired(wire, fake, Large({"pay": find})) as agent,
    ):
        assert (await run_agent(agent, [user("hi")])).text == "pong"

    assert str(2**256).encode() in fake.requests[0].body
    assert agent.facts().overhead_chars > 0


def test_definitions_stand_in_the_order_of_their_names_whatever_the_toolbox_says() -> None:
    tools = [spec("b"), spec("a", "x" * 2_000)]

    assert [tool["name"] for tool in messages_tools(tools)] == ["a", "b"]
    assert [tool["function"]["name"] for tool in chat_tools(tools)] == ["a", "b"]
    assert chat_tools(tools)[0]["function"]["description"] == "x" * 2_000
    cut = chat_tools(tools, official=True)[0]["function"]["description"]
    assert cut == "x" * 1_023 + "…"


async def test_messages_of_a_context_are_not_changed_by_a_request() -> None:
    context = [user("a"), called("c"), result("c", "r")]
    before = [Message(**{f: getattr(m, f) for f in Message.__slots__}) for m in context]
    async with (
        upstream(FakeClock()) as fake,
        wired("anthropic", fake, TestToolbox({"find": find})) as agent,
    ):
        await run_agent(agent, context)

    assert context == before
