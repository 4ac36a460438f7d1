"""Events for webhooks over HTTP: what waits, what was given up, and posting it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from gateway.api.answers import json_response
from gateway.api.bodies import read_form
from gateway.api.form import query_form
from gateway.errors import BadRequestError
from gateway.webhooks.rows import EventState

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gateway.api.context import ApiContext
    from gateway.webhooks.rows import EventRow

MAX_LIMIT: Final = 1_000
"""The most events in one answer."""
DEFAULT_LIMIT: Final = 100
MAX_RETRIED: Final = 1_000
"""The most events that one request has posted again by their ids."""
_MAX_POSITION: Final = 2**63 - 1


def webhook_routes(context: ApiContext) -> list[Route]:
    """Return the routes of webhooks."""
    webhooks = WebhookRoutes(context)
    return [
        Route("/v1/webhooks", webhooks.show, methods=["GET"]),
        Route("/v1/webhooks/retry", webhooks.retry, methods=["POST"]),
    ]


class WebhookRoutes:
    """Shows webhooks and their events, and has events posted again."""

    def __init__(self, context: ApiContext) -> None:
        """Work on the context's webhooks."""
        self._context = context
        self._webhooks = context.webhooks

    async def show(self, request: Request) -> Response:
        """Answer with all webhooks and a page of events, the oldest first."""
        form = query_form(request)
        state = form.choice("state", EventState.DEAD)
        webhook = form.name("webhook") or ""
        cursor = form.written_number("cursor", least=0, most=_MAX_POSITION, default=0)
        limit = form.written_number("limit", least=1, most=MAX_LIMIT, default=DEFAULT_LIMIT)
        form.finish()

        await self._webhooks.count()
        rows = await self._webhooks.page(state, webhook=webhook, cursor=cursor, limit=limit + 1)
        more, rows = len(rows) > limit, rows[:limit]
        return json_response(
            {
                "webhooks": self._webhooks.statistics(),
                "events": [_shown(row) for row in rows],
                "next_cursor": str(rows[-1].position) if more else None,
            }
        )

    async def retry(self, request: Request) -> Response:
        """Have events posted again: some by their ids, or all of a webhook."""
        query_form(request).finish()
        context = self._context
        form = await read_form(request.scope, request.receive, context.settings, context.clock)
        ids, webhook = form.identifiers("ids", most=MAX_RETRIED), form.name("webhook")
        form.finish()
        if bool(ids) == bool(webhook):
            raise BadRequestError("Accepted is one of ids and webhook.")

        if webhook:
            retried = await self._webhooks.retry_all(webhook)
        else:
            retried = await self._webhooks.retry(ids)
        return json_response({"retried": retried})


def _shown(row: EventRow) -> dict[str, object]:
    return {
        "id": row.event_id,
        "webhook": row.webhook,
        "type": row.kind,
        "state": row.state,
        "session_key": row.session_key,
        "created_at": row.created_at,
        "due_at": row.due_at if row.dead_at is None else None,
        "attempts": row.attempts,
        "error": row.error or None,
        "dead_at": row.dead_at,
    }
