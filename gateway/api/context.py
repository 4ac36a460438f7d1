"""What the routes of the API work on; the daemon, above, fills it with its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import anyio

from gateway.api.settings import HttpSettings
from gateway.clock import Clock
from gateway.durable.database import Database
from gateway.model import AgentId
from gateway.sessions.store import SessionStore
from gateway.turns.pipeline import Turns
from gateway.turns.preparing import AgentFacts
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
    agents: Mapping[AgentId, AgentFacts] = field(default_factory=dict)
    """Who answers, by id."""
    live: Callable[[], RetentionLimits]
    """What the store may keep now."""
    extra_status: Callable[[], Mapping[str, object]]
    """What `/v1/status` shows besides."""
