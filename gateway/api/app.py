"""Puts the API together: its routes, and the guard before them.

Each group of routes has a module of its own. The daemon, above, makes an `ApiContext` of its parts
and hands the app to `gateway.api.server`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Router

from gateway.api.guard import Guard
from gateway.api.hooks import hook_routes
from gateway.api.messages import message_routes
from gateway.api.openai.routes import openai_routes
from gateway.api.operations import operation_routes
from gateway.api.outbox import outbox_routes
from gateway.api.pairing import pairing_routes
from gateway.api.processes import process_routes
from gateway.api.pruning import pruning_routes
from gateway.api.session_context import session_context_routes
from gateway.api.sessions import session_routes
from gateway.api.tokens import token_routes
from gateway.api.usage import usage_routes
from gateway.api.webhooks import webhook_routes

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from gateway.api.context import ApiContext


def build_app(context: ApiContext) -> ASGIApp:
    """Return the API as one ASGI application."""
    routes = [
        *message_routes(context),
        *session_routes(context),
        *session_context_routes(context),
        *usage_routes(context),
        *process_routes(context),
        *pruning_routes(context),
        *pairing_routes(context),
        *outbox_routes(context),
        *webhook_routes(context),
        *operation_routes(context),
        *token_routes(context),
        *openai_routes(context),
        *hook_routes(context),
    ]
    router = Router(routes, redirect_slashes=False)
    return Guard(router, context.settings, context.token, context.clock, context.tokens.owner)
