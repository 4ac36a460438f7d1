"""A homeserver that is played: for what no real one says when it is wanted."""

from __future__ import annotations

from collections import defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import orjson
from aiohttp import web
from typing_extensions import override

from gateway.clock import FakeClock
from tests.support.matrix import PATIENCE_S, Run, channel_of
from tests.support.ports import free_port
from tests.support.synapse import User

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

BOT: Final = User("@bot:matrix.test", "", "a-secret-token", "D")
BUSY: Final = {"errcode": "M_LIMIT_EXCEEDED", "error": "no", "retry_after_ms": 2_500}
ROOM: Final = "!room"
ANN: Final = "@ann:matrix.test"
Played = tuple[int, object]
"""A status, and what is said as JSON or, as bytes, as it is."""


def event(number: int, text: str = "", **more: object) -> dict[str, Any]:
    """Return a message of Ann."""
    made: dict[str, Any] = {
        "event_id": f"${number}",
        "type": "m.room.message",
        "sender": ANN,
        "origin_server_ts": number,
        "content": {"msgtype": "m.text", "body": text or f"text {number}"},
    }
    return made | more


def said(
    place: str, *events: object, room: str = ROOM, members: int | None = 2, **timeline: object
) -> Played:
    """Return a sync that tells of events in a room."""
    summary = {} if members is None else {"m.joined_member_count": members}
    part = {"timeline": {"events": list(events), **timeline}, "summary": summary}
    return 200, {"next_batch": place, "rooms": {"join": {room: part}}}


def invitation(*inviters: str) -> Played:
    """Return a sync that tells of an invitation to the room `!other`."""
    events = [
        {
            "type": "m.room.member",
            "sender": inviter,
            "state_key": BOT.user_id,
            "content": {"membership": "invite"},
        }
        for inviter in inviters
    ]
    rooms = {"invite": {"!other": {"invite_state": {"events": events}}}}
    return 200, {"next_batch": "s1", "rooms": rooms}


class PlayedHomeserver:
    """Says what it is told to, and else that nothing has happened."""

    def __init__(self, user: User) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.answers: defaultdict[str, list[Played]] = defaultdict(list)
        """By the last plain word of a path, what is answered next."""
        self.asked: list[tuple[str, dict[str, str]]] = []
        """Those words and what was asked with them, in order."""
        self.headers: list[str] = []
        self.hangs: set[str] = set()
        """Words that are never answered."""
        self._user = user
        self._changed = anyio.Event()

    def push(self, *answers: Played) -> None:
        """Have the next syncs say this."""
        self.answers["sync"] += answers
        self._note()

    def times(self, word: str) -> int:
        return sum(one == word for one, _ in self.asked)

    async def until_asked(self, word: str, times: int = 1) -> None:
        with anyio.fail_after(PATIENCE_S):
            while self.times(word) < times:
                await self._changed.wait()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        # What is asked over a connection that is gone must not take an answer from the next run.
        handler = web.Server(self._answer, handler_cancellation=True)
        runner = web.ServerRunner(handler, shutdown_timeout=0.01)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            yield
        finally:
            await runner.cleanup()

    def _note(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        parts = request.path.rsplit("/v3/", 1)[1].split("/")
        word = next(one for one in reversed(parts) if one.isalpha())
        if parts[0] == "join":
            word = "join"
        elif "send" in parts:
            word = "send"
        self.asked.append((word, dict(request.query)))
        self.headers.append(request.headers.get("Authorization", ""))
        self._note()
        if word in self.hangs:
            await anyio.sleep_forever()
        while not self.answers[word]:
            if word == "whoami":
                return web.json_response({"user_id": self._user.user_id})
            if word == "sync" and "timeout" not in request.query:
                return web.json_response({"next_batch": request.query.get("since", "s0")})
            if word == "sync":
                await self._changed.wait()
                continue
            return web.json_response({"event_id": "$sent"})
        status, body = self.answers[word].pop(0)
        if isinstance(body, bytes):
            return web.Response(status=status, body=body)

        headers = {"Retry-After": "3"} if body == {} and status == 429 else {}
        return web.Response(
            status=status, body=orjson.dumps(body), content_type="application/json", headers=headers
        )


class Noting(FakeClock):
    """Waits for nothing, and notes how long it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    @override
    async def sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)


@asynccontextmanager
async def running(
    tmp_path: Path,
    server: PlayedHomeserver,
    **settings: Any,  # noqa: ANN401 - of the channel
) -> AsyncGenerator[Run]:
    """Run a channel, and wait until it reaches its homeserver, or is lost."""
    run = channel_of(tmp_path, server.url, BOT, clock=Noting(), **settings)
    async with server.serving(), anyio.create_task_group() as tasks:
        tasks.start_soon(run.run)
        with anyio.fail_after(PATIENCE_S):
            while not run.reached.is_set() and not run.lost:
                await run.changed.wait()
        yield run
        tasks.cancel_scope.cancel()


def slept(run: Run) -> list[float]:
    assert isinstance(run.clock, Noting)
    return run.clock.slept
