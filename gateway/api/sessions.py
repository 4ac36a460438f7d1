"""Sessions over HTTP: listed, shown, read, reset, paused, brought back, removed.

A session key in a path is the one thing trusted to name a session; ids of conversations only
choose among those of that key.
"""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64encode
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio.lowlevel
from starlette.routing import Route

from gateway.api.answers import json_response, shown_account
from gateway.api.bodies import read_form
from gateway.api.form import query_form
from gateway.errors import BadRequestError, ConflictError, NotFoundError
from gateway.log import get_logger
from gateway.model import SessionId, SessionKey
from gateway.retention.erasing import erase, is_erasure_unfinished
from gateway.sessions.entry import entry_to_dict
from gateway.sessions.key import parse_key
from gateway.transcripts import accounts
from gateway.transcripts.reading import count_gone, read_transcript, sessions_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gateway.api.context import ApiContext
    from gateway.sessions.entry import SessionEntry
    from gateway.transcripts.reading import TranscriptRow

MAX_LIMIT: Final = 1_000
"""The most entries or messages in one answer."""
DEFAULT_LIMIT: Final = 100
SLICE: Final = 64
"""Entries decoded before the event loop gets its turn; about 1 ms."""
MAX_LOOKED_AT: Final = 10_000
"""Entries looked at for one page: a filter that fits few gives short pages, with a cursor."""
_MAX_POSITION: Final = 2**63 - 1


def session_routes(context: ApiContext) -> list[Route]:
    """Return the routes of sessions."""
    sessions = Sessions(context)
    one = "/v1/sessions/{key}"
    return [
        Route("/v1/sessions", sessions.list_page, methods=["GET"]),
        Route(one, sessions.show_or_remove, methods=["GET", "DELETE"]),
        Route(f"{one}/transcript", sessions.transcript, methods=["GET"]),
        Route(f"{one}/reset", sessions.reset, methods=["POST"]),
        Route(f"{one}/undo", sessions.undo, methods=["POST"]),
        Route(f"{one}/suspend", sessions.suspend, methods=["POST"]),
        Route(f"{one}/resume", sessions.resume, methods=["POST"]),
    ]


