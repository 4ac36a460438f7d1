"""A server at an address: its messages go over streamable HTTP, by the SDK and a client of ours.

What is sent goes to the configured address alone: neither where it redirects to, nor, where that is
on this machine, through a proxy. What comes is bounded before it is read.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import httpx2
import orjson
from mcp import types
from mcp.client.streamable_http import streamable_http_client
from typing_extensions import override

from gateway.metering import TooManyValuesError, ValueMeter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from gateway.clock import Clock
    from gateway.tools.connection import Target, Watch
    from gateway.tools.wire import Incoming, Outgoing

FAREWELL_S: Final = 1.0
"""How long the server may take to hear that a session is over."""
_SESSION: Final = "mcp-session-id"
_VERSION: Final = "mcp-protocol-version"
_SPARE_CONNECTIONS: Final = 8
"""Connections beside those of calls: listings, cancellations, the stream of changes."""


class Request:
    """What is known of a request that this task sends; the SDK tells less of it."""

    def __init__(self) -> None:
        """Begin a request in this task."""
        self.forgotten = False
        """Whether the server refused it, for it knows our session no more."""
        _CURRENT.set(self)


_CURRENT: Final[ContextVar[Request | None]] = ContextVar("request", default=None)


@asynccontextmanager
async def open_http(
    target: Target, watch: Watch, clock: Clock
) -> AsyncGenerator[tuple[Incoming, Outgoing]]:
    """Hold the streams of a server's messages. A server that cannot be reached ends the block."""
    settings = target.settings
    url = settings.url or ""
    session = _Session(settings.max_message_bytes, watch)
    async with _Client(
        headers={**target.headers, "accept-encoding": "identity"},
        # No limit on reading: a call has its own, and the stream of changes is silent for hours.
        timeout=httpx2.Timeout(settings.start_timeout_s, read=None),
        limits=httpx2.Limits(max_connections=settings.max_parallel + _SPARE_CONNECTIONS),
        trust_env=not settings.loopback,
        follow_redirects=False,
        max_redirects=0,  # the SDK follows some by itself
        event_hooks={"response": [session.note]},
    ) as client:
        try:
            async with streamable_http_client(
                url,
                http_client=client,
                terminate_on_close=False,  # it would wait without end
                max_sse_event_size=settings.max_message_bytes,
            ) as streams:
                yield streams
        finally:
            if session.headers:
                with clock.move_on_after(FAREWELL_S) as scope:
                    scope.shield = True
                    await client.delete(url, headers=session.headers)


class _Client(httpx2.AsyncClient):
    """A client whose errors are answers: where one is raised, the SDK ends all other requests."""

    @override
    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            return await super().send(request, **options)
        except httpx2.TransportError as exc:
            text = f"{type(exc).__name__}: {exc}"
            error = {"code": types.CONNECTION_CLOSED, "message": text}
            body = orjson.dumps({"jsonrpc": "2.0", "id": None, "error": error})
            kind = {"content-type": "application/json"}
            return httpx2.Response(
                httpx2.codes.BAD_GATEWAY, content=body, headers=kind, request=request
            )


class _Session:
    """What the answers of a server have in common."""

    def __init__(self, max_bytes: int, watch: Watch) -> None:
        self.headers: dict[str, str] = {}
        """What names our session; empty where the server keeps none."""
        self._max_bytes = max_bytes
        self._watch = watch

    async def note(self, response: httpx2.Response) -> None:
        """Bound an answer before it is read; an event hook of the client."""
        self._watch.hint = "" if response.is_success else f"HTTP status {response.status_code}"
        request = _CURRENT.get()
        if request is not None and _SESSION in response.request.headers:
            request.forgotten = response.status_code == httpx2.codes.NOT_FOUND
        if _SESSION in response.headers:
            version = response.request.headers.get(_VERSION)
            self.headers = {_SESSION: response.headers[_SESSION]}
            self.headers.update({_VERSION: version} if version else {})
        # Nobody asked for a compressed body, which would grow beyond every bound: read as it is.
        response.headers.pop("content-encoding", None)
        kind = response.headers.get("content-type", "").lower()
        streamed = kind.startswith("text/event-stream")
        if isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _Bounded(response.stream, self._max_bytes, streamed=streamed)


class _Bounded(httpx2.AsyncByteStream):
    """The body of an answer, ended where it breaks a bound."""

    def __init__(self, body: httpx2.AsyncByteStream, max_bytes: int, *, streamed: bool) -> None:
        self._body = body
        self._max_bytes = max_bytes
        self._streamed = streamed

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        meter = ValueMeter()
        size = 0
        async for data in self._body:
            try:
                meter.feed(data)
            except TooManyValuesError as exc:
                raise self._error(f"it sent {exc}") from None
            size += len(data)
            if not self._streamed and size > self._max_bytes:
                raise self._error(f"it sent a message of more than {self._max_bytes:,} bytes")
            if self._streamed and (b"\n\n" in data or b"\r\n\r\n" in data):
                meter.restart()
            yield data

    @override
    async def aclose(self) -> None:
        await self._body.aclose()

    def _error(self, text: str) -> Exception:
        """Return the error that the SDK turns into the answer of the call."""
        return httpx2.SSEError(text) if self._streamed else httpx2.StreamError(text)
