"""Background processes over HTTP: listed, shown with their output, stopped."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Final

import anyio.to_thread
from starlette.routing import Route

from gateway.api.answers import json_response
from gateway.api.bodies import read_form
from gateway.api.form import query_form
from gateway.errors import BadRequestError
from gateway.log import get_logger
from gateway.model import SessionKey
from gateway.processes.registry import NOT_FOUND
from gateway.sessions.key import parse_key

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gateway.api.context import ApiContext
    from gateway.processes.records import ProcessRecord

MAX_LIMIT: Final = 1_000
"""The most processes in one answer."""
DEFAULT_LIMIT: Final = 100
MAX_CHARS: Final = 1_000_000
"""The longest output in one answer, in characters."""
DEFAULT_CHARS: Final = 20_000
_BYTES_OF_CHARS: Final = 4
_BLOCKED: Final = ("reset", "prune")
"""What a process keeps its session from."""


def process_routes(context: ApiContext) -> list[Route]:
    """Return the routes of background processes."""
    processes = Processes(context)
    one = "/v1/processes/{id}"
    return [
        Route("/v1/processes", processes.list_latest, methods=["GET"]),
        Route(one, processes.show, methods=["GET"]),
        Route(f"{one}/stop", processes.stop, methods=["POST"]),
    ]


class Processes:
    """Shows and stops processes by id."""

    def __init__(self, context: ApiContext) -> None:
        """Work on the context's registry."""
        self._context = context
        self._registry = context.processes

    async def list_latest(self, request: Request) -> Response:
        """Answer with the latest, those that run first; of one session or of all."""
        form = query_form(request)
        limit = form.written_number("limit", least=1, most=MAX_LIMIT, default=DEFAULT_LIMIT)
        key = form.text("session_key")
        if key and not _is_key(key):
            form.refuse("session_key", "a session key")
        form.finish()

        found = await self._registry.list(SessionKey(key) if key else None, limit=limit + 1)
        return json_response(
            {
                "processes": [self._shown(record) for record in found[:limit]],
                "more": len(found) > limit,
            }
        )

    async def show(self, request: Request) -> Response:
        """Answer with a process and the end of its output."""
        form = query_form(request)
        chars = form.written_number("max_chars", least=1, most=MAX_CHARS, default=DEFAULT_CHARS)
        form.finish()

        process_id = _id_of(request)
        record = await self._registry.get(process_id)
        output = await self._registry.read_output(process_id, max_bytes=_BYTES_OF_CHARS * chars)
        # In a thread: a long one takes its time.
        text = await anyio.to_thread.run_sync(output.text, chars)
        return json_response(
            self._shown(record) | {"output_bytes": output.total_bytes, "output": text}
        )

    async def stop(self, request: Request) -> Response:
        """End a process and all of its group."""
        process_id = _id_of(request)
        query_form(request).finish()
        (
            await read_form(
                request.scope, request.receive, self._context.settings, self._context.clock
            )
        ).finish()
        record = await self._registry.stop(process_id)
        get_logger().info("process.stopped", process_id=process_id, session_key=record.session_key)
        return json_response(self._shown(record))

    def _shown(self, record: ProcessRecord) -> dict[str, object]:
        end = record.end
        guards = self._registry.guards(record)
        gone = self._registry.is_gone(record.process_id)
        runs = end is None and not gone
        until = self._context.clock.now() if end is None else datetime.fromisoformat(end.at)
        age = until - datetime.fromisoformat(record.created_at)
        return {
            "process_id": record.process_id,
            "session_key": record.session_key,
            "session_id": record.session_id,
            "agent": record.agent,
            "source": asdict(record.source),
            "command": record.command,
            "cwd": record.cwd,
            "pid": record.keeper.pid if record.keeper is not None and runs else None,
            "created_at": record.created_at,
            "age_s": max(0.0, age.total_seconds()),
            "state": end.reason if end is not None else "gone" if gone else "running",
            "blocks": _BLOCKED if guards else (),
            "overdue": runs and not guards,
            "ended_at": None if end is None else end.at,
            "exit_status": None if end is None else end.exit_status,
            "detail": end.detail if end is not None else NOT_FOUND if gone else "",
            "output_bytes": None if end is None else end.output_bytes,
            "reported_at": record.reported_at,
        }


def _id_of(request: Request) -> str:
    return str(request.path_params["id"])


def _is_key(text: str) -> bool:
    try:
        parse_key(text)
    except BadRequestError:
        return False

    return True
