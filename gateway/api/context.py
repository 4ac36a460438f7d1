"""What the routes of the API work on; the daemon, above, fills it with its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import anyio

from gateway.agents.base import AgentFacts
from gateway.api.settings import HttpSettings
from gateway.clock import Clock
from gateway.durable.database import Database
from gateway.model import AgentId
from gateway.sessions.store import SessionStore
from gateway.tools.server import ServerStatistics
from gateway.turns.pipeline import Turns
from gateway.watcher import ExpiryWatcher, RetentionLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiContext:
    """What the API works on."""

    turns: Turns
    store: SessionStore
    database: Database
    watcher: ExpiryWatcher
    clock: Clock
    settings: HttpSettings
    token: str
    """The bearer token."""
    version: str
    started_at: datetime
    stop: anyio.Event
    """Set once the daemon stops; the one that `serve` gets."""
    agents: Callable[[], Mapping[AgentId, AgentFacts]]
    """Who answers, by id, as they are now."""
    servers: Callable[[], Sequence[ServerStatistics]]
    """The tool servers, as they are now."""
    live: Callable[[], RetentionLimits]
    """What the store may keep now."""
    extra_status: Callable[[], Mapping[str, object]]
    """What `/v1/status` shows besides."""
