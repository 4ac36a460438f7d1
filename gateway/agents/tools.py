"""What the tool loop calls tools through, whoever runs them.

Knows no server and no model. An agent has a toolbox of its own: what is in it, it was given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from gateway.model import ToolResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.model import ToolCaller, ToolSpec


class Toolbox(Protocol):
    """The tools of one agent."""

    def specs(self) -> Sequence[ToolSpec]:
        """Return what the agent is offered, sorted by name.

        The same from one request to the next as far as can be: a prompt cache begins with it.
        """
        ...

    def needs_approval(self, name: str) -> bool:
        """Return whether the user must say yes before a tool runs."""
        ...

    async def call(
        self, name: str, arguments: Mapping[str, Any], *, caller: ToolCaller
    ) -> ToolResult:
        """Run a tool; a failure is a result whose text says so, never an error.

        Cancellation: reaches the tool.

        Args:
            name: Of those that `specs` offers.
            arguments: As the model gave them.
            caller: In whose conversation it runs.
        """
        ...


class NoTools:
    """The toolbox of an agent that was given none."""

    def specs(self) -> Sequence[ToolSpec]:
        """Return nothing."""
        return ()

    def needs_approval(self, name: str) -> bool:
        """Return True: what is not there runs for nobody."""
        return True

    async def call(
        self, name: str, arguments: Mapping[str, Any], *, caller: ToolCaller
    ) -> ToolResult:
        """Say that there is no such tool."""
        return ToolResult(f"There is no tool {name!r}.")
