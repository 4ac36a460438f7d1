"""An HTTP server on loopback that answers any bytes, or as an MCP server of the older kind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import orjson
from anyio.abc import SocketAttribute

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import SocketStream

NO_METHOD = {"code": -32601, "message": "Method not found"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    json: dict[str, Any]

    @property
    def rpc(self) -> str:
        """The method of its message."""
        return str(self.json.get("method", ""))


Answer = bytes | None
"""What goes back before the connection closes; None: it stays open and silent."""


def http(body: bytes, *head: str, status: str = "200 OK") -> bytes:
    """Return an answer with this body, whose length is told unless the head tells it."""
    lines = [f"HTTP/1.1 {status}", "Connection: close", *head]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in head):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def rpc(asked: Asked, result: object, *head: str) -> bytes:
    """Return the result of a request."""
    message = {"jsonrpc": "2.0", "id": asked.json.get("id"), "result": result}
    return http(orjson.dumps(message), "Content-Type: application/json", *head)


def said(asked: Asked, text: str) -> bytes:
    """Return the result of a call."""
    return rpc(asked, {"content": [{"type": "text", "text": text}]})


def usual(asked: Asked) -> Answer:
    """Answer as a server of the older kind that keeps a session and has one tool, `do`."""
    answer: Answer
    match asked.rpc:
        case "":
            answer = http(b"", status="405 Method Not Allowed")
        case "initialize":
            result = {
                "protocolVersion": asked.json["params"]["protocolVersion"],
                "serverInfo": {"name": "odd", "version": "1"},
                "capabilities": {"tools": {}},
            }
            answer = rpc(asked, result, "Mcp-Session-Id: s1")
        case "tools/list":
            answer = rpc(asked, {"tools": [{"name": "do", "inputSchema": {"type": "object"}}]})
        case "tools/call":
            answer = said(asked, "done")
        case _ if "id" in asked.json:
            answer = http(b"", status="404 Not Found")
        case _:
            answer = http(b"", status="202 Accepted")
    return answer


@dataclass(slots=True)
class OddHttp:
    """The server: what it was asked, and how it answers."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answer: Callable[[Asked], Answer] = usual

    async def serve(self, stream: SocketStream) -> None:
        """Answer the one request of a connection."""
        async with stream:
            data = b""
            try:
                while b"\r\n\r\n" not in data:
                    data += await stream.receive()
                head, _, body = data.partition(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in lines)
                }
                while len(body) < int(headers.get("content-length", "0")):
                    body += await stream.receive()
                method, path, _ = first.split(" ")
                asked = Asked(method, path, headers, orjson.loads(body) if body else {})
                self.asked.append(asked)
                answer = self.answer(asked)
                if answer is None:
                    await anyio.sleep_forever()
                else:
                    await stream.send(answer)
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                pass  # the client went away


@asynccontextmanager
async def odd_http(port: int = 0) -> AsyncGenerator[OddHttp]:
    """Run a server on loopback; port 0 takes a free one."""
    server = OddHttp()
    listener = await anyio.create_tcp_listener(
        local_host="127.0.0.1", local_port=port, reuse_port=True
    )
    port = listener.listeners[0].extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
    server.url = f"http://127.0.0.1:{port}/mcp"
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()
