"""All servers of the gateway, and what an agent is given of their tools.

An agent is offered only what its own table allows, and can call nothing else, whatever name a model
makes up.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio

from gateway.errors import ConfigurationError
from gateway.log import get_logger
from gateway.model import ToolResult, ToolSpec, clean_name
from gateway.tools.connection import ListedTool, Target
from gateway.tools.names import offered_names, plain_name
from gateway.tools.server import McpServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence

    from gateway.clock import Clock
    from gateway.model import ToolCaller
    from gateway.tools.connection import Connect
    from gateway.tools.server import ServerStatistics
    from gateway.tools.settings import ToolsSettings


READY_WAIT_S: Final = 5.0
"""How long servers may take before the daemon takes messages without them."""

log = get_logger()


class ToolChoice(Protocol):
    """Which tools an agent may use: name patterns with `*` and `?`, in any case."""

    @property
    def allow(self) -> Sequence[str]:
        """Tools that it is offered; empty: none."""
        ...

    @property
    def deny(self) -> Sequence[str]:
        """Tools that it is not offered although `allow` names them."""
        ...

    @property
    def ask(self) -> Sequence[str]:
        """Tools that need the user's yes."""
        ...


@asynccontextmanager
async def open_servers(settings: ToolsSettings, clock: Clock) -> AsyncGenerator[McpServers]:
    """Hold the configured servers, and stop them at the end.

    It comes up once each server has started or failed to, at the latest after `READY_WAIT_S`; one
    that comes later is taken in then, and one that does not start is logged and tried again.

    Raises:
        ConfigurationError: A secret or the SDK cannot be had; all problems are told at once.
    """
    targets = _targets(settings)
    if not targets:
        yield McpServers(())
        return

    connect = _connector(clock)
    servers = McpServers([McpServer(target, connect, clock) for target in targets])
    async with anyio.create_task_group() as tasks:
        for server in servers:
            tasks.start_soon(server.run)
        await servers.settle(clock)
        tasks.start_soon(servers.tell_unused_patterns)
        yield servers
        tasks.cancel_scope.cancel()


class McpServers:
    """The servers there are."""

    def __init__(self, servers: Sequence[McpServer]) -> None:
        """Take them; somebody else runs them."""
        self._servers = tuple(servers)
        self._choices: list[ToolChoice] = []
        self._told: set[tuple[str, str]] = set()
        """Lists and patterns that were told to match nothing."""

    def __iter__(self) -> Iterator[McpServer]:
        """Go through them in the order of the configuration."""
        return iter(self._servers)

    def toolbox_for(self, choice: ToolChoice) -> AgentToolbox:
        """Return what an agent is given."""
        self._choices.append(choice)
        if all(server.listed.is_set() for server in self._servers):
            self._tell_unused(choice)
        return AgentToolbox(self._servers, choice)

    def statistics(self) -> tuple[ServerStatistics, ...]:
        """Return what is known of each server, in the order of the configuration."""
        return tuple(server.statistics() for server in self._servers)

    async def settle(self, clock: Clock) -> None:
        """Wait until each has started or failed to, but not for long; log who still starts."""
        with clock.move_on_after(READY_WAIT_S):
            for server in self._servers:
                await server.settled.wait()
        starting = [server.name for server in self._servers if not server.settled.is_set()]
        if starting:
            log.warning("tools.still_starting", servers=starting, waited_s=READY_WAIT_S)

    async def tell_unused_patterns(self) -> None:
        """Log each pattern of an agent that matches no tool, once all servers have told theirs."""
        for server in self._servers:
            await server.listed.wait()
        for choice in self._choices:
            self._tell_unused(choice)

    def _tell_unused(self, choice: ToolChoice) -> None:
        tools = [names for server in self._servers for names in _names(server)]
        for key in ("allow", "deny", "ask"):
            for pattern in getattr(choice, key):
                matches = any(_matches([pattern], names.of(key)) for names in tools)
                if not matches and (key, pattern) not in self._told:
                    self._told.add((key, pattern))
                    log.warning("tools.pattern_unused", list=key, pattern=pattern)


