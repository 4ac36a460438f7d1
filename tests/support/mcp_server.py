"""A real MCP server whose tools behave and misbehave.

    python -m tests.support.mcp_server                  # over its standard input and output
    python -m tests.support.mcp_server --http PORT      # at http://127.0.0.1:PORT/mcp

Over HTTP it writes its port as the first line; 0 takes a free one. The tool `until_hung` returns
once a call of `hang` is there, and `cancelled` tells which of them were cancelled.
"""

from __future__ import annotations

import argparse
import base64
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import anyio
import uvicorn
from mcp import types
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.types import AudioContent, CallToolResult, EmbeddedResource, TextContent

from gateway.clock import SystemClock

FLOOD_BYTES: Final = 100_000_000
PIXEL: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ODD_TEXT: Final = (
    "null \0, e\u0301, \U0001f468\u200d\U0001f469, \u202eto the left\u202c, \ufeff end"
)

# Without its tracebacks, which take it half a second each.
server = MCPServer("odd", version="1", log_level="CRITICAL")
_hung: list[str] = []
_cancelled: list[str] = []
_stdout: list[int] = [1]
"""Where messages go. While the SDK serves, the standard output is something else."""


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool(structured_output=False)
def echo(text: str) -> str:
    """Return the text."""
    return text


@server.tool(structured_output=False)
def odd() -> str:
    """Return a text of odd characters."""
    return ODD_TEXT


@server.tool(structured_output=False)
def page(number: int, chars: int) -> str:
    """Return one page, of so many characters, of a book in many scripts."""
    return page_of(number, chars)


def page_of(number: int, chars: int) -> str:
    """Return what `page` returns; each number has another text."""
    odd = "e\u0301 \U0001f468\u200d\U0001f469 \u202eback\u202c \ufeff \u65e5\u672c \r\n"
    line = f"{number}. {odd} the quick brown fox; "
    return (line * (chars // len(line) + 1))[:chars]


@server.tool(structured_output=False)
async def hang(mark: str = "") -> str:
    """Never return; the mark names the call for `cancelled`."""
    _hung.append(mark)
    try:
        await anyio.sleep_forever()
    finally:
        _cancelled.append(mark)
    return "never"


@server.tool(structured_output=False)
async def until_hung(mark: str = "") -> str:
    """Return once a call of `hang` with this mark has come."""
    while mark not in _hung:
        await SystemClock().sleep(0.01)
    return "hung"


@server.tool(structured_output=False)
def cancelled() -> str:
    """Return the marks of the calls of `hang` that were cancelled."""
    return " ".join(_cancelled)


@server.tool(structured_output=False)
def crash() -> str:
    """End the process at once."""
    os._exit(3)


@server.tool(structured_output=False)
def flood(size: int = FLOOD_BYTES) -> str:
    """Return a text of so many bytes."""
    return "x" * size


@server.tool(structured_output=False)
def flood_stdout(size: int = FLOOD_BYTES) -> str:
    """Write so many bytes without an end of line to where messages go."""
    piece = b"x" * 1_000_000
    for _ in range(0, size, len(piece)):
        os.write(_stdout[0], piece)
    return "written"


@server.tool(structured_output=False)
def chatter(lines: int = 10) -> str:
    """Write lines that are no messages to where messages go, and to the errors."""
    os.write(_stdout[0], b"hello from a library\n[INFO] again\n" * lines)
    os.write(2, b"something is odd\n" * lines)
    return "chattered"


@server.tool(structured_output=False)
def values(count: int) -> CallToolResult:
    """Return so many small values."""
    return CallToolResult(content=[], structured_content={"values": [[]] * count})


@server.tool(structured_output=False)
def parts(count: int) -> CallToolResult:
    """Return so many parts."""
    return CallToolResult(content=[TextContent(type="text", text="p")] * count)


@server.tool(structured_output=False)
def image() -> Image:
    """Return a picture of one pixel."""
    return Image(data=PIXEL, format="png")


@server.tool(structured_output=False)
def mixed() -> CallToolResult:
    """Return one part of each kind."""
    uri = "file:///notes.txt"
    return CallToolResult(
        content=[
            TextContent(type="text", text="before"),
            AudioContent(type="audio", data="AAAA", mime_type="audio/wav"),
            EmbeddedResource(
                type="resource", resource=types.TextResourceContents(uri=uri, text="noted")
            ),
            types.ResourceLink(type="resource_link", uri=uri, name="notes"),
        ]
    )


@server.tool()
def structured() -> dict[str, Any]:
    """Return nothing but structured content."""
    return {"answer": 42, "of": ["life"]}


@server.tool(structured_output=False)
def error() -> str:
    """Raise."""
    raise ValueError("the tool is broken")


@server.tool(structured_output=False)
async def slow(ctx: Context) -> str:
    """Report progress, then return."""
    for step in range(5):
        await ctx.report_progress(step, 5)
        await SystemClock().sleep(0.02)
    return "done"


@server.tool(structured_output=False)
def spawn() -> str:
    """Start a child that outlives nobody of its own will; return its process id."""
    child = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.signal(15, 1); signal.pause()"]
    )
    return str(child.pid)


@server.tool(structured_output=False)
def env() -> str:
    """Return the names of the variables there are."""
    return " ".join(sorted(os.environ))


@server.tool(structured_output=False)
def where() -> str:
    """Return the working directory and the process id."""
    return f"{Path.cwd()} {os.getpid()}"


@server.tool(structured_output=False)
async def grow(ctx: Context) -> str:
    """Offer another tool from now on, and tell it."""
    server.add_tool(odd, name="grown", structured_output=False)
    await ctx.notify_tools_changed()
    await ctx.session.send_tool_list_changed()
    return "grown"


@server.tool(structured_output=False)
async def ask_user(ctx: Context) -> str:
    """Ask for more input, and for a model."""
    refused = []
    for question in (
        ctx.session.list_roots(),
        ctx.session.elicit_form("Your name?", {"type": "object", "properties": {}}),
        ctx.session.create_message(messages=[], max_tokens=1),
    ):
        try:
            await question
        except Exception as exc:  # noqa: BLE001 - whatever the refusal looks like
            refused.append(type(exc).__name__)
    return f"refused {len(refused)}"


def main() -> None:
    """Serve until the input ends or the process does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--http", type=int, default=None)
    parser.add_argument("--json", action="store_true", help="answer without streams")
    given = parser.parse_args()
    if given.http is None:
        _stdout[0] = os.dup(1)
        server.run()
        return

    listener = socket.create_server(("127.0.0.1", given.http))
    print(listener.getsockname()[1], flush=True)  # noqa: T201 - who started it reads it
    app = server.streamable_http_app(json_response=given.json)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


if __name__ == "__main__":
    main()
