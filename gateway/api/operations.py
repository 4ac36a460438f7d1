"""The operator's routes: prune, status, metrics, and what probes ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.answers import json_response
from gateway.api.bodies import read_form
from gateway.api.form import query_form
from gateway.api.metrics import StatisticsCollector, context_statistics
from gateway.api.pruning_shown import shown_statistics

if TYPE_CHECKING:
    from starlette.requests import Request

    from gateway.api.context import ApiContext

READY: Final = 200
NOT_READY: Final = 503


def operation_routes(context: ApiContext) -> list[Route]:
    """Return the routes of the operator."""
    operations = Operations(context)
    return [
        Route("/v1/prune", operations.prune, methods=["POST"]),
        Route("/v1/status", operations.status, methods=["GET"]),
        Route("/metrics", operations.metrics, methods=["GET"]),
        Route("/livez", operations.alive, methods=["GET"]),
        Route("/readyz", operations.ready, methods=["GET"]),
    ]


class Operations:
    """Looks after the gateway as a whole."""

    def __init__(self, context: ApiContext) -> None:
        """Look after the context's parts."""
        self._context = context
        self._registry = CollectorRegistry()
        self._registry.register(StatisticsCollector(context))
        ProcessCollector(registry=self._registry)

    async def prune(self, request: Request) -> Response:
        """Drop old entries as the watcher does, or only tell which would go.

        Cancellation: a client that goes away does not end it.
        """
        context = self._context
        form = await read_form(request.scope, request.receive, context.settings, context.clock)
        max_age_days, dry_run = form.number("max_age_days"), form.flag("dry_run")
        form.finish()
        query_form(request).finish()

        limits = context.live()
        if max_age_days is None:
            max_age_days = limits.session_store_max_age_days
        report = await context.store.prune_old_entries(
            max_age_days, max_entries=limits.session_store_max_entries, dry_run=dry_run
        )
        return json_response(report)

    async def status(self, request: Request) -> Response:
        """Answer with the state of all parts."""
        query_form(request).finish()
        context = self._context
        await context.delivery.count()
        await context.pruning.count()
        await context.webhooks.count()
        status: dict[str, object] = {
            "version": context.version,
            "started_at": context.started_at,
            "uptime_s": round((context.clock.now() - context.started_at).total_seconds(), 3),
            "ready": not self._reasons(),
            "store": context.store.statistics(),
            "turns": context.turns.statistics(),
            "tools": context.servers(),
            "channels": context.channels(),
            "delivery": context.delivery.statistics(),
            "webhooks": context.webhooks.statistics(),
            "contexts": context_statistics(context.turns.contexts),
            "pruning": shown_statistics(context.pruning.statistics()),
            "database": context.database.statistics(),
            "watcher": context.watcher.statistics(),
        }
        return json_response(status | dict(context.extra_status()))

    async def metrics(self, _request: Request) -> Response:
        """Answer with counters and gauges in the Prometheus text format."""
        await self._context.delivery.count()
        await self._context.pruning.count()
        await self._context.webhooks.count()
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def alive(self, _request: Request) -> Response:
        """Answer as long as the event loop runs."""
        return json_response({"alive": True})

    async def ready(self, _request: Request) -> Response:
        """Answer whether messages are taken, and why not."""
        reasons = self._reasons()
        # A channel that is lost makes nobody else wait.
        channels = [
            {"platform": one.platform, "account": one.account, "state": one.state}
            for one in self._context.channels()
        ]
        more: dict[str, object] = {"channels": channels} if channels else {}
        if reasons:
            return json_response({"ready": False, "reasons": reasons} | more, NOT_READY)

        return json_response({"ready": True} | more, READY)

    def _reasons(self) -> list[str]:
        database = self._context.database.statistics()
        reasons = {
            "the gateway is stopping": self._context.stop.is_set(),
            "the storage failed": database.failed,
            "the disk is full": database.full,
        }
        return [reason for reason, holds in reasons.items() if holds]
