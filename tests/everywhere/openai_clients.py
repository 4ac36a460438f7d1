"""Programs that use the official SDK of OpenAI, two tokens between them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
import openai
from typing_extensions import override

from gateway.clock import SystemClock
from gateway.turns.running import GIVEN_UP
from tests.everywhere.side import Side

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.support.daemon import Daemon

TOKENS: Final = ("blue", "red")
PAUSE_S: Final = 0.3


class OpenAISide(Side):
    """Each user is a session name of one of the tokens; both tokens use the same names."""

    name = "api"

    def __init__(self) -> None:
        super().__init__(idempotent=True)
        self._secrets: dict[str, str] = {}
        self._clients: dict[str, openai.AsyncOpenAI] = {}
        self._there = anyio.Event()
        self._clock = SystemClock()
        self.refused_strangers = 0

    @override
    def config(self) -> str:
        return ""

    @asynccontextmanager
    @override
    async def serving(self) -> AsyncGenerator[None]:
        yield
        await self.end_life()

    @asynccontextmanager
    @override
    async def away(self) -> AsyncGenerator[None]:
        yield  # It has no server but the gateway.

    @override
    async def begin_life(self, daemon: Daemon) -> None:
        for name in TOKENS:
            if name not in self._secrets:
                made = await daemon.post("/v1/tokens", {"name": name})
                self._secrets[name] = made.json()["token"]
            self._clients[name] = self._client(daemon, self._secrets[name])
        self._clients["nobody"] = self._client(daemon, "gw_nobody")
        self._there.set()

    @staticmethod
    def _client(daemon: Daemon, token: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            api_key=token,
            base_url=f"{str(daemon.client.base_url).rstrip('/')}/v1",
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
        )

    @override
    async def end_life(self) -> None:
        self._there = anyio.Event()
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.close()

    @override
    def places_of(self, user: int) -> list[str]:
        return [f"{TOKENS[user % 2]}/{user // 2}"]

    @override
    def key_of(self, place: str) -> str:
        token, _, session = place.partition("/")
        return f"agent:main:openai:{token}:dm:{session}::"

    @override
    async def say(self, user: int, place: str, text: str) -> None:
        token, _, session = place.partition("/")
        answer = await self._ask(token, session, text)
        self.book.accept(place, text, text, self._clock.now())
        self.book.show(place, text, text, answer, self._clock.now())

    @override
    async def say_as_stranger(self, text: str) -> None:
        try:
            await self._ask("nobody", "0", text)
        except openai.AuthenticationError:
            self.refused_strangers += 1

    async def _ask(self, token: str, session: str, text: str) -> str:
        """Ask until there is an answer, as a program does that must know it."""
        while True:
            await self._there.wait()
            client = self._clients.get(token)
            if client is None:
                continue
            try:
                answer = await client.chat.completions.create(
                    model="main",
                    messages=[{"role": "user", "content": text}],
                    extra_headers={"x-session-key": session, "Idempotency-Key": text},
                )
            except (openai.APIConnectionError, openai.InternalServerError, RuntimeError) as error:
                if GIVEN_UP in str(error):
                    return GIVEN_UP

                await self._clock.sleep(PAUSE_S)
                continue

            return answer.choices[0].message.content or ""
