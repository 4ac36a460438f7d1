"""A connection through the official SDK, whose types and errors stop here.

Importing this module imports the SDK, which is an extra and costs most of a second:
`gateway.tools.toolbox` does it only where a server is configured.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio
import orjson
from mcp import Client, MCPError, types
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from pydantic import TypeAdapter, ValidationError

from gateway import __version__
from gateway.log import get_logger
from gateway.model import clean_text
from gateway.tools.connection import (
    BrokenCallError,
    CallError,
    ListedTool,
    Outcome,
    SessionEndedError,
)
from gateway.tools.http import Request, open_http
from gateway.tools.results import ResultBounds, tool_result
from gateway.tools.stdio import open_stdio
from gateway.tools.wire import MAX_PARTS, WatchedReader, WatchedWriter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

    from gateway.clock import Clock
    from gateway.tools.connection import Target, Watch

MAX_TOOLS: Final = MAX_PARTS
"""How many tools of a server are taken."""
MAX_PAGES: Final = 100
"""How many pages of a listing are read."""
MAX_DESCRIPTION_CHARS: Final = 8_000
MAX_SCHEMA_BYTES: Final = 65_536
"""A tool with a larger schema of its arguments is not offered."""
MAX_LISTING_BYTES: Final = 4_194_304
"""Nor is one that comes once the schemas of all are so large."""
LISTEN_PAUSE_S: Final = 30.0
"""How long to wait before changes are asked for again, once the server told no more."""
_ANSWER: Final[TypeAdapter[types.CallToolResult | types.InputRequiredResult]] = TypeAdapter(
    types.CallToolResult | types.InputRequiredResult
)

log = get_logger()


class SdkConnector:
    """Connects to servers."""

    def __init__(self, clock: Clock) -> None:
        """Keep the clock, and silence the SDK, which would log what tools are told and return."""
        self._clock = clock
        for name in ("mcp", "client"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    @asynccontextmanager
    async def connect(
        self, target: Target, watch: Watch, *, legacy: bool
    ) -> AsyncGenerator[SdkConnection]:
        """Hold a connection on which both sides have agreed on a version.

        Raises:
            Exception: It cannot be had, or it broke; `watch.reason` may tell more.
        """

        async def heed(message: object) -> None:
            if isinstance(message, types.ToolListChangedNotification):
                watch.look()

        client = Client(
            self._transport(target, watch),
            mode="legacy" if legacy else "auto",
            client_info=types.Implementation(name="session-gateway", version=__version__),
            message_handler=heed,
            cache=None,
        )
        async with client, anyio.create_task_group() as tasks:
            connection = SdkConnection(client, target, watch, self._clock)
            tasks.start_soon(connection.listen)
            yield connection
            tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def _transport(
        self, target: Target, watch: Watch
    ) -> AsyncGenerator[tuple[WatchedReader, WatchedWriter]]:
        open_transport = open_http if target.settings.command is None else open_stdio
        async with open_transport(target, watch, self._clock) as (incoming, outgoing):
            writer = WatchedWriter(outgoing)
            yield WatchedReader(incoming, writer, watch), writer


class SdkConnection:
    """A server that answers."""

    def __init__(self, client: Client, target: Target, watch: Watch, clock: Clock) -> None:
        """Take a client that is connected."""
        self._client = client
        self._name = target.name
        self._watch = watch
        self._clock = clock
        self._bounds = ResultBounds.of(target.settings)

    async def list_tools(self) -> list[ListedTool]:
        """Return all tools, within bounds; those that cannot be offered are left out and logged."""
        listing = _Listing()
        if self._client.server_capabilities.tools is None:
            return listing.tools

        cursor: str | None = None
        with _translated():
            for _ in range(MAX_PAGES):
                page = await self._client.list_tools(cursor=cursor)
                for tool in page.tools:
                    listing.add(tool)
                cursor = page.next_cursor
                if not cursor or len(listing.tools) >= MAX_TOOLS:
                    break
        if listing.left_out:
            left_out = listing.left_out
            log.warning("tools.left_out", server=self._name, tools=left_out)
        return listing.tools

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Outcome:
        """Run a tool."""
        request = types.CallToolRequest(
            params=types.CallToolRequestParams(name=tool, arguments=dict(arguments))
        )
        with _translated():
            # Not `call_tool`: it checks a result against the server's own schema, patterns and all,
            # and so lets a server hold the event loop.
            answer = await self._client.session.send_request(request, _ANSWER)
        if isinstance(answer, types.InputRequiredResult):
            raise CallError("The tool asks for more input, which cannot be given here.")

        return Outcome(tool_result(answer, self._bounds), failed=answer.is_error)

    async def listen(self) -> None:
        """Note that tools have changed, where the server tells it only to those who ask."""
        tools = self._client.server_capabilities.tools
        while tools is not None and tools.list_changed:
            try:
                async with self._client.listen(tools_list_changed=True) as subscription:
                    self._watch.look()  # for what changed before
                    async for _ in subscription:
                        self._watch.look()
            except ListenNotSupportedError:
                return
            except (MCPError, SubscriptionLost):
                # A server that is gone tells no more, either.
                self._watch.look()
            await self._clock.sleep(LISTEN_PAUSE_S)


@dataclass(slots=True)
class _Listing:
    """The tools of a server as they come, page by page."""

    tools: list[ListedTool] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    bytes: int = 0

    def add(self, tool: types.Tool) -> None:
        """Take a tool, or its name where it cannot be offered."""
        schema = {"properties": {}, **tool.input_schema, "type": "object"}
        try:
            size = len(orjson.dumps(schema))
        except TypeError:  # a number beyond 64 bits, say
            size = MAX_LISTING_BYTES
        fits = size <= MAX_SCHEMA_BYTES and self.bytes + size <= MAX_LISTING_BYTES
        if tool.name and fits and len(self.tools) < MAX_TOOLS:
            self.bytes += size
            description = clean_text(tool.description or tool.title or "")
            self.tools.append(ListedTool(tool.name, description[:MAX_DESCRIPTION_CHARS], schema))
        elif len(self.left_out) < MAX_TOOLS:
            self.left_out.append(tool.name)


@contextmanager
def _translated() -> Generator[None]:
    """Turn every error of the SDK into a `CallError`."""
    request = Request()
    try:
        yield
    except MCPError as exc:
        if request.forgotten:
            raise SessionEndedError("it knew our session no more") from exc
        raise _call_error(exc) from exc
    except (ValidationError, RuntimeError, ValueError):
        # Not `from exc`: it would quote what the server sent.
        raise CallError("The tool server's answer does not fit the protocol.") from None


def _call_error(error: MCPError) -> CallError:
    if error.code == types.CONNECTION_CLOSED:
        return BrokenCallError(error.message or "the connection was closed")
    return CallError(f"The tool server answered an error: {error.message}")
