"""A message to a session that a client without keys sends again is answered once."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import openai
import pytest

import gateway.turns.runner
from gateway.clock import SystemClock
from gateway.errors import StorageFullError
from gateway.model import ToolCall
from gateway.turns.again import TRIES_S
from gateway.turns.commit import commit_turn
from tests.api.openai_clients import HELLO, Asked, asked_by_sdk, said
from tests.support.answers import Answer
from tests.support.daemon import started_daemon
from tests.support.ports import free_port
from tests.support.upstream import upstream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from tests.support.daemon import Daemon

BOOK: Final[Any] = said("book the flight")
KEY: Final = "agent:main:openai:alice:dm:bob::"
WEATHER: Final[Any] = {"type": "function", "function": {"name": "weather"}}
AGAIN: Final = {"x-stainless-retry-count": "1"}


def config(url: str) -> str:
    return f"""
[turns]
grace_s = 1
[agents.main]
kind = "openai"
model = "m"
base_url = "{url}/v1"
api_key = {{ env = "MODEL_KEY" }}
context_window_tokens = 20000
reserve_tokens = 1000
max_retries = 0
"""


@asynccontextmanager
async def daemon_at(port: int, state: Path, text: str) -> AsyncGenerator[Daemon]:
    secrets = {"MODEL_KEY": "sk-x-1234567890"}
    async with (
        started_daemon(state, text, env=secrets, port=port) as started,
        started.ready() as daemon,
    ):
        yield daemon


def by_default(token: str, base_url: str) -> openai.AsyncOpenAI:
    """Return the SDK's client with its own number of tries."""
    return openai.AsyncOpenAI(
        api_key=token,
        base_url=base_url,
        timeout=60,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    )


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_an_end_of_the_gateway_has_no_message_answered_twice(
    tmp_path: Path, end: signal.Signals
) -> None:
    port, state = free_port(), tmp_path / "state"
    got: list[str] = []
    async with upstream(SystemClock()) as fake, anyio.create_task_group() as tasks:
        fake.gate = anyio.Event()

        async def ask(token: str, headers: Any = None) -> None:  # noqa: ANN401
            async with by_default(token, f"http://127.0.0.1:{port}/v1") as client:
                try:
                    answer = await client.chat.completions.create(
                        model="main", messages=BOOK, user="bob", extra_headers=headers
                    )
                    got.append(str(answer.choices[0].message.content))
                except openai.APIError as error:
                    got.append(str(error))

        text = config(fake.url)
        async with daemon_at(port, state, text) as daemon:
            token = (await daemon.post("/v1/tokens", {"name": "alice"})).json()["token"]
            tasks.start_soon(ask, token)
            with anyio.fail_after(30):
                await fake.asked.wait()
            daemon.signal(end)
            await daemon.ended()
        fake.gate.set()
        async with daemon_at(port, state, text) as daemon:
            with anyio.fail_after(30):
                while not got or len(await daemon.said(KEY)) < 2:
                    await anyio.lowlevel.checkpoint()
            if end is signal.SIGKILL and got != ["pong"]:
                # Its tries were over before the gateway was back.
                await ask(token, AGAIN)
            found = await daemon.said(KEY)

    assert found == [("user", "book the flight"), ("assistant", "pong")]
    if end is signal.SIGKILL:
        assert got[-1] == "pong"
    else:
        # Told not to come again, and nothing of a field that it does not have.
        assert "was taken" in got[0]
        assert "message_id" not in got[0]


async def test_a_full_disk_has_no_message_answered_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, full, tried = commit_turn, True, anyio.Event()

    async def failing(*given: Any) -> Any:  # noqa: ANN401
        if full:
            tried.set()
            raise StorageFullError
        return await commit(*given)

    monkeypatch.setattr(gateway.turns.runner, "commit_turn", failing)
    async with asked_by_sdk(tmp_path) as asked, await asked.client(max_retries=2) as client:
        asked.fake.answer("one", "two")
        with pytest.raises(openai.APIStatusError) as refused:
            await client.chat.completions.create(model="gpt", messages=HELLO, user="bob")
        assert tried.is_set()
        # A client that does not heed what it is told.
        full = False
        await asked.api.clock.advance(10)
        answer = await client.chat.completions.create(
            model="gpt", messages=HELLO, user="bob", extra_headers=AGAIN
        )

    assert refused.value.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.value.response.headers
    assert "Nothing of the request was stored" not in refused.value.message
    assert answer.choices[0].message.content == "one"
    assert len(asked.fake.requests) == 1


