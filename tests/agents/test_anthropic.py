"""Laws of the agent that asks the Messages API, over the wire."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import structlog

from gateway.agents.base import AgentEvent, TextDelta
from gateway.clock import FakeClock
from gateway.errors import AgentError
from gateway.model import Message, Role, ToolCall, TurnId, Usage
from gateway.settings import SecretSource
from tests.agents.events import Talk, anthropic_agent, called, result, run_agent, said, user
from tests.agents.wire_server import WireAnswer
from tests.support.answers import Answer
from tests.support.messages_wire import message_event, streamed_answer
from tests.support.prompt_cache import Charge
from tests.support.upstream import Bytes, upstream

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.answers import Json

KEY = "sk-canary-0123456789"
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n"
COUNTED = {"input_tokens": 20, "cache_read_input_tokens": 100, "output_tokens": 5}


def stream_of(*events: Json | bytes) -> WireAnswer:
    """Return a stream of these events: bytes as they are."""
    wire = (event if isinstance(event, bytes) else message_event(event) for event in events)
    return WireAnswer(HEAD, b"".join(wire))


def started(usage: object = None) -> Json:
    return {"type": "message_start", "message": {"id": "m", "usage": usage or COUNTED}}


def delta(kind: str = "text_delta", **values: object) -> Json:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": kind, **values}}


def ended(reason: str = "end_turn", **usage: object) -> Json:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage or None}


STOP: Json = {"type": "message_stop"}


def played(answer: WireAnswer) -> Bytes:
    return Bytes(answer.wire, answer.hangs)


async def test_a_stream_becomes_deltas_a_message_and_its_usage() -> None:
    async with upstream(FakeClock()) as fake, anthropic_agent(fake) as agent:
        fake.answer(Answer("Hello 🙂", thinking="x" * 40))
        run = await run_agent(agent, [user("hi", "t3")])

    assert run.deltas == ["He", "ll", "o ", "🙂"]
    assert run.messages == [Message(Role.ASSISTANT, "Hello 🙂", turn_id=TurnId("t3"))]
    assert [call.usage for call in run.calls] == [
        Usage(input_tokens=5, output_tokens=12, reasoning_tokens=10)
    ]
    assert run.calls[0].model == "wire"
    assert run.calls[0].started_at == FakeClock().now()
    assert fake.requests[0].tokens == 5


async def test_the_request_carries_the_context_the_limit_and_the_key(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(f"{KEY}\n")
    context = [user("look", "t1"), called("c1"), result("c1", "found"), said("ok"), user("b", "t2")]
    async with (
        upstream(FakeClock()) as fake,
        anthropic_agent(
            fake, api_key=SecretSource(file=str(key)), system_prompt="Be brief."
        ) as agent,
    ):
        await run_agent(agent, context)
        assert agent.facts().overhead_chars == len("Be brief.")

    (request,) = fake.requests
    assert request.wire == "anthropic"
    assert KEY in request.headers.get("authorization", "") + request.headers.get("x-api-key", "")
    assert {**request.json, "messages": [], "tools": []} == {
        "model": "wire",
        "max_tokens": 8_192,
        "stream": True,
        "system": [
            {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
        ],
        "messages": [],
        "tools": [],
        "tool_choice": {"type": "none"},
    }
    assert [message["role"] for message in request.json["messages"]] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]


async def test_nothing_of_the_environment_changes_where_a_conversation_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("API_KEY", "AUTH_TOKEN", "PROFILE", "BASE_URL"):
        monkeypatch.setenv(f"ANTHROPIC_{name}", f"http://127.0.0.1:1/{KEY}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with upstream(FakeClock()) as fake, anthropic_agent(fake) as agent:
        assert (await run_agent(agent, [user("hi")])).text == "pong"

    assert KEY not in str(fake.requests[0].headers)


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 4096])
async def test_where_the_bytes_are_split_makes_no_difference(chunk_bytes: int) -> None:
    events = streamed_answer("wire", Answer("Grüße, 世界 🙂"), Charge(120, read=100))
    async with upstream(FakeClock()) as fake, anthropic_agent(fake) as agent:
        fake.answer(played(stream_of(*events).chunked(chunk_bytes)))
        run = await run_agent(agent, [user("hi")])

    assert run.text == "Grüße, 世界 🙂"
    assert run.calls[0].usage == Usage(20, 3, 100)


@pytest.mark.parametrize("framed", [False, True], ids=["until-close", "chunked"])
async def test_a_stream_cut_at_any_byte_is_an_error_or_the_whole_answer(*, framed: bool) -> None:
    whole = stream_of(started(), delta(text="Hé"), delta(text="llo"), ended(output_tokens=7), STOP)
    answer = whole.chunked(50) if framed else whole
    outcomes = set()
    async with upstream(FakeClock()) as fake, anthropic_agent(fake) as agent:
        for length in range(len(answer.wire)):
            fake.answer(played(answer.cut(length)))
            events: list[AgentEvent] = []
            try:
                run = await run_agent(agent, [user("hi")], events)
            except AgentError:
                heard = "".join(event.text for event in events if isinstance(event, TextDelta))
                assert "Héllo".startswith(heard)
                outcomes.add("error")
            else:
                assert run.text == "Héllo"
                assert run.calls[0].usage == Usage(20, 7, 100)
                outcomes.add("whole")
        fake.answer(played(answer))
        assert (await run_agent(agent, [user("hi")])).text == "Héllo"

    assert outcomes == {"error", "whole"}


async def test_silence_ends_the_request() -> None:
    async with (
        upstream(FakeClock()) as fake,
        anthropic_agent(fake, read_timeout_s=1.0) as agent,
    ):
        fake.answer(Answer("Hello", then="hangs"))
        with pytest.raises(AgentError, match="silent for too long") as caught:
            await run_agent(agent, [user("hi")])
        assert "in time" in caught.value.user_text
        with anyio.fail_after(30):
            await fake.client_left.wait()
        fake.answer("well again")
        assert (await run_agent(agent, [user("hi")])).text == "well again"


async def test_a_connection_that_stays_open_after_the_end_is_not_waited_for() -> None:
    whole = stream_of(*streamed_answer("wire", Answer("Hello"), Charge(20)))
    async with upstream(FakeClock()) as fake, anthropic_agent(fake) as agent:
        fake.answer(played(whole.silent_after(len(whole.wire))))
        assert (await run_agent(agent, [user("hi")])).text == "Hello"
        with anyio.fail_after(30):
            await fake.client_left.wait()


async def test_a_cancelled_run_closes_its_connection_and_the_next_one_works() -> None:
    async with upstream(FakeClock()) as fake, anthropic_agent(fake) as agent:
        fake.answer(Answer("Hello", then="hangs"))
        with anyio.fail_after(30):
            with anyio.CancelScope() as scope:
                async with aclosing(agent.run(Talk([user("hi")]))) as running:
                    async for event in running:
                        assert event == TextDelta("He")
                        scope.cancel()
            await fake.client_left.wait()
        fake.answer("well again")
        assert (await run_agent(agent, [user("hi")])).text == "well again"


async def test_a_run_that_is_left_early_closes_its_connection() -> None:
    async with upstream(FakeClock()) as fake, anthropic_agent(fake) as agent:
        fake.answer(Answer("Hello", then="hangs"))
        with anyio.fail_after(30):
            async with aclosing(agent.run(Talk([user("hi")]))) as running:
                await anext(running)
            await fake.client_left.wait()


async def test_odd_events_that_mean_nothing_are_passed_over() -> None:
    answer = stream_of(
        b": a comment\n\n",
        b"event: ping\ndata: {}\n\n",
        b"event: news\n\n",
        started(),
        {"type": "something_new", "index": 7},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "novelty"}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        delta("novelty_delta", text="no"),
        delta("thinking_delta", thinking="hm"),
        delta("signature_delta", signature="s"),
        b"event: content_block_delta\n"
        b'data: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"text_delta","text":"Hi\\u0000 \\ud83d"}}\n\n',
        {"type": "content_block_stop", "index": 0},
        ended(output_tokens=5),
        STOP,
        b"event: x\ndata: {after the end\n\n",
    )
    async with upstream(FakeClock()) as fake, anthropic_agent(fake) as agent:
        fake.answer(played(answer))
        run = await run_agent(agent, [user("hi")])

    assert run.text == "Hi \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("reason", ["max_tokens", "model_context_window_exceeded"])
async def test_an_answer_cut_by_its_length_stays_as_it_is_and_is_logged(reason: str) -> None:
    async with upstream(FakeClock()) as fake, anthropic_agent(fake) as agent:
        fake.answer(Answer("as far as", finish=reason))
        with structlog.testing.capture_logs() as logs:
            run = await run_agent(agent, [user("hi")])

    assert run.text == "as far as"
    assert [line["event"] for line in logs] == ["agent.answer_cut"]


async def test_a_stream_without_its_last_event_is_whole_and_is_logged() -> None:
    answer = stream_of(started(), delta(text="Hi"), ended(output_tokens=5)).chunked(4096)
    async with upstream(FakeClock()) as fake, anthropic_agent(fake) as agent:
        fake.answer(played(answer.cut(len(answer.wire) - len(b"0\r\n\r\n"))))
        with structlog.testing.capture_logs() as logs:
            run = await run_agent(agent, [user("hi")])

    assert run.text == "Hi"
    assert run.calls[0].usage == Usage(20, 5, 100)
    assert [line["event"] for line in logs] == ["agent.stream_unended"]


@pytest.mark.parametrize(
    ("first", "last", "usage"),
    [
        pytest.param(
            {
                "input_tokens": 7,
                "cache_read_input_tokens": 100,
                "cache_creation_input_tokens": 50,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": 20,
                    "ephemeral_1h_input_tokens": 30,
                },
                "output_tokens": 1,
            },
            {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}},
            Usage(7, 9, 100, 50, 30, 4),
            id="all-fields",
        ),
        pytest.param(
            {"input_tokens": 0, "output_tokens": 0},
            {"input_tokens": 7, "cache_read_input_tokens": 3, "output_tokens": 9},
            Usage(7, 9, 3),
            id="told-at-the-end",
        ),
        pytest.param(
            {"input_tokens": 7, "cache_read_input_tokens": None, "output_tokens": 1},
            {"input_tokens": 0, "cache_creation_input_tokens": None, "output_tokens": 9},
            Usage(7, 9),
            id="nothing-at-the-end",
        ),
        pytest.param({"input_tokens": 7, "output_tokens": 9}, {}, Usage(7, 9), id="once"),
        pytest.param(
            {
                "input_tokens": 7,
                "cache_creation_input_tokens": 5,
                "cache_creation": {"ephemeral_1h_input_tokens": 99},
                "output_tokens": 9,
            },
            {},
            Usage(7, 9, 0, 5, 5),
            id="contradiction",
        ),
    ],
)
async def test_every_field_of_the_usage_is_read(first: Json, last: Json, usage: Usage) -> None:
    answer = stream_of(started(first), delta(text="Hi"), ended(**last), STOP)
    async with upstream(FakeClock()) as fake, anthropic_agent(fake) as agent:
        fake.answer(played(answer))
        run = await run_agent(agent, [user("hi")])

    assert [call.usage for call in run.calls] == [usage]


@pytest.mark.parametrize(
    "counted",
    [
        "many",
        7,
        {"output_tokens": 5},
        {"input_tokens": 5},
        {"input_tokens": "5", "output_tokens": 5},
        {"input_tokens": -5, "output_tokens": 5},
        {"input_tokens": 5, "output_tokens": 5, "cache_read_input_tokens": 1.5},
        {"input_tokens": 5, "output_tokens": 5, "cache_creation": 5},
    ],
)
async def test_usage_that_cannot_be_read_costs_the_measurement_and_not_the_answer(
    counted: Any,  # noqa: ANN401 - any JSON
) -> None:
    answer = stream_of(started(counted), delta(text="Hi"), ended(), STOP)
    async with upstream(FakeClock()) as fake, anthropic_agent(fake) as agent:
        fake.answer(played(answer))
        with structlog.testing.capture_logs() as logs:
            run = await run_agent(agent, [user("hi")])

    assert run.text == "Hi"
    assert [call.usage for call in run.calls] == [None]
    assert [line["event"] for line in logs] == ["agent.usage_lost"]


async def test_a_tool_that_was_not_offered_ends_the_turn() -> None:
    calls = (ToolCall("c1", "search", '{"q":"x"}'), ToolCall("c2", "look", "{}"))
    async with upstream(FakeClock()) as fake, anthropic_agent(fake) as agent:
        fake.answer(Answer("Let me see.", tool_calls=calls))
        with pytest.raises(AgentError, match="not offered") as caught:
            await run_agent(agent, [user("hi")])

    assert "does not have" in caught.value.user_text
