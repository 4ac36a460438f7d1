"""A channel to Matrix that runs against a real homeserver, and what it hands over."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from gateway.channels.base import ChannelError, Receipt
from gateway.channels.matrix.channel import MatrixChannel
from gateway.channels.matrix.place import place_path
from gateway.channels.matrix.settings import MatrixSettings
from gateway.clock import Clock, FakeClock
from gateway.model import Inbound
from gateway.settings import SecretSource
from tests.support.synapse import Client, User

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from tests.support.synapse import Synapse

PATIENCE_S = 60.0


@dataclass
class Run:
    """A channel that runs."""

    channel: MatrixChannel
    clock: Clock
    place: Path
    received: list[Inbound] = field(default_factory=list)
    receipts: list[Receipt | Exception] = field(default_factory=list)
    """What becomes of the next messages; then all are stored."""
    reached: anyio.Event = field(default_factory=anyio.Event)
    lost: str = ""
    """Why the channel ended."""
    changed: anyio.Event = field(default_factory=anyio.Event)
    _before: bytes = b""
    """The place as it was stored before the last message."""

    async def receive(self, inbound: Inbound) -> Receipt:
        self._before = self.place.read_bytes()
        receipt = self.receipts.pop(0) if self.receipts else Receipt()
        self.note()
        if isinstance(receipt, Exception):
            raise receipt
        self.received.append(inbound)
        return receipt

    def note(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    @property
    def texts(self) -> list[str]:
        return [one.text for one in self.received]

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something was handed over, or the channel has ended."""
        with anyio.fail_after(PATIENCE_S):
            while not holds():
                await self.changed.wait()

    async def stored(self) -> None:
        """Wait until the place is past what was handed over."""
        with anyio.fail_after(PATIENCE_S):
            while await anyio.to_thread.run_sync(self.place.read_bytes) == self._before:
                pass

    def _ready(self) -> None:
        self.reached.set()
        self.note()

    async def run(self) -> None:
        try:
            await self.channel.run(self.receive, ready=self._ready)
        except ChannelError as error:
            self.lost = str(error)
            self.note()


def settings(tmp_path: Path, url: str, user: User, **more: Any) -> MatrixSettings:  # noqa: ANN401
    file = tmp_path / f"{user.device_id}.token"
    file.write_text(user.token)
    given = {"request_timeout_s": PATIENCE_S, **more}
    token = SecretSource(file=str(file))
    return MatrixSettings(kind="matrix", homeserver=url, token=token, **given)


def channel_of(
    tmp_path: Path,
    url: str,
    user: User,
    *,
    clock: Clock | None = None,
    **more: Any,  # noqa: ANN401 - of the settings
) -> Run:
    clock = clock or FakeClock()
    made = settings(tmp_path, url, user, **more)
    channel = MatrixChannel("work", made, tmp_path, clock)
    return Run(channel, clock, place_path(tmp_path, "work"))


@asynccontextmanager
async def running(
    tmp_path: Path,
    url: str,
    user: User,
    **more: Any,  # noqa: ANN401 - of the settings
) -> AsyncGenerator[Run]:
    """Run a channel; what it has read it keeps in the directory."""
    run = channel_of(tmp_path, url, user, **more)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run.run)
        with anyio.fail_after(PATIENCE_S):
            await run.reached.wait()
        yield run
        tasks.cancel_scope.cancel()


@dataclass(frozen=True)
class Meeting:
    """The channel's user, somebody else, and their direct chat."""

    bot: User
    ann: Client
    room: str

    @classmethod
    def at(cls, server: Synapse, name: str = "") -> Meeting:
        bot, ann = server.register("gateway"), server.client(server.register("ann"))
        room = ann.create(bot, name=name)
        server.client(bot).join(room)
        return cls(bot, ann, room)
