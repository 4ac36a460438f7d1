"""Tokens of API clients over HTTP: made, listed, revoked, by the gateway's own token alone.

No answer but the one that makes a token holds its secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from gateway.api.answers import json_response
from gateway.api.bodies import read_form
from gateway.api.form import query_form

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gateway.access.tokens import ClientToken
    from gateway.api.context import ApiContext


def token_routes(context: ApiContext) -> list[Route]:
    """Return the routes of tokens."""
    tokens = TokenRoutes(context)
    return [
        Route("/v1/tokens", tokens.show, methods=["GET"]),
        Route("/v1/tokens", tokens.create, methods=["POST"]),
        Route("/v1/tokens/{name}", tokens.revoke, methods=["DELETE"]),
    ]


class TokenRoutes:
    """Shows and changes who may use the OpenAI-compatible routes."""

    def __init__(self, context: ApiContext) -> None:
        """Work on the context's tokens."""
        self._context = context
        self._tokens = context.tokens

    async def show(self, request: Request) -> Response:
        """Answer with all tokens, revoked ones included."""
        query_form(request).finish()
        return json_response({"tokens": [_shown(one) for one in await self._tokens.listing()]})

    async def create(self, request: Request) -> Response:
        """Make a token, and answer with its secret, this once."""
        query_form(request).finish()
        context = self._context
        form = await read_form(request.scope, request.receive, context.settings, context.clock)
        name, again = form.identifier("name", required=True), form.flag("again")
        form.finish()

        token, secret = await self._tokens.create(name, again=again)
        return json_response(_shown(token) | {"token": secret}, 201)

    async def revoke(self, request: Request) -> Response:
        """End a token, and answer with what ended."""
        query_form(request).finish()
        return json_response(_shown(await self._tokens.revoke(request.path_params["name"])))


def _shown(token: ClientToken) -> dict[str, object]:
    return {
        "name": token.name,
        "created_at": token.created_at,
        "last_used_at": token.last_used_at,
        "revoked_at": token.revoked_at,
    }
