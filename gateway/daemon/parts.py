"""The parts of a gateway: opened in order, wired to each other, and shown to the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway import __version__
from gateway.access.gate import Access
from gateway.access.pairing import Pairing
from gateway.access.tokens import ClientTokens
from gateway.agents.base import Agent
from gateway.agents.registry import open_agents
from gateway.api.agents import facts_of
from gateway.api.app import build_app
from gateway.api.context import ApiContext
from gateway.api.token import bearer_token
from gateway.channels.hooks import HookedChannel
from gateway.channels.running import Channels, open_channels
from gateway.clock import Clock
from gateway.commands.backgrounds import Backgrounds
from gateway.commands.carrying_out import Commands
from gateway.commands.door import Door
from gateway.commands.following import Followers
from gateway.config import GatewayConfig, Routes
from gateway.config.credentials import same_as_token
from gateway.daemon.announcing import announced
from gateway.delivery.delivery import Delivery
from gateway.durable.database import Database
from gateway.durable.directory import StateDirectory, hold
from gateway.errors import ConfigurationError
from gateway.log import set_level
from gateway.model import AgentId
from gateway.processes.registry import ProcessRegistry
from gateway.processes.toolbox import of_servers, with_processes
from gateway.retention.discarding import discard_old
from gateway.retention.pruning import ItemPruning
from gateway.retention.surroundings import TurnHooks
from gateway.sessions.snapshots import dashboard_group_id, discard_leftovers
from gateway.sessions.store import SessionStore
from gateway.tools.toolbox import McpServers, open_servers
from gateway.turns.item_summaries import ItemSummaries
from gateway.turns.pipeline import Turns
from gateway.watcher import ExpiryWatcher, RetentionLimits
from gateway.webhooks.webhooks import Webhooks

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    import anyio
    from starlette.types import ASGIApp

    from gateway.agents.settings import AgentToolSettings
    from gateway.agents.tools import Toolbox

DATABASE: Final = "gateway.db"
ARCHIVE: Final = "archive"


@dataclass(slots=True)
class Parts:
    """The open parts of a gateway, and the configuration in force."""

    config: GatewayConfig
    clock: Clock
    directory: StateDirectory
    token: str
    database: Database
    store: SessionStore
    processes: ProcessRegistry
    access: Access
    tokens: ClientTokens
    channels: Channels
    delivery: Delivery
    servers: McpServers
    """Where tools come from."""
    agents: Mapping[AgentId, Agent]
    """Those that are open."""
    turns: Turns
    pruning: ItemPruning
    watcher: ExpiryWatcher
    door: Door
    followers: Followers
    webhooks: Webhooks
    url: str = ""
    stopping: bool = False

    def reconfigure(self, config: GatewayConfig) -> None:
        """Apply a configuration whose differences can all be applied live."""
        self.config = config
        set_level(config.log.level)
        self.store.snapshots.configure(config.store)
        self.watcher.limits = limits_of(config)
        routes = Routes(config.routes, config.default_agent)
        self.turns.budgets.settings = config.budgets
        self.access.settings = config.access
        self.delivery.settings = config.delivery
        self.pruning.reconfigure(config.pruning)
        self.turns.configure(config.turns, config.sessions, config.context, routes.agent_for)


def _own_token(config: GatewayConfig, directory: StateDirectory) -> str:
    """Return the token of the API, which is no other secret of the configuration.

    Raises:
        ConfigurationError: it is one.
    """
    token = bearer_token(config.http, directory.path)
    shared = same_as_token(config, token)
    if shared:
        raise ConfigurationError(shared)

    return token


async def open_parts(
    stack: AsyncExitStack, config: GatewayConfig, clock: Clock, *, answers: bool
) -> Parts:
    """Open all parts of a state directory, which is taken first; the stack closes them in reverse.

    Args:
        stack: Holds what is open.
        config: Which parts there are.
        clock: Both clocks.
        answers: Whether tool servers and agents are opened; without them nothing can be answered.

    Raises:
        AlreadyRunningError: a daemon, or another command, holds the directory.
    """
    # Taken before anything is started that another daemon may have.
    directory = stack.enter_context(
        hold(
            config.state_dir,
            started_at=clock.now(),
            dashboard_group_id=dashboard_group_id(config.store),
        )
    )
    token = _own_token(config, directory)
    discard_leftovers(directory)
    database = await stack.enter_async_context(Database.open(directory.path / DATABASE, clock))
    store = await stack.enter_async_context(
        SessionStore.open(directory, database, clock, config.store)
    )
    processes = ProcessRegistry(database, clock, config.processes, directory.path)
    access = Access(config.access, await Pairing.load(database, clock), clock)
    tokens = await ClientTokens.load(database, clock)
    channels = open_channels(config.channels, config.state_dir, clock)
    delivery = Delivery(database, clock, config.delivery, channels)
    servers, agents = McpServers(()), dict[AgentId, Agent]()
    if answers:
        servers = await stack.enter_async_context(open_servers(config.tools, clock))

        def toolbox_for(choice: AgentToolSettings) -> Toolbox:
            return with_processes(servers.toolbox_for(of_servers(choice)), processes, choice)

        opening = open_agents(config.agents, clock, toolbox_for)
        agents = dict(await stack.enter_async_context(opening))
    routes = Routes(config.routes, config.default_agent)
    turns = Turns(database, store, agents, routes.agent_for, clock, config.turns, config.sessions)
    discard = partial(discard_old, database, clock, access.pairing)
    summaries = ItemSummaries(database, store, turns.answering, turns.budgets, turns.contexts)
    pruning = ItemPruning(
        database,
        clock,
        config.pruning,
        directory.path / ARCHIVE,
        summarizer=summaries if answers else None,
        turns=TurnHooks(turns.live_session_ids, turns.items_changed, turns.changed.measure),
    )
    watcher = ExpiryWatcher(store, database, clock, limits_of(config), discard, pruning)
    backgrounds = Backgrounds(processes, store, turns, clock)
    commands = Commands(database, store, turns, backgrounds, clock)
    followers = Followers(channels, clock, delivery)
    door = Door(database, store, turns, access, commands, clock)
    webhooks = announced(Webhooks(database, clock, config.webhooks), store, turns)

    turns.contexts.settings = config.context
    turns.contexts.telling.post = watcher.post_context
    turns.contexts.telling.view = watcher.view
    turns.budgets.settings = config.budgets
    turns.answering.fallbacks = {
        AgentId(name): [AgentId(other) for other in agent.fallback]
        for name, agent in config.agents.items()
    }
    turns.hooks.on_replied = delivery.wake
    store.is_busy = turns.is_busy
    store.on_dropped = turns.forget
    store.has_active_processes = processes.has_active_for_session
    processes.on_ended = backgrounds.tell_end
    turns.hooks.on_begun = followers.follow
    pruning.on_due = watcher.wake
    return Parts(
        config=config,
        clock=clock,
        directory=directory,
        token=token,
        database=database,
        store=store,
        processes=processes,
        access=access,
        tokens=tokens,
        channels=channels,
        delivery=delivery,
        servers=servers,
        agents=agents,
        turns=turns,
        pruning=pruning,
        watcher=watcher,
        door=door,
        followers=followers,
        webhooks=webhooks,
    )


def app_of(parts: Parts, stop: anyio.Event) -> ASGIApp:
    """Return the API of the parts.

    Args:
        parts: What it works on.
        stop: Set once the daemon stops.
    """
    hooked = [channel for channel in parts.channels if isinstance(channel, HookedChannel)]
    return build_app(
        ApiContext(
            door=parts.door,
            turns=parts.turns,
            store=parts.store,
            database=parts.database,
            watcher=parts.watcher,
            processes=parts.processes,
            pruning=parts.pruning,
            pairing=parts.access.pairing,
            delivery=parts.delivery,
            webhooks=parts.webhooks,
            clock=parts.clock,
            settings=parts.config.http,
            token=parts.token,
            tokens=parts.tokens,
            turn_settings=lambda: parts.config.turns,
            started_at=parts.clock.now(),
            version=__version__,
            stop=stop,
            agents=lambda: facts_of(parts.config.agents, parts.agents),
            channels=parts.channels.statistics,
            hooks=lambda: hooked,
            servers=parts.servers.statistics,
            live=lambda: parts.watcher.limits,
            extra_status=lambda: {
                "url": parts.url,
                "state_dir": str(parts.directory.path),
                "processes": len(parts.processes),
                "processes_enabled": parts.processes.settings.enabled,
                "stopping": parts.stopping,
            },
        )
    )


def limits_of(config: GatewayConfig) -> RetentionLimits:
    """Return what a configuration lets the store keep."""
    return RetentionLimits(config.session_store_max_age_days, config.session_store_max_entries)
