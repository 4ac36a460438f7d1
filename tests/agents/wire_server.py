"""Answers of the chat-completions wire byte by byte, well or badly, and a provider that sends them.

Give it answers with `script`; it plays one a request, and the last one again and again. What it was
asked stands in `requests`. One connection serves one request. The provider is the pretended one of
`tests.support.upstream`, which beside this answers by itself and has a prompt cache.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from gateway.clock import SystemClock
from tests.support.chat_wire import DONE, chunk_event
from tests.support.upstream import Bytes, Upstream, upstream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    import anyio

    from tests.support.upstream import UpstreamRequest


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


@dataclass(frozen=True, slots=True)
class WireRequest:
    """What the provider was asked."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: dict[str, Any]


@dataclass(slots=True)
class WireServer:
    """A provider that sends bytes; see `wire_server`."""

    fake: Upstream

    @property
    def base_url(self) -> str:
        """Where it is, its version included."""
        return f"{self.fake.url}/v1"

    @property
    def requests(self) -> list[WireRequest]:
        """What it was asked so far."""
        return [_request(asked) for asked in self.fake.requests]

    @property
    def asked(self) -> anyio.Event:
        """Set once a request has come."""
        return self.fake.asked

    @property
    def client_left(self) -> anyio.Event:
        """Set once a client has closed its connection to an answer that hangs."""
        return self.fake.client_left

    @property
    def gate(self) -> anyio.Event | None:
        """No answer goes out before it is set; None: answers go out at once."""
        return self.fake.gate

    @gate.setter
    def gate(self, gate: anyio.Event) -> None:
        self.fake.gate = gate

    def script(self, *answers: WireAnswer) -> None:
        """Play these answers from now on."""
        self.fake.answer(*(Bytes(answer.wire, answer.hangs) for answer in answers))


@asynccontextmanager
async def wire_server(*answers: WireAnswer) -> AsyncGenerator[WireServer]:
    """Run a provider on a free loopback port."""
    async with upstream(SystemClock()) as fake:
        server = WireServer(fake)
        server.script(*(answers or (text_answer("pong"),)))
        yield server


def _request(asked: UpstreamRequest) -> WireRequest:
    return WireRequest(asked.path, asked.headers, asked.json)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Wire", "Connection: close", "X-Request-Id: req-7"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "".join(f"{line}\r\n" for line in lines).encode()
