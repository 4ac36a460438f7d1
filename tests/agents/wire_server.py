"""A small server of ours that speaks the chat-completions wire protocol, well or badly.

Give it answers with `script`; it plays one a request, and the last one again and again. What it was
asked stands in `requests`. One connection serves one request.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import anyio
import orjson
from anyio.abc import SocketAttribute

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from anyio.abc import SocketStream


@dataclass(frozen=True, slots=True)
class WireRequest:
    """What the server was asked."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class WireAnswer:
    """The bytes of one response, and what follows them."""

    head: bytes
    body: bytes
    hangs: bool = False
    """True: the connection stays open and silent after the last byte."""
    raw: bytes | None = None
    """What is sent instead of head and body."""

    @property
    def wire(self) -> bytes:
        """Everything that is sent."""
        return self.head + b"\r\n" + self.body if self.raw is None else self.raw

    def cut(self, length: int) -> WireAnswer:
        """Return the same answer, closed behind this many bytes of head and body."""
        return replace(self, raw=self.wire[:length])

    def silent_after(self, length: int) -> WireAnswer:
        """Return the same answer, silent behind this many bytes of head and body."""
        return replace(self, raw=self.wire[:length], hangs=True)

    def chunked(self, size: int) -> WireAnswer:
        """Return the same answer in HTTP chunks, which a client reads one by one."""
        starts = range(0, len(self.body), size)
        chunks = (self.body[start : start + size] for start in starts)
        framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        head = self.head + b"Transfer-Encoding: chunked\r\n"
        return replace(self, head=head, body=framed + b"0\r\n\r\n")


def events_answer(*events: object) -> WireAnswer:
    """Return a stream of these events: bytes as they are, all else as JSON in a data line."""
    lines = (
        event if isinstance(event, bytes) else b"data: " + orjson.dumps(event) + b"\n\n"
        for event in events
    )
    return WireAnswer(_head(200, {"Content-Type": "text/event-stream"}), b"".join(lines))


def chunk_event(
    *, delta: object = None, finish_reason: str | None = None, usage: object = None
) -> dict[str, object]:
    """Return one chunk as a provider sends it; the one with the usage has no choices."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "wire",
        "choices": [choice] if usage is None else [],
        "usage": usage,
    }


DONE = b"data: [DONE]\n\n"


def text_answer(
    *texts: str, usage: tuple[int, int, int] | None = (120, 20, 100), finish_reason: str = "stop"
) -> WireAnswer:
    """Return a well-formed stream; the usage is prompt, completion and cached tokens."""
    events: list[object] = [chunk_event(delta={"content": text}) for text in texts]
    events.append(chunk_event(finish_reason=finish_reason))
    if usage is not None:
        prompt, completion, cached = usage
        counted = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        events.append(chunk_event(usage=counted))
    return events_answer(*events, DONE)


def error_answer(
    status: int, message: str = "no", *, code: str | None = None, **headers: str
) -> WireAnswer:
    """Return an error as providers send it; `retry_after="1"` becomes a `Retry-After` header."""
    body = {"error": {"message": message, "type": "wire_error", "param": None, "code": code}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return WireAnswer(
        _head(status, {"Content-Type": "application/json", **named}), orjson.dumps(body)
    )


@dataclass(slots=True)
class WireServer:
    """Plays answers; see `wire_server`."""

    base_url: str
    requests: list[WireRequest] = field(default_factory=list)
    client_left: anyio.Event = field(default_factory=anyio.Event)
    """Set once a client has closed its connection to an answer that hangs."""
    asked: anyio.Event = field(default_factory=anyio.Event)
    """Set once a request has come."""
    gate: anyio.Event | None = None
    """No answer goes out before it is set; None: answers go out at once."""
    _answers: list[WireAnswer] = field(default_factory=list)

    def script(self, *answers: WireAnswer) -> None:
        """Play these answers from now on."""
        self._answers = list(answers)

    async def handle(self, client: SocketStream) -> None:
        """Answer the one request of a connection."""
        async with client:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                self.requests.append(await _read_request(client))
                self.asked.set()
                if self.gate is not None:
                    await self.gate.wait()
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                await client.send(answer.wire)
                if answer.hangs:
                    await _wait_until_left(client)
                    self.client_left.set()


@asynccontextmanager
async def wire_server(*answers: WireAnswer) -> AsyncGenerator[WireServer]:
    """Run a server on a free loopback port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - no Django here
    server = WireServer(f"http://127.0.0.1:{port}/v1")
    server.script(*(answers or (text_answer("pong"),)))
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.handle)
        yield server
        tasks.cancel_scope.cancel()


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Wire", "Connection: close", "X-Request-Id: req-7"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "".join(f"{line}\r\n" for line in lines).encode()


async def _read_request(client: SocketStream) -> WireRequest:
    received = b""
    while b"\r\n\r\n" not in received:
        received += await client.receive()
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    while len(body) < int(headers.get("content-length", "0")):
        body += await client.receive()
    return WireRequest(first.split(" ")[1], headers, orjson.loads(body or b"{}"))


async def _wait_until_left(client: SocketStream) -> None:
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            await client.receive()
