"""Laws of the pretended provider: its numbers agree, its cache keeps time, it refuses faults."""

from __future__ import annotations

import re
import sys
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import anyio
import httpx2
import orjson
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import FakeClock
from gateway.model import ToolCall
from tests.support.answers import Answer, Refusal
from tests.support.prompt_cache import (
    OTHER_COUNTING,
    CacheRules,
    Counting,
    Prompt,
    PromptBlock,
    PromptCache,
)
from tests.support.upstream import upstream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.support.answers import Json
    from tests.support.upstream import Upstream

LEAST = CacheRules(least_tokens=1)


@asynccontextmanager
async def _client() -> AsyncGenerator[tuple[httpx2.AsyncClient, Upstream]]:
    """Hold a provider and a client of it."""
    async with (
        upstream(FakeClock()) as fake,
        httpx2.AsyncClient(base_url=fake.url, trust_env=False) as client,
    ):
        yield client, fake


def block(text: str, mark: str = "") -> PromptBlock:
    return PromptBlock(b"user", text, mark=mark)


def prompt(*blocks: PromptBlock, place: str = "m") -> Prompt:
    return Prompt(place, blocks)


def text_block(text: str, **more: object) -> Json:
    return {"type": "text", "text": text, **more}


def use(call_id: str) -> Json:
    return {"type": "tool_use", "id": call_id, "name": "find", "input": {}}


def tool(name: str, **changes: object) -> Json:
    return {"name": name, "input_schema": {"type": "object"}, **changes}


def used(call_id: str) -> Json:
    return {"type": "tool_result", "tool_use_id": call_id}


def test_tokens_are_counted_by_one_rule() -> None:
    cache = PromptCache(FakeClock(), CacheRules(overhead_tokens=50))
    counted = prompt(
        PromptBlock(b"system", "x" * 5, begins_message=True),
        PromptBlock(b"user", "", ("png",), begins_message=True),
        PromptBlock(b"user", "xyz"),
    )

    assert cache.count(counted) == 50 + (4 + 2) + (4 + 1_600) + 1


def test_another_rule_counts_otherwise() -> None:
    cache = PromptCache(FakeClock(), CacheRules(counting=OTHER_COUNTING))
    counted = prompt(
        PromptBlock(b"user", "x" * 33, begins_message=True),
        PromptBlock(b"user", "x" * 34),
        PromptBlock(b"user", "x" * 33 + "\u65e5\u672c"),
    )

    assert cache.count(counted) == (20 + 10) + 11 + 12


def test_a_mark_keeps_its_prefix_until_its_time_has_passed_since_it_was_read() -> None:
    clock = FakeClock()
    cache = PromptCache(clock, LEAST)
    whole = prompt(block("a" * 40), block("b" * 40, "5m"), block("c" * 4))

    async def after(pause_s: float) -> int:
        await clock.advance(pause_s)
        return cache.charge(whole, marked=True).read

    async def run() -> list[int]:
        return [await after(pause_s) for pause_s in (0, 299, 299, 300, 0)]

    assert anyio.run(run) == [0, 20, 20, 0, 20]


def test_what_is_written_and_read_has_its_price() -> None:
    cache = PromptCache(FakeClock(), LEAST)
    marked = (block("a" * 40, "1h"), block("b" * 40, "5m"), block("c" * 40))

    first = cache.charge(prompt(*marked), marked=True)
    second = cache.charge(prompt(*marked), marked=True)

    assert (first.read, first.written, first.written_1h, first.uncached) == (0, 20, 10, 10)
    assert first.cost == 10 * 2 + 10 * 1.25 + 10
    assert (second.read, second.written, second.uncached) == (20, 0, 10)
    assert second.cost == 20 * 0.1 + 10


@pytest.mark.parametrize(("blocks", "found"), [(19, True), (20, False)])
def test_a_mark_finds_a_prefix_nineteen_blocks_before_it_and_no_further(
    blocks: int, *, found: bool
) -> None:
    cache = PromptCache(FakeClock(), LEAST)
    cache.charge(prompt(block("a", "5m")), marked=True)
    between = [block("b") for _ in range(blocks - 1)]

    charge = cache.charge(prompt(block("a"), *between, block("c", "5m")), marked=True)

    assert bool(charge.read) == found


