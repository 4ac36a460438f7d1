"""Laws of the OpenAI-compatible API across kills: a message with a key is answered once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import openai
import pytest

from gateway.clock import SystemClock
from gateway.model import ToolCall
from tests.support.answers import Answer
from tests.support.daemon import START_S, Daemon, running_daemon
from tests.support.upstream import upstream

if TYPE_CHECKING:
    from pathlib import Path

    from openai.types.chat.chat_completion import Choice

HEADERS: Final = {"x-session-key": "diary", "Idempotency-Key": "k-1"}
KEY: Final = "agent:main:openai:alice:dm:diary::"


def config(url: str) -> str:
    return f'[agents.main]\nkind = "openai"\nmodel = "m"\nbase_url = "{url}/v1"\nmax_retries = 0\n'


def sdk(daemon: Daemon, token: str) -> openai.AsyncOpenAI:
    """Return the SDK's client; it does not try again by itself."""
    return openai.AsyncOpenAI(
        api_key=token,
        base_url=f"{str(daemon.client.base_url).rstrip('/')}/v1",
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    )


async def ask(daemon: Daemon, token: str) -> str:
    """Have the SDK ask once."""
    async with sdk(daemon, token) as client:
        answer = await client.chat.completions.create(
            model="main", messages=[{"role": "user", "content": "hello"}], extra_headers=HEADERS
        )
    return answer.choices[0].message.content or ""


async def test_a_message_that_a_kill_cut_off_is_answered_once(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with upstream(SystemClock()) as fake:
        fake.answer(Answer("one two three four", then="hangs"))
        async with running_daemon(state, config(fake.url)) as daemon:
            made = await daemon.post("/v1/tokens", {"name": "alice"})
            token = made.json()["token"]

            async def ask_in_vain() -> None:
                try:
                    await ask(daemon, token)
                except openai.APIConnectionError:
                    cut_off.set()

            cut_off = anyio.Event()
            async with anyio.create_task_group() as group:
                group.start_soon(ask_in_vain)
                await fake.asked.wait()
                await daemon.kill()
                with anyio.fail_after(START_S):
                    await cut_off.wait()

        fake.answer("answered")
        async with running_daemon(state, config(fake.url)) as daemon:
            texts = [await ask(daemon, token), await ask(daemon, token)]
            said = await daemon.said(KEY)

    assert texts == ["answered", "answered"]
    assert said == [("user", "hello"), ("assistant", "answered")]
    assert len(fake.requests) == 2


async def test_calls_and_their_results_outlive_kills(tmp_path: Path) -> None:
    state = tmp_path / "state"
    tool: Any = {"type": "function", "function": {"name": "weather"}}
    hello: Any = [{"role": "user", "content": "hello"}]
    named = {"x-session-key": "diary"}
    once = {**named, "Idempotency-Key": "r-1"}

    async def send(daemon: Daemon, token: str, messages: Any, headers: Any) -> Choice:  # noqa: ANN401
        async with sdk(daemon, token) as client:
            answer = await client.chat.completions.create(
                model="main", messages=messages, tools=[tool], extra_headers=headers
            )
        return answer.choices[0]

    async with upstream(SystemClock()) as fake:
        calls = tuple(ToolCall(f"c{n}", "weather", "{}") for n in range(2))
        fake.answer(Answer("", tool_calls=calls))
        async with running_daemon(state, config(fake.url)) as daemon:
            token = (await daemon.post("/v1/tokens", {"name": "alice"})).json()["token"]
            first = await send(daemon, token, hello, named)
            # Between the calls and their results.
            await daemon.kill()
        results = [
            {"role": "tool", "tool_call_id": f"c{n}", "content": f"sun {n}"} for n in range(2)
        ]
        messages = [*hello, first.message, *results]
        fake.answer(Answer("one two three four", then="hangs"))
        fake.asked = anyio.Event()
        async with running_daemon(state, config(fake.url)) as daemon:

            async def send_in_vain() -> None:
                with pytest.raises(openai.APIConnectionError):
                    await send(daemon, token, messages, once)

            with anyio.fail_after(START_S):
                async with anyio.create_task_group() as group:
                    group.start_soon(send_in_vain)
                    await fake.asked.wait()
                    # While the turn goes on with them.
                    await daemon.kill()
        fake.answer("Sunny.")
        async with running_daemon(state, config(fake.url)) as daemon:
            last = await send(daemon, token, messages, once)
            # Without a key, results that come again are answered as they were.
            again = await send(daemon, token, messages, named)
            said = await daemon.said(KEY)

    assert (first.finish_reason, last.finish_reason) == ("tool_calls", "stop")
    assert (last.message.content, again.message.content) == ("Sunny.", "Sunny.")
    assert said == [
        ("user", "hello"),
        ("assistant", ""),
        ("tool", "sun 0"),
        ("tool", "sun 1"),
        ("assistant", "Sunny."),
    ]
    # The pretended provider refuses calls without results. What it was sent twice is the same.
    assert [len(request.json["messages"]) for request in fake.requests] == [1, 4, 4]
    assert fake.requests[1].blocks == fake.requests[2].blocks


async def test_no_secret_is_in_the_log(tmp_path: Path) -> None:
    async with (
        upstream(SystemClock()) as fake,
        running_daemon(tmp_path / "state", config(fake.url)) as daemon,
    ):
        made = await daemon.post("/v1/tokens", {"name": "alice"})
        token = made.json()["token"]
        await ask(daemon, token)
        await daemon.client.delete("/v1/tokens/alice")
        headers = {"Authorization": f"Bearer {token}"}
        refused = await daemon.client.get("/v1/models", headers=headers)
        await daemon.terminate()

    assert refused.status_code == 401
    assert token.encode() not in bytes(daemon.log.raw)
    assert token not in refused.text