@dataclass(frozen=True, slots=True)
class _Names:
    """A tool, and by which names patterns find it."""

    tool: ListedTool
    offered: str
    as_told: str
    """As its server names it."""
    alone: str
    """The name it would have alone: another tool that takes it must not open a door."""

    def of(self, key: str) -> tuple[str, ...]:
        """Return the names that count for `allow`, `deny` or `ask`."""
        given = (self.offered, self.as_told)
        return given if key == "allow" else (*given, self.alone)


def _names(server: McpServer) -> Iterator[_Names]:
    """Yield the tools of a server with their names, a name that stands twice as it came first."""
    names = offered_names(server.name, [tool.name for tool in server.tools])
    for tool in {tool.name: tool for tool in reversed(server.tools)}.values():
        as_told = f"{server.name}_{tool.name}"
        yield _Names(tool, names[tool.name], as_told, plain_name(server.name, tool.name))


@dataclass(frozen=True, slots=True)
class _Offer:
    """A tool that an agent is offered."""

    server: McpServer
    tool: ListedTool
    spec: ToolSpec
    asks: bool


class AgentToolbox:
    """The tools of one agent; a `Toolbox` of `gateway.agents.tools`."""

    def __init__(self, servers: Sequence[McpServer], choice: ToolChoice) -> None:
        """Choose among the tools that the servers have, now and later."""
        self._servers = tuple(servers)
        self._choice = choice
        self._seen: tuple[tuple[ListedTool, ...], ...] | None = None
        self._offers: dict[str, _Offer] = {}
        self._specs: tuple[ToolSpec, ...] = ()

    def specs(self) -> Sequence[ToolSpec]:
        """Return what the agent is offered, sorted by name.

        While a server is away, its last known tools stay: a prompt cache begins with them.
        """
        self._refresh()
        return self._specs

    def needs_approval(self, name: str) -> bool:
        """Return whether the user must say yes before a tool runs; the name alone may tell it."""
        offer = self._refresh().get(name)
        return _matches(self._choice.ask, [name]) if offer is None else offer.asks

    async def call(
        self, name: str, arguments: Mapping[str, Any], *, caller: ToolCaller
    ) -> ToolResult:
        """Run a tool; a failure is a result whose text says so.

        Cancellation: reaches the tool.
        """
        offer = self._refresh().get(name)
        if offer is None:
            return ToolResult(f"There is no tool named {clean_name(name)}.")

        return await offer.server.call(offer.tool.name, arguments)

    def _refresh(self) -> Mapping[str, _Offer]:
        """Return what is offered, chosen anew where a server's tools have changed."""
        seen = tuple(server.tools for server in self._servers)
        # By identity: a server keeps its tuple until its tools change.
        if self._seen is None or any(a is not b for a, b in zip(seen, self._seen, strict=True)):
            self._seen = seen
            offers = [offer for server in self._servers for offer in self._chosen(server)]
            self._offers = {
                offer.spec.name: offer for offer in sorted(offers, key=lambda one: one.spec.name)
            }
            self._specs = tuple(offer.spec for offer in self._offers.values())
        return self._offers

    def _chosen(self, server: McpServer) -> Iterator[_Offer]:
        for names in _names(server):
            allowed = _matches(self._choice.allow, names.of("allow"))
            if allowed and not _matches(self._choice.deny, names.of("deny")):
                spec = ToolSpec(names.offered, names.tool.description, names.tool.schema)
                yield _Offer(server, names.tool, spec, _matches(self._choice.ask, names.of("ask")))


def _matches(patterns: Iterable[str], names: Iterable[str]) -> bool:
    known = [name.lower() for name in names]
    return any(fnmatchcase(name, pattern.lower()) for pattern in patterns for name in known)


def _targets(settings: ToolsSettings) -> list[Target]:
    targets: list[Target] = []
    problems: list[str] = []
    for name, server in settings.servers.items():
        try:
            targets.append(Target.of(name, server))
        except ConfigurationError as exc:
            problems.extend(exc.problems)
    if problems:
        raise ConfigurationError(problems)

    return targets


def _connector(clock: Clock) -> Connect:
    try:
        from gateway.tools.client import SdkConnector  # noqa: PLC0415 - imports the SDK, an extra
    except ImportError as exc:
        problem = (
            f"the mcp SDK cannot be imported ({exc}); pip install '.[mcp]' in the checkout of "
            "session-gateway brings it"
        )
        raise ConfigurationError([f"tools.servers: {problem}"]) from exc

    return SdkConnector(clock).connect
