"""Servers of tools that run nowhere, and agents' choices among them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from gateway.model import ToolResult
from gateway.tools.connection import ListedTool, Outcome, Target, Watch
from gateway.tools.settings import McpServerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping


@dataclass(frozen=True, slots=True)
class Choice:
    """Which tools an agent may use."""

    allow: Sequence[str] = ("*",)
    deny: Sequence[str] = ()
    ask: Sequence[str] = ()


def tool(name: str, description: str = "") -> ListedTool:
    """Return a tool that takes anything."""
    return ListedTool(name, description, {"type": "object", "properties": {}})


def target(name: str = "fake", **settings: Any) -> Target:  # noqa: ANN401 - of any key
    """Return a server that is reached by nobody."""
    return Target(name, McpServerSettings.model_validate({"command": ["fake"], **settings}))


@dataclass(slots=True)
class FakeServer:
    """A server as its connections show it."""

    tools: list[ListedTool] = field(default_factory=lambda: [tool("echo")])
    starts: list[bool] = field(default_factory=list)
    """One for each connection: whether it was by the older handshake."""
    refuses: list[Exception | None] = field(default_factory=list)
    """What each next connection fails with; None: nothing."""
    answers: list[Outcome | Exception] = field(default_factory=list)
    """What each next call ends with; then calls return their name."""
    listing_fails: list[Exception] = field(default_factory=list)
    """What each next listing fails with."""
    start_gate: anyio.Event | None = None
    """No connection is made before it is set."""
    call_gate: anyio.Event | None = None
    """No call ends before it is set."""
    list_gate: anyio.Event | None = None
    """No listing ends before it is set."""
    listings: int = 0
    running: int = 0
    """How many calls run."""
    most_running: int = 0
    cancelled: int = 0
    watch: Watch | None = None
    """What the connection tells its server through."""

    @asynccontextmanager
    async def connect(
        self, target: Target, watch: Watch, *, legacy: bool
    ) -> AsyncGenerator[FakeServer]:
        """Hold a connection."""
        assert target.name
        self.starts.append(legacy)
        self.watch = watch
        if self.start_gate is not None:
            await self.start_gate.wait()
        error = self.refuses.pop(0) if self.refuses else None
        if error is not None:
            raise error
        yield self

    async def list_tools(self) -> list[ListedTool]:
        """Return the tools."""
        self.listings += 1
        if self.listing_fails:
            raise self.listing_fails.pop(0)
        if self.list_gate is not None:
            await self.list_gate.wait()
        return list(self.tools)

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Outcome:
        """Play the next answer."""
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.call_gate is not None:
                await self.call_gate.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        answer = self.answers.pop(0) if self.answers else Outcome(ToolResult(f"{tool} {arguments}"))
        if isinstance(answer, Exception):
            raise answer
        return answer
