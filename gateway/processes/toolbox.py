"""The tool `process` beside whatever tools an agent has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Protocol

from gateway.processes.tool import NAME, ProcessTool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.model import ToolCaller, ToolResult, ToolSpec
    from gateway.processes.registry import ProcessRegistry


class ToolChoice(Protocol):
    """Which tools an agent may use."""

    @property
    def allow(self) -> Sequence[str]:
        """Names; a pattern does not name this tool, which runs programs."""
        ...

    @property
    def deny(self) -> Sequence[str]:
        """Name patterns that win over `allow`."""
        ...

    @property
    def ask(self) -> Sequence[str]:
        """Name patterns of tools that need the user's yes."""
        ...


class Others(Protocol):
    """The other tools of the agent."""

    def specs(self) -> Sequence[ToolSpec]:
        """See `gateway.agents.tools.Toolbox`."""
        ...

    def needs_approval(self, name: str) -> bool:
        """See `gateway.agents.tools.Toolbox`."""
        ...

    async def call(
        self, name: str, arguments: Mapping[str, Any], *, caller: ToolCaller
    ) -> ToolResult:
        """See `gateway.agents.tools.Toolbox`."""
        ...


class ToolboxWithProcesses:
    """A `gateway.agents.tools.Toolbox` that has the tool `process` as well."""

    def __init__(self, others: Others, tool: ProcessTool, asks: Sequence[str]) -> None:
        """Add the tool; `asks` are the patterns of tools that need the user's yes."""
        self._others = others
        self._tool = tool
        self._asks = _matches(asks)
        self._specs: tuple[Sequence[ToolSpec], Sequence[ToolSpec]] | None = None
        """The others' as they were last, and all."""

    def specs(self) -> Sequence[ToolSpec]:
        """Return what the agent is offered, sorted by name."""
        others = self._others.specs()
        # By identity, as whoever asks compares what this returns.
        if self._specs is None or self._specs[0] is not others:
            together = sorted((*others, self._tool.spec()), key=lambda spec: spec.name)
            self._specs = others, tuple(together)
        return self._specs[1]

    def needs_approval(self, name: str) -> bool:
        """Return whether the user must say yes before a tool runs."""
        return self._asks if name == NAME else self._others.needs_approval(name)

    async def call(
        self, name: str, arguments: Mapping[str, Any], *, caller: ToolCaller
    ) -> ToolResult:
        """Run a tool; a failure is a result whose text says so.

        Cancellation: reaches the tool; a process that was started goes on.
        """
        if name == NAME:
            return await self._tool.call(caller, arguments)

        return await self._others.call(name, arguments, caller=caller)


@dataclass(frozen=True, slots=True)
class Patterns:
    """A `ToolChoice`."""

    allow: Sequence[str]
    deny: Sequence[str]
    ask: Sequence[str]


def of_servers(choice: ToolChoice) -> Patterns:
    """Return a choice without the name of this tool, which no server brings."""
    lists = (choice.allow, choice.deny, choice.ask)
    return Patterns(*([name for name in names if name.lower() != NAME] for names in lists))


def with_processes(
    others: Others, registry: ProcessRegistry, choice: ToolChoice
) -> Others | ToolboxWithProcesses:
    """Return an agent's toolbox, with the tool `process` if it may use it.

    It may where processes are on, and its `allow` names the tool itself: `*` gives nobody a shell.
    """
    named = any(name.lower() == NAME for name in choice.allow)
    if not (registry.settings.enabled and named) or _matches(choice.deny):
        return others

    return ToolboxWithProcesses(others, ProcessTool(registry), choice.ask)


def _matches(patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(NAME, pattern.lower()) for pattern in patterns)
