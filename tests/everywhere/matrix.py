"""People on a real Matrix homeserver of their own, which is killed with the rest."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread
import httpx2
from typing_extensions import override

from gateway.clock import SystemClock
from gateway.sessions.key import encode_part
from tests.everywhere.side import Side
from tests.support.synapse import Synapse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from tests.support.synapse import User

PAUSE_S: Final = 0.3
MOST_EVENTS: Final = 1_000
"""How many events of a room the homeserver gives at once; a trial has fewer in each."""


class MatrixSide(Side):
    """Direct rooms, each of one user and the bot."""

    name = "matrix"

    def __init__(self, folder: Path, users: int) -> None:
        super().__init__(idempotent=True)
        self._folder = folder
        self._users = users
        self._clock = SystemClock()
        self._people: list[tuple[User, str]] = []
        """Each user, and the room."""
        self._stranger: tuple[User, str]
        self._bot: User
        self._server: Synapse
        self._http: httpx2.AsyncClient
        self._sent = 0

    @asynccontextmanager
    @override
    async def serving(self) -> AsyncGenerator[None]:
        self._server = Synapse()
        try:
            await anyio.to_thread.run_sync(self._begin)
            async with httpx2.AsyncClient(
                base_url=f"{self._server.url}/_matrix/client/v3", timeout=30, trust_env=False
            ) as self._http:
                yield
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._server.remove)

    def _begin(self) -> None:
        self._server.start()
        self._bot = self._server.register("bot")
        token = self._folder / "matrix.token"
        token.write_text(self._bot.token)
        token.chmod(0o600)
        self._people = [self._settle(f"u{number}") for number in range(self._users)]
        self._stranger = self._settle("stranger")
        self.book.strangers.add(self._stranger[1])

    def _settle(self, name: str) -> tuple[User, str]:
        """Register somebody who invites the bot to a direct room."""
        user = self._server.register(name)
        return user, self._server.client(user).create(self._bot, is_direct=True)

    @asynccontextmanager
    @override
    async def away(self) -> AsyncGenerator[None]:
        await anyio.to_thread.run_sync(lambda: self._server.stop(kill=True))
        yield
        await anyio.to_thread.run_sync(self._server.start)

    @override
    def config(self) -> str:
        allowed = ", ".join(f'"{user.user_id}"' for user, _ in self._people)
        return f"""
[channels.mx]
kind = "matrix"
homeserver = "{self._server.url}"
token = {{ file = "{self._folder / "matrix.token"}" }}
join = ["*"]

[access.platforms.matrix]
allow_users = [{allowed}]
"""

    @override
    def chat_of(self, user: int) -> str:
        return self._people[user][1]

    @override
    def key_of(self, user: int) -> str:
        return f"agent:main:matrix:mx:dm:{encode_part(self.chat_of(user))}::"

    @override
    async def say(self, user: int, text: str) -> None:
        await self._say(*self._people[user], text)

    @override
    async def say_as_stranger(self, text: str) -> None:
        await self._say(*self._stranger, text)

    async def _say(self, user: User, room: str, text: str) -> None:
        """Send until the homeserver has it; it takes a transaction once."""
        self._sent += 1
        path = f"/rooms/{room}/send/m.room.message/t{self._sent}"
        content = {"msgtype": "m.text", "body": text}
        await self._ask("PUT", path, user, json=content)
        self.book.accepted[room].append(text)

    @override
    async def look(self) -> None:
        async with anyio.create_task_group() as group:
            for user, room in [*self._people, self._stranger]:
                group.start_soon(self._look_into, user, room)

    async def _look_into(self, user: User, room: str) -> None:
        query = f"?dir=b&limit={MOST_EVENTS}"
        found = (await self._ask("GET", f"/rooms/{room}/messages{query}", user))["chunk"]
        self.book.shown[room].clear()
        for event in reversed(found):
            if event["type"] == "m.room.message" and event["sender"] == self._bot.user_id:
                self.book.show(room, event["content"]["body"])

    async def _ask(
        self,
        method: str,
        path: str,
        user: User,
        **more: Any,  # noqa: ANN401 - of the client
    ) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {user.token}"}
        while True:
            try:
                answer = await self._http.request(method, path, headers=headers, **more)
            except httpx2.TransportError:
                answer = None
            if answer is not None and answer.is_success:
                made: dict[str, Any] = answer.json()
                return made

            await self._clock.sleep(PAUSE_S)
