"""Tools of a test: functions by name, what became of each call, and which need a yes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from gateway.model import (
    AgentId,
    SessionId,
    SessionKey,
    SessionSource,
    ToolCaller,
    ToolResult,
    ToolSpec,
    TurnId,
)

Tool = Callable[..., Awaitable[str | ToolResult]]
"""Takes the arguments of a call by name."""


@dataclass(slots=True)
class TestToolbox:
    """A `gateway.agents.tools.Toolbox`; see the module."""

    __test__ = False

    tools: Mapping[str, Tool]
    asks: frozenset[str] = frozenset()
    """Tools that need approval."""
    called: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    """Each call, as it began."""
    running: int = 0
    most: int = 0
    """How many ran at once at most."""
    cancelled: list[str] = field(default_factory=list)
    """The names of calls that were cancelled."""
    begun: anyio.Event = field(default_factory=anyio.Event)
    """Set once a call has begun."""

    def specs(self) -> Sequence[ToolSpec]:
        return [spec(name) for name in sorted(self.tools)]

    def needs_approval(self, name: str) -> bool:
        return name in self.asks

    async def call(
        self, name: str, arguments: Mapping[str, Any], *, caller: ToolCaller
    ) -> ToolResult:
        self.called.append((name, arguments))
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.set()
        try:
            result = await self.tools[name](**arguments)
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(name)
            raise
        finally:
            self.running -= 1
        return ToolResult(result) if isinstance(result, str) else result


CALLER = ToolCaller(
    SessionKey("agent:main:http::dm:alice::"),
    SessionId("s1"),
    AgentId("main"),
    SessionSource("http", "alice"),
    TurnId("t1"),
)
"""Somebody who calls tools."""


def spec(name: str, description: str = "") -> ToolSpec:
    """Return a tool that takes anything."""
    schema = {"type": "object", "properties": {"q": {"type": "string"}}}
    return ToolSpec(name, description or f"What {name} does.", schema)