async def told(
    client: openai.AsyncOpenAI, *texts: str, user: str = "bob", **headers: str
) -> tuple[str, str]:
    """Say the last of the texts; return the answer and its id."""
    answer = await client.chat.completions.create(
        model="gpt",
        messages=said(*texts),
        user=user,
        extra_headers={name.replace("_", "-"): text for name, text in headers.items()},
    )
    return str(answer.choices[0].message.content), answer.id


async def cut_off(
    asked: Asked, client: openai.AsyncOpenAI, *texts: str, stream: bool, **headers: str
) -> None:
    """Say something, leave before the answer, and wait until that is in the session."""
    asked.fake.asked, asked.fake.gate = anyio.Event(), anyio.Event()
    turns = asked.api.turns.statistics().completed

    async def ask() -> None:
        answer = await client.chat.completions.create(
            model="gpt",
            messages=said(*texts),
            user="bob",
            stream=stream,
            extra_headers={name.replace("_", "-"): text for name, text in headers.items()},
        )
        if isinstance(answer, openai.AsyncStream):
            async for _ in answer:
                pass

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await asked.fake.asked.wait()
            group.cancel_scope.cancel()
        asked.fake.gate.set()
        while asked.api.turns.statistics().completed == turns:
            await anyio.lowlevel.checkpoint()
    asked.fake.gate = None


