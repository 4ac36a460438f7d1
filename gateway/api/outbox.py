"""Replies to channels over HTTP: listed, shown, sent again, given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from gateway.api.answers import json_response
from gateway.api.form import query_form
from gateway.errors import NotFoundError
from gateway.sessions.key import parse_key
from gateway.transcripts import outbox_rows
from gateway.transcripts.outbox_rows import OutboxRow, OutboxState

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gateway.api.context import ApiContext

MAX_LIMIT: Final = 1_000
"""The most replies in one answer."""
DEFAULT_LIMIT: Final = 100
_MAX_POSITION: Final = 2**63 - 1


def outbox_routes(context: ApiContext) -> list[Route]:
    """Return the routes of replies to channels."""
    outbox = OutboxRoutes(context)
    one = "/v1/outbox/{id}"
    return [
        Route("/v1/outbox", outbox.list_page, methods=["GET"]),
        Route(one, outbox.show_or_drop, methods=["GET", "DELETE"]),
        Route(f"{one}/retry", outbox.retry, methods=["POST"]),
    ]


class OutboxRoutes:
    """Shows replies to channels, and has them sent again or given up."""

    def __init__(self, context: ApiContext) -> None:
        """Read the context's database; change through its delivery."""
        self._database = context.database
        self._delivery = context.delivery

    async def list_page(self, request: Request) -> Response:
        """Answer with a page, and the cursor of the next; null after the last.

        What is owed and what is dead come the oldest first, what was sent the newest first.
        """
        form = query_form(request)
        state = form.choice("state", OutboxState.OWED)
        key = form.text("session_key")
        cursor = form.written_number("cursor", least=0, most=_MAX_POSITION, default=0)
        limit = form.written_number("limit", least=1, most=MAX_LIMIT, default=DEFAULT_LIMIT)
        form.finish()
        if key:
            parse_key(key)

        rows = await self._database.read(
            lambda place: outbox_rows.page(place, state, key=key, cursor=cursor, limit=limit + 1)
        )
        more, rows = len(rows) > limit, rows[:limit]
        return json_response(
            {
                "replies": [_shown(row) for row in rows],
                "next_cursor": str(rows[-1].position) if more else None,
            }
        )

    async def show_or_drop(self, request: Request) -> Response:
        """Answer with a reply and its text, or give it up; a dead one is deleted."""
        query_form(request).finish()
        delivery_id = request.path_params["id"]
        if request.method == "DELETE":
            row = await self._delivery.drop(delivery_id)
            deleted = row is None
            return json_response(
                {"id": delivery_id, "state": None if row is None else row.state, "deleted": deleted}
            )

        found = await self._database.read(lambda place: outbox_rows.find(place, delivery_id))
        if found is None:
            raise NotFoundError("There is no such reply to a channel.")

        return json_response(_shown(found) | {"text": found.text})

    async def retry(self, request: Request) -> Response:
        """Have a reply sent that is owed or dead, and answer with it."""
        query_form(request).finish()
        return json_response(_shown(await self._delivery.retry(request.path_params["id"])))


def _shown(row: OutboxRow) -> dict[str, object]:
    target = row.target
    return {
        "id": row.delivery_id,
        "state": row.state,
        "status": row.status or None,
        "session_key": row.session_key,
        "platform": target.platform,
        "account": target.account,
        "chat_id": target.chat_id,
        "thread_id": target.thread_id,
        "user_id": target.user_id,
        "message_id": row.reply_to or None,
        "text_chars": len(row.text),
        "sent_chars": row.sent_chars,
        "created_at": row.created_at,
        "owed_since": row.owed_since,
        "attempts": row.attempts,
        "may_have_been_sent": row.sending_at is not None or row.repeated > 0,
        "sent_at": row.sent_at,
        "dead_at": row.dead_at,
        "error": row.error or None,
        "platform_id": row.platform_id or None,
    }
