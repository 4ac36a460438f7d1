"""Laws of the provider's prompt cache: both agents, through their SDKs, on a pretended provider."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import httpx2
import pytest

from gateway.clock import FakeClock, SystemClock
from gateway.model import Image, Message, Role
from tests.agents.events import (
    anthropic_agent,
    called,
    openai_agent,
    result,
    run_agent,
    said,
    user,
    wired,
)
from tests.agents.test_anthropic import delta, ended, played, started, stream_of
from tests.agents.wire_server import events_answer
from tests.support.answers import Answer, Refusal
from tests.support.chat_wire import DONE, chunk_event
from tests.support.daemon import running_daemon
from tests.support.upstream import Bytes, upstream

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.agents.base import Agent

LONG: Final = "word " * 1_200
"""1,500 tokens: more than the least that is kept."""
MARK: Final = re.compile(rb',"cache_control":\{[^}]*\}')


def turn(number: int, *, steps: int = 0, calls: int = 1) -> list[Message]:
    """Return a turn of so many steps, each with so many calls, without its answer."""
    turn_id = f"t{number}"
    messages = [user(f"question {number} {LONG}", turn_id)]
    for step in range(steps):
        ids = [f"c{number}-{step}-{call}" for call in range(calls)]
        messages.append(called(*ids, turn_id=turn_id))
        messages += (result(call_id, LONG, turn_id=turn_id) for call_id in ids)
    return messages


async def ask(agent: Agent, context: Sequence[Message]) -> Message:
    """Return the answer to a context."""
    return (await run_agent(agent, context)).messages[-1]


def without_marks(body: bytes) -> bytes:
    return MARK.sub(b"", body)


def end_of_marks(body: bytes) -> int:
    """Return where the last marked block of the messages ends, in the body without marks."""
    messages = body[: body.index(b',"model":')]
    *_, last = MARK.finditer(messages)
    return len(without_marks(messages[: last.end()]))


@pytest.mark.parametrize("wire", ["anthropic", "openai"])
async def test_a_turn_reads_what_the_turn_before_wrote(wire: str) -> None:
    async with (
        upstream(FakeClock()) as fake,
        anthropic_agent(fake, system_prompt=LONG) as claude,
        openai_agent(fake, system_prompt=LONG) as gpt,
    ):
        agent = claude if wire == "anthropic" else gpt
        context: list[Message] = []
        for number in range(4):
            context += turn(number)
            context.append(await ask(agent, context))

    first, *rest = fake.requests
    assert (first.wire, first.read) == (wire, 0)
    before = first
    for request in rest:
        assert request.read == before.read + before.written
        assert request.read > 0.9 * before.tokens
        before = request


@pytest.mark.parametrize("wire", ["anthropic", "openai"])
async def test_what_an_agent_reports_is_what_the_provider_counted(wire: str) -> None:
    async with (
        upstream(FakeClock()) as fake,
        anthropic_agent(fake, cache_ttl="1h") as claude,
        openai_agent(fake) as gpt,
    ):
        fake.answer(Answer("so", thinking="x" * 80))
        context = turn(0)
        for _ in range(2):
            run = await run_agent(claude if wire == "anthropic" else gpt, context)
            (usage,) = (call.usage for call in run.calls)
            charge = fake.requests[-1].charge
            assert usage is not None
            assert usage.context_tokens == charge.tokens
            assert usage.input_tokens == charge.uncached
            assert usage.cache_read_tokens == charge.read
            assert usage.cache_write_tokens == charge.written
            assert usage.cache_write_1h_tokens == charge.written_1h
            assert (usage.output_tokens, usage.reasoning_tokens) == (21, 20)
            context = [*context, run.messages[-1], *turn(1)]

    assert fake.requests[-1].read > 0
    assert bool(fake.requests[0].charge.written_1h) == (wire == "anthropic")


@pytest.mark.parametrize(
    ("pause_s", "ttl", "warm"),
    [
        (299, "5m", True),
        (300, "5m", False),
        (3_599, "1h", True),
        (3_600, "1h", False),
        (0, "off", False),
    ],
)
async def test_the_cache_lives_as_long_as_the_setting_says(
    pause_s: float, ttl: str, *, warm: bool
) -> None:
    clock = FakeClock()
    async with upstream(clock) as fake, anthropic_agent(fake, cache_ttl=ttl) as agent:
        context = turn(0)
        for number in (1, 2, 3):
            context += [await ask(agent, context), *turn(number)]
            await clock.advance(pause_s)
            await ask(agent, context)

    assert all(bool(request.read) == warm for request in fake.requests[1::2])
    assert any(b"cache_control" in request.body for request in fake.requests) == (ttl != "off")


def counted(wire: str, **usage: object) -> Bytes:
    """Return an answer that tells of tokens just so."""
    if wire == "anthropic":
        answer = stream_of(
            started({"input_tokens": 9, "output_tokens": 1, **usage}), delta(text="Hi"), ended()
        )
    else:
        told = chunk_event(usage={"prompt_tokens": 9, "completion_tokens": 1, **usage})
        answer = events_answer(
            chunk_event(delta={"content": "Hi"}, finish_reason="stop"), told, DONE
        )
    return played(answer)


@pytest.mark.parametrize(
    ("wire", "usage", "told"),
    [
        ("anthropic", {}, False),
        ("anthropic", {"cache_read_input_tokens": None}, False),
        ("anthropic", {"cache_read_input_tokens": 0}, True),
        ("anthropic", {"cache_creation_input_tokens": 0}, True),
        ("openai", {}, False),
        ("openai", {"prompt_tokens_details": None}, False),
        ("openai", {"prompt_tokens_details": {}}, False),
        ("openai", {"prompt_tokens_details": {"cached_tokens": None}}, False),
        ("openai", {"prompt_tokens_details": {"cached_tokens": 0}}, True),
        ("openai", {"prompt_cache_hit_tokens": 0}, True),
        ("openai", {"prompt_cache_miss_tokens": 9}, True),
    ],
)
async def test_a_call_says_whether_the_provider_told_of_its_cache(
    wire: str, usage: dict[str, object], *, told: bool
) -> None:
    async with upstream(FakeClock()) as fake, wired(wire, fake) as agent:
        fake.answer(counted(wire, **usage))
        (call,) = (await run_agent(agent, [user("hi")])).calls

    assert call.usage is not None
    assert (call.usage.context_tokens, call.cache_counted) == (9, told)


@pytest.mark.parametrize("wire", ["anthropic", "openai"])
async def test_a_call_that_was_not_counted_tells_nothing_of_the_cache(wire: str) -> None:
    async with upstream(FakeClock()) as fake, wired(wire, fake) as agent:
        fake.answer(
            counted(wire, input_tokens="many", prompt_tokens="many", cache_read_input_tokens=0)
        )
        (call,) = (await run_agent(agent, [user("hi")])).calls

    assert (call.usage, call.cache_counted) == (None, False)


@pytest.mark.parametrize(("ttl", "told"), [("5m", True), ("1h", True), ("off", False)])
async def test_a_cache_that_is_off_is_not_counted(ttl: str, *, told: bool) -> None:
    async with upstream(FakeClock()) as fake, anthropic_agent(fake, cache_ttl=ttl) as agent:
        (call,) = (await run_agent(agent, [user("hi")])).calls

    assert call.usage is not None
    assert call.cache_counted is told


@pytest.mark.parametrize(("steps", "calls"), [(40, 1), (6, 12), (3, 40)])
async def test_every_step_of_a_turn_reads_the_step_before(steps: int, calls: int) -> None:
    async with upstream(FakeClock()) as fake, anthropic_agent(fake) as agent:
        whole = [*turn(0), said("first"), *turn(1, steps=steps, calls=calls)]
        places = [place for place, message in enumerate(whole) if message.role is Role.TOOL]
        for place in places[calls - 1 :: calls]:
            await ask(agent, whole[: place + 1])
        assert len(fake.requests) == steps

    for before, request in pairwise(fake.requests):
        assert request.read == before.tokens


@pytest.mark.parametrize(("steps", "calls"), [(1, 1), (40, 1), (2, 30)])
async def test_the_turn_after_one_of_any_length_reads_all_of_it(steps: int, calls: int) -> None:
    async with upstream(FakeClock()) as fake, anthropic_agent(fake) as agent:
        context = [*turn(0), said("first"), *turn(1, steps=steps, calls=calls)]
        context.append(await ask(agent, context))
        await ask(agent, [*context, *turn(2)])

    before, request = fake.requests
    assert request.read == before.tokens


async def test_without_the_mark_before_the_live_turn_a_long_step_would_lose_the_cache() -> None:
    """The laws above hold by that mark: the pretended provider tells where it is missing."""
    async with upstream(FakeClock()) as fake, anthropic_agent(fake) as agent:
        first = [*turn(0, steps=1), said("first"), *turn(1)]
        await ask(agent, first)
        await ask(agent, [*first, *turn(1, steps=1, calls=30)[1:]])
        short, long = (request.json for request in fake.requests)
        for message in long["messages"][:-1]:
            for block in message["content"]:
                block.pop("cache_control", None)
        async with httpx2.AsyncClient(base_url=fake.url) as client:
            for body in (short, long):
                again = body | {"model": "other"}
                assert (await client.post("/v1/messages", json=again)).status_code == 200

    assert [bool(request.read) for request in fake.requests] == [False, True, False, False]


async def test_the_bytes_before_a_mark_are_the_same_in_the_next_request() -> None:
    context = [
        *turn(0, steps=1),
        said("Grüße 🙂"),
        user(LONG, "t1"),
        called("a", "b", text="Let me see."),
        result("a", LONG),
        result("b", "seen", Image("image/png", "aWNvbg==")),
        called("c"),
        result("c", ""),
        said("done"),
        *turn(2),
    ]
    asked = [
        length
        for length in range(2, len(context) + 1)
        if context[length - 1].role is not Role.ASSISTANT
        and not (length < len(context) and context[length].role is Role.TOOL)
    ]
    async with upstream(FakeClock()) as fake, anthropic_agent(fake, system_prompt=LONG) as agent:
        for length in asked:
            await ask(agent, context[:length])

    assert len(fake.requests) == 5
    for before, request in pairwise(fake.requests):
        end = end_of_marks(before.body)
        assert end > 5_000
        assert without_marks(before.body)[:end] == without_marks(request.body)[:end]
        assert before.json["system"] == request.json["system"]
        assert before.json["tools"] == request.json["tools"]


async def test_a_refused_request_warms_nothing() -> None:
    async with upstream(FakeClock()) as fake, anthropic_agent(fake, max_retries=1) as agent:
        fake.answer(Refusal(529, retry_after_s=0.001), "pong")
        await ask(agent, turn(0))

    refused, answered = fake.requests
    assert (refused.tokens, refused.cost) == (answered.tokens, 0.0)
    assert answered.read == 0


@pytest.mark.parametrize(
    ("changes", "cache_key", "sent"),
    [
        ({}, "k", None),
        ({"prompt_cache_key": True}, "k", "k"),
        ({"prompt_cache_key": True}, "", None),
    ],
)
async def test_an_endpoint_is_told_the_key_of_the_cache_where_it_is_configured(
    changes: dict[str, object], cache_key: str, sent: str | None
) -> None:
    async with upstream(FakeClock()) as fake, openai_agent(fake, **changes) as agent:
        await run_agent(agent, [user("hi")], cache_key=cache_key)

    assert fake.requests[0].json.get("prompt_cache_key") == sent


async def test_sessions_with_different_keys_share_no_cache() -> None:
    async with upstream(FakeClock()) as fake, openai_agent(fake, prompt_cache_key=True) as agent:
        for key in ("a", "b", "a"):
            await run_agent(agent, turn(0), cache_key=key)

    assert [bool(request.read) for request in fake.requests] == [False, False, True]


async def test_a_daemon_reads_the_cache_of_its_provider(tmp_path: Path) -> None:
    async with upstream(SystemClock()) as fake:
        fake.answer("first", Refusal(529, retry_after_s=0.001), "second", "third")
        config = (
            f'[agents.main]\nkind = "anthropic"\nmodel = "m"\nbase_url = "{fake.url}"\n'
            f'system_prompt = "{LONG}"\n'
        )
        async with running_daemon(tmp_path / "state", config) as daemon:
            answers = [await daemon.say(text) for text in ("one", "two", "three")]
            entry = await daemon.get(f"/v1/sessions/{answers[-1]['session_key']}")

    assert [answer["reply"] for answer in answers] == ["first", "second", "third"]
    assert [bool(request.read) for request in fake.requests] == [False, False, True, True]
    assert entry["context_tokens"] == fake.requests[-1].tokens
    assert entry["cache_read_tokens"] == sum(request.read for request in fake.requests)
