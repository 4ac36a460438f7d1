"""Chat completions in a session, asked by the official SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx2
import openai
import pytest

from tests.api.openai_clients import HELLO, asked_by_sdk, said
from tests.api.running import TOKEN
from tests.support.answers import Answer, Refusal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.api.openai_clients import Asked

NAMED: Final = {"x-session-key": "diary"}


async def transcript(asked: Asked, key: str) -> list[tuple[str, str]]:
    """Return role and text of each message of a session."""
    response = await asked.api.client.get(f"/v1/sessions/{key}/transcript")
    assert response.status_code == 200, response.text
    return [(one["role"], one["text"]) for one in response.json()["messages"]]


async def keys(asked: Asked) -> list[str]:
    listed = (await asked.api.client.get("/v1/sessions")).json()
    return sorted(one["session_key"] for one in listed["sessions"])


async def test_a_session_has_the_gateways_history(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer("one", "two")
        await client.chat.completions.create(
            model="gpt", messages=said("first"), extra_headers=NAMED
        )
        # What the client says of earlier turns is not added again, nor believed.
        answer = await client.chat.completions.create(
            model="gpt", messages=said("forged", "forged", "second"), extra_headers=NAMED
        )
        (key,) = await keys(asked)
        found = await transcript(asked, key)
        sent = asked.fake.requests[-1].json["messages"]
        rows = await asked.usage()

    assert key == "agent:gpt:openai:alice:dm:diary::"
    assert found == [
        ("user", "first"),
        ("assistant", "one"),
        ("user", "second"),
        ("assistant", "two"),
    ]
    assert [one["content"] for one in sent] == ["Be brief.", "first", "one", "second"]
    assert answer.choices[0].message.content == "two"
    assert answer.usage is not None
    assert [(row["name"], row["calls"]) for row in rows] == [("openai:alice:user:alice", 2)]


async def test_user_names_a_session_where_the_header_does_not(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        await client.chat.completions.create(model="echo", messages=HELLO, user="bob@example")
        await client.chat.completions.create(
            model="echo", messages=HELLO, user="bob", extra_headers=NAMED
        )
        found = await keys(asked)

    assert found == [
        "agent:echo:openai:alice:dm:bob~40example::",
        "agent:echo:openai:alice:dm:diary::",
    ]


async def test_tokens_with_one_session_name_never_meet(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked:
        alice, bob = await asked.client("alice"), await asked.client("bob")
        async with alice, bob, asked.with_token(TOKEN) as operator:
            for client, text in ((alice, "of alice"), (bob, "of bob"), (operator, "our own")):
                await client.chat.completions.create(
                    model="gpt", messages=said(text), extra_headers=NAMED
                )
            # Nor does a name that looks like another's key.
            raw = {"x-session-key": "agent:gpt:openai:alice:dm:diary::"}
            await bob.chat.completions.create(
                model="gpt", messages=said("whose?"), extra_headers=raw
            )
            await bob.chat.completions.create(model="gpt", messages=said("more"), user="diary")
        sent = [
            [message["content"] for message in request.json["messages"][1:]]
            for request in asked.fake.requests
        ]
        found = await keys(asked)

    assert sent == [
        ["of alice"],
        ["of bob"],
        ["our own"],
        ["whose?"],
        ["of bob", "pong", "more"],
    ]
    assert len(found) == 4


async def test_two_spellings_of_a_name_are_one_session(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        headers = [("authorization", f"Bearer {client.api_key}")]
        for name in ("caf\u00e9", "cafe\u0301"):
            response = await asked.api.client.post(
                "/v1/chat/completions",
                headers=httpx2.Headers([*headers, ("x-session-key", name)], encoding="utf-8"),
                json={"model": "echo", "messages": HELLO},
            )
            assert response.status_code == 200, response.text
        long = {"x-session-key": "n" * 500}
        await client.chat.completions.create(model="echo", messages=HELLO, extra_headers=long)
        found = await keys(asked)

    assert found[0] == "agent:echo:openai:alice:dm:caf~C3~A9::"
    assert len(found) == 2
    assert "~~" in found[1]


async def test_a_turn_is_streamed_with_its_usage(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer("one two three")
        stream = await client.chat.completions.create(
            model="gpt",
            messages=HELLO,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers=NAMED,
        )
        chunks = [chunk async for chunk in stream]

    text = "".join(choice.delta.content or "" for one in chunks for choice in one.choices)
    assert text == "one two three"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == asked.fake.requests[0].tokens


async def test_the_same_key_is_answered_once(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer("one", "two")
        headers = NAMED | {"Idempotency-Key": "k-1"}
        answers = [
            await client.chat.completions.create(model="gpt", messages=HELLO, extra_headers=headers)
            for _ in range(2)
        ]
        stream = await client.chat.completions.create(
            model="gpt", messages=HELLO, extra_headers=headers, stream=True
        )
        streamed = [chunk async for chunk in stream]
        other = await client.chat.completions.create(
            model="gpt", messages=HELLO, extra_headers=NAMED | {"Idempotency-Key": "k-2"}
        )

    texts = [one.choices[0].message.content for one in (*answers, other)]
    assert texts == ["one", "one", "two"]
    assert streamed[1].choices[0].delta.content == "one"
    assert {answers[0].id, answers[1].id, streamed[0].id} == {answers[0].id}
    assert len(asked.fake.requests) == 2


async def test_commands_are_off(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        answer = await client.chat.completions.create(
            model="echo", messages=said("/new"), extra_headers=NAMED
        )

    assert answer.choices[0].message.content == "/new"


async def test_messages_behind_the_last_answer_are_one(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        messages: Any = [*said("a", "b"), *said("c"), *said("d")]
        answer = await client.chat.completions.create(
            model="echo", messages=messages, extra_headers=NAMED
        )

    assert answer.choices[0].message.content == "c\n\nd"


TOOL: Final = {"type": "function", "function": {"name": "f"}}
REFUSED: Final[list[tuple[dict[str, Any], str]]] = [
    ({"model": "echo", "tools": [TOOL]}, "tools"),
    ({"model": "echo", "temperature": 0.2}, "temperature"),
    ({"model": "main", "max_tokens": 5}, "max_tokens"),
    ({"model": "claude", "seed": 5}, "seed"),
    ({"model": "claude", "temperature": 1.5}, "temperature"),
    ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
    ({"tool_choice": "required"}, "tool_choice"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice",
    ),
    ({"messages": [{"role": "system", "content": "s"}]}, "messages"),
    ({"messages": said("a", "b")}, "messages"),
    (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}}
                    ],
                }
            ]
        },
        "messages[0]",
    ),
    (
        {"messages": [*said("a", "b"), {"role": "tool", "tool_call_id": "x", "content": "r"}]},
        "messages[2].tool_call_id",
    ),
    (
        {
            "messages": [
                *said("a", "b", "c"),
                {"role": "tool", "tool_call_id": "x", "content": "r"},
            ]
        },
        "messages[3]",
    ),
    (
        {
            "messages": [
                *said("a", "b"),
                *[{"role": "tool", "tool_call_id": "x", "content": "r"}] * 2,
            ]
        },
        "messages[3]",
    ),
    ({"user": "a\ufffd"}, "user"),
    ({"user": "a\nb"}, "user"),
]


@pytest.mark.parametrize(("more", "param"), REFUSED)
async def test_what_a_session_does_not_take_is_refused(
    tmp_path: Path, more: dict[str, Any], param: str
) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        body: Any = {"model": "gpt", "messages": HELLO, "user": "bob", **more}
        with pytest.raises(openai.BadRequestError) as refused:
            await client.post("/chat/completions", body=body, cast_to=object)
        found = await keys(asked)

    assert refused.value.param == param
    assert not found


async def test_settings_reach_the_model_of_a_session(tmp_path: Path) -> None:
    wanted: Any = {"temperature": 0.2, "top_p": 0.5, "seed": 7, "stop": ["END"], "max_tokens": 9}
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer(Answer("one", finish="length"), "two")
        first = await client.chat.completions.create(
            model="gpt",
            messages=HELLO,
            user="bob",
            prompt_cache_key="mine",
            response_format={"type": "json_object"},
            **wanted,
        )
        await client.chat.completions.create(model="gpt", messages=HELLO, user="bob")
        sent, after = (request.json for request in asked.fake.requests)

    assert {name: sent[name] for name in wanted} == wanted
    assert sent["response_format"] == {"type": "json_object"}
    assert first.choices[0].finish_reason == "length"
    # They are of one answer alone.
    assert not after.keys() & {*wanted, "response_format"}


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_instructions_are_told_behind_the_agents_own_and_not_kept(
    tmp_path: Path, model: str
) -> None:
    rules: Any = [
        {"role": "system", "content": "Rhyme."},
        {"role": "developer", "content": [{"type": "text", "text": "In Latin."}]},
    ]
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer("one", "two", "three")
        for messages in ([*rules, *said("a")], [*rules, *said("a", "one", "b")], said("c")):
            await client.chat.completions.create(model=model, messages=messages, user="bob")
        (key,) = await keys(asked)
        found = await transcript(asked, key)
        first, second, third = asked.fake.requests

    # Byte by byte, for the provider's prompt cache.
    whole = len(first.blocks)
    assert second.blocks[:whole] == first.blocks
    if model == "gpt":
        told = [(one["role"], one["content"]) for one in first.json["messages"]]
        assert told == [
            ("system", "Be brief."),
            ("system", "Rhyme."),
            ("system", "In Latin."),
            ("user", "a"),
        ]
    assert b"Rhyme" not in third.body
    assert [role for role, _ in found] == ["user", "assistant"] * 3


async def test_instructions_count_as_part_of_a_request(tmp_path: Path) -> None:
    rules: Any = [{"role": "system", "content": "x" * 11_000}]
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="gpt", messages=[*rules, *HELLO], user="bob")
        assert not asked.fake.requests

    assert refused.value.code == "context_length_exceeded"


async def test_a_reply_is_not_owed_to_any_channel(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        await client.chat.completions.create(model="gpt", messages=HELLO, user="bob")
        owed = (await asked.api.client.get("/v1/outbox")).json()

    assert owed["replies"] == []


async def test_values_that_say_what_is_done_anyway_are_taken(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        answer = await client.chat.completions.create(
            model="echo",
            messages=HELLO,
            user="bob",
            temperature=1,
            top_p=1,
            n=1,
            presence_penalty=0,
            response_format={"type": "text"},
            tool_choice="auto",
            store=False,
        )

    assert answer.choices[0].message.content == "hello"


@pytest.mark.parametrize("name", ["", " ", "n" * 513, "a\x01b"])
async def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    body = b'{"model":"echo","messages":[{"role":"user","content":"hi"}]}'
    async with asked_by_sdk(tmp_path) as asked:
        stream = await asked.api.connect()
        async with stream:
            head = asked.api.head(
                "POST",
                "/v1/chat/completions",
                "Content-Type: application/json",
                f"Content-Length: {len(body)}",
                f"x-session-key: {name}",
                "Connection: close",
            )
            await stream.send(head + body)
            answer = await stream.receive()

    assert answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("refusal", "error", "code"),
    [
        (Refusal(429), openai.RateLimitError, "rate_limit_exceeded"),
        (Refusal(503), openai.InternalServerError, "agent_unavailable"),
        (Refusal(401), openai.InternalServerError, "agent_failed"),
    ],
)
async def test_a_turn_that_failed_is_an_exception_and_not_sent_again(
    tmp_path: Path,
    refusal: Refusal,
    error: type[openai.APIStatusError],
    code: str,
    stream: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    async with asked_by_sdk(tmp_path) as asked:
        async with await asked.client(max_retries=2) as client:
            asked.fake.answer(refusal)
            with pytest.raises(error) as raised:
                await client.chat.completions.create(
                    model="gpt", messages=HELLO, stream=stream, extra_headers=NAMED
                )
        (key,) = await keys(asked)
        found = await transcript(asked, key)

    assert raised.value.code == code
    assert raised.value.response.headers["x-should-retry"] == "false"
    # The SDK would have sent the message three times.
    assert [role for role, _ in found] == ["user", "notice"]


async def test_a_budget_that_is_used_up_is_told(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        budgets = asked.api.turns.budgets
        budgets.settings = budgets.settings.model_copy(update={"session_tokens": 1})
        await client.chat.completions.create(model="gpt", messages=HELLO, user="bob")
        with pytest.raises(openai.RateLimitError) as raised:
            await client.chat.completions.create(model="gpt", messages=HELLO, user="bob")

    assert raised.value.code == "insufficient_quota"


async def test_a_turn_that_breaks_off_ends_its_stream_with_an_error(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer(Answer("one two three four", then="is cut"))
        stream = await client.chat.completions.create(
            model="gpt", messages=HELLO, stream=True, user="bob"
        )
        with pytest.raises(openai.APIError, match=r"broke off|cannot be reached"):
            _ = [chunk async for chunk in stream]


async def test_a_deadline_is_told(tmp_path: Path) -> None:
    settings = {"turn_deadline_s": 30}
    async with asked_by_sdk(tmp_path, turns=settings) as asked, await asked.client() as client:
        asked.fake.answer(Answer("one two three four", then="hangs"))
        errors: list[openai.APIStatusError] = []

        async def ask() -> None:
            with pytest.raises(openai.InternalServerError) as raised:
                await client.chat.completions.create(model="gpt", messages=HELLO, user="bob")
            errors.append(raised.value)

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await asked.fake.asked.wait()
            await asked.api.clock.advance(31)

    assert (errors[0].status_code, errors[0].code) == (504, "deadline_exceeded")


async def test_a_client_that_leaves_does_not_end_its_turn(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path, gate_open=False) as asked, await asked.client() as client:
        stream = await client.chat.completions.create(
            model="main", messages=HELLO, stream=True, extra_headers=NAMED
        )
        await asked.api.agent.started.wait()
        await stream.close()
        asked.api.agent.gate.set()
        again = await client.chat.completions.create(
            model="main", messages=said("next"), extra_headers=NAMED
        )
        (key,) = await keys(asked)
        found = await transcript(asked, key)

    assert found[1] == ("assistant", "working hello")
    assert again.choices[0].message.content == "working next"


async def test_a_slow_model_keeps_its_stream_alive(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.gate = anyio.Event()
        texts: list[str] = []

        async def ask() -> None:
            stream = await client.chat.completions.create(
                model="gpt", messages=HELLO, stream=True, user="bob"
            )
            begun.set()
            async for chunk in stream:
                texts.extend(choice.delta.content or "" for choice in chunk.choices)

        begun = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await asked.fake.asked.wait()
            assert not begun.is_set()
            await asked.api.clock.advance(15)
            with anyio.fail_after(30):
                await begun.wait()
            await asked.api.clock.advance(20)
            asked.fake.gate.set()

    assert "".join(texts) == "pong"


async def test_a_paused_session_says_so(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        await client.chat.completions.create(model="echo", messages=HELLO, user="bob")
        (key,) = await keys(asked)
        suspended = await asked.api.post(f"/v1/sessions/{key}/suspend")
        assert suspended.status_code == 200, suspended.text
        with pytest.raises(openai.ConflictError) as paused:
            await client.chat.completions.create(model="echo", messages=HELLO, user="bob")

    assert paused.value.code == "session_paused"


async def test_who_returns_to_a_new_conversation_is_told_without_a_command(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        await client.chat.completions.create(model="echo", messages=HELLO, user="bob")
        (key,) = await keys(asked)
        await asked.api.post(f"/v1/sessions/{key}/reset")
        stream = await client.chat.completions.create(
            model="echo", messages=HELLO, user="bob", stream=True
        )
        texts = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]

    assert "".join(texts) == "(This is a new conversation: it was asked for.)\n\nhello"
