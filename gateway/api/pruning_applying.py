"""`POST /v1/pruning/apply`: a plan carried out, with a stream that tells how far it is.

A client that goes away ends the answer, never the run.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from anyio import to_thread
from starlette.requests import Request

from gateway.api.answers import send_json, to_json
from gateway.api.bodies import read_form
from gateway.api.form import query_form
from gateway.api.problems import RETRY_AFTER_S, later
from gateway.api.pruning_shown import MAX_LISTED, shown_result
from gateway.api.streaming import EventStream, wants_events

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, TypeAlias

    from starlette.types import Receive, Scope, Send

    from gateway.api.context import ApiContext
    from gateway.api.form import Form
    from gateway.api.problems import Problem
    from gateway.api.pruning_plans import PlanShelf
    from gateway.clock import Clock
    from gateway.pruning.records import PruningProgress, PruningResult

    Watch: TypeAlias = Callable[[PruningProgress], None]

DEFAULT_LIMIT: Final = 100
PROGRESS_S: Final = 0.1
"""How often at most a stream tells how far a run is, in seconds."""


class Applying:
    """Carries out plans. An ASGI endpoint: it may stream."""

    def __init__(self, context: ApiContext, shelf: PlanShelf) -> None:
        """Carry out plans of the shelf, and such as are made on the way."""
        self._context = context
        self._shelf = shelf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry out a plan, and answer with what was done.

        Cancellation: a client that goes away does not end the run.
        """
        context = self._context
        limit = listed(Request(scope))
        form = await read_form(scope, receive, context.settings, context.clock)
        run = self._run_of(form)
        if not wants_events(scope):
            await send_json(send, await _shown(await run(None), limit))
            return

        stream = EventStream(context.clock, receive, send)
        progress = _Progress(stream, context.clock)

        async def work() -> None:
            shown = await _shown(await run(progress.note), limit)
            await progress.tell()
            await stream.event("result", to_json(shown))

        await stream.run(work, progress.keep_telling, stopped=_stopped(), to_the_end=True)

    def _run_of(self, form: Form) -> Callable[[Watch | None], Awaitable[PruningResult]]:
        """Return what does what a form asks for.

        Raises:
            ProblemError: a field is wrong or unknown.
            NotFoundError: the plan is not kept.
        """
        plan_id, session = form.name("plan"), form.name("session")
        force, dry_run = form.flag("force"), form.flag("dry_run")
        confirmed = form.flag("confirmed")
        for name, given in (("session", session), ("force", force)):
            if plan_id and given:
                form.refuse(name, "nothing beside a plan, which has its own")
        form.finish()

        plan = self._shelf.get(plan_id) if plan_id else None

        async def run(watch: Watch | None) -> PruningResult:
            result = await self._context.pruning.prune(
                plan=plan,
                dry_run=dry_run,
                force=force,
                session=session,
                confirmed=confirmed,
                on_progress=watch,
            )
            if result.pruned_items and not dry_run:
                self._shelf.drop(plan_id or "")
            return result

        return run


class _Progress:
    """How far a run is, told as often as is of use: the latest only."""

    def __init__(self, stream: EventStream, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._latest: PruningProgress | None = None
        self._news = anyio.Event()

    def note(self, progress: PruningProgress) -> None:
        self._latest = progress
        self._news.set()

    async def tell(self) -> None:
        """Tell what was not told yet."""
        latest, self._latest = self._latest, None
        if latest is not None:
            shown = {
                "scanned": latest.scanned,
                "current": latest.current,
                "total": latest.total,
                "percent": latest.percent,
            }
            await self._stream.event("progress", to_json(shown))

    async def keep_telling(self) -> None:
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            await self.tell()
            await self._clock.sleep(PROGRESS_S)


def listed(request: Request) -> int:
    """Return how many items of each kind an answer lists at most: `limit` of the query."""
    form = query_form(request)
    limit = form.written_number("limit", least=0, most=MAX_LISTED, default=DEFAULT_LIMIT)
    form.finish()
    return limit


async def _shown(result: PruningResult, limit: int) -> dict[str, Any]:
    return await to_thread.run_sync(partial(shown_result, result, limit=limit))


def _stopped() -> Problem:
    """Return what a client is told that waits while the gateway stops."""
    detail = "The gateway stops. What was pruned until now is done, and stands in the history."
    return later(503, "unavailable", "Not available", detail, after_s=RETRY_AFTER_S)
