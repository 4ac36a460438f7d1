"""Connections: slow ones, broken ones, too many, and what must not pass for a request."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import anyio
import orjson
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typing_extensions import override
from uvicorn.server import ServerState

from gateway.api.guard import MAX_HEAD_BYTES
from gateway.api.protocol import BoundedProtocol, ConnectionLimits
from tests.api.running import message, read_answer, read_until_closed, running_api

if TYPE_CHECKING:
    from pathlib import Path

    from anyio.abc import SocketStream

QUICK: Final = {"header_timeout_s": 0.2}
CLOSED: Final = (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError)
NOT_REQUESTS: Final = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"hello\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nA: \x00\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
)
PIECES: Final = (
    *(b"GET", b"POST", b" ", b"/", b"/v1/messages", b"HTTP/1.1", b"\r\n", b"\n", b":", b"Host"),
    *(b"Content-Length", b"Transfer-Encoding", b"chunked", b"5", b"-1", b"\x00", b"%00", b"\xff"),
    *(b"Connection", b"Upgrade", b"websocket", b"Expect: 100-continue", b"?", b"#", b"{", b","),
)


async def _drip(stream: SocketStream, piece: bytes) -> None:
    """Send a piece again and again, quicker than any deadline, until the connection breaks."""
    with anyio.fail_after(30):
        while True:
            await stream.send(piece)
            with anyio.move_on_after(0.02):
                await stream.receive()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\r\n", id="an-empty-line"),
        pytest.param(b"GET /livez HTTP/1.1\r\nHost: 127", id="half-a-head"),
    ],
)
async def test_a_head_that_does_not_come_ends_the_connection(tmp_path: Path, sent: bytes) -> None:
    async with running_api(tmp_path, http=QUICK) as api, await api.connect(sent) as stream:
        assert await read_until_closed(stream) == b""
        async with await api.connect(api.head("GET", "/livez")) as other:
            assert (await read_answer(other))[0] == 200


async def test_a_head_that_drips_ends_the_connection_all_the_same(tmp_path: Path) -> None:
    head = b"GET /livez HTTP/1.1\r\n"
    async with running_api(tmp_path, http=QUICK) as api, await api.connect(head) as stream:
        with pytest.raises(CLOSED):
            await _drip(stream, b"x: 1\r\n")


async def test_a_kept_connection_is_dropped_where_the_next_head_does_not_come(
    tmp_path: Path,
) -> None:
    async with (
        running_api(tmp_path, http=QUICK) as api,
        await api.connect(api.head("GET", "/livez")) as stream,
    ):
        assert (await read_answer(stream))[0] == 200
        await stream.send(b"\r\n")

        assert await read_until_closed(stream) == b""


async def test_a_request_may_take_longer_than_its_head(tmp_path: Path) -> None:
    body = orjson.dumps(message())
    more = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    async with (
        running_api(tmp_path, http=QUICK, gate_open=False) as api,
        # The half head behind it waits for the answer, not the server for the client.
        await api.connect(api.head("POST", "/v1/messages", *more) + body + b"GET /li") as stream,
    ):
        with anyio.fail_after(30):
            await api.agent.started.wait()
            with anyio.move_on_after(0.5):
                await stream.receive()
        api.agent.gate.set()

        status, _, _ = await read_answer(stream)

    assert status == 200


async def test_the_head_counts_as_a_part_of_the_whole_request(tmp_path: Path) -> None:
    bounds = {"request_timeout_s": 60, "header_timeout_s": 60}
    async with running_api(tmp_path, http=bounds) as api, await api.connect() as stream:
        headers = ("Content-Type: application/json", "Content-Length: 100")
        head = api.head("POST", "/v1/messages", *headers)
        await stream.send(head[:20])
        # The server has read what was sent once it answers another request.
        await api.client.get("/livez")
        with anyio.move_on_after(0.3):
            await stream.receive()
        await stream.send(head[20:] + b"{")
        await api.client.get("/livez")
        await api.clock.advance(59.8)

        status, _, body = await read_answer(stream)

    assert status == 408
    assert orjson.loads(body)["detail"] == "The request did not arrive within 60 seconds."


async def test_a_head_has_no_more_time_than_the_whole_request(tmp_path: Path) -> None:
    bounds = {"request_timeout_s": 0.2, "header_timeout_s": 60}
    head = b"GET /livez HTTP/1.1\r\n"
    async with running_api(tmp_path, http=bounds) as api, await api.connect(head) as stream:
        assert await read_until_closed(stream) == b""


async def test_a_head_that_does_not_end_is_cut_off(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api, await api.connect() as stream:
        await stream.send(b"GET /livez HTTP/1.1\r\nx: ")
        # The server has read what was sent once it answers another request.
        await api.client.get("/livez")
        with anyio.fail_after(30):
            await stream.send(b"y" * (MAX_HEAD_BYTES + 1))

        received = await read_until_closed(stream)

    assert received.startswith(b"HTTP/1.1 431 ")
    assert b"application/problem+json" in received


async def test_what_is_not_a_request_gets_400_and_the_end(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        for sent in NOT_REQUESTS:
            async with await api.connect() as stream:
                await stream.send(sent)
                received = await read_until_closed(stream)
            assert (sent, received[:13]) == (sent, b"HTTP/1.1 400 ")
            assert b":not-http" in received
            assert received.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize(
    ("line", "status"),
    [
        pytest.param(b"FOO /livez HTTP/1.1", b"501", id="unknown"),
        pytest.param(b"GETX /livez HTTP/1.1", b"501", id="longer-than-a-known-one"),
        pytest.param(b"foo /livez HTTP/1.1", b"400", id="no-method"),
        pytest.param(b"FOO livez HTTP/1.1", b"400", id="no-path"),
        pytest.param(b"FOO /livez RTSP/1.0", b"400", id="another-protocol"),
    ],
)
async def test_a_method_that_nobody_knows_is_not_taken_for_garbage(
    tmp_path: Path, line: bytes, status: bytes
) -> None:
    async with running_api(tmp_path) as api, await api.connect() as stream:
        await stream.send(line + b"\r\nHost: a\r\n\r\n")
        received = await read_until_closed(stream)

    assert received[:13] == b"HTTP/1.1 " + status + b" "
    assert received.count(b"\r\n\r\n") == 1


async def test_no_bytes_bring_the_server_down(tmp_path: Path) -> None:
    inputs: list[bytes] = []

    @settings(max_examples=150, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=8), min_size=1, max_size=25))
    def collect(parts: list[bytes]) -> None:
        inputs.append(b"".join(parts))

    collect()
    async with running_api(tmp_path, http={"header_timeout_s": 0.05}) as api:

        async def throw(sent: bytes) -> None:
            async with await api.connect(sent) as stream:
                received = await read_until_closed(stream)
            assert b"HTTP/1.1 5" not in received
            assert b"HTTP/1.1 2" not in received

        async with anyio.create_task_group() as group:
            for sent in inputs:
                group.start_soon(throw, sent)
        async with await api.connect(api.head("GET", "/v1/status")) as stream:
            assert (await read_answer(stream))[0] == 200


async def test_garbage_behind_a_request_does_not_cost_it_its_answer(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api, await api.connect() as stream:
        await stream.send(api.head("GET", "/livez") + b"\x00garbage\r\n\r\n")

        received = await read_until_closed(stream)

    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.count(b"HTTP/1.1") == 1


async def test_a_broken_chunk_gets_400_and_the_end(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api, await api.connect() as stream:
        chunked = ("Content-Type: application/json", "Transfer-Encoding: chunked")
        await stream.send(api.head("POST", "/v1/messages", *chunked) + b'5\r\n{"cha\r\n')
        await api.client.get("/livez")
        await stream.send(b"zz\r\n")

        received = await read_until_closed(stream)

    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"\r\n\r\n") == 1


async def test_an_upgrade_is_answered_as_a_plain_request_and_closed(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api, await api.connect() as stream:
        upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: a")
        await stream.send(api.head("GET", "/livez", *upgrade))

        received = await read_until_closed(stream)

    assert received.startswith(b"HTTP/1.1 200 ")


async def test_trailers_are_no_headers(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api, await api.connect() as stream:
        body = orjson.dumps(message())
        host = f"Host: 127.0.0.1:{api.port}\r\n"
        head = f"POST /v1/messages HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n"
        chunk = b"%x\r\n%b\r\n0\r\n" % (len(body), body)
        token = dict(api.client.headers)["authorization"]
        await stream.send(head.encode() + chunk + f"Authorization: {token}\r\n\r\n".encode())

        status, _, _ = await read_answer(stream)

    assert status == 401


async def test_the_rest_of_a_refused_body_is_not_read_for_ever(tmp_path: Path) -> None:
    async with (
        running_api(tmp_path, http=QUICK) as api,
        await api.connect(api.head("POST", "/nowhere", "Content-Length: 1000000") + b"x") as stream,
    ):
        status, _, _ = await read_answer(stream)
        with pytest.raises(CLOSED):
            await _drip(stream, b"x")

    assert status == 404


async def test_a_refused_body_that_comes_whole_leaves_the_connection_usable(
    tmp_path: Path,
) -> None:
    async with running_api(tmp_path) as api, await api.connect() as stream:
        await stream.send(api.head("POST", "/nowhere", "Content-Length: 10") + b"x")
        assert (await read_answer(stream))[0] == 404
        await stream.send(b"x" * 9 + api.head("GET", "/livez"))

        assert (await read_answer(stream))[0] == 200


async def test_connections_beyond_the_cap_are_turned_away_and_places_come_back(
    tmp_path: Path,
) -> None:
    async with running_api(tmp_path, http={"max_connections": 3}) as api:
        async with AsyncExitStack() as stack:
            for _ in range(3):
                stream = await stack.enter_async_context(await api.connect())
                await stream.send(api.head("GET", "/livez"))
                assert (await read_answer(stream))[0] == 200
            async with await api.connect() as one_more:
                received = await read_until_closed(one_more)
        with anyio.fail_after(30):
            while (await api.client.get("/livez")).status_code != 200:
                await anyio.lowlevel.checkpoint()

    assert received.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1\r\n" in received


async def test_a_client_that_does_not_read_is_given_up() -> None:
    aborted = anyio.Event()

    class Deaf(asyncio.Transport):
        @override
        def write(self, data: object) -> None: ...

        @override
        def close(self) -> None: ...

        @override
        def abort(self) -> None:
            aborted.set()

    limits = ConnectionLimits(max_connections=1, header_timeout_s=60, write_timeout_s=0.05)
    config = uvicorn.Config(lambda: None, log_config=None, lifespan="off", ws="none")
    protocol = BoundedProtocol(config, ServerState(), {}, limits=limits)
    protocol.connection_made(Deaf())
    protocol.pause_writing()
    protocol.resume_writing()
    protocol.pause_writing()

    with anyio.fail_after(30):
        await aborted.wait()
    protocol.connection_lost(ConnectionError())