def test_a_short_prefix_is_not_kept_and_another_model_is_cold() -> None:
    cache = PromptCache(FakeClock(), CacheRules(least_tokens=10))
    short, long = prompt(block("a" * 39, "5m")), prompt(block("a" * 41, "5m"))

    assert [cache.charge(short, marked=True).written for _ in range(2)] == [10, 0]
    cache = PromptCache(FakeClock(), CacheRules(least_tokens=11))
    assert [cache.charge(short, marked=True).written for _ in range(2)] == [0, 0]
    assert [cache.charge(long, marked=True).written for _ in range(2)] == [11, 0]
    assert cache.charge(Prompt("other", long.blocks), marked=True).read == 0


@pytest.mark.parametrize(
    ("changed_at", "read"), [(0, 0), (4_092, 0), (4_096, 1_024), (4_700, 1_152), (9_999, 2_432)]
)
def test_the_automatic_cache_reads_whole_steps_of_what_is_the_same(
    changed_at: int, read: int
) -> None:
    cache = PromptCache(FakeClock(), CacheRules())
    text = "a" * 10_000
    changed = text[:changed_at] + "b" + text[changed_at + 1 :]

    first = cache.charge(prompt(block(text)), marked=False)
    charge = cache.charge(prompt(block(changed)), marked=False)

    assert (first.read, first.written, first.uncached) == (0, 2_432, 68)
    assert (charge.read, charge.read + charge.written) == (read, 2_432)


_BLOCKS = st.lists(
    st.builds(
        PromptBlock,
        st.just(b"user"),
        st.sampled_from(["a", "b" * 700, "c" * 5_000, "d \u65e5\u672c" * 900]),
        st.sampled_from([(), ("png",)]),
        st.booleans(),
        st.sampled_from(["", "", "5m", "1h"]),
    ),
    min_size=1,
    max_size=30,
)


@given(
    prompts=st.lists(_BLOCKS, min_size=1, max_size=5),
    pauses=st.lists(st.sampled_from([0, 100, 300]), min_size=5, max_size=5),
    marked=st.booleans(),
    counting=st.sampled_from([Counting(), OTHER_COUNTING]),
)
def test_what_is_read_was_written_and_all_numbers_add_up(
    prompts: list[list[PromptBlock]], pauses: list[int], counting: Counting, *, marked: bool
) -> None:
    clock = FakeClock()
    cache = PromptCache(clock, CacheRules(overhead_tokens=7, counting=counting))

    async def run() -> None:
        written = 0
        for blocks, pause_s in zip(prompts, pauses, strict=False):
            await clock.advance(pause_s)
            asked = prompt(*blocks)
            charge = cache.charge(asked, marked=marked)
            assert charge.uncached + charge.read + charge.written == charge.tokens
            assert min(charge.uncached, charge.read, charge.written) >= 0
            assert charge.written_1h <= charge.written
            assert charge.tokens == cache.count(asked)
            assert charge.read <= written
            again = cache.charge(asked, marked=marked)
            assert (again.read, again.written) == (charge.read + charge.written, 0)
            written += charge.written

    anyio.run(run)


def messages_body(*content: list[Json], **more: object) -> Json:
    """Return a request of the Messages API whose messages take turns, a user's first."""
    messages = [
        {"role": "assistant" if place % 2 else "user", "content": blocks}
        for place, blocks in enumerate(content)
    ]
    return {"model": "m", "max_tokens": 9, "messages": messages, "tools": [tool("t")], **more}


