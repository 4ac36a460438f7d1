"""What a server and its connection tell each other. Knows neither SDK nor transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from gateway.errors import ConfigurationError
from gateway.model import ToolResult
from gateway.settings import SecretError
from gateway.tools.settings import McpServerSettings

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from gateway.settings import SecretSource


@dataclass(frozen=True, slots=True)
class Target:
    """A server and all that is needed to reach it."""

    name: str
    settings: McpServerSettings
    secret_env: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, name: str, settings: McpServerSettings) -> Target:
        """Resolve the secrets of a server.

        Raises:
            ConfigurationError: Some cannot be had or used; all problems are told at once.
        """
        problems: list[str] = []
        found: dict[str, dict[str, str]] = {}
        for key, sources in (("secret_env", settings.secret_env), ("headers", settings.headers)):
            found[key] = {}
            for item, source in sources.items():
                try:
                    found[key][item] = _secret(source, one_line=key == "headers")
                except SecretError as exc:
                    problems.append(f"tools.servers.{name}.{key}.{item}: {exc}")
        if problems:
            raise ConfigurationError(problems)

        return cls(name, settings, found["secret_env"], found["headers"])


@dataclass(frozen=True, slots=True)
class ListedTool:
    """A tool as its server describes it."""

    name: str
    description: str
    schema: Mapping[str, Any]
    """The JSON Schema of its arguments, an object."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended."""

    result: ToolResult
    failed: bool = False


class Watch:
    """What a connection tells its server: that it has ended, or that it should be looked at."""

    def __init__(self) -> None:
        """Begin with a connection that is well."""
        self.reason = ""
        """Why the connection is of no more use; the first reason stays."""
        self.hint = ""
        """What may explain that it cannot be had."""
        self.over = anyio.Event()
        """Set once the connection is of no more use."""
        self._woken = anyio.Event()

    @property
    def ended(self) -> bool:
        """Whether the connection is of no more use."""
        return self.over.is_set()

    def end(self, reason: str) -> None:
        """Note that the connection is of no more use."""
        self.reason = self.reason or reason
        self.over.set()
        self._woken.set()

    def look(self) -> None:
        """Note that its tools may have changed, or that it may answer no more."""
        self._woken.set()

    async def wait(self) -> None:
        """Return once there was a note since this returned last."""
        await self._woken.wait()
        self._woken = anyio.Event()


class CallError(Exception):
    """The call has no result; the text says why, for a model to read."""


class BrokenCallError(CallError):
    """The connection broke off during the call, and may be of no more use; the text says how."""


class SessionEndedError(CallError):
    """The server knows our session no more, and has run nothing."""


class Connection(Protocol):
    """A server that answers."""

    async def list_tools(self) -> list[ListedTool]:
        """Return all tools, within bounds.

        Raises:
            CallError: The server answered an error.
            BrokenCallError: It may not answer any more.
            SessionEndedError: It knows our session no more.
        """
        ...

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Outcome:
        """Run a tool.

        Cancellation: the server is told, and may or may not heed it.

        Raises:
            CallError: There is no result.
            BrokenCallError: There is none, and the server may not answer any more.
            SessionEndedError: The server ran nothing, for it knows our session no more.
        """
        ...


class Connect(Protocol):
    """Connects to a server."""

    def __call__(
        self, target: Target, watch: Watch, *, legacy: bool
    ) -> AbstractAsyncContextManager[Connection]:
        """Return what holds a connection to a server on which both sides agree on a version.

        Args:
            target: The server.
            watch: Is told what happens to the connection.
            legacy: By the older handshake alone, for a server that the question for the newer one
                confuses.
        """
        ...


def _secret(source: SecretSource, *, one_line: bool) -> str:
    secret = source.resolve()
    if "\0" in secret or (one_line and not (secret.isascii() and secret.isprintable())):
        # Such a value cannot stand in a header, and the error of who tries would show it.
        accepted = "one line of printable ASCII" if one_line else "a text without NUL"
        raise SecretError(f"not usable here; accepted is {accepted}")

    return secret
