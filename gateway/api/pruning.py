"""Rules over stored items, over HTTP: planned, carried out, explained, given back, and told of.

A plan is kept for the one who asked for it, and is carried out by its id.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from anyio import to_thread
from starlette.routing import Route

from gateway.api.answers import json_response
from gateway.api.bodies import read_form
from gateway.api.form import query_form
from gateway.api.pruning_applying import DEFAULT_LIMIT, Applying, listed
from gateway.api.pruning_plans import PlanShelf
from gateway.api.pruning_shown import (
    MAX_LISTED,
    shown_entry,
    shown_explanation,
    shown_plan,
    shown_planned,
    shown_restored,
    shown_run,
)
from gateway.errors import BusyError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gateway.api.context import ApiContext
    from gateway.api.form import Form

PLAN_RETRY_S: Final = 3.0
"""When to come again where a plan is being made: one over a million items takes about as long."""
_MAX_POSITION: Final = 2**63 - 1


def pruning_routes(context: ApiContext) -> list[Route]:
    """Return the routes of pruning."""
    pruning = Pruning(context)
    return [
        Route("/v1/pruning/plan", pruning.plan, methods=["POST"]),
        Route("/v1/pruning/plans/{id}/items", pruning.planned, methods=["GET"]),
        Route("/v1/pruning/apply", Applying(context, pruning.shelf), methods=["POST"]),
        Route("/v1/pruning/runs", pruning.runs, methods=["GET"]),
        Route("/v1/pruning/runs/{id}", pruning.run, methods=["GET"]),
        Route("/v1/pruning/runs/{id}/items", pruning.of_run, methods=["GET"]),
        Route("/v1/pruning/history", pruning.history, methods=["GET"]),
        Route("/v1/pruning/items/{id}", pruning.explain, methods=["GET"]),
        Route("/v1/pruning/restore", pruning.restore, methods=["POST"]),
        Route("/v1/pruning/retry", pruning.retry, methods=["POST"]),
    ]


class Pruning:
    """Plans, explains, gives back, and tells what was done."""

    def __init__(self, context: ApiContext) -> None:
        """Work on the context's rules."""
        self.shelf = PlanShelf()
        self._context = context
        self._pruning = context.pruning
        self._planning = anyio.Lock()
        """Held while a plan is made."""

    async def plan(self, request: Request) -> Response:
        """Answer with what a run would do now; nothing is changed.

        One is made at a time; who asks meanwhile is told to come again.
        """
        limit = listed(request)
        form = await self._form(request)
        force, session = form.flag("force"), form.name("session")
        form.finish()

        if self._planning.locked():
            raise BusyError(
                "Another plan is being made; ask again in a moment.",
                retry_after_s=PLAN_RETRY_S,
                caller_limit=True,
            )

        async with self._planning:
            plan = await self._pruning.plan(force=force, session=session)
        self.shelf.put(plan)
        shown = await to_thread.run_sync(partial(shown_plan, plan, limit=limit))
        told = self._pruning.statistics()
        return json_response({"enabled": told.enabled, "rules": told.rules} | shown)

    async def planned(self, request: Request) -> Response:
        """Answer with a page of the items of a plan, and the cursor of the next."""
        form = query_form(request)
        cursor, limit = _page(form)
        form.finish()

        plan = self.shelf.get(str(request.path_params["id"]))
        return json_response(shown_planned(plan, cursor=cursor or 0, limit=limit))

    async def runs(self, request: Request) -> Response:
        """Answer with a page of runs, the newest first, and the cursor of the next.

        Their failures are counted only, and their sums by rule left out: all of a page would hold
        up the event loop.
        """
        form = query_form(request)
        cursor, limit = _page(form)
        form.finish()

        rows = await self._pruning.runs(limit=limit + 1, before=cursor)
        more, rows = len(rows) > limit, rows[:limit]
        return json_response(
            {
                "runs": [shown_run(row) for row in rows],
                "next_cursor": str(rows[-1].position) if more else None,
            }
        )

    async def run(self, request: Request) -> Response:
        """Answer with one run and all that is kept of it."""
        query_form(request).finish()

        row = await self._pruning.run(str(request.path_params["id"]))
        return json_response(shown_run(row))

    async def of_run(self, request: Request) -> Response:
        """Answer with a page of what one run did to items, the newest first."""
        form = query_form(request)
        cursor, limit = _page(form)
        form.finish()

        return await self._entries(cursor, limit, run=str(request.path_params["id"]))

    async def history(self, request: Request) -> Response:
        """Answer with a page of what was done to items, the newest first."""
        form = query_form(request)
        cursor, limit = _page(form)
        item, run, session = form.name("item"), form.name("run"), form.name("session")
        form.finish()

        return await self._entries(cursor, limit, item=item, run=run, session=session)

    async def explain(self, request: Request) -> Response:
        """Answer with why an item stays or goes, and when it is due."""
        form = query_form(request)
        force = form.word_flag("force")
        form.finish()

        explanation = await self._pruning.explain(str(request.path_params["id"]), force=force)
        return json_response(shown_explanation(explanation))

    async def restore(self, request: Request) -> Response:
        """Give back what was taken, and answer with what was, and what could not be.

        Cancellation: a client that goes away does not end it.
        """
        query_form(request).finish()
        form = await self._form(request)
        items = form.identifiers("items", most=MAX_LISTED)
        run, session = form.name("run"), form.name("session")
        if [bool(items), bool(run), bool(session)].count(True) != 1:
            form.refuse("items", "one of items, run and session")
        form.finish()

        restored = await self._pruning.restore(items=items, run=run, session=session)
        return json_response(shown_restored(restored))

    async def retry(self, request: Request) -> Response:
        """Let items be tried again that failed and are left alone: those named, or all."""
        query_form(request).finish()
        form = await self._form(request)
        items = form.identifiers("items", most=MAX_LISTED)
        form.finish()

        return json_response({"retried_count": self._pruning.retry(items)})

    async def _entries(
        self,
        cursor: int | None,
        limit: int,
        *,
        item: str | None = None,
        run: str | None = None,
        session: str | None = None,
    ) -> Response:
        rows = await self._pruning.history(
            limit=limit + 1, before=cursor, item=item, run=run, session=session
        )
        more, rows = len(rows) > limit, rows[:limit]
        return json_response(
            {
                "items": [shown_entry(row) for row in rows],
                "next_cursor": str(rows[-1].position) if more else None,
            }
        )

    async def _form(self, request: Request) -> Form:
        context = self._context
        return await read_form(request.scope, request.receive, context.settings, context.clock)


def _page(form: Form) -> tuple[int | None, int]:
    """Return the position where a page begins, None for the first, and its length."""
    cursor = form.written_number("cursor", least=0, most=_MAX_POSITION, default=-1)
    limit = form.written_number("limit", least=1, most=MAX_LISTED, default=DEFAULT_LIMIT)
    return (None if cursor < 0 else cursor), limit
