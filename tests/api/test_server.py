"""Binding, serving and stopping."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.api.server import bind, serve, url_of
from gateway.api.settings import HttpSettings
from gateway.errors import UnavailableError
from tests.api.running import message, running_api

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2
    from starlette.types import Receive, Scope, Send


def test_a_taken_port_is_named() -> None:
    with bind(HttpSettings(port=0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"127.0.0.1:{port}: cannot listen there"):
            bind(HttpSettings(port=port))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_free_port_is_taken_and_told(host: str) -> None:
    with bind(HttpSettings(host=host, port=0)) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.skipif(not socket.has_ipv6, reason="the machine has no IPv6")
def test_an_ipv6_address_stands_in_brackets() -> None:
    try:
        listener = bind(HttpSettings(host="::1", port=0))
    except UnavailableError:
        pytest.skip("the machine has no IPv6 loopback")
    with listener:
        assert url_of(listener).startswith("http://[::1]:")


def test_an_address_that_cannot_be_is_named() -> None:
    host = "fe80::1%nowhere"
    settings = HttpSettings.model_validate(
        {
            "host": host,
            "behind_tls": True,
            "token": {"env": "TOKEN"},
            "allowed_hosts": ["chat.example"],
        }
    )

    with pytest.raises(UnavailableError, match=f"{host}:8765: no such address"):
        bind(settings)


async def test_a_stop_lets_running_requests_end_and_takes_no_more(tmp_path: Path) -> None:
    answers: list[httpx2.Response] = []
    async with running_api(tmp_path, gate_open=False, grace_s=30) as api:

        async def ask() -> None:
            answers.append(await api.post("/v1/messages", message()))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            with anyio.fail_after(30):
                await api.agent.started.wait()
                api.stop.set()
                while True:
                    try:
                        await (await api.connect()).aclose()
                    except OSError:
                        break
            api.agent.gate.set()
        with anyio.fail_after(30):
            await api.served.wait()

    assert [answer.json()["reply"] for answer in answers] == ["working hello"]


@pytest.mark.alone
async def test_an_idle_server_stops_at_once(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.client.get("/livez")  # leaves a kept connection behind
        api.stop.set()
        with anyio.fail_after(1):
            await api.served.wait()


async def test_cancelling_cuts_connections() -> None:
    asked, cancelled = anyio.Event(), anyio.Event()

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        asked.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    listener = bind(HttpSettings(port=0))
    port = listener.getsockname()[1]
    async with anyio.create_task_group() as group:

        async def run() -> None:
            await serve(app, HttpSettings(), sockets=[listener], stop=anyio.Event())

        group.start_soon(run)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            with anyio.fail_after(30):
                await asked.wait()
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True), anyio.fail_after(30):
                await cancelled.wait()
    with pytest.raises(OSError, match="attempts failed"):
        await anyio.connect_tcp("127.0.0.1", port)
