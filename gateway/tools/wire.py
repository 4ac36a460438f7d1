"""The two streams of a connection, watched: whether they have ended, and what they may carry.

The SDK reads from one and writes to the other. It gets no message with more parts than can be shown
and nothing more from a server that asks faster than it takes answers. Knows no transport.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import anyio
from mcp import types

if TYPE_CHECKING:
    from mcp.shared.message import SessionMessage

    from gateway.tools.connection import Watch

MAX_PARTS: Final = 1_000
"""How many parts of a result, and how many tools of a page, are kept."""
MAX_UNANSWERED: Final = 100
"""How many requests of a server may wait until their answers are written."""


class Incoming(Protocol):
    """What a transport reads from."""

    async def receive(self) -> SessionMessage | Exception:
        """Return the next message; an exception stands for one that could not be read."""
        ...

    async def aclose(self) -> None:
        """Read no more."""
        ...


class Outgoing(Protocol):
    """What a transport writes to."""

    async def send(self, item: SessionMessage, /) -> None:
        """Hand a message over."""
        ...

    async def aclose(self) -> None:
        """Write no more."""
        ...


class WatchedReader:
    """What the SDK reads from."""

    def __init__(self, inner: Incoming, writer: WatchedWriter, watch: Watch) -> None:
        """Watch a stream; the writer is the one of the same connection."""
        self._inner = inner
        self._writer = writer
        self._watch = watch

    async def receive(self) -> SessionMessage | Exception:
        """Return the next message, its parts within bounds.

        Raises:
            anyio.EndOfStream: There is none any more.
        """
        try:
            item = await self._inner.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            self._watch.end("the connection was closed")
            raise anyio.EndOfStream from None

        if not isinstance(item, Exception):
            self._check(item.message)
        return item

    async def aclose(self) -> None:
        """Read no more."""
        await self._inner.aclose()

    def __aiter__(self) -> Self:
        """Read to the end."""
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        """Return the next message."""
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        """Close it at the end."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.aclose()

    def _check(self, message: types.JSONRPCMessage) -> None:
        if isinstance(message, types.JSONRPCResponse):
            _shorten(message.result)
        elif isinstance(message, types.JSONRPCRequest):
            self._writer.unanswered += 1
            if self._writer.unanswered > MAX_UNANSWERED:
                self._watch.end("it asks faster than it takes answers")
                raise anyio.EndOfStream


class WatchedWriter:
    """What the SDK writes to."""

    def __init__(self, inner: Outgoing) -> None:
        """Watch a stream."""
        self._inner = inner
        self.unanswered = 0
        """How many requests of the server wait for their answer."""

    async def send(self, item: SessionMessage, /) -> None:
        """Hand a message to the transport."""
        await self._inner.send(item)
        if isinstance(item.message, types.JSONRPCResponse | types.JSONRPCError):
            self.unanswered -= 1

    async def aclose(self) -> None:
        """Write no more."""
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        """Close it at the end."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.aclose()


def _shorten(result: dict[str, Any]) -> None:
    """Keep the first parts of a result, and the first tools of a page; a note tells of the rest.

    Each becomes an object of the SDK, a thousand of which take a few milliseconds.
    """
    for key in ("content", "tools"):
        parts = result.get(key)
        if isinstance(parts, list) and len(parts) > MAX_PARTS:
            note = f"[cut: these are the first {MAX_PARTS} of {len(parts)} parts]"
            end = [{"type": "text", "text": note}] if key == "content" else []
            result[key] = [*parts[:MAX_PARTS], *end]
