"""Laws of the OpenAI-compatible API across kills: a message with a key is answered once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import openai

from gateway.clock import SystemClock
from tests.support.answers import Answer
from tests.support.daemon import Daemon, running_daemon
from tests.support.upstream import upstream

if TYPE_CHECKING:
    from pathlib import Path

HEADERS: Final = {"x-session-key": "diary", "Idempotency-Key": "k-1"}
KEY: Final = "agent:main:openai:alice:dm:diary::"


def config(url: str) -> str:
    return f'[agents.main]\nkind = "openai"\nmodel = "m"\nbase_url = "{url}/v1"\nmax_retries = 0\n'


async def ask(daemon: Daemon, token: str) -> str:
    """Have the SDK ask once; it does not try again by itself."""
    async with openai.AsyncOpenAI(
        api_key=token,
        base_url=f"{str(daemon.client.base_url).rstrip('/')}/v1",
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    ) as client:
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
                with anyio.fail_after(20):
                    await cut_off.wait()

        fake.answer("answered")
        async with running_daemon(state, config(fake.url)) as daemon:
            texts = [await ask(daemon, token), await ask(daemon, token)]
            said = await daemon.said(KEY)

    assert texts == ["answered", "answered"]
    assert said == [("user", "hello"), ("assistant", "answered")]
    assert len(fake.requests) == 2


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
