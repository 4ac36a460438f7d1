"""A message to a session that a client without keys sends again is answered once."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import openai
import pytest

import gateway.turns.runner
from gateway.clock import SystemClock
from gateway.errors import StorageFullError
from gateway.model import ToolCall
from gateway.turns.commit import commit_turn
from tests.api.openai_clients import HELLO, asked_by_sdk, said
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

        async def ask(token: str) -> None:
            async with by_default(token, f"http://127.0.0.1:{port}/v1") as client:
                try:
                    answer = await client.chat.completions.create(
                        model="main", messages=BOOK, user="bob"
                    )
                    got.append(str(answer.choices[0].message.content))
                except openai.APIError as error:
                    got.append(str(error))

        text = config(fake.url)
        async with daemon_at(port, state, text) as daemon:
            token = (await daemon.post("/v1/tokens", {"name": "alice"})).json()["token"]
            tasks.start_soon(ask, token)
            with anyio.fail_after(20):
                await fake.asked.wait()
            daemon.signal(end)
            await daemon.ended()
        fake.gate.set()
        async with daemon_at(port, state, text) as daemon:
            with anyio.fail_after(30):
                while not got or len(await daemon.said(KEY)) < 2:
                    await anyio.lowlevel.checkpoint()
            found = await daemon.said(KEY)

    assert found == [("user", "book the flight"), ("assistant", "pong")]
    if end is signal.SIGTERM:
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


async def test_a_retry_is_the_last_message_of_its_own_session_alone(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer("one", "two", "three", "four")

        async def ask(text: str, user: str = "bob", headers: Any = None) -> str:  # noqa: ANN401
            answer = await client.chat.completions.create(
                model="gpt", messages=said(text), user=user, extra_headers=headers
            )
            return str(answer.choices[0].message.content)

        found = [
            await ask("yes"),
            await ask("yes", headers=AGAIN),
            await ask("no", headers=AGAIN),
            await ask("no", user="carl", headers=AGAIN),
            # Said twice by its user, and no retry.
            await ask("no"),
        ]

    assert found == ["one", "one", "two", "three", "four"]


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
