"""Both ends of webhooks as Standard Webhooks has them, made without the gateway's own code."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio
import orjson
from aiohttp import web

from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from datetime import datetime

    from aiohttp.web import Request, Response

SECRET: Final = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET: Final = "whsec_" + base64.b64encode(bytes(range(100, 132))).decode()
THIRD_SECRET: Final = "whsec_" + base64.b64encode(bytes(range(50, 74))).decode()


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = message_id.encode() + b"." + str(timestamp).encode() + b"." + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def signed(secret: str, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the headers of a request."""
    timestamp = int(at.timestamp())
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secret, message_id, timestamp, body),
        "content-type": "application/json",
    }


@dataclass(frozen=True)
class Post:
    """A request that came, its signature proven."""

    message_id: str
    body: Any
    raw: bytes
    headers: Mapping[str, str]


@dataclass
class Reaction:
    """What a post is answered."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    lost: bool = False
    """The connection breaks instead."""
    wait: anyio.Event | None = None
    """What it waits for before."""


class Receiver:
    """An endpoint on loopback, at the same port each time it is there."""

    def __init__(self, secret: str = SECRET) -> None:
        self.secret = secret
        self.posts: list[Post] = []
        """All that came, in order."""
        self.reactions: list[Reaction] = []
        """What becomes of the next posts; then all are taken."""
        self.always = Reaction()
        self.react: Callable[[Post], Reaction | None] = lambda _: None
        self.changed = anyio.Event()
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/in"

    @property
    def types(self) -> list[str]:
        return [post.body["type"] for post in self.posts]

    @property
    def ids(self) -> list[str]:
        return [post.message_id for post in self.posts]

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/in", self._take)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True).start()
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await runner.cleanup()

    async def until(self, holds: Callable[[], object], seconds: float = 30) -> None:
        with anyio.fail_after(seconds):
            while not holds():
                await self.changed.wait()

    async def _take(self, request: Request) -> Response:
        raw = await request.read()
        message_id = request.headers["webhook-id"]
        timestamp = int(request.headers["webhook-timestamp"])
        wanted = signature(self.secret, message_id, timestamp, raw)
        assert wanted in request.headers["webhook-signature"].split(" ")
        post = Post(message_id, orjson.loads(raw), raw, dict(request.headers))
        self.posts.append(post)
        reaction = self.react(post)
        if reaction is None:
            reaction = self.reactions.pop(0) if self.reactions else self.always
        self.changed.set()
        self.changed = anyio.Event()
        if reaction.wait is not None:
            await reaction.wait.wait()
        if reaction.lost:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=reaction.status, headers=reaction.headers, body=reaction.body)