MARK = {"cache_control": {"type": "ephemeral"}}
HI = [text_block("hi")]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param({"model": "m", "messages": []}, "max_tokens", id="no-limit"),
        pytest.param(messages_body(), "at least one", id="no-messages"),
        pytest.param(messages_body([]), "non-empty content", id="no-content"),
        pytest.param(messages_body([text_block("")]), "non-whitespace", id="empty-text"),
        pytest.param(messages_body(HI, system=[text_block(" ")]), "non-whitespace", id="system"),
        pytest.param(messages_body([text_block("a", **MARK)] * 5), "maximum of 4", id="five-marks"),
        pytest.param(
            messages_body(
                [
                    text_block("a", **MARK),
                    text_block("a", cache_control={"type": "ephemeral", "ttl": "1h"}),
                ]
            ),
            "1h mark",
            id="hour-after-minutes",
        ),
        pytest.param(messages_body(HI, [use("a")]), "without results", id="call-at-the-end"),
        pytest.param(messages_body(HI, [use("a")], HI), "right after", id="call-unanswered"),
        pytest.param(
            messages_body(HI, [use("a"), use("b")], [used("a"), *HI]),
            "right after",
            id="one-of-two",
        ),
        pytest.param(messages_body(HI, HI, [used("a")]), "without its call", id="no-call"),
        pytest.param(
            messages_body(HI, [use("a")], [*HI, used("a")]), "right after", id="text-before-result"
        ),
        pytest.param(messages_body(HI, [use("a:0")], [used("a:0")]), "wrong form", id="id"),
        pytest.param(
            messages_body(HI, [use("a")], [used("a")], [use("a")], [used("a")]),
            "unique",
            id="twice",
        ),
        pytest.param(
            messages_body(HI, [use("a")], [used("a")], tools=[]), "define tools", id="no-tools"
        ),
        pytest.param(messages_body(HI, tools=[tool("a b")]), "tools.0.name", id="name-of-a-tool"),
        pytest.param(
            messages_body(HI, tools=[tool("a"), tool("a")]), "unique", id="two-tools-of-one-name"
        ),
        pytest.param(
            messages_body(HI, tools=[tool("a", input_schema={})]), "input_schema", id="schema"
        ),
        pytest.param(
            messages_body(HI, tools=[tool("a", description=5)]), "description", id="description"
        ),
        pytest.param(messages_body(HI, tools=[{"name": "a"}]), "input_schema", id="no-schema"),
        pytest.param(
            messages_body(HI, tool_choice={"type": "some"}), "not known", id="unknown-choice"
        ),
        pytest.param(
            messages_body(HI, tool_choice={"type": "tool", "name": "x"}), "among", id="other-tool"
        ),
        pytest.param(
            messages_body(HI, tools=[], tool_choice={"type": "none"}), "providing", id="no-choice"
        ),
    ],
)
async def test_the_messages_api_refuses_what_the_real_one_refuses(body: Json, reason: str) -> None:
    async with _client() as (client, fake):
        response = await client.post("/v1/messages", json=body)

    assert response.status_code == 400
    assert reason in response.json()["error"]["message"]
    assert len(fake.requests) == 1


def chat_call(*ids: str, **function: object) -> Json:
    function = {"name": "f", "arguments": "{}", **function}
    return {"role": "assistant", "tool_calls": [{"id": one, "function": function} for one in ids]}


def chat_tool(name: str, **changes: object) -> Json:
    function = {"name": name, "parameters": {"type": "object"}, **changes}
    return {"type": "function", "function": function}


CALL = chat_call("a")
RESULT = {"role": "tool", "tool_call_id": "a", "content": "r"}
USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([USER, CALL, RESULT, USER], 200),
        ([USER, CALL, USER], 400),
        ([USER, CALL], 400),
        ([USER, RESULT], 400),
        ([USER, CALL, RESULT, RESULT], 400),
        ([USER, chat_call("a", "a"), RESULT, RESULT], 400),
        ([USER, chat_call("a", arguments=""), RESULT], 400),
        ([USER, chat_call("a", arguments="[]"), RESULT], 400),
        ([USER, chat_call("a", name="f.g"), RESULT], 400),
        ([USER, chat_call("x" * 41), RESULT | {"tool_call_id": "x" * 41}], 400),
        ([{"content": "hi"}], 400),
        ([], 400),
    ],
)
async def test_the_chat_wire_refuses_calls_and_results_that_do_not_match(
    messages: list[Json], status: int
) -> None:
    async with _client() as (client, _):
        body = {"model": "m", "messages": messages}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == status


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"tools": [chat_tool("a")]}, ""),
        ({"tools": [chat_tool("a")], "tool_choice": "none"}, ""),
        (
            {
                "tools": [chat_tool("a")],
                "tool_choice": {"type": "function", "function": {"name": "a"}},
            },
            "",
        ),
        ({"tools": []}, "too short"),
        ({"tool_choice": "auto"}, "only allowed when tools"),
        ({"tools": [chat_tool("a")], "tool_choice": "any"}, "not known"),
        (
            {
                "tools": [chat_tool("a")],
                "tool_choice": {"type": "function", "function": {"name": "b"}},
            },
            "among",
        ),
        ({"tools": [chat_tool("a.b")]}, "tools.0.name"),
        ({"tools": [chat_tool("a"), chat_tool("a")]}, "unique"),
        ({"tools": [chat_tool("a", parameters={"type": "array"})]}, "parameters.type"),
        ({"tools": [chat_tool("a", parameters={"type": "object", "properties": 5})]}, "invalid"),
        ({"tools": [{"type": "custom"}]}, "only functions"),
    ],
)
async def test_the_chat_wire_refuses_tools_that_the_real_one_refuses(
    parameters: Json, reason: str
) -> None:
    async with _client() as (client, _):
        body = {"model": "m", "messages": [USER], **parameters}
        answer = await client.post("/v1/chat/completions", json=body)

    assert answer.status_code == (400 if reason else 200)
    assert not reason or reason in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/v1/messages", "prompt is too long: 29 tokens > 28 maximum"),
        ("/v1/chat/completions", "maximum context length is 28 tokens"),
    ],
)
async def test_a_prompt_beyond_the_window_is_refused_and_one_within_it_is_not(
    path: str, told: str
) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x" * 100}]}
    async with _client() as (client, fake):
        answers = []
        for fake.window_tokens in (29, 28, 0):
            answers.append(await client.post(path, json=body))

    assert [answer.status_code for answer in answers] == [200, 400, 200]
    assert told in answers[1].json()["error"]["message"]
    assert ("context_length_exceeded" in answers[1].text) == ("chat" in path)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
