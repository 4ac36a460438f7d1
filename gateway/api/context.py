"""What the routes of the API work on; the daemon, above, fills it with its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import anyio

from gateway.access.pairing import Pairing
from gateway.access.tokens import ClientTokens
from gateway.agents.base import AgentFacts
from gateway.api.settings import HttpSettings
from gateway.channels.hooks import HookedChannel
from gateway.channels.running import ChannelStatistics
from gateway.clock import Clock
from gateway.commands.door import Door
from gateway.delivery.delivery import Delivery
from gateway.durable.database import Database
from gateway.model import AgentId
from gateway.processes.registry import ProcessRegistry
from gateway.retention.pruning import ItemPruning
from gateway.sessions.store import SessionStore
from gateway.tools.server import ServerStatistics
from gateway.turns.pipeline import Turns
from gateway.turns.settings import TurnSettings
from gateway.watcher import ExpiryWatcher, RetentionLimits
from gateway.webhooks.webhooks import Webhooks


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiContext:
    """What the API works on."""

    door: Door
    """The way in for messages."""
    turns: Turns
    store: SessionStore
    database: Database
    watcher: ExpiryWatcher
    processes: ProcessRegistry
    pruning: ItemPruning
    pairing: Pairing
    delivery: Delivery
    webhooks: Webhooks
    clock: Clock
    settings: HttpSettings
    token: str
    """The gateway's own bearer token."""
    tokens: ClientTokens
    """Those of OpenAI-compatible clients."""
    version: str
    started_at: datetime
    stop: anyio.Event
    """Set once the daemon stops; the one that `serve` gets."""
    agents: Callable[[], Mapping[AgentId, AgentFacts]]
    """Who answers, by id, as they are now."""
    channels: Callable[[], Sequence[ChannelStatistics]]
    """The channels, as they are now."""
    hooks: Callable[[], Sequence[HookedChannel]] = tuple
    """The channels that are called."""
    servers: Callable[[], Sequence[ServerStatistics]]
    """The tool servers, as they are now."""
    turn_settings: Callable[[], TurnSettings]
    """The bounds on turns now; calls without a session keep to them too."""
    live: Callable[[], RetentionLimits]
    """What the store may keep now."""
    extra_status: Callable[[], Mapping[str, object]]
    """What `/v1/status` shows besides."""
