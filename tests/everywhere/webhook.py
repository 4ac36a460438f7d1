"""Programs that post signed messages, and one that takes the answers and all events."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx2
import orjson
from aiohttp import web
from typing_extensions import override

from gateway.clock import SystemClock
from tests.everywhere.side import Side
from tests.everywhere.switched import Switched
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.support.daemon import Daemon

PAUSE_S: Final = 0.3
MOST_RETRIED: Final = 100
DOORS: Final = ("in", "replies", "events")


class WebhookSide(Side):
    """Messages come in by the one door, answers leave by another, and events by a third."""

    name = "webhook"

    def __init__(self, folder: Path) -> None:
        super().__init__(idempotent=True)
        self._keys = {door: secrets.token_bytes(32) for door in DOORS}
        self._files = {door: folder / f"webhook-{door}.secret" for door in DOORS}
        for door, file in self._files.items():
            file.write_text(f"whsec_{base64.b64encode(self._keys[door]).decode()}")
            file.chmod(0o600)
        self._port = free_port()
        self._switch = Switched(self._receiving)
        self._clock = SystemClock()
        self._there = anyio.Event()
        self._client: httpx2.AsyncClient | None = None
        self._daemon: Daemon | None = None
        self._queued = 0
        self._seen: set[str] = set()
        self.events: Counter[str] = Counter()
        """Events by kind, each id once."""
        self.turns: Counter[str] = Counter()
        """By session key, the turns that were told of, each id once."""
        self.unsigned = 0
        """Requests that nothing proves."""

    @override
    def config(self) -> str:
        url = f"http://127.0.0.1:{self._port}"
        return f"""
[channels.hook]
kind = "webhook"
secrets = [{{ file = "{self._files["in"]}" }}]
reply_url = "{url}/replies"
reply_secret = {{ file = "{self._files["replies"]}" }}

[access.platforms.webhook]
allow_users = [{", ".join(f'"w{one}"' for one in range(1_000))}]

[[webhooks]]
name = "all"
url = "{url}/events"
secret = {{ file = "{self._files["events"]}" }}
"""

    @override
    def serving(self) -> AbstractAsyncContextManager[None]:
        return self._switch.on()

    @override
    def away(self) -> AbstractAsyncContextManager[None]:
        return self._switch.away()

    @asynccontextmanager
    async def _receiving(self) -> AsyncGenerator[None]:
        app = web.Application()
        app.router.add_post("/replies", self._on_reply)
        app.router.add_post("/events", self._on_event)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self._port).start()
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await runner.cleanup()

    async def _on_reply(self, request: web.Request) -> web.Response:
        event = await self._proven(request, "replies")
        if event is not None and request.headers["webhook-id"] not in self._seen:
            self._seen.add(request.headers["webhook-id"])
            shown, said = request.headers["webhook-id"], event["data"]
            self.book.show(
                said["chat_id"], shown, said["reply_to"], said["text"], self._clock.now()
            )
        return web.Response(status=401 if event is None else 204)

    async def _on_event(self, request: web.Request) -> web.Response:
        event = await self._proven(request, "events")
        if event is not None and request.headers["webhook-id"] not in self._seen:
            self._seen.add(request.headers["webhook-id"])
            self.events[event["type"]] += 1
            if event["type"] == "turn.completed":
                self.turns[event["data"]["session_key"]] += 1
        return web.Response(status=401 if event is None else 204)

    async def _proven(self, request: web.Request, door: str) -> dict[str, Any] | None:
        """Return what is posted, if it is signed as Standard Webhooks says."""
        body = await request.read()
        head = request.headers
        wanted = self._signature(door, head["webhook-id"], head["webhook-timestamp"], body)
        if wanted not in head["webhook-signature"].split():
            self.unsigned += 1
            return None

        event: dict[str, Any] = orjson.loads(body)
        return event

    def _signature(self, door: str, message_id: str, timestamp: str, body: bytes) -> str:
        signed = f"{message_id}.{timestamp}.".encode() + body
        digest = hmac.new(self._keys[door], signed, hashlib.sha256).digest()
        return f"v1,{base64.b64encode(digest).decode()}"

    @override
    async def look(self) -> None:
        """Have events that wait for their next try, which may be hours away, posted at once."""
        assert self._daemon is not None
        waiting = await self._daemon.get("/v1/webhooks?state=queued&limit=1000")
        self._queued = len(waiting["events"])
        if self._queued:
            # Some may be taken meanwhile; the next look finds the rest.
            ids = [event["id"] for event in waiting["events"]]
            await self._daemon.post("/v1/webhooks/retry", {"ids": ids[:MOST_RETRIED]})

    @override
    def owed(self) -> int:
        return super().owed() + self._queued

    @override
    async def begin_life(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._client = httpx2.AsyncClient(
            base_url=str(daemon.client.base_url), timeout=30, trust_env=False
        )
        self._there.set()

    @override
    async def end_life(self) -> None:
        self._there = anyio.Event()
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    @override
    def places_of(self, user: int) -> list[str]:
        return [f"w{user}"]

    @override
    def key_of(self, place: str) -> str:
        return f"agent:main:webhook:hook:dm:{place}::"

    @override
    async def say(self, user: int, place: str, text: str) -> None:
        name = _new_id()
        # Before it is taken: the answer may be faster than what says so.
        self.book.accept(place, name, text, self._clock.now())
        await self._say(place, name, text, "in")

    @override
    async def say_as_stranger(self, text: str) -> None:
        """Post as somebody who is not listed; and listed, but signed with another secret."""
        for chat, door in (("nobody", "in"), ("w0", "events")):
            name = _new_id()
            self.book.refuse(chat, name, text, self._clock.now())
            await self._say(chat, name, text, door)

    async def _say(self, chat: str, message_id: str, text: str, door: str) -> None:
        """Post until it is taken or refused, always under one id."""
        body = orjson.dumps({"chat_id": chat, "user_id": chat, "text": text})
        while True:
            await self._there.wait()
            timestamp = str(int(self._clock.now().timestamp()))
            headers = {
                "content-type": "application/json",
                "webhook-id": message_id,
                "webhook-timestamp": timestamp,
                "webhook-signature": self._signature(door, message_id, timestamp, body),
            }
            client, answer = self._client, None
            if client is not None:
                try:
                    answer = await client.post("/hooks/hook", content=body, headers=headers)
                except (httpx2.TransportError, RuntimeError):
                    answer = None
            if answer is not None and answer.status_code < 500:
                if chat == "nobody" or door != "in":
                    return
                assert answer.status_code == 200, answer.text
                return

            await self._clock.sleep(PAUSE_S)


def _new_id() -> str:
    return f"msg_{secrets.token_hex(12)}"
