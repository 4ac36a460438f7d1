"""What model calls have used, over HTTP: sums by day, agent, model or user."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from starlette.routing import Route

from gateway.api.answers import json_response, shown_usd
from gateway.api.form import query_form
from gateway.transcripts.usage import UsageBy, UsageRow, read, total

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gateway.api.context import ApiContext
    from gateway.durable.batch import Queries

MAX_LIMIT: Final = 1_000
"""The most sums in one answer."""
DEFAULT_LIMIT: Final = 100


def usage_routes(context: ApiContext) -> list[Route]:
    """Return the route of what was used."""
    return [Route("/v1/usage", UsageSums(context).show, methods=["GET"])]


class UsageSums:
    """Shows what was used; changes nothing."""

    def __init__(self, context: ApiContext) -> None:
        """Read the context's database."""
        self._database = context.database

    async def show(self, request: Request) -> Response:
        """Answer with sums, and with the total over all of them, those not listed included."""
        form = query_form(request)
        by = form.choice("by", UsageBy.DAY)
        since, until = form.day("since"), form.day("until")
        limit = form.written_number("limit", least=1, most=MAX_LIMIT, default=DEFAULT_LIMIT)
        if since and until and until < since:
            form.refuse("until", f"a day from since, {since}, on")
        form.finish()

        def query(connection: Queries) -> tuple[list[UsageRow], UsageRow]:
            rows = read(connection, by=by, since=since, until=until, limit=limit + 1)
            return rows, total(connection, since=since, until=until)

        rows, over_all = await self._database.read(query)
        summed = _shown(over_all)
        del summed["name"]
        return json_response(
            {
                "by": by,
                "since": since or None,
                "until": until or None,
                "rows": [_shown(row) for row in rows[:limit]],
                "total": summed,
                "more": len(rows) > limit,
            }
        )


def _shown(row: UsageRow) -> dict[str, Any]:
    return asdict(row) | {"usd": shown_usd(row.usd)}