async def test_each_n_th_request_is_refused_and_takes_no_answer(path: str) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [USER]}
    async with _client() as (client, fake):
        fake.fails_every = 2
        fake.answer("one", "two", "three")
        answers = [await client.post(path, json=body) for _ in range(5)]

    busy = 529 if path == "/v1/messages" else 503
    assert [answer.status_code for answer in answers] == [200, busy, 200, busy, 200]
    for answer, text in zip(answers[::2], ("one", "two", "three"), strict=True):
        assert text in answer.text


async def test_another_choice_of_tools_keeps_the_tools_and_loses_the_messages() -> None:
    whole = messages_body(
        [text_block("a" * 8_000, **MARK)],
        system=[text_block("b" * 8_000, **MARK)],
        tools=[tool("t")],
    )
    async with _client() as (client, fake):
        for choice in ("auto", "none", "none"):
            await client.post("/v1/messages", json=whole | {"tool_choice": {"type": choice}})

    first, second, third = fake.requests
    assert (first.read, third.read) == (0, third.tokens)
    assert second.read == second.tokens - 2_004


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
async def test_a_whole_answer_says_what_a_streamed_one_says(path: str) -> None:
    call = ToolCall("c", "find", '{"q": 1}')
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    async with _client() as (client, fake):
        fake.answer(Answer("Hello", "hm" * 9, (call,)))
        whole = (await client.post(path, json=body)).text
        streamed = (await client.post(path, json=body | {"stream": True})).text

    for text in ("c", "find", "tool_" if "messages" in path else "tool_calls"):
        assert f'"{text}' in whole
        assert f'"{text}' in streamed
    counted = r'"(?:input|prompt|output|completion)_tokens":\d+'
    assert set(re.findall(counted, whole)) <= set(re.findall(counted, streamed))


async def test_answers_are_played_in_order_and_the_last_again_and_again() -> None:
    def echo(body: Json) -> str:
        return f"echo {body['messages'][0]['content']}"

    async with _client() as (client, fake):
        fake.answer("one", Refusal(429, retry_after_s=2, kind="rate_limit_error"), echo)
        body = {"model": "m", "messages": [USER]}
        answers = [await client.post("/v1/chat/completions", json=body) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 429, 200, 200]
    assert answers[1].headers["retry-after"] == "2"
    texts = [answer.json()["choices"][0]["message"]["content"] for answer in answers[2:]]
    assert texts == ["echo hi", "echo hi"]


async def test_blocks_of_a_request_begin_with_those_of_the_one_before() -> None:
    async with _client() as (client, fake):
        for length in range(1, 4):
            turns = [[text_block(f"t{place}", **MARK)] for place in range(length)]
            await client.post("/v1/messages", json=messages_body(*turns))

    for before, request in pairwise(fake.requests):
        assert request.blocks[: len(before.blocks)] == before.blocks


async def test_it_runs_by_hand_and_tells_what_it_was_asked() -> None:
    command = [sys.executable, "-m", "tests.support.upstream"]
    with anyio.fail_after(60):
        async with await anyio.open_process(command) as process:
            assert process.stdout is not None
            lines = BufferedByteReceiveStream(process.stdout)
            url = (await lines.receive_until(b" ", 100)).decode()
            async with httpx2.AsyncClient(base_url=url) as client:
                answer = await client.post("/v1/messages", json=messages_body(HI))
            await lines.receive_until(b"\n", 100)
            told = await lines.receive_until(b"\n", 100)
            process.terminate()

    assert answer.json()["content"] == [{"type": "text", "text": "pong"}]
    counted = orjson.loads(answer.content)["usage"]["input_tokens"]
    assert told == f"anthropic: {counted} tokens, 0 read, 0 written, cost {counted}.0".encode()