class Sessions:
    """Reads and changes sessions by key."""

    def __init__(self, context: ApiContext) -> None:
        """Work on the context's store."""
        self._context = context
        self._store = context.store
        self._database = context.database

    async def list_page(self, request: Request) -> Response:
        """Answer with a page of entries and the cursor of the next; null after the last."""
        form = query_form(request)
        limit = form.written_number("limit", least=1, most=MAX_LIMIT, default=DEFAULT_LIMIT)
        platform, cursor = form.text("platform"), form.text("cursor")
        after = _key_of_cursor(cursor)
        if after is None:
            form.refuse("cursor", "the next_cursor of the page before")
        form.finish()

        page: list[dict[str, object]] = []
        looked_at, last = 0, after or ""
        while len(page) < limit and looked_at < MAX_LOOKED_AT:
            entries = self._store.entries(after=last, limit=min(SLICE, limit - len(page)))
            if not entries:
                last = ""
                break
            page += [
                self._shown(entry) for entry in entries if platform in ("", entry.source.platform)
            ]
            looked_at += len(entries)
            last = entries[-1].session_key
            await anyio.lowlevel.checkpoint()
        return json_response({"sessions": page, "next_cursor": _cursor_of_key(last)})

    async def show_or_remove(self, request: Request) -> Response:
        """Answer with an entry, or drop it."""
        return await (self._remove if request.method == "DELETE" else self._show)(request)

    async def transcript(self, request: Request) -> Response:
        """Answer with what was said, oldest first; `next_after` is null at the end."""
        key = key_of(request)
        form = query_form(request)
        limit = form.written_number("limit", least=1, most=MAX_LIMIT, default=DEFAULT_LIMIT)
        after = form.written_number("after", least=0, most=_MAX_POSITION, default=0)
        wanted = form.text("session_id")
        form.finish()

        session_id = await self._conversation(key, wanted)
        rows = await read_transcript(self._database, session_id, after=after, limit=limit + 1)
        more, rows = len(rows) > limit, rows[:limit]
        pruned = await self._database.read(lambda conn: count_gone(conn, session_id))
        return json_response(
            {
                "session_key": key,
                "session_id": session_id,
                "messages": [_said(row) for row in rows],
                "pruned_messages": pruned,
                "next_after": rows[-1].position if more else None,
            }
        )

    async def reset(self, request: Request) -> Response:
        """Start a new conversation."""
        key = await self._idle(request)
        entry = await self._store.reset(key)
        get_logger().info(
            "session.reset",
            session_key=key,
            session_id=entry.session_id,
            previous_session_id=entry.previous_session_id,
            reason=entry.reset_reason,
        )
        return self._answer(entry)

    async def undo(self, request: Request) -> Response:
        """Bring back the conversation before the last reset, prune or removal."""
        key = await self._idle(request)
        if self._store.get(key) is None and not await sessions_of(self._database, key):
            raise not_found()

        entry = await self._store.undo(key)
        get_logger().info("session.undone", session_key=key, session_id=entry.session_id)
        return self._answer(entry)

    async def suspend(self, request: Request) -> Response:
        """Pause a session."""
        key = await self._named(request)
        entry = await self._store.suspend(key)
        get_logger().info("session.suspended", session_key=key, session_id=entry.session_id)
        return self._answer(entry)

    async def resume(self, request: Request) -> Response:
        """End a pause."""
        key = await self._named(request)
        entry = await self._store.resume(key)
        get_logger().info("session.resumed", session_key=key, session_id=entry.session_id)
        return self._answer(entry)

    async def _show(self, request: Request) -> Response:
        key = key_of(request)
        query_form(request).finish()
        entry = self._store.get(key)
        if entry is None:
            raise not_found()

        # At once: a measurement that is stored meanwhile is pending no more.
        shown = self._shown(entry)
        account = await self._database.read(partial(accounts.read, session_id=entry.session_id))
        return json_response(shown | {"context_account": shown_account(account)})

    async def _remove(self, request: Request) -> Response:
        key = key_of(request)
        form = query_form(request)
        erasing = form.word_flag("erase")
        form.finish()
        self._check_idle(key)
        if erasing and self._context.processes.running_of(key):
            raise ConflictError("A background process of this session runs; stop it first.")

        removed = self._store.get(key) is not None
        if removed:
            await self._store.remove(key)
        elif not (erasing and await self._has_traces(key)):
            raise not_found()
        rewritten = await erase(self._database, self._store, key) if erasing else None
        get_logger().info(
            "session.removed", session_key=key, erased=erasing, database_rewritten=rewritten
        )
        return json_response({"removed": removed, "erased": erasing})

    async def _has_traces(self, key: SessionKey) -> bool:
        return bool(await sessions_of(self._database, key)) or await is_erasure_unfinished(
            self._database
        )

    async def _conversation(self, key: SessionKey, wanted: str) -> SessionId:
        """Return the session id to read: the one asked for, else the one that runs or ran last."""
        entry = self._store.get(key)
        if entry is not None and wanted in ("", entry.session_id):
            return entry.session_id

        for record in await sessions_of(self._database, key):
            if wanted in ("", record.session_id):
                return record.session_id
        raise not_found() if not wanted else NotFoundError("This session has had no such id.")

    async def _named(self, request: Request) -> SessionKey:
        """Return the key of a request whose path says it all."""
        key = key_of(request)
        query_form(request).finish()
        (
            await read_form(
                request.scope, request.receive, self._context.settings, self._context.clock
            )
        ).finish()
        return key

    async def _idle(self, request: Request) -> SessionKey:
        key = await self._named(request)
        self._check_idle(key)
        return key

    def _check_idle(self, key: SessionKey) -> None:
        if self._context.turns.is_busy(key):
            raise ConflictError("A turn of this session is running or waiting. Try again after it.")

    def _answer(self, entry: SessionEntry) -> Response:
        return json_response(self._shown(entry))

    def _shown(self, entry: SessionEntry) -> dict[str, object]:
        shown = entry_to_dict(self._context.watcher.view(entry))
        return shown | {"busy": self._context.turns.is_busy(entry.session_key)}


def key_of(request: Request) -> SessionKey:
    """Return the session key in a request's path.

    Raises:
        BadRequestError: it is none.
    """
    text = str(request.path_params["key"])
    parse_key(text)
    return SessionKey(text)


def not_found() -> NotFoundError:
    """Return the error of a key without a session."""
    return NotFoundError("There is no session with this key.")


def _said(row: TranscriptRow) -> dict[str, object]:
    message = asdict(row.message)
    shortened = row.shortened or None
    at = row.created_at
    return {"position": row.position, **message, "created_at": at, "shortened": shortened}


def _cursor_of_key(key: str) -> str | None:
    return urlsafe_b64encode(key.encode()).decode().rstrip("=") if key else None


def _key_of_cursor(cursor: str) -> str | None:
    """Return the key that a cursor stands for; None for text that is no cursor."""
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        key = b64decode(padded, altchars=b"-_", validate=True).decode()
        if cursor:
            parse_key(key)
    except (ValueError, BadRequestError):
        return None

    return key
