"""A front before a real homeserver, as many have one: it hands on, counts, and fails when asked to.

What the homeserver hands out is acknowledged once it is asked for what comes after.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import anyio
import orjson
from aiohttp import ClientError, ClientSession, ClientTimeout, web

from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_SEND: Final = re.compile(r"/_matrix/client/v3/rooms/([^/]+)/send/")
_TYPING: Final = re.compile(r"/_matrix/client/v3/rooms/([^/]+)/typing/")
_LONGEST_S: Final = 120.0
BUSY_MS: Final = 7_000


@dataclass
class Front:
    """Stands where the channel looks for its homeserver."""

    behind: str
    """The address of the homeserver."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Methods and paths, in order."""
    since: list[str] = field(default_factory=list)
    """The places that were asked from, in order."""
    acknowledged: list[str] = field(default_factory=list)
    """Ids of events that were handed out before a place that was asked from."""
    events: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    """By id, the room and what was handed out."""
    fetched: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """What becomes of the next messages: `refused`, `busy`, `lost`, `broken`."""
    sync_failures: list[web.Response] = field(default_factory=list)
    """What the next syncs are answered."""
    in_flight: int = 0
    """Requests that are being answered, syncs left out."""
    sent: set[str] = field(default_factory=set)
    """Ids of what was sent, until somebody takes them out."""
    syncs: int = 0
    """Syncs that wait for something to happen."""
    changed: anyio.Event = field(default_factory=anyio.Event)

    def __post_init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._handed: dict[str, list[str]] = {}
        self._again: list[str] = []
        self._wake = anyio.Event()
        self._lost: set[str] = set()
        self._session: ClientSession | None = None

    @property
    def is_being_read(self) -> bool:
        """Whether something was handed out that is not acknowledged."""
        return any(self._handed.values())

    def note(self) -> None:
        """Tell whoever waits that something happened."""
        self.changed.set()
        self.changed = anyio.Event()

    def on_acknowledged(self, event_id: str) -> None:
        """Be told of each event that is acknowledged."""

    def on_typing(self, room: str, *, typing: bool) -> None:
        """Be told each time that it is shown, or no longer, that somebody writes."""

    def next_failure(self) -> str:
        """Return what becomes of a message; empty: it is handed on."""
        return self.failures.pop(0) if self.failures else ""

    def hand_out_again(self, event_id: str) -> None:
        """Have the next sync tell of an event once more."""
        self._again.append(event_id)
        self._wake.set()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Be there."""
        runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.01)
        await runner.setup()
        async with ClientSession(timeout=ClientTimeout(_LONGEST_S)) as self._session:
            try:
                await web.TCPSite(runner, "127.0.0.1", self.port).start()
                yield
            finally:
                await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        self.asked.append((request.method, path))
        if path.endswith("/sync"):
            response = await self._sync(request)
        else:
            self.in_flight += 1
            try:
                response = await self._one(request)
            finally:
                self.in_flight -= 1
        self.note()
        response.force_close()
        return response

    async def _one(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path
        if "/media/" in path:
            self.fetched.append(path)
        failure = self.next_failure() if _SEND.match(path) else ""
        if failure == "refused":
            return _error(403, "M_FORBIDDEN")
        if failure == "broken":
            return web.Response(status=502, text="<html>bad gateway</html>")
        if failure == "busy":
            return _error(429, "M_LIMIT_EXCEEDED", retry_after_ms=BUSY_MS)

        response = await self._behind(request)
        typed = _TYPING.match(path)
        if typed and response.status == web.HTTPOk.status_code:
            said = orjson.loads(await request.read())
            self.on_typing(unquote(typed[1]), typing=said["typing"])
        sent = _SEND.match(path) and response.status == web.HTTPOk.status_code
        if sent:
            self.sent.add(orjson.loads(response.body)["event_id"])  # type: ignore[arg-type] # bytes
        # A client whose connection breaks may ask for the same once more, at once.
        if failure == "lost" or path in self._lost:
            self._lost ^= {path}
            assert request.transport is not None
            request.transport.abort()
        return response

    async def _sync(self, request: web.BaseRequest) -> web.StreamResponse:
        since = request.query.get("since", "")
        self.since.append(since)
        for event_id in self._handed.pop(since, []):
            self.acknowledged.append(event_id)
            self.on_acknowledged(event_id)
        self.note()
        if self.sync_failures:
            return self.sync_failures.pop(0)

        response: web.Response | None = None
        async with anyio.create_task_group() as tasks:

            async def interrupt() -> None:
                await self._wake.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(interrupt)
            self.syncs += 1
            try:
                response = await self._behind(request)
            finally:
                self.syncs -= 1
            tasks.cancel_scope.cancel()
        if response is None:
            response = self._repeated(since)
        self._note_events(response)
        return response

    def _repeated(self, since: str) -> web.Response:
        rooms: dict[str, Any] = {}
        for event_id in self._again:
            room, event = self.events[event_id]
            part = rooms.setdefault(room, {"timeline": {"events": [], "limited": False}})
            part["timeline"]["events"].append(event)
        self._again.clear()
        self._wake = anyio.Event()
        return web.json_response({"next_batch": since, "rooms": {"join": rooms}})

    def _note_events(self, response: web.Response) -> None:
        if response.status != web.HTTPOk.status_code:
            return

        said = orjson.loads(response.body)  # type: ignore[arg-type] # always bytes here
        handed = self._handed[said["next_batch"]] = []
        for room, part in said.get("rooms", {}).get("join", {}).items():
            for event in part["timeline"]["events"]:
                self.events[event["event_id"]] = (room, event)
                handed.append(event["event_id"])

    async def _behind(self, request: web.BaseRequest) -> web.Response:
        """Ask the homeserver."""
        assert self._session is not None
        wanted = ("Authorization", "Content-Type")
        headers = {name: request.headers[name] for name in wanted if name in request.headers}
        address = f"{self.behind}{request.raw_path}"
        body = await request.read()
        try:
            async with self._session.request(
                request.method, _encoded(address), data=body, headers=headers
            ) as answer:
                return web.Response(
                    status=answer.status,
                    body=await answer.read(),
                    content_type=answer.content_type,
                )
        except ClientError:
            return web.Response(status=502, text="bad gateway")


def _encoded(address: str) -> Any:  # noqa: ANN401 - aiohttp's own class, not a dependency of ours
    from yarl import URL  # noqa: PLC0415

    return URL(address, encoded=True)


def _error(status: int, code: str, **more: object) -> web.Response:
    return web.json_response({"errcode": code, "error": "no", **more}, status=status)
