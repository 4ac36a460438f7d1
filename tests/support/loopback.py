"""A client of the loopback channel over its real socket."""

from __future__ import annotations

from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import anyio
import orjson
from anyio.streams.buffered import BufferedByteReceiveStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from anyio.abc import SocketStream


class LoopbackClient:
    """Speaks JSON lines."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self._lines = BufferedByteReceiveStream(stream)

    async def write(self, **fields: object) -> None:
        await self.write_raw(orjson.dumps(fields) + b"\n")

    async def write_raw(self, data: bytes) -> None:
        with anyio.fail_after(30):
            await self.stream.send(data)

    async def read(self) -> dict[str, Any]:
        """Return the next line."""
        with anyio.fail_after(30):
            line = await self._lines.receive_until(b"\n", 1 << 24)
        fields: dict[str, Any] = orjson.loads(line)
        return fields

    async def ask(self, **fields: object) -> dict[str, Any]:
        """Write a line, and return the next one."""
        await self.write(**fields)
        return await self.read()

    async def serve(self) -> None:
        assert await self.ask(serve=True) == {"serving": True}

    async def ended(self) -> bool:
        """Return whether the gateway ends the connection without another word."""
        with anyio.fail_after(30):
            try:
                await self._lines.receive(1)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return True
        return False


@asynccontextmanager
async def connected(path: Path) -> AsyncGenerator[LoopbackClient]:
    async with await anyio.connect_unix(path) as stream:
        yield LoopbackClient(stream)


def message(number: int = 1, **fields: object) -> dict[str, object]:
    return {"message_id": f"m{number}", "chat_id": "ann", "text": f"hello {number}", **fields}


def short_directory() -> TemporaryDirectory[str]:
    """Return a new directory whose path leaves room for the name of a socket."""
    return TemporaryDirectory(prefix="gw-", dir="/tmp")
