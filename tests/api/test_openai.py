"""Chat completions without a session, asked by the official SDK."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import openai
import pytest
from pydantic import BaseModel, ValidationError

from gateway.api.bodies import AT_ONCE_BYTES
from gateway.api.openai.wire import ChatRequest
from gateway.context.estimate import estimate_context_chars
from gateway.model import AgentId, ToolCall
from tests.api.openai_clients import HELLO, asked_by_sdk, said
from tests.api.running import TOKEN
from tests.support.answers import Answer, Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.durable.connection import Connection
    from gateway.model import Message


async def test_agents_are_the_models(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        models = await client.models.list()
        one = await client.models.retrieve("gpt")
        with pytest.raises(openai.NotFoundError) as none:
            await client.models.retrieve("gpt-9")

    assert [model.id for model in models.data] == ["claude", "echo", "gpt", "main"]
    assert (one.id, one.object, one.owned_by) == ("gpt", "model", "session-gateway")
    assert none.value.code == "model_not_found"


async def test_a_conversation_goes_to_the_model_as_it_is(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer("four")
        messages: Any = [
            {"role": "system", "content": "Count."},
            *said("one", "two", "three"),
        ]
        answer = await client.chat.completions.create(model="gpt", messages=messages)
        (request,) = asked.fake.requests
        listed = (await asked.api.client.get("/v1/sessions")).json()

    assert [(one["role"], one["content"]) for one in request.json["messages"]] == [
        ("system", "Be brief."),
        ("system", "Count."),
        ("user", "one"),
        ("assistant", "two"),
        ("user", "three"),
    ]
    assert "tools" not in request.json
    assert answer.choices[0].message.content == "four"
    assert (answer.choices[0].finish_reason, answer.model) == ("stop", "gpt")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == request.tokens
    assert answer.usage.total_tokens == request.tokens + answer.usage.completion_tokens
    # Nothing of it stays but the sums.
    assert listed["sessions"] == []


async def test_what_is_counted_is_in_the_name_of_the_token(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked:
        async with await asked.client("alice") as client, asked.with_token(TOKEN) as operator:
            for one in (client, client, operator):
                await one.chat.completions.create(model="gpt", messages=HELLO)
        rows = await asked.usage()

        def count(connection: Connection) -> list[object]:
            tables = ("messages", "model_calls", "session_users", "context_accounts", "sessions")
            return [
                connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]  # noqa: S608 - names of ours
                for table in tables
            ]

        stored = await asked.api.state.database.read(count)

    assert [(row["name"], row["calls"]) for row in rows] == [
        ("openai:alice:user:alice", 2),
        ("openai::user:operator", 1),
    ]
    assert stored == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_a_stream_ends_with_what_was_counted(tmp_path: Path, model: str) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer("one two three")
        stream = await client.chat.completions.create(
            model=model, messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        plain = await client.chat.completions.create(model=model, messages=HELLO, stream=True)
        without = [chunk async for chunk in plain]
        tokens = asked.fake.requests[0].tokens

    text = "".join(choice.delta.content or "" for one in chunks for choice in one.choices)
    assert text == "one two three"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == tokens
    assert {one.usage for one in chunks[:-1]} == {None}
    assert without[-1].choices[0].finish_reason == "stop"
    assert len({one.id for one in chunks}) == 1


async def test_pieces_are_streamed_as_they_come(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer(Answer("one two three four", then="hangs"))
        stream = await client.chat.completions.create(model="gpt", messages=HELLO, stream=True)
        with anyio.fail_after(30):
            first = await anext(stream)
            second = await anext(stream)
            await stream.close()
            # A client that goes away ends the request to the provider.
            await asked.fake.client_left.wait()

    assert first.choices[0].delta.content == ""
    assert second.choices[0].delta.content


WEATHER: Final[Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather." + " It does." * 200,
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string"}, "day": {"type": "string"}},
        },
    },
}


def calling(*pairs: tuple[str, str]) -> Answer:
    calls = tuple(ToolCall(f"c{i}", name, text) for i, (name, text) in enumerate(pairs))
    return Answer("", tool_calls=calls)


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_tools_are_the_clients_own(tmp_path: Path, model: str) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer(calling(("weather", '{"town": "Rome"}')), "Sunny.")
        messages: list[Any] = [*HELLO]
        first = await client.chat.completions.create(
            model=model, messages=messages, tools=[WEATHER], tool_choice="required"
        )
        answer = first.choices[0]
        calls: Any = answer.message.tool_calls
        (call,) = calls
        # As every program with tools does: the SDK's own object goes back.
        messages += [
            answer.message,
            {"role": "tool", "tool_call_id": call.id, "content": "sun, 30 degrees"},
        ]
        last = await client.chat.completions.create(model=model, messages=messages, tools=[WEATHER])
        one, two = (request.json for request in asked.fake.requests)

    assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)
    assert (call.function.name, call.function.arguments) == ("weather", '{"town": "Rome"}')
    assert last.choices[0].message.content == "Sunny."
    schema = "parameters" if model == "gpt" else "input_schema"
    told = one["tools"][0]["function"] if model == "gpt" else one["tools"][0]
    # Neither cut nor put in another order.
    assert list(told[schema]["properties"]) == ["town", "day"]
    assert told["description"] == WEATHER["function"]["description"]
    assert one["tool_choice"] == ("required" if model == "gpt" else {"type": "any"})
    assert "sun, 30 degrees" in str(two["messages"])


async def test_calls_are_streamed_as_the_sdks_helper_reads_them(tmp_path: Path) -> None:
    class Weather(BaseModel):
        town: str

    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        long = "R" * 3_000
        asked.fake.answer(
            calling(("Weather", f'{{"town": "{long}"}}'), ("Weather", '{"town": "Bari"}'))
        )
        tool = openai.pydantic_function_tool(Weather)
        async with client.chat.completions.stream(
            model="gpt", messages=HELLO, tools=[tool]
        ) as stream:
            kinds = {event.type async for event in stream}
            done = await stream.get_final_completion()
        again = await client.chat.completions.parse(
            model="gpt",
            messages=_with_results(done),
            tools=[tool],
        )
        sent = asked.fake.requests[-1].json

    calls = done.choices[0].message.tool_calls or []
    assert [call.function.parsed_arguments for call in calls] == [
        Weather(town=long),
        Weather(town="Bari"),
    ]
    assert done.choices[0].finish_reason == "tool_calls"
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert again.choices[0].finish_reason == "tool_calls"
    assert sent["tools"][0]["function"]["strict"] is True


def _with_results(done: Any) -> Any:  # noqa: ANN401 - the SDK's own types are many
    answer = done.choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "sun"} for call in answer.tool_calls
    ]
    return [*HELLO, answer, *results]


async def test_parse_has_its_format_heeded(tmp_path: Path) -> None:
    class Town(BaseModel):
        name: str

    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer('{"name": "Rome"}', Answer('{"na', finish="length"))
        done = await client.chat.completions.parse(
            model="gpt", messages=HELLO, response_format=Town
        )
        with pytest.raises(openai.LengthFinishReasonError):
            await client.chat.completions.parse(
                model="gpt", messages=HELLO, response_format=Town, max_completion_tokens=3
            )
        first, second = (request.json for request in asked.fake.requests)

    assert done.choices[0].message.parsed == Town(name="Rome")
    assert first["response_format"]["json_schema"]["name"] == "Town"
    assert second["max_tokens"] == 3


async def test_wishes_reach_a_model_that_heeds_them(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        common: Any = {"messages": HELLO, "temperature": 0.2, "top_p": 0.5, "stop": "END"}
        await client.chat.completions.create(model="gpt", seed=7, max_tokens=9, **common)
        await client.chat.completions.create(model="claude", max_tokens=9, **common)
        gpt, claude = (request.json for request in asked.fake.requests)

    wanted = {"temperature": 0.2, "top_p": 0.5, "seed": 7, "stop": ["END"], "max_tokens": 9}
    assert {name: gpt[name] for name in wanted} == wanted
    wanted = {"temperature": 0.2, "top_p": 0.5, "stop_sequences": ["END"], "max_tokens": 9}
    assert {name: claude[name] for name in wanted} == wanted


REFUSED: Final[list[tuple[str, dict[str, Any], str]]] = [
    ("echo", {"temperature": 0.2}, "temperature"),
    ("echo", {"tools": [WEATHER]}, "tools"),
    ("claude", {"seed": 7}, "seed"),
    ("claude", {"temperature": 1.5}, "temperature"),
    ("claude", {"response_format": {"type": "json_object"}}, "response_format"),
    ("gpt", {"n": 2}, "n"),
    ("gpt", {"logprobs": True}, "logprobs"),
    ("gpt", {"functions": []}, "functions"),
    ("gpt", {"no_such_field": 1}, "no_such_field"),
    ("gpt", {"temperature": 3}, "temperature"),
    ("gpt", {"tool_choice": "required"}, "tool_choice"),
    ("gpt", {"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
    ("gpt", {"messages": []}, "messages"),
    ("gpt", {"messages": said("a", "b")}, "messages"),
    (
        "gpt",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "http://169.254.0.1/"}}],
                }
            ]
        },
        "messages[0].content[0].image_url.url",
    ),
    (
        "gpt",
        {"messages": [*HELLO, {"role": "tool", "tool_call_id": "x", "content": "r"}]},
        "messages[1].tool_call_id",
    ),
]


@pytest.mark.parametrize(("model", "more", "param"), REFUSED)
async def test_what_cannot_be_heeded_is_refused_and_named(
    tmp_path: Path, model: str, more: dict[str, Any], param: str
) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        body: Any = {"model": model, "messages": HELLO, **more}
        with pytest.raises(openai.BadRequestError) as refused:
            await client.post("/chat/completions", body=body, cast_to=object)

        assert refused.value.param == param
        assert refused.value.type == "invalid_request_error"
        assert not asked.fake.requests


async def test_a_call_without_its_result_is_refused(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    open_call: Any = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}, *HELLO]
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        with pytest.raises(openai.BadRequestError, match="1 tool calls have no result"):
            await client.chat.completions.create(model="gpt", messages=open_call)


async def test_images_reach_the_model(tmp_path: Path) -> None:
    url = "data:image/png;base64,iVBORw0KGgo="
    content = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": url}}]
    messages: Any = [{"role": "user", "content": content}]
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        await client.chat.completions.create(model="gpt", messages=messages)
        (request,) = asked.fake.requests

    assert request.json["messages"][-1]["content"] == content


async def test_what_common_clients_send_along_is_taken(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    image = {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "high"}
    messages: Any = [
        {"role": "user", "content": "weather?", "name": "bob", "refusal": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "sun"},
        {"role": "user", "content": [{"type": "image_url", "image_url": image}]},
    ]
    more = {
        "safety_identifier": "s",
        "metadata": {"a": "b"},
        "store": True,
        "user": "",
        "functions": None,
        "no_such_field": None,
        "top_logprobs": 0,
    }
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        await client.chat.completions.create(
            model="gpt", messages=messages, tools=[WEATHER], extra_body=more
        )
        (request,) = asked.fake.requests
        sessions = (await asked.api.client.get("/v1/sessions")).json()["sessions"]

    sent = request.json["messages"][1:]
    assert sent[0]["name"] == "bob"
    assert "name" not in sent[2]
    assert sent[3]["content"][0]["image_url"] == image
    assert not request.json.keys() & more.keys()
    assert sessions == []


async def test_a_long_history_in_parts_is_taken(tmp_path: Path) -> None:
    one = {"role": "user", "content": [{"type": "text", "text": "a" * 40}]}
    async with (
        asked_by_sdk(tmp_path, window_tokens=100_000) as asked,
        await asked.client() as client,
    ):
        await client.chat.completions.create(model="gpt", messages=[one] * 2_000)  # type: ignore[list-item]
        (request,) = asked.fake.requests

    # A system prompt stands before them.
    assert len(request.json["messages"]) == 2_001


async def test_a_history_beyond_the_window_is_refused_before_it_costs(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(
                model="gpt", messages=said("x" * 10_100, "yes", "and?")
            )
        assert not asked.fake.requests

    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")


FAILURES: Final = [
    (Refusal(429, retry_after_s=7), openai.RateLimitError, "rate_limit_exceeded"),
    (
        Refusal(400, code="context_length_exceeded", message="too long"),
        openai.BadRequestError,
        "context_length_exceeded",
    ),
    (Refusal(503), openai.InternalServerError, "agent_unavailable"),
    (Refusal(401), openai.InternalServerError, "agent_failed"),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("refusal", "error", "code"), FAILURES)
async def test_failures_of_a_provider_are_the_sdks_exceptions(
    tmp_path: Path,
    refusal: Refusal,
    error: type[openai.APIStatusError],
    code: str,
    stream: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer(refusal)
        with pytest.raises(error) as raised:
            await client.chat.completions.create(model="gpt", messages=HELLO, stream=stream)

    assert raised.value.code == code
    if refusal.status == 429:
        assert raised.value.response.headers["retry-after"] == "7"
    assert raised.value.status_code in {429, 400, 502}


async def test_a_stream_that_breaks_off_ends_with_an_error(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer(Answer("one two three four", then="is cut"))
        stream = await client.chat.completions.create(model="gpt", messages=HELLO, stream=True)
        first, second = await anext(stream), await anext(stream)
        with pytest.raises(openai.APIError, match=r"broke off|cannot be reached"):
            _ = [chunk async for chunk in stream]

    assert first.choices[0].delta.role == "assistant"
    assert second.choices[0].delta.content


async def test_a_call_has_the_deadline_of_turns(tmp_path: Path) -> None:
    settings = {"turn_deadline_s": 30}
    async with asked_by_sdk(tmp_path, turns=settings) as asked, await asked.client() as client:
        asked.fake.answer(Answer("one two three four", then="hangs"))
        errors: list[openai.APIStatusError] = []

        async def ask() -> None:
            with pytest.raises(openai.InternalServerError) as raised:
                await client.chat.completions.create(model="gpt", messages=HELLO)
            errors.append(raised.value)

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await asked.fake.asked.wait()
            await asked.api.clock.advance(31)

    assert (errors[0].status_code, errors[0].code) == (504, "deadline_exceeded")


async def test_no_more_calls_run_at_once_than_turns(tmp_path: Path) -> None:
    settings = {"max_running": 1}
    async with asked_by_sdk(tmp_path, turns=settings) as asked, await asked.client() as client:
        asked.fake.gate = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(_ask, client)
            await asked.fake.asked.wait()
            with pytest.raises(openai.InternalServerError) as busy:
                await client.chat.completions.create(model="gpt", messages=HELLO)
            asked.fake.gate.set()
        # The place is free again.
        await _ask(client)

    assert (busy.value.status_code, busy.value.code) == (503, "busy")
    assert busy.value.response.headers["retry-after"] == "5"


async def test_calls_that_come_at_once_are_counted_one_by_one(tmp_path: Path) -> None:
    settings = {"max_running": 4}
    refused: list[int] = []
    all_but_two = anyio.Event()
    async with asked_by_sdk(tmp_path, turns=settings) as asked, await asked.client() as client:
        asked.fake.gate = anyio.Event()

        async def ask() -> None:
            try:
                await _ask(client)
            except openai.RateLimitError as busy:
                refused.append(busy.status_code)
                if len(refused) == 18:
                    all_but_two.set()

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(ask)
                await all_but_two.wait()
                asked.fake.gate.set()

    assert refused == [429] * 18
    assert len(asked.fake.requests) == 2


async def test_slow_calls_of_one_token_leave_places_for_others(tmp_path: Path) -> None:
    settings = {"max_running": 3}
    async with asked_by_sdk(tmp_path, turns=settings) as asked:
        alice, bob = await asked.client("alice"), await asked.client("bob")
        asked.fake.gate = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(_ask, alice)
            await asked.fake.asked.wait()
            with pytest.raises(openai.RateLimitError) as busy:
                await alice.chat.completions.create(model="gpt", messages=HELLO)
            group.start_soon(_ask, bob)
            with anyio.fail_after(30):
                while len(asked.fake.requests) < 2:
                    await anyio.lowlevel.checkpoint()
            asked.fake.gate.set()
        await _ask(alice)
        await alice.close()
        await bob.close()

    assert busy.value.code == "busy"
    assert busy.value.response.headers["retry-after"] == "5"


async def test_what_was_read_is_not_said_again_by_another_agent(tmp_path: Path) -> None:
    pieces: list[str] = []

    async def read(client: openai.AsyncOpenAI) -> None:
        stream: Any = await client.chat.completions.create(model="gpt", messages=HELLO, stream=True)
        async for piece in stream:
            pieces.append(piece.choices[0].delta.content or "")  # noqa: PERF401 - it breaks off

    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.api.turns.answering.fallbacks = {AgentId("gpt"): [AgentId("claude")]}
        asked.fake.answer(Answer("half of it", then="is cut"), "from claude")
        with pytest.raises(openai.APIError):
            await read(client)

    said_first = "".join(pieces).strip()
    assert said_first
    assert "half of it".startswith(said_first)
    assert len(asked.fake.requests) == 1


async def test_a_cache_key_is_of_its_token_alone(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path, cache_keys=True) as asked:
        alice, bob = await asked.client("alice"), await asked.client("bob")
        for client, key in ((alice, "mine"), (alice, "mine"), (bob, "mine"), (alice, "other")):
            await client.chat.completions.create(model="gpt", messages=HELLO, prompt_cache_key=key)
        await alice.close()
        await bob.close()
        sent = [request.json["prompt_cache_key"] for request in asked.fake.requests]

    assert sent[0] == sent[1]
    assert len(set(sent)) == 3
    assert "mine" not in "".join(sent)


async def test_what_runs_counts_against_a_budget(tmp_path: Path) -> None:
    long = said("word " * 400)
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        limits = asked.api.turns.budgets
        limits.settings = limits.settings.model_copy(update={"user_tokens_per_day": 300})
        asked.fake.gate = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(partial(client.chat.completions.create, model="gpt", messages=long))
            await asked.fake.asked.wait()
            with pytest.raises(openai.RateLimitError) as used_up:
                await client.chat.completions.create(model="gpt", messages=HELLO)
            asked.fake.gate.set()

    assert used_up.value.code == "insufficient_quota"


async def test_a_long_conversation_is_read_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[bool] = []

    def counting(messages: Sequence[Message]) -> int:
        threads.append(threading.current_thread() is threading.main_thread())
        return estimate_context_chars(messages)

    monkeypatch.setattr("gateway.api.openai.asking.estimate_context_chars", counting)
    long = said("word " * (AT_ONCE_BYTES // 5))
    async with (
        asked_by_sdk(tmp_path, window_tokens=200_000) as asked,
        await asked.client() as client,
    ):
        for messages in (long, HELLO):
            await client.chat.completions.create(model="gpt", messages=messages)

    assert threads == [False, True]


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([{"role": "user", "content": [{"type": "text"}] * 100}], id="parts"),
        pytest.param([{"role": "user", "content": [{}] * 100}], id="parts of no kind"),
        pytest.param([{"role": "user"}] * 100, id="messages"),
        pytest.param(
            [{"role": "user", "content": "x", **{f"x{i}": 1 for i in range(100)}}], id="fields"
        ),
    ],
)
def test_reading_ends_with_the_first_fault(messages: Any) -> None:  # noqa: ANN401
    """Each one would be told at length, which takes long for a hundred thousand."""
    with pytest.raises(ValidationError) as refused:
        ChatRequest.model_validate({"model": "gpt", "messages": messages})

    assert refused.value.error_count() == 1


async def _ask(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="gpt", messages=HELLO)
    assert answer.choices[0].message.content == "pong"


async def test_rates_and_budgets_hold_for_a_token(tmp_path: Path) -> None:
    settings = {"messages_per_minute_per_user": 1}
    async with (
        asked_by_sdk(tmp_path, turns=settings) as asked,
        await asked.client("alice") as alice,
        await asked.client("bob") as bob,
    ):
        await _ask(alice)
        with pytest.raises(openai.RateLimitError) as limited:
            await _ask(alice)
        await _ask(bob)
        limits = asked.api.turns.budgets
        limits.settings = limits.settings.model_copy(update={"user_tokens_per_day": 1})
        await asked.api.clock.advance(61)
        with pytest.raises(openai.RateLimitError) as used_up:
            await _ask(bob)

    assert limited.value.code == "busy"
    assert int(limited.value.response.headers["retry-after"]) >= 1
    assert used_up.value.code == "insufficient_quota"
    assert used_up.value.response.headers["x-should-retry"] == "false"


async def test_another_agent_stands_in(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        answering = asked.api.turns.answering
        answering.fallbacks = {AgentId("gpt"): [AgentId("claude")]}
        asked.fake.answer(Refusal(503), "from claude")
        answer = await client.chat.completions.create(model="gpt", messages=HELLO)
        # It would not heed this.
        answering.breakers.answered(AgentId("gpt"))
        asked.fake.answer(Refusal(503), "from claude")
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="gpt", messages=HELLO, seed=7)

    assert (answer.model, answer.choices[0].message.content) == ("claude", "from claude")


async def test_the_synchronous_client_is_served_as_well(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked:
        token = await asked.token("alice")

        def talk() -> list[str]:
            with openai.OpenAI(
                api_key=token,
                base_url=asked.base_url,
                http_client=openai.DefaultHttpxClient(trust_env=False),
            ) as client:
                whole = client.chat.completions.create(model="echo", messages=HELLO)
                with client.chat.completions.stream(model="echo", messages=HELLO) as stream:
                    streamed = stream.get_final_completion()
                models = client.models.list()
            texts = [one.choices[0].message.content or "" for one in (whole, streamed)]
            return [*texts, *(model.id for model in models)]

        found = await anyio.to_thread.run_sync(talk)

    assert found == ["hello", "hello", "claude", "echo", "gpt", "main"]


async def test_an_agent_that_knows_sessions_alone_says_so(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        with pytest.raises(openai.BadRequestError, match="in sessions alone"):
            await client.chat.completions.create(model="main", messages=HELLO)
