"""Laws of tool-calling answers that come in pieces, or not to their end, on both wires."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway.agents.base import AgentEvent, MessageFinished, TextDelta
from gateway.clock import FakeClock
from gateway.errors import AgentError, AgentFailure
from gateway.model import Role, ToolCall
from tests.agents.events import run_agent, user, wired
from tests.agents.test_anthropic import HEAD, delta, ended, started, stream_of
from tests.agents.test_loop_wires import WIRES, calling, find
from tests.agents.wire_server import WireAnswer, events_answer
from tests.support import chat_wire, messages_wire
from tests.support.answers import Answer
from tests.support.chat_wire import DONE
from tests.support.prompt_cache import Charge
from tests.support.toolbox import TestToolbox
from tests.support.upstream import Bytes, upstream

if TYPE_CHECKING:
    from tests.support.answers import Json
    from tests.support.upstream import Step

CALLS: Final = (ToolCall("a", "find", '{"q": "ü🙂"}'), ToolCall("b", "find", '{"q": "y"}'))


def block(index: int, call_id: str) -> Json:
    begun = {"type": "tool_use", "id": call_id, "name": "find"}
    return {"type": "content_block_start", "index": index, "content_block": begun}


def piece(index: int, arguments: str) -> Json:
    return delta("input_json_delta", partial_json=arguments) | {"index": index}


def chunk(**changes: object) -> Json:
    return {"choices": [{"index": 0, "delta": changes, "finish_reason": changes.pop("end", None)}]}


def fragment(index: int, call_id: str | None = None, arguments: str = "") -> Json:
    function = {"name": "find", "arguments": arguments} if call_id else {"arguments": arguments}
    return chunk(tool_calls=[{"index": index, "id": call_id, "function": function}])


SMALL: Final = {
    "anthropic": stream_of(
        started({"input_tokens": 9}),
        delta(text="Só."),
        block(1, "a"),
        piece(1, '{"q": "ü'),
        piece(1, '🙂"}'),
        block(2, "b"),
        piece(2, '{"q": "y"}'),
        ended("tool_use", output_tokens=7),
        {"type": "message_stop"},
    ),
    "openai": events_answer(
        chunk(content="Só."),
        fragment(0, "a", '{"q": "ü'),
        fragment(0, arguments='🙂"}'),
        fragment(1, "b", '{"q": "y"}'),
        chunk(end="tool_calls"),
        DONE,
    ),
}
"""The same answer on both wires, in few bytes."""


def bytes_of(wire: str, answer: Answer) -> WireAnswer:
    """Return an answer as it stands on a wire."""
    if wire == "anthropic":
        return WireAnswer(HEAD, b"".join(messages_wire.streamed_answer("m", answer, Charge(9))))

    return events_answer(*chat_wire.streamed_answer("m", answer, Charge(9)))


def had_results(body: Json) -> bool:
    last = body["messages"][-1]
    content = last["content"]
    blocks = content if isinstance(content, list) else []
    return bool(last["role"] == "tool" or (blocks and blocks[0]["type"] == "tool_result"))


def first(answer: WireAnswer) -> Any:  # noqa: ANN401 - a step made from a request
    """Return a model that answers so, and says `done` once it has results."""

    def step(body: Json) -> Step:
        return "done" if had_results(body) else Bytes(answer.wire, answer.hangs)

    return step


@WIRES
async def test_a_tool_calling_stream_cut_at_any_byte_runs_all_its_calls_or_none(wire: str) -> None:
    answer = SMALL[wire]
    toolbox = TestToolbox({"find": find})
    outcomes = []
    async with upstream(FakeClock()) as fake, wired(wire, fake, toolbox) as agent:
        for length in range(len(answer.head), len(answer.wire) + 1):
            fake.answer(first(answer.cut(length)))
            toolbox.called.clear()
            events: list[AgentEvent] = []
            failure = None
            try:
                await run_agent(agent, [user("go")], events)
            except AgentError as error:
                failure = error.failure
            outcomes.append(failure)
            messages = [event.message for event in events if isinstance(event, MessageFinished)]
            heard = "".join(event.text for event in events if isinstance(event, TextDelta))
            if failure is not None:
                assert (toolbox.called, messages) == ([], [])
                assert "Só.".startswith(heard)
                continue
            assert heard == "Só.done"
            assert [arguments for _, arguments in toolbox.called] == [{"q": "ü🙂"}, {"q": "y"}]
            results = [message.text for message in messages if message.role is Role.TOOL]
            assert results == ["found ü🙂", "found y"]

    # Once it is whole it stays so: what is behind the end of the answer is not needed.
    whole = outcomes.count(None)
    assert 0 < whole < len(outcomes)
    assert outcomes == [AgentFailure.OUTAGE] * (len(outcomes) - whole) + [None] * whole


@WIRES
@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 4096])
async def test_where_the_bytes_of_arguments_are_split_makes_no_difference(
    wire: str, chunk_bytes: int
) -> None:
    call = ToolCall("c", "find", '{"q": "Grüße, 世界 🙂"}')
    answer = bytes_of(wire, Answer("", tool_calls=(call,)))
    toolbox = TestToolbox({"find": find})
    async with upstream(FakeClock()) as fake, wired(wire, fake, toolbox) as agent:
        fake.answer(first(answer.chunked(chunk_bytes)))
        run = await run_agent(agent, [user("go")])

    assert toolbox.called == [("find", {"q": "Grüße, 世界 🙂"})]
    assert run.messages[0].tool_calls == (call,)


def in_pieces(wire: str, *pieces: str) -> WireAnswer:
    """Return an answer with one call whose arguments come in these pieces, as JSON strings."""
    if wire == "anthropic":
        answer = stream_of(
            started(),
            block(0, "c"),
            *(piece(0, "PIECE") for _ in pieces),
            ended("tool_use", output_tokens=7),
            {"type": "message_stop"},
        )
    else:
        answer = events_answer(
            fragment(0, "c"),
            *(fragment(0, arguments="PIECE") for _ in pieces),
            chunk(end="tool_calls"),
            DONE,
        )
    waiting = iter(pieces)
    body = re.sub(rb'"PIECE"', lambda _: next(waiting).encode(), answer.body)
    return WireAnswer(answer.head, body)


@WIRES
async def test_a_character_that_is_split_between_two_pieces_is_whole_again(wire: str) -> None:
    answer = in_pieces(wire, r'"{\"q\": \"\ud83d"', r'"\ude42"', r'"\"}"')
    toolbox = TestToolbox({"find": find})
    async with upstream(FakeClock()) as fake, wired(wire, fake, toolbox) as agent:
        fake.answer(first(answer))
        await run_agent(agent, [user("go")])

    assert toolbox.called == [("find", {"q": "🙂"})]


async def test_calls_under_one_index_are_told_apart_by_their_ids() -> None:
    """Some endpoints give all calls of an answer the index 0, or none at all."""
    whole = [
        {"index": None, "id": name, "function": {"name": "find", "arguments": f'{{"q": "{name}"}}'}}
        for name in ("a", "b", "c")
    ]
    repeated = [
        {"index": 0, "id": "d", "function": {"name": "find", "arguments": '{"q":'}},
        {"index": 0, "id": "d", "function": {"name": "", "arguments": '"d"}'}},
    ]
    deltas = [chunk(tool_calls=[part]) for part in whole + repeated]
    answer = events_answer(*deltas, chunk(end="tool_calls"), DONE)
    toolbox = TestToolbox({"find": find})
    async with upstream(FakeClock()) as fake, wired("openai", fake, toolbox) as agent:
        fake.answer(first(answer))
        run = await run_agent(agent, [user("go")])

    assert [arguments["q"] for _, arguments in toolbox.called] == ["a", "b", "c", "d"]
    assert [call.call_id for call in run.messages[0].tool_calls] == ["a", "b", "c", "d"]


async def test_calls_count_as_such_whatever_the_reason_to_end() -> None:
    answer = Answer("", tool_calls=CALLS, finish="stop")
    toolbox = TestToolbox({"find": find})
    async with upstream(FakeClock()) as fake, wired("openai", fake, toolbox) as agent:
        fake.answer(answer, "done")
        assert (await run_agent(agent, [user("go")])).messages[-1].text == "done"

    assert len(toolbox.called) == 2


@WIRES
async def test_an_answer_that_the_provider_took_back_runs_nothing(wire: str) -> None:
    reason = "refusal" if wire == "anthropic" else "content_filter"
    toolbox = TestToolbox({"find": find})
    async with upstream(FakeClock()) as fake, wired(wire, fake, toolbox) as agent:
        fake.answer(Answer("", tool_calls=CALLS, finish=reason))
        with pytest.raises(AgentError, match="no answer"):
            await run_agent(agent, [user("go")])
        fake.answer(calling(("c", "find", "{}")), "well again")
        assert (await run_agent(agent, [user("go")])).messages[-1].text == "well again"

    assert len(toolbox.called) == 1


@pytest.mark.parametrize(
    "broken",
    [
        {"index": [0], "id": "a", "function": {"name": "find", "arguments": "{}"}},
        {"index": 0, "id": "a", "function": {"name": "find", "arguments": {"q": 1}}},
        {"index": 0, "id": "a", "function": {"name": ["find"]}},
        {"index": 0, "id": {"a": 1}, "function": {"name": "find"}},
        {"index": 0, "id": "a", "function": 7},
        7,
    ],
)
async def test_a_call_that_is_none_breaks_the_answer_off(broken: object) -> None:
    answer = events_answer(chunk(tool_calls=[broken]), chunk(end="tool_calls"), DONE)
    toolbox = TestToolbox({"find": find})
    async with upstream(FakeClock()) as fake, wired("openai", fake, toolbox) as agent:
        fake.answer(first(answer))
        with pytest.raises(AgentError, match="malformed"):
            await run_agent(agent, [user("go")])

    assert toolbox.called == []


@WIRES
async def test_calls_without_end_are_broken_off(wire: str) -> None:
    ids = ["x" * 100_000 + str(place) for place in range(41)]
    if wire == "anthropic":
        answer = stream_of(started(), *(block(place, name) for place, name in enumerate(ids)))
    else:
        answer = events_answer(*(fragment(place, name) for place, name in enumerate(ids)))
    async with upstream(FakeClock()) as fake, wired(wire, fake, TestToolbox({})) as agent:
        fake.answer(first(answer))
        with pytest.raises(AgentError, match="has no end"):
            await run_agent(agent, [user("go")])
