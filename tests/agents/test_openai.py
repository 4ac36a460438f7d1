"""Laws of the agent that asks an OpenAI-compatible endpoint, over the wire."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio
import pytest
import structlog

from gateway.agents.base import AgentEvent, TextDelta
from gateway.agents.openai import extra_parameters
from gateway.agents.settings import OpenAISettings
from gateway.clock import FakeClock
from gateway.errors import AgentError
from gateway.model import Image, Message, Role, ToolCall, TurnId, Usage
from gateway.settings import SecretSource
from tests.agents.events import Talk, called, openai_agent, result, run_agent, user
from tests.agents.wire_server import events_answer, text_answer, wire_server
from tests.support.chat_wire import DONE, chunk_event

if TYPE_CHECKING:
    from pathlib import Path


KEY = "sk-canary-0123456789"


async def test_a_stream_becomes_deltas_a_message_and_its_usage() -> None:
    answer = text_answer("Hel", "lo ", "🙂", usage=(120, 20, 100))
    async with wire_server(answer) as server, openai_agent(server) as agent:
        run = await run_agent(agent, [user("hi", "t3")])

    assert run.deltas == ["Hel", "lo ", "🙂"]
    assert run.messages == [Message(Role.ASSISTANT, "Hello 🙂", turn_id=TurnId("t3"))]
    assert [call.usage for call in run.calls] == [Usage(20, 20, 100, 0)]
    assert run.calls[0].model == "wire"
    assert run.calls[0].started_at == FakeClock().now()


async def test_the_request_carries_the_context_and_no_notices(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(f"{KEY}\n")
    context = [
        Message(Role.SYSTEM, "The story so far."),
        user("use it", "t1"),
        Message(Role.ASSISTANT, "", (ToolCall("c1", "find", "{}"),), turn_id=TurnId("t1")),
        Message(Role.TOOL, "found", tool_call_id="c1", tool_name="find", turn_id=TurnId("t1")),
        Message(Role.ASSISTANT, "done", turn_id=TurnId("t1")),
        Message(Role.NOTICE, "the session was reset", turn_id=TurnId("t2")),
        user("and now", "t2"),
    ]
    async with (
        wire_server() as server,
        openai_agent(
            server, api_key=SecretSource(file=str(key)), system_prompt="Be brief."
        ) as agent,
    ):
        await run_agent(agent, context)
        assert agent.facts().overhead_chars == len("Be brief.")

    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {
        "model": "wire",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "system", "content": "The story so far."},
            {"role": "user", "content": "use it"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "find", "arguments": "{}"},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "found"},
            {"role": "assistant", "content": "done"},
            {"role": "user", "content": "and now"},
        ],
    }


async def test_images_of_a_user_are_sent_and_those_of_a_tool_are_named() -> None:
    png, svg = Image("image/png", "aWNvbg=="), Image("image/svg+xml", "PHN2Zz4=")
    context = [
        Message(Role.USER, "see", images=(png,)),
        called("c1", "c2"),
        result("c1", "two pictures", png, svg),
        result("c2", "", png),
        Message(Role.USER, "", images=(png, png)),
    ]
    async with wire_server() as server, openai_agent(server) as agent:
        await run_agent(agent, context)

    first, _, *results, last = server.requests[0].body["messages"]
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aWNvbg=="}}
    assert first == {"role": "user", "content": [{"type": "text", "text": "see"}, url]}
    assert [message["content"] for message in results] == [
        "two pictures\n[image: image/png]\n[image: image/svg+xml]",
        "[image: image/png]",
    ]
    assert last == {"role": "user", "content": [url, url]}


def test_the_official_endpoint_takes_its_own_names_and_is_always_told_the_key_of_the_cache() -> (
    None
):
    key = SecretSource(env="SOME_KEY")

    official = OpenAISettings(model="m", api_key=key, max_output_tokens=77)

    assert extra_parameters(official, "k") == {
        "max_completion_tokens": 77,
        "prompt_cache_key": "k",
    }
    assert extra_parameters(official, "") == {"max_completion_tokens": 77}


async def test_a_proxy_of_the_environment_is_not_asked_for_an_endpoint_on_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with wire_server() as server, openai_agent(server) as agent:
        assert (await run_agent(agent, [user("hi")])).text == "pong"


@pytest.mark.parametrize(("limit", "sent"), [(0, None), (77, 77)])
async def test_the_longest_answer_is_the_endpoints_own_unless_configured(
    limit: int, sent: int | None
) -> None:
    async with wire_server() as server, openai_agent(server, max_output_tokens=limit) as agent:
        await run_agent(agent, [user("hi")])

    assert server.requests[0].body.get("max_tokens") == sent


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 4096])
async def test_where_the_bytes_are_split_makes_no_difference(chunk_bytes: int) -> None:
    answer = text_answer("Grüße, ", "世界 🙂").chunked(chunk_bytes)
    async with wire_server(answer) as server, openai_agent(server) as agent:
        run = await run_agent(agent, [user("hi")])

    assert run.text == "Grüße, 世界 🙂"
    assert run.calls[0].usage == Usage(20, 20, 100, 0)


@pytest.mark.parametrize("framed", [False, True], ids=["until-close", "chunked"])
async def test_a_stream_cut_at_any_byte_is_an_error_or_the_whole_answer(*, framed: bool) -> None:
    whole = text_answer("Hé", "llo")
    answer = whole.chunked(4096) if framed else whole
    wire = answer.wire
    complete_at = wire.index(b"\n\n", wire.index(b'"finish_reason":"stop"')) + 2
    async with wire_server(answer) as server, openai_agent(server) as agent:
        for length in range(len(wire)):
            server.script(answer.cut(length))
            events: list[AgentEvent] = []
            if length < complete_at:
                with pytest.raises(AgentError):
                    await run_agent(agent, [user("hi")], into=events)
            else:
                assert (await run_agent(agent, [user("hi")])).text == "Héllo"

            streamed = "".join(event.text for event in events if isinstance(event, TextDelta))
            assert "Héllo".startswith(streamed)
            assert length >= complete_at or all(isinstance(event, TextDelta) for event in events)

        server.script(answer)
        assert (await run_agent(agent, [user("hi")])).text == "Héllo"


async def test_an_answer_whose_usage_was_cut_off_has_none() -> None:
    answer = text_answer("Hello")
    length = answer.wire.index(b'"prompt_tokens"')
    async with wire_server(answer.cut(length)) as server, openai_agent(server) as agent:
        run = await run_agent(agent, [user("hi")])

    assert run.text == "Hello"
    assert [call.usage for call in run.calls] == [None]


@pytest.mark.parametrize("before", [b"HTTP", b"\r\n\r\n", b'"content":"lo"', b"[DONE]"])
async def test_silence_ends_the_request(before: bytes) -> None:
    answer = text_answer("Hel", "lo")
    silent = answer.silent_after(answer.wire.index(before) + len(before))
    async with wire_server(silent) as server, openai_agent(server, read_timeout_s=1.0) as agent:
        if before == b"[DONE]":
            assert (await run_agent(agent, [user("hi")])).text == "Hello"
        else:
            with pytest.raises(AgentError, match="silent for too long") as caught:
                await run_agent(agent, [user("hi")])
            assert "in time" in caught.value.user_text

        with anyio.fail_after(30):
            await server.client_left.wait()
        server.script(text_answer("well again"))
        assert (await run_agent(agent, [user("hi")])).text == "well again"


async def test_a_cancelled_run_closes_its_connection_and_the_next_one_works() -> None:
    answer = text_answer("Hel", "lo")
    silent = answer.silent_after(answer.wire.index(b'"content":"lo"'))
    async with wire_server(silent) as server, openai_agent(server) as agent:
        with anyio.fail_after(30):
            with anyio.CancelScope() as scope:
                async with aclosing(agent.run(Talk([user("hi")]))) as running:
                    async for event in running:
                        assert event == TextDelta("Hel")
                        scope.cancel()
            await server.client_left.wait()
        server.script(text_answer("well again"))
        assert (await run_agent(agent, [user("hi")])).text == "well again"


async def test_a_run_that_is_left_early_closes_its_connection() -> None:
    answer = text_answer("Hel", "lo")
    silent = answer.silent_after(len(answer.wire) - len(DONE))
    async with wire_server(silent) as server, openai_agent(server) as agent:
        with anyio.fail_after(30):
            async with aclosing(agent.run(Talk([user("hi")]))) as running:
                await anext(running)
            await server.client_left.wait()


async def test_odd_chunks_that_mean_nothing_are_passed_over() -> None:
    second = {"index": 1, "delta": {"content": "other"}, "finish_reason": None}
    answer = events_answer(
        b": a comment\n\n",
        b"event: ping\ndata: {}\n\n",
        {"choices": []},
        {"choices": None},
        chunk_event(delta={"role": "assistant", "content": None}),
        {"choices": [{"index": 0, "delta": None}]},
        {"choices": [second]},
        b'data: {"choices":[{"index":0,"delta":{"content":"Hi\\u0000 \\ud83d"}}]}\n\n',
        chunk_event(delta={"reasoning_content": "hm"}),
        chunk_event(finish_reason="stop"),
        DONE,
        b"data: {after the end\n\n",
    )
    async with wire_server(answer) as server, openai_agent(server) as agent:
        run = await run_agent(agent, [user("hi")])

    assert run.text == "Hi \N{REPLACEMENT CHARACTER}"
    assert [call.usage for call in run.calls] == [None]


async def test_an_answer_cut_by_its_length_stays_as_it_is_and_is_logged() -> None:
    answer = text_answer("as far as", finish_reason="length")
    async with wire_server(answer) as server, openai_agent(server) as agent:
        with structlog.testing.capture_logs() as logs:
            run = await run_agent(agent, [user("hi")])

    assert run.text == "as far as"
    assert [line["event"] for line in logs] == ["agent.answer_cut"]


@pytest.mark.parametrize(
    "counted",
    [
        "many",
        7,
        {},
        {"prompt_tokens": 5},
        {"prompt_tokens": "5", "completion_tokens": "5"},
        {"prompt_tokens": -5, "completion_tokens": 5},
        {"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": 5},
    ],
)
async def test_usage_that_cannot_be_read_costs_the_measurement_and_not_the_answer(
    counted: object,
) -> None:
    text = chunk_event(delta={"content": "Hi"}, finish_reason="stop")
    answer = events_answer(text, chunk_event(usage=counted), DONE)
    async with wire_server(answer) as server, openai_agent(server) as agent:
        with structlog.testing.capture_logs() as logs:
            run = await run_agent(agent, [user("hi")])

    assert run.text == "Hi"
    assert [call.usage for call in run.calls] == [None]
    assert [line["event"] for line in logs] == ["agent.usage_lost"]


@pytest.mark.parametrize("usage", [(10, 5, 0), (10, 5, 10), (10, 5, 99)])
async def test_cached_tokens_are_part_of_the_prompt_tokens(usage: tuple[int, int, int]) -> None:
    async with wire_server(text_answer("x", usage=usage)) as server, openai_agent(server) as agent:
        run = await run_agent(agent, [user("hi")])

    (call,) = run.calls
    assert call.usage is not None
    assert call.usage.context_tokens == 10
    assert call.usage.cache_read_tokens == min(10, usage[2])


@pytest.mark.parametrize(
    ("counted", "usage"),
    [
        pytest.param(
            {
                "prompt_tokens": 100,
                "completion_tokens": 9,
                "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
                "completion_tokens_details": {"reasoning_tokens": 4},
            },
            Usage(10, 9, 60, 30, 0, 4),
            id="official",
        ),
        pytest.param(
            {"prompt_tokens": 100, "completion_tokens": 9, "prompt_cache_hit_tokens": 60},
            Usage(40, 9, 60),
            id="hits",
        ),
        pytest.param(
            {"prompt_tokens": 100, "completion_tokens": 9, "prompt_cache_miss_tokens": 60},
            Usage(60, 9, 40),
            id="misses",
        ),
        pytest.param(
            {
                "prompt_tokens": 100,
                "completion_tokens": 9,
                "prompt_cache_hit_tokens": 0,
                "prompt_cache_miss_tokens": 100,
                "prompt_tokens_details": {"cached_tokens": None},
            },
            Usage(100, 9),
            id="no-hit",
        ),
        pytest.param(
            {
                "prompt_tokens": 100,
                "completion_tokens": 9,
                "prompt_tokens_details": {"cached_tokens": 90, "cache_write_tokens": 90},
            },
            Usage(0, 9, 90, 10),
            id="contradiction",
        ),
        pytest.param(
            {
                "prompt_tokens": 100,
                "completion_tokens": 9,
                "prompt_tokens_details": None,
                "completion_tokens_details": {"reasoning_tokens": None},
            },
            Usage(100, 9),
            id="nulls",
        ),
    ],
)
async def test_every_field_of_the_usage_is_read(counted: object, usage: Usage) -> None:
    text = chunk_event(delta={"content": "Hi"}, finish_reason="stop")
    async with (
        wire_server(events_answer(text, chunk_event(usage=counted), DONE)) as server,
        openai_agent(server) as agent,
    ):
        run = await run_agent(agent, [user("hi")])

    assert [call.usage for call in run.calls] == [usage]
