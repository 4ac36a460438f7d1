"""Puts the API together: what it needs, its routes, and the guard before them.

Each group of routes has a module of its own. The daemon, above, makes an `ApiContext` of its parts
and hands the app to `gateway.api.server`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import anyio
from starlette.routing import Router

from gateway.api.guard import Guard
from gateway.api.messages import message_routes
from gateway.api.operations import operation_routes
from gateway.api.sessions import session_routes
from gateway.api.settings import HttpSettings
from gateway.clock import Clock
from gateway.durable.database import Database
from gateway.sessions.store import SessionStore
from gateway.turns.pipeline import Turns
from gateway.watcher import ExpiryWatcher, RetentionLimits

if TYPE_CHECKING:
    from starlette.types import ASGIApp


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
    live: Callable[[], RetentionLimits]
    """What the store may keep now."""
    extra_status: Callable[[], Mapping[str, object]]
    """What `/v1/status` shows besides."""


def build_app(context: ApiContext) -> ASGIApp:
    """Return the API as one ASGI application."""
    routes = [
        *message_routes(context),
        *session_routes(context),
        *operation_routes(context),
    ]
    router = Router(routes, redirect_slashes=False)
    return Guard(router, context.settings, context.token, context.clock)