async def test_the_same_words_after_a_whole_answer_are_a_new_message(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer("one", "two", "three", "four")
        first = await told(client, "yes")
        # What it is a retry of never arrived.
        second = await told(client, "yes", **AGAIN)
        stream: Any = await client.chat.completions.create(
            model="gpt", messages=said("yes"), user="bob", stream=True
        )
        pieces = [piece.choices[0].delta.content or "" async for piece in stream]
        fourth = await told(client, "yes", **AGAIN)

    assert (first[0], second[0], "".join(pieces), fourth[0]) == ("one", "two", "three", "four")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_retry_of_an_answer_that_was_cut_off_is_the_same_message(
    tmp_path: Path, *, stream: bool
) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer("one", "two", "three", "four")
        await cut_off(asked, client, "yes", stream=stream)
        found = [
            await told(client, "no", user="carl", **AGAIN),
            await told(client, "yes", user="carl", **AGAIN),
            await told(client, "yes", **AGAIN),
            # Now it was handed out.
            await told(client, "yes", **AGAIN),
        ]

    assert [text for text, _ in found] == ["two", "three", "one", "four"]


async def test_nobody_tries_that_long_to_get_an_answer(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer("report of monday", "report of tuesday")
        await cut_off(asked, client, "report", stream=False)
        await asked.api.clock.advance(TRIES_S)
        found = await told(client, "report", **AGAIN)

    assert found[0] == "report of tuesday"


async def test_a_retry_while_the_message_is_answered_is_the_same_one(tmp_path: Path) -> None:
    got: list[tuple[str, str]] = []
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.gate = anyio.Event()

        async def ask(**headers: str) -> None:
            got.append(await told(client, "yes", **headers))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                await asked.fake.asked.wait()
                group.start_soon(partial(ask, **AGAIN))
                while not asked.api.turns.statistics().duplicates:
                    await anyio.lowlevel.checkpoint()
                asked.fake.gate.set()

    assert len(set(got)) == 1
    assert len(asked.fake.requests) == 1


async def test_a_retry_of_a_message_without_a_key_is_never_one_with_a_key(tmp_path: Path) -> None:
    got: list[str] = []
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer("one", "two", "three", "four")
        await cut_off(asked, client, "yes", stream=False, Idempotency_Key="m1")
        got.append((await told(client, "yes", **AGAIN))[0])
        got.append((await told(client, "yes", Idempotency_Key="m1", **AGAIN))[0])
        asked.fake.asked, asked.fake.gate = anyio.Event(), anyio.Event()

        async def ask(**headers: str) -> None:
            got.append((await told(client, "yes", **headers))[0])

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(partial(ask, Idempotency_Key="m2"))
                await asked.fake.asked.wait()
                group.start_soon(partial(ask, **AGAIN))
                while not asked.api.turns.statistics().waiting:
                    await anyio.lowlevel.checkpoint()
                asked.fake.gate.set()

    assert got == ["two", "one", "three", "four"]


async def test_who_has_the_answer_says_something_new(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer("one", "two", "Done.", "Done.", "five")
        await cut_off(asked, client, "next", stream=False)
        # It has got the answer all the same, as its own copy shows.
        new = await told(client, "next", "one", "next", **AGAIN)
        await told(client, "next", "one", "next", "two", "next")
        # This answer is the same as the one before it: the copy tells nothing.
        await cut_off(asked, client, "next", "Done.", "next", stream=False)
        same = await told(client, "next", "Done.", "next", **AGAIN)

    assert (new[0], same[0]) == ("two", "Done.")
    assert len(asked.fake.requests) == 4


async def test_a_retry_of_what_was_answered_before_a_restart(tmp_path: Path) -> None:
    """Nobody knows whether that was handed out; later than any retry it is a new message."""
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        token = client.api_key
        asked.fake.answer("one", "with a key")
        await told(client, "report")
        await told(client, "report", user="carl", Idempotency_Key="m1")
    async with asked_by_sdk(tmp_path) as asked, asked.with_token(token, max_retries=2) as client:
        asked.fake.answer("two", "three")
        with pytest.raises(openai.ConflictError) as unknown:
            await told(client, "report", **AGAIN)
        assert not asked.fake.requests
        heard = await told(client, "report", "one", "report", **AGAIN)
        # This one would have come with its key.
        keyed = await told(client, "report", user="carl", **AGAIN)
    async with asked_by_sdk(tmp_path) as asked, asked.with_token(token) as client:
        asked.fake.answer("four")
        await asked.api.clock.advance(TRIES_S)
        later = await told(client, "report", **AGAIN)

    assert unknown.value.response.headers["x-should-retry"] == "false"
    assert unknown.value.code == "maybe_answered"
    assert "Idempotency-Key" in unknown.value.message
    assert (heard[0], keyed[0], later[0]) == ("two", "three", "four")


async def test_a_retry_of_what_was_refused_while_the_same_was_answered_is_new(
    tmp_path: Path,
) -> None:
    got: list[str] = []
    turns = {"messages_per_minute": 1}
    async with asked_by_sdk(tmp_path, turns=turns) as asked, await asked.client() as client:
        asked.fake.answer("one", "two")
        asked.fake.gate = anyio.Event()

        async def ask(**headers: str) -> None:
            got.append((await told(client, "yes", **headers))[0])

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                await asked.fake.asked.wait()
                with pytest.raises(openai.RateLimitError):
                    await ask()
                await asked.api.clock.advance(61)
                group.start_soon(partial(ask, **AGAIN))
                while not asked.api.turns.statistics().waiting:
                    await anyio.lowlevel.checkpoint()
                asked.fake.gate.set()

    assert got == ["one", "two"]


async def test_a_retry_of_what_was_refused_is_new(tmp_path: Path) -> None:
    turns = {"messages_per_minute": 2}
    async with asked_by_sdk(tmp_path, turns=turns) as asked, await asked.client() as client:
        asked.fake.answer("one", "two", "three")
        for _ in range(2):
            await client.chat.completions.create(model="gpt", messages=HELLO, user="bob")
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="gpt", messages=HELLO, user="bob")
        await asked.api.clock.advance(61)
        answer = await client.chat.completions.create(
            model="gpt", messages=HELLO, user="bob", extra_headers=AGAIN
        )

    assert answer.choices[0].message.content == "three"


async def test_results_that_come_again_are_answered_as_before(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer(Answer("", tool_calls=(ToolCall("c0", "weather", "{}"),)), "Sunny.")
        first = await client.chat.completions.create(
            model="gpt", messages=HELLO, tools=[WEATHER], user="bob"
        )
        calls = first.choices[0].message.tool_calls
        assert calls
        result = {"role": "tool", "tool_call_id": calls[0].id, "content": "sun"}
        messages: Any = [*HELLO, first.choices[0].message, result]
        answers = [
            await client.chat.completions.create(
                model="gpt", messages=messages, tools=[WEATHER], user="bob"
            )
            for _ in range(2)
        ]
        other: Any = [*messages[:-1], result | {"content": "rain"}]
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(
                model="gpt", messages=other, tools=[WEATHER], user="bob"
            )

    assert [one.choices[0].message.content for one in answers] == ["Sunny."] * 2
    assert answers[0].id == answers[1].id
    assert len(asked.fake.requests) == 2
