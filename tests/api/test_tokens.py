"""Tokens over HTTP: made, listed and revoked by the gateway's own token, and what each opens."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import openai
import orjson
import pytest

from gateway.api.streaming import KEEP_ALIVE_S
from tests.api.openai_clients import HELLO, asked_by_sdk
from tests.api.running import TOKEN, RunningApi, read_answer, running_api

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2

PATH = "/v1/tokens"


async def made(api: RunningApi, name: str) -> str:
    response = await api.post(PATH, {"name": name})
    assert response.status_code == 201, response.text
    return str(response.json()["token"])


def bearing(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_secret_is_shown_once(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        secret = await made(api, "alice")
        await api.client.get("/v1/models", headers=bearing(secret))
        revoked = await api.client.delete(f"{PATH}/alice")
        listed = await api.client.get(PATH)

    assert revoked.status_code == 200
    at = "2026-01-01T00:00:00Z"
    shown = {"name": "alice", "created_at": at, "last_used_at": None, "revoked_at": at}
    assert revoked.json() == shown
    assert listed.json() == {"tokens": [shown]}
    assert secret not in listed.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/sessions"),
        ("GET", "/v1/status"),
        ("GET", "/metrics"),
        ("POST", "/v1/messages"),
        ("GET", PATH),
        ("POST", PATH),
        ("DELETE", f"{PATH}/alice"),
        ("GET", "/v1/sessions/agent:main:openai:alice:dm:a::/transcript"),
        ("GET", "/v1/models/../status"),
        ("GET", "/no/such/path"),
    ],
)
async def test_a_clients_token_opens_nothing_else(tmp_path: Path, method: str, path: str) -> None:
    async with running_api(tmp_path) as api:
        secret = await made(api, "alice")
        response = await api.client.request(method, path, headers=bearing(secret), json={})

    assert response.status_code == 403, response.text


async def test_a_revoked_token_ends_with_the_next_request(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client("alice") as client:
        await client.chat.completions.create(model="echo", messages=HELLO)
        revoked = await asked.api.client.delete(f"{PATH}/alice")
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.chat.completions.create(model="echo", messages=HELLO)

    assert revoked.status_code == 200
    assert refused.value.code == "invalid_api_key"
    assert refused.value.type == "authentication_error"


@pytest.mark.parametrize("user", ["", "bob"])
async def test_a_revoked_token_ends_what_is_streamed(tmp_path: Path, user: str) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client("alice") as client:
        asked.fake.gate = anyio.Event()
        ended: list[str] = []

        async def ask(*, stream: bool) -> None:
            try:
                answer: Any = await client.chat.completions.create(
                    model="gpt", messages=HELLO, user=user, stream=stream
                )
                async for _ in answer:
                    pass
            except openai.APIError as error:
                ended.append(error.message)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(partial(ask, stream=True))
                await asked.fake.asked.wait()
                # Begun, for a model that is slow.
                await asked.api.clock.advance(KEEP_ALIVE_S)
                group.start_soon(partial(ask, stream=False))
                # The gateway has let it in once it is asked on, or waits for the other's turn.
                while len(asked.fake.requests) + asked.api.turns.statistics().waiting < 2:
                    await anyio.lowlevel.checkpoint()
                await asked.api.client.delete(f"{PATH}/alice")
                while len(ended) < 2:
                    await asked.api.clock.advance(1)
                    await anyio.wait_all_tasks_blocked()
        asked.fake.gate.set()

    assert all("revoked" in text for text in ended)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("user", ["", "bob"])
async def test_a_revoked_token_is_noticed_before_the_first_word(
    tmp_path: Path, user: str, *, stream: bool
) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client("alice") as client:
        asked.fake.gate = anyio.Event()
        began = asked.api.clock.monotonic()
        ended: list[int] = []

        async def ask() -> None:
            with pytest.raises(openai.AuthenticationError) as refused:
                await client.chat.completions.create(
                    model="gpt", messages=HELLO, user=user, stream=stream
                )
            ended.append(refused.value.status_code)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                await asked.fake.asked.wait()
                await anyio.wait_all_tasks_blocked()
                await asked.api.client.delete(f"{PATH}/alice")
                while not ended:
                    await asked.api.clock.advance(1)
                    await anyio.wait_all_tasks_blocked()
        took = asked.api.clock.monotonic() - began
        asked.fake.gate.set()

    assert ended == [401]
    assert took < KEEP_ALIVE_S


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("again", [True, False])
async def test_a_body_that_comes_after_its_token_ended_is_not_taken(
    tmp_path: Path, *, again: bool, stream: bool
) -> None:
    async with asked_by_sdk(tmp_path) as asked:
        api, secret = asked.api, await asked.token("alice")
        fields = {"model": "gpt", "messages": HELLO, "user": "bob", "stream": stream}
        body = orjson.dumps(fields)
        head = api.head(
            "POST",
            "/v1/chat/completions",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ).replace(TOKEN.encode(), secret.encode())
        async with await api.connect() as connection:
            await connection.send(head + body[:5])
            await anyio.wait_all_tasks_blocked()
            await api.client.delete(f"{PATH}/alice")
            if again:
                await api.post(PATH, {"name": "alice", "again": True})
            await connection.send(body[5:])
            status, _, answer = await read_answer(connection)
        sessions = (await api.client.get("/v1/sessions")).json()["sessions"]

    assert (status, orjson.loads(answer)["error"]["code"]) == (401, "invalid_api_key")
    assert (sessions, asked.fake.requests) == ([], [])


async def test_wrong_tokens_lock_the_address_out_on_these_routes_too(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        secret = await made(api, "alice")

        async def ask(token: str) -> httpx2.Response:
            return await api.client.get("/v1/models", headers=bearing(token))

        wrong = [await ask("sgw_wrong") for _ in range(10)]
        locked = await ask("sgw_wrong")
        right = await ask(secret)

    assert [one.status_code for one in wrong] == [401] * 10
    assert wrong[0].json()["error"]["code"] == "invalid_api_key"
    assert locked.status_code == 429
    assert locked.json()["error"] == {
        "message": "Too many requests with a wrong token came from this address.",
        "type": "rate_limit_error",
        "param": None,
        "code": "locked_out",
    }
    assert right.status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, "name"),
        ({"name": "a b"}, 400, "accepted are 1 to 64 characters"),
        ({"name": "alice", "again": "yes"}, 400, "again"),
        ({"name": "alice", "scope": "all"}, 400, "scope"),
        ({"name": "taken"}, 409, "revoke it first"),
    ],
)
async def test_a_wrong_request_makes_no_token(
    tmp_path: Path, body: dict[str, Any], status: int, said: str
) -> None:
    async with running_api(tmp_path) as api:
        await made(api, "taken")
        response = await api.post(PATH, body)
        gone = await api.client.delete(f"{PATH}/nobody")

    assert response.status_code == status
    assert said in response.json()["detail"]
    assert gone.status_code == 404


async def test_errors_before_the_routes_have_openais_form_there_alone(tmp_path: Path) -> None:
    async with running_api(tmp_path, http={"max_body_bytes": 2_000}) as api:
        large = await api.post("/v1/chat/completions", {"model": "x" * 3_000})
        other = await api.post("/v1/messages", {"text": "x" * 3_000})
        method = await api.client.get("/v1/chat/completions")
        broken = await api.client.post(
            "/v1/chat/completions", content=b"{", headers={"Content-Type": "application/json"}
        )

    assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")
    assert other.json()["type"] == "urn:session-gateway:problem:too-large"
    assert (method.status_code, method.headers["allow"]) == (405, "POST")
    assert "error" in method.json()
    assert (broken.status_code, broken.json()["error"]["type"]) == (400, "invalid_request_error")
