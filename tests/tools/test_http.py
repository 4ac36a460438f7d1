"""Laws of a server at an address."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import anyio
import orjson
import pytest

from gateway.settings import SecretSource
from gateway.tools.server import ServerState
from gateway.tools.settings import McpServerSettings
from tests.support.ports import free_port
from tests.tools.odd_http import Answer, Asked, http, odd_http, rpc, said, usual
from tests.tools.running import PatientClock, running, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MANY = 5_000_000


def on_call(answer: Callable[[Asked], Answer]) -> Callable[[Asked], Answer]:
    """Answer calls like this, all else as usual."""
    return lambda asked: (answer if asked.rpc == "tools/call" else usual)(asked)


async def test_each_request_carries_the_configured_headers_and_goes_through_no_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("Bearer the-secret\n")
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:1")
    headers = {"Authorization": SecretSource(file=str(tmp_path / "key"))}
    async with (
        odd_http() as odd,
        running(McpServerSettings(url=f"{odd.url}?a=b", headers=headers)) as server,
    ):
        assert await server.call("do") == "done"

    assert len(odd.asked) >= 4
    assert {asked.headers["authorization"] for asked in odd.asked} == {"Bearer the-secret"}
    assert {asked.headers["accept-encoding"] for asked in odd.asked} == {"identity"}
    assert {asked.path for asked in odd.asked} == {"/mcp?a=b"}


async def test_the_session_is_ended_with_the_connection() -> None:
    async with odd_http() as odd:
        async with running(McpServerSettings(url=odd.url)) as server:
            await server.call("do")
        last = odd.asked[-1]

    assert (last.method, last.headers["mcp-session-id"]) == ("DELETE", "s1")


@pytest.mark.alone
async def test_a_server_that_never_hears_the_farewell_delays_the_end_little() -> None:
    async with odd_http() as odd:
        odd.answer = lambda asked: None if asked.method == "DELETE" else usual(asked)
        async with running(McpServerSettings(url=odd.url), limit_s=5) as server:
            await server.call("do")


@pytest.mark.parametrize("status", ["307 Temporary Redirect", "302 Found", "308 Permanent"])
@pytest.mark.parametrize("place", ["/elsewhere", "http://127.0.0.1:1/elsewhere"])
async def test_no_redirect_is_followed(status: str, place: str) -> None:
    async with odd_http() as odd:
        odd.answer = on_call(lambda _: http(b"", f"Location: {place}", status=status))
        async with running(McpServerSettings(url=odd.url)) as server:
            text = await server.call("do")
            odd.answer = usual
            after = await server.call("do")

    assert "edirect" in text
    assert after == "done"
    assert {asked.path for asked in odd.asked} == {"/mcp"}


def _too_large(asked: Asked) -> Answer:
    return said(asked, "x" * MANY)


def _too_large_event(asked: Asked) -> Answer:
    text = orjson.dumps({"jsonrpc": "2.0", "id": asked.json["id"], "result": {"a": "x" * MANY}})
    return http(b"data: " + text + b"\n\n", "Content-Type: text/event-stream")


def _without_end(_asked: Asked) -> Answer:
    length = f"Content-Length: {MANY * 100}"
    return http(b'{"a":"' + b"x" * MANY, "Content-Type: application/json", length)


def _packed(asked: Asked) -> Answer:
    message = {"jsonrpc": "2.0", "id": asked.json["id"], "result": {"a": "x" * MANY * 10}}
    body = gzip.compress(orjson.dumps(message))
    assert len(body) < 100_000
    return http(body, "Content-Type: application/json", "Content-Encoding: gzip")


def _many_values(asked: Asked) -> Answer:
    result = {"content": [], "structuredContent": {"a": [[]] * 60_000}}
    return rpc(asked, result)


def _many_values_in_an_event(asked: Asked) -> Answer:
    body = rpc(asked, {"a": [[]] * 60_000}).partition(b"\r\n\r\n")[2]
    return http(b': "\ndata: ' + body + b"\n\n", "Content-Type: text/event-stream")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(_too_large, "more than 1,000,000 bytes", id="too-large"),
        pytest.param(_too_large_event, "1000000 byte limit", id="too-large-event"),
        pytest.param(_without_end, "more than 1,000,000 bytes", id="without-end"),
        pytest.param(_packed, "Failed to parse JSON", id="packed"),
        pytest.param(_many_values, "more than 50,000 values", id="many-values"),
        pytest.param(_many_values_in_an_event, "more than 50,000 values", id="many-in-an-event"),
        pytest.param(lambda _: http(b"<html>"), "Unexpected content type", id="html"),
        pytest.param(
            lambda _: http(b"{", "Content-Type: application/json"), "Failed to parse", id="no-json"
        ),
        pytest.param(lambda asked: rpc(asked, {"a": 1}), "does not fit the protocol", id="no-tool"),
        pytest.param(
            lambda _: http(b"", status="500 No"), "returned an error response", id="status-500"
        ),
        pytest.param(lambda _: http(b"", status="202 OK"), "202 Accepted", id="no-answer"),
        pytest.param(
            lambda _: http(b"", "Content-Type: text/event-stream"), "broke off", id="empty-stream"
        ),
        pytest.param(lambda _: b"no http at all\r\n\r\n", "broke off the call", id="no-http"),
        pytest.param(lambda _: b"", "broke off the call", id="nothing"),
    ],
)
async def test_a_bad_answer_is_a_failure_and_the_next_call_works(
    answer: Callable[[Asked], Answer], reason: str
) -> None:
    async with odd_http() as odd:
        settings = McpServerSettings(url=odd.url, max_message_bytes=1_000_000)
        async with running(settings) as server:
            odd.answer = on_call(answer)
            text = await server.call("do")
            odd.answer = usual
            after = await server.call("do")
            failures = server.told().failures

    assert reason in text
    assert len(text) < 1_000
    assert after == "done"
    assert failures == 1


async def test_a_status_that_keeps_it_from_starting_is_told() -> None:
    async with odd_http() as odd:
        odd.answer = lambda _: http(b"", status="401 Unauthorized")
        async with running(McpServerSettings(url=odd.url)) as server:
            await until(lambda: server.told().last_error)
            told = server.told()

    assert told.state is not ServerState.RUNNING
    assert told.last_error.endswith("(HTTP status 401)")


async def test_nobody_at_the_address_is_told_and_tried_again() -> None:
    async with running(McpServerSettings(url=f"http://127.0.0.1:{free_port()}/mcp")) as server:
        await until(lambda: server.told().state is ServerState.BACKING_OFF)
        told = server.told()

    assert "ConnectError" in told.last_error


async def test_a_server_that_goes_away_is_connected_to_once_it_is_back() -> None:
    port = free_port()
    async with running(McpServerSettings(url=f"http://127.0.0.1:{port}/mcp")) as server:
        async with odd_http(port):
            await until(lambda: server.told().state is ServerState.RUNNING)
            assert await server.call("do") == "done"
        gone = await server.call("do")
        await until(lambda: server.told().state is ServerState.BACKING_OFF)
        tools = [spec.name for spec in server.box.specs()]
        async with odd_http(port):
            assert await server.call("do") == "done"

    assert gone.startswith("The tool server odd broke off the call: ConnectError")
    assert tools == ["odd_do"]
    assert "ConnectError" in server.told().last_error


async def test_a_server_that_is_silent_does_not_hold_the_start() -> None:
    async with odd_http() as odd:
        odd.answer = lambda _: None
        settings = McpServerSettings(url=odd.url, start_timeout_s=0.3)
        async with running(settings) as server:
            await until(lambda: server.told().last_error)
            told = server.told()

    assert told.last_error == "it did not start within 0.3 seconds"


async def test_a_call_that_is_never_answered_ends_in_time_and_costs_no_other() -> None:
    async with odd_http() as odd:
        odd.answer = on_call(lambda _: None)
        clock, texts = PatientClock(), list[str]()

        async def call() -> None:
            texts.append(await server.call("do"))

        async with running(McpServerSettings(url=odd.url), clock=clock) as server:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                await until(lambda: any(asked.rpc == "tools/call" for asked in odd.asked))
                clock.run_out()
            odd.answer = usual

            assert "no answer within 60 seconds" in texts[0]
            assert await server.call("do") == "done"
            assert server.told().restarts == 0


async def test_a_connection_that_breaks_ends_no_other_call() -> None:
    async with odd_http() as odd:
        odd.answer = on_call(lambda asked: b"" if asked.json["params"]["arguments"] else None)
        settings, clock = McpServerSettings(url=odd.url), PatientClock()
        async with running(settings, clock=clock) as server, anyio.create_task_group() as tasks:
            hung: list[str] = []

            async def hang() -> None:
                hung.append(await server.call("do"))

            tasks.start_soon(hang)
            await until(lambda: any(asked.rpc == "tools/call" for asked in odd.asked))
            broken = await server.call("do", broken=True)
            assert not hung
            clock.run_out()

    assert broken.startswith("The tool server odd broke off the call: RemoteProtocolError")
    assert "no answer within 60 seconds" in hung[0]
    assert server.told().restarts == 0


async def test_a_session_that_is_gone_is_opened_anew_and_the_call_is_made() -> None:
    refused: list[Asked] = []

    def forget_once(asked: Asked) -> Answer:
        if asked.rpc == "tools/call" and not refused:
            refused.append(asked)
            return http(b"", status="404 Not Found")

        return usual(asked)

    async with odd_http() as odd:
        odd.answer = forget_once
        async with running(McpServerSettings(url=odd.url)) as server:
            assert await server.call("do") == "done"
            told = server.told()

    assert len(refused) == 1
    assert (told.failures, told.restarts) == (0, 1)
    assert told.last_error == "it knew our session no more"


async def test_an_error_of_the_protocol_is_told_to_the_model() -> None:
    def refuse(asked: Asked) -> Answer:
        error = {"code": -32602, "message": "Unknown \0tool \U0001f600: do"}
        message = {"jsonrpc": "2.0", "id": asked.json["id"], "error": error}
        return http(orjson.dumps(message), "Content-Type: application/json")

    async with odd_http() as odd:
        odd.answer = on_call(refuse)
        async with running(McpServerSettings(url=odd.url)) as server:
            text = await server.call("do")

    assert text == "The tool server answered an error: Unknown tool \U0001f600: do"
