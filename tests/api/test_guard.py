"""The door: token, Host, Origin, sizes and deadlines, on every route alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import httpx2
import orjson
import pytest
import structlog

from gateway.access.tokens import ClientToken
from gateway.api.guard import Guard
from gateway.api.settings import HttpSettings
from gateway.clock import FakeClock
from tests.api.running import (
    KEY,
    TOKEN,
    message,
    read_answer,
    read_until_closed,
    running_api,
)

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import Receive, Scope, Send

ROUTES: Final = [
    ("POST", "/v1/messages"),
    ("GET", "/v1/sessions"),
    ("GET", f"/v1/sessions/{KEY}"),
    ("DELETE", f"/v1/sessions/{KEY}"),
    ("GET", f"/v1/sessions/{KEY}/transcript"),
    ("GET", f"/v1/sessions/{KEY}/context"),
    ("POST", f"/v1/sessions/{KEY}/reset"),
    ("POST", f"/v1/sessions/{KEY}/undo"),
    ("POST", f"/v1/sessions/{KEY}/suspend"),
    ("POST", f"/v1/sessions/{KEY}/resume"),
    ("POST", "/v1/prune"),
    ("GET", "/v1/status"),
    ("GET", "/metrics"),
    ("GET", "/nowhere"),
    ("GET", "/livez/../v1/sessions"),
    ("GET", "/livez/"),
    ("GET", "//livez"),
]
PUBLIC: Final = [("GET", "/livez"), ("GET", "/readyz")]


REFUSED: Final = [
    ({"Authorization": ""}, 401),
    ({"Authorization": "Bearer wrong"}, 401),
    ({"Authorization": "Bearer"}, 401),
    ({"Authorization": f"Basic {TOKEN}"}, 401),
    ({"Authorization": TOKEN}, 401),
    ({"Authorization": f"Bearer {TOKEN[:-1]}"}, 401),
    ({"Host": "evil.example"}, 421),
    ({"Host": "127.0.0.1"}, 421),
    ({"Host": "127.0.0.1:1"}, 421),
    ({"Host": ""}, 421),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "http://127.0.0.1:1"}, 403),
    ({"Origin": ""}, 403),
]


async def test_who_may_not_come_in_reaches_no_route(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.post("/v1/messages", message())
        before = api.state.store.entries()

        for headers, status in REFUSED:
            for number, (method, path) in enumerate(ROUTES):
                if number % 9 == 0:
                    await api.clock.advance(61)  # too many failures are another law's matter
                response = await api.client.request(method, api.url + path, headers=headers)
                assert (headers, path, response.status_code) == (headers, path, status)
                assert response.headers["content-type"] == "application/problem+json"
                assert TOKEN not in response.text

        assert api.state.store.entries() == before


async def test_the_right_token_opens_every_route(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        for host in (f"127.0.0.1:{api.port}", f"[::1]:{api.port}", f"LocalHost:{api.port}"):
            for method, path in ROUTES:
                headers = {"Host": host, "Origin": f"http://{host}"}
                response = await api.client.request(method, api.url + path, headers=headers)
                assert response.status_code in {200, 400, 404, 409}, path


async def test_probes_need_no_token_but_a_right_host_and_origin(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        for method, path in PUBLIC:
            for headers, status in (
                ({"Authorization": ""}, 200),
                ({"Authorization": "", "Host": "evil.example"}, 421),
                ({"Authorization": "", "Origin": "http://evil.example"}, 403),
            ):
                response = await api.client.request(method, api.url + path, headers=headers)
                assert response.status_code == status


async def test_a_missing_token_says_how_to_send_one(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        response = await api.client.get("/v1/status", headers={"Authorization": ""})
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert "Authorization: Bearer" in response.json()["detail"]


async def test_a_configured_host_name_is_accepted_with_any_port(tmp_path: Path) -> None:
    async with running_api(tmp_path, http={"allowed_hosts": ["chat.example"]}) as api:
        for host, status in (
            ("chat.example", 200),
            ("Chat.Example:443", 200),
            ("chat.example:x", 421),
            ("evil-chat.example", 421),
            ("chat.example.evil", 421),
        ):
            response = await api.client.get("/v1/status", headers={"Host": host})
            assert (host, response.status_code) == (host, status)


@pytest.mark.parametrize(
    "header", ["Host: 127.0.0.1:{port}", "Authorization: Bearer x", "Content-Type: text/plain"]
)
async def test_a_header_that_decides_may_stand_once(tmp_path: Path, header: str) -> None:
    async with running_api(tmp_path) as api, await api.connect() as stream:
        twice = (header.format(port=api.port),) * 2
        await stream.send(api.head("GET", "/v1/status", *twice))

        status, _, body = await read_answer(stream)

    assert status == 400
    assert b"given twice" in body


async def test_ten_wrong_tokens_in_a_minute_lock_the_address_out(tmp_path: Path) -> None:
    wrong = {"Authorization": "Bearer wrong"}
    async with running_api(tmp_path) as api:
        with structlog.testing.capture_logs() as logs:
            answers = [await api.client.get("/v1/status", headers=wrong) for _ in range(12)]

        assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 2
        assert answers[-1].headers["retry-after"] == "300"
        assert [log["event"] for log in logs] == ["api.client_locked_out"]

        await api.clock.advance(300)
        assert (await api.client.get("/v1/status", headers=wrong)).status_code == 401


@pytest.mark.parametrize("address", ["127.0.0.1", "192.0.2.1"])
async def test_who_has_a_right_token_comes_in_from_an_address_that_is_locked_out(
    address: str,
) -> None:
    """A broken script on this machine, or a stranger behind the same front, shuts out nobody."""
    clock = FakeClock()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    bob = ClientToken("bob", b"", clock.now())

    def owner(token: bytes) -> ClientToken | None:
        return bob if token == b"of bob" else None

    settings = HttpSettings(allowed_hosts=["chat.example"])
    guard = Guard(app, settings, TOKEN, clock, owner)
    transport = httpx2.ASGITransport(guard, client=(address, 1))
    statuses: list[int] = []
    async with httpx2.AsyncClient(transport=transport, base_url="http://chat.example") as client:
        for _ in range(10):
            await client.get("/v1/status")
        for path, token, origin in (
            ("/v1/status", TOKEN, None),
            ("/v1/models", "of bob", None),
            ("/v1/status", TOKEN, "http://chat.example"),
            ("/v1/status", "of alice, revoked", None),
            ("/v1/status", "of bob", None),
            ("/v1/status", TOKEN, None),
        ):
            headers = {"Authorization": f"Bearer {token}"} | ({"Origin": origin} if origin else {})
            statuses.append((await client.get(path, headers=headers)).status_code)

    assert statuses == [200, 200, 200, 429, 403, 200]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/messages", "POST"),
        ("DELETE", "/v1/sessions", "GET, HEAD"),
        ("POST", f"/v1/sessions/{KEY}", "DELETE, GET, HEAD"),
        ("PUT", "/livez", "GET, HEAD"),
        ("OPTIONS", "/v1/status", "GET, HEAD"),
    ],
)
async def test_another_method_is_told_which_are_taken(
    tmp_path: Path, method: str, path: str, allowed: str
) -> None:
    async with running_api(tmp_path) as api:
        response = await api.client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    assert response.json()["type"].endswith(":method")


async def test_an_unknown_path_is_a_problem_of_its_own(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        for path in ("/", "/v1", "/v1/sessions/", "/v1/messages/", "/V1/status", "/v1/%2e%2e/x"):
            response = await api.client.get(api.url + path)
            assert (path, response.status_code) == (path, 404)
            assert response.json()["type"].endswith(":not-found")


@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        pytest.param(lambda api: api.client.get("/v1/status?" + "a" * 4_096), 414, id="url"),
        pytest.param(
            lambda api: api.client.get("/v1/status", headers={f"x-{n}": "1" for n in range(64)}),
            431,
            id="number-of-headers",
        ),
        pytest.param(
            lambda api: api.client.get("/v1/status", headers={"x": "1" * 16_384}),
            431,
            id="bytes-of-headers",
        ),
        pytest.param(
            lambda api: api.post("/v1/messages", message(text="x" * 1_048_576)), 413, id="body"
        ),
    ],
)
async def test_what_is_too_large_is_refused(
    tmp_path: Path, request_of: object, status: int
) -> None:
    async with running_api(tmp_path) as api:
        response = await request_of(api)  # type: ignore[operator]
        assert response.status_code == status
        assert (await api.client.get("/v1/status")).status_code == 200


async def test_a_body_may_reach_its_bound(tmp_path: Path) -> None:
    bound = 2_048
    body = orjson.dumps(message())
    async with running_api(tmp_path, http={"max_body_bytes": bound}) as api:
        for spaces, status in ((bound - len(body), 200), (bound - len(body) + 1, 413)):
            response = await api.client.post(
                "/v1/messages",
                content=body + b" " * spaces,
                headers={"Content-Type": "application/json"},
            )
            assert response.status_code == status


async def test_a_streamed_body_is_bounded_as_it_comes(tmp_path: Path) -> None:
    async with running_api(tmp_path, http={"max_body_bytes": 2_048}) as api:
        async with await api.connect() as stream:
            chunked = ("Transfer-Encoding: chunked", "Content-Type: application/json")
            await stream.send(api.head("POST", "/v1/messages", *chunked))
            await stream.send(b"800\r\n" + b" " * 2_048 + b"\r\n1\r\n ")

            status, _, _ = await read_answer(stream)

        assert status == 413


async def test_a_body_that_does_not_come_is_waited_for_no_longer(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api, await api.connect() as stream:
        headers = ("Content-Type: application/json", "Content-Length: 100")
        await stream.send(api.head("POST", "/v1/messages", *headers) + b'{"chat_id":')
        await api.clock.advance(14.9)
        # The server has read what was sent once it answers another request.
        await api.client.get("/livez")
        await api.clock.advance(15)

        received = await read_until_closed(stream)

    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"\r\nconnection: close\r\n" in received.lower()
    assert b":too-slow" in received


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Content-Type": "text/plain"}, id="text"),
        pytest.param({"Content-Type": "application/x-www-form-urlencoded"}, id="form"),
        pytest.param({"Content-Type": "application/json; charset=latin-1"}, id="charset"),
        pytest.param(
            {"Content-Type": "application/json", "Content-Encoding": "gzip"}, id="compressed"
        ),
    ],
)
async def test_a_body_of_another_type_is_refused(tmp_path: Path, headers: dict[str, str]) -> None:
    async with running_api(tmp_path) as api:
        response = await api.client.post(
            "/v1/messages", content=orjson.dumps(message()), headers=headers
        )
        assert response.status_code == 415
        assert "Content-Type: application/json" in response.json()["detail"]
        assert len(api.state.store) == 0


async def test_an_error_nobody_foresaw_is_generic_outside_and_whole_in_the_log() -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ValueError("a secret")

    transport = httpx2.ASGITransport(Guard(app, HttpSettings(), TOKEN, FakeClock()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        with structlog.testing.capture_logs() as logs:
            response = await client.get("/livez")

    assert response.status_code == 500
    assert response.json()["type"].endswith(":internal")
    assert "secret" not in response.text
    assert [(log["event"], log["exc_info"]) for log in logs] == [("api.request_failed", True)]


async def test_an_answer_that_breaks_off_is_left_to_the_server() -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("half way")

    transport = httpx2.ASGITransport(Guard(app, HttpSettings(), TOKEN, FakeClock()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        with pytest.raises(ValueError, match="half way"):
            await client.get("/livez")


async def test_a_client_that_leaves_within_its_body_leaves_nothing_behind(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        with structlog.testing.capture_logs() as logs:
            async with await api.connect() as stream:
                headers = ("Content-Type: application/json", "Content-Length: 100")
                await stream.send(api.head("POST", "/v1/messages", *headers) + b'{"chat_id":')
            for _ in range(3):
                await api.client.get("/livez")
        assert logs == []
        assert len(api.state.store) == 0


async def test_requests_of_many_connections_do_not_mix(tmp_path: Path) -> None:
    answers: dict[str, str] = {}
    async with running_api(tmp_path) as api:

        async def ask(chat_id: str) -> None:
            answer = await api.post("/v1/messages", message(chat_id=chat_id, text=chat_id))
            answers[chat_id] = answer.json()["reply"]

        async with anyio.create_task_group() as group:
            for number in range(32):
                group.start_soon(ask, f"chat-{number}")

    assert answers == {f"chat-{n}": f"working chat-{n}" for n in range(32)}
