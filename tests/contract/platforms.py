"""Platforms that the contract of channels is tried on: each with people who write and read.

A new channel gets a class like `LoopbackPlatform` and its line in `PLATFORMS`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

import anyio

from gateway.channels.loopback import LoopbackChannel
from gateway.channels.settings import LoopbackSettings
from gateway.clock import FakeClock
from tests.support.loopback import LoopbackClient, connected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from gateway.channels.base import Channel


@dataclass
class People:
    """What happens on a platform, beyond the channel."""

    acknowledged: list[str] = field(default_factory=list)
    """Ids of messages that the platform need not hand over again."""
    shown: list[tuple[str, str, str]] = field(default_factory=list)
    """Chat, text and id of what was shown."""
    next_answers: list[str] = field(default_factory=list)
    """What becomes of the next messages: `refused`, `busy` (for 7 s), `lost` (shown, and the
    connection breaks before it is told); then all are shown."""
    changed: anyio.Event = field(default_factory=anyio.Event)

    def note(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        with anyio.fail_after(5):
            while not holds():
                await self.changed.wait()


class Platform(Protocol):
    """A platform and the channel to it."""

    @property
    def channel(self) -> Channel: ...

    @property
    def people(self) -> People: ...

    def there(self) -> AbstractAsyncContextManager[None]:
        """Be reachable, once the channel runs."""
        ...

    async def write(self, message_id: str, text: str, *, chat: str = "ann") -> None:
        """Have somebody write; the platform repeats it until it is acknowledged."""
        ...


class LoopbackPlatform:
    """A client at the socket."""

    def __init__(self, state_dir: Path, *, idempotent: bool) -> None:
        settings = LoopbackSettings(kind="loopback", idempotent=idempotent, max_text_chars=300)
        self.channel = LoopbackChannel("acme", settings, state_dir, FakeClock())
        self.people = People()
        self._client: LoopbackClient | None = None
        self._written: dict[str, dict[str, str]] = {}

    @asynccontextmanager
    async def there(self) -> AsyncGenerator[None]:
        async with connected(self.channel.path) as client, anyio.create_task_group() as tasks:
            self._client = client
            await client.serve()
            tasks.start_soon(self._read, client)
            yield
            tasks.cancel_scope.cancel()

    async def write(self, message_id: str, text: str, *, chat: str = "ann") -> None:
        assert self._client is not None
        fields = {"message_id": message_id, "chat_id": chat, "text": text}
        self._written[message_id] = fields
        await self._client.write(**fields)

    async def _read(self, client: LoopbackClient) -> None:
        while True:
            try:
                line = await client.read()
            except TimeoutError:
                continue
            if "deliver" in line:
                await self._show(client, line)
            elif "retry" in line:
                await client.write(**self._written[line["retry"]])
            else:
                self.people.acknowledged.append(line.get("accepted") or line["refused"])
            self.people.note()

    async def _show(self, client: LoopbackClient, line: dict[str, str]) -> None:
        answer = self.people.next_answers.pop(0) if self.people.next_answers else "shown"
        delivery_id = line["deliver"]
        if answer == "refused":
            await client.write(failed=delivery_id, retryable=False, error="no such chat")
        elif answer == "busy":
            await client.write(failed=delivery_id, retryable=True, retry_after_s=7)
        else:
            known = [one[2] for one in self.people.shown]
            if not (self.channel.idempotent and delivery_id in known):
                self.people.shown.append((line["chat_id"], line["text"], delivery_id))
            if answer == "lost":
                await client.stream.aclose()
                await anyio.sleep_forever()
            await client.write(delivered=delivery_id, id=f"p-{delivery_id}")


PLATFORMS: dict[str, Callable[[Path], Platform]] = {
    "loopback": partial(LoopbackPlatform, idempotent=False),
    "loopback-idempotent": partial(LoopbackPlatform, idempotent=True),
}
