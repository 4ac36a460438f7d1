"""A channel to Telegram that runs, and the other side of it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
from typing_extensions import override

from gateway.channels.base import Outbound, Receipt
from gateway.channels.running import Channels, ChannelState
from gateway.channels.telegram.channel import TelegramChannel
from gateway.channels.telegram.settings import TelegramSettings
from gateway.clock import FakeClock
from gateway.model import ChatType, Inbound, SessionSource
from gateway.settings import SecretSource
from tests.support.telegram_api import TelegramServer, message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from gateway.channels.base import Channel

ANN = SessionSource("telegram", "7", ChatType.DM, "main", user_id="7")


class WatchedClock(FakeClock):
    """Tells what is waited for."""

    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__()
        self.waits_s: list[float] = []
        """Each wait that began."""
        self._note = note

    @override
    async def sleep(self, duration_s: float) -> None:
        self.waits_s.append(duration_s)
        self._note()
        await super().sleep(duration_s)


@dataclass
class Run:
    """A channel that runs, and the other side of it."""

    server: TelegramServer
    channel: TelegramChannel
    clock: WatchedClock
    received: list[Inbound] = field(default_factory=list)
    receipts: list[Receipt | Exception] = field(default_factory=list)
    """What becomes of the next messages; then all are stored."""
    channels: Channels | None = None
    reached: list[str] = field(default_factory=list)
    """The account, each time that the platform could be reached."""

    async def receive(self, inbound: Inbound) -> Receipt:
        receipt = self.receipts.pop(0) if self.receipts else Receipt()
        if isinstance(receipt, Exception):
            raise receipt
        self.received.append(inbound)
        self.server.note()
        return receipt

    def state(self) -> ChannelState:
        assert self.channels is not None
        return self.channels.statistics()[0].state

    def offsets(self) -> list[str | None]:
        return [said.get("offset") for method, said in self.server.asked if method == "getUpdates"]

    async def say(self, text: str | None, number: int, **more: Any) -> int:  # noqa: ANN401 - as of `message`
        """Have Ann write, and wait until it came and is acknowledged; return the update's id."""
        update_id = self.server.push(message=message(text, number, **more))
        await self.server.until(lambda: update_id in self.server.acknowledged)
        return update_id

    async def up(self) -> None:
        """Wait until the channel runs."""
        with anyio.fail_after(30):
            while self.state() is not ChannelState.RUNNING:
                await anyio.wait_all_tasks_blocked()

    async def lost(self) -> str:
        """Wait until the channel is lost, and return why."""
        assert self.channels is not None
        with anyio.fail_after(30):
            while self.state() is not ChannelState.BACKING_OFF:
                await anyio.wait_all_tasks_blocked()
                self.server.end_poll()
        return self.channels.statistics()[0].last_error


def settings(tmp_path: Path, server: TelegramServer, **more: Any) -> TelegramSettings:  # noqa: ANN401
    file = tmp_path / "token"
    file.write_text(more.pop("secret", server.token))
    return TelegramSettings(
        kind="telegram", token=SecretSource(file=str(file)), base_url=server.url, **more
    )


@asynccontextmanager
async def running(
    tmp_path: Path,
    server: TelegramServer | None = None,
    *,
    ready: bool = True,
    **more: Any,  # noqa: ANN401 - of the settings
) -> AsyncGenerator[Run]:
    """Run a channel as the gateway does."""
    server = server or TelegramServer()
    clock = WatchedClock(server.note)
    run = Run(server, TelegramChannel("main", settings(tmp_path, server, **more), clock), clock)
    run.channels = Channels([run.channel], clock, lambda: 1.0)
    reached = anyio.Event()

    def note(channel: Channel) -> None:
        run.reached.append(channel.account)
        reached.set()

    async with server.serving(), anyio.create_task_group() as tasks:
        tasks.start_soon(run.channels.run, run.receive, note)
        if ready:
            with anyio.fail_after(30):
                await reached.wait()
            await server.until(lambda: server.polled or server.hook)
        yield run
        tasks.cancel_scope.cancel()


def outbound(text: str = "hi", target: SessionSource = ANN, **more: Any) -> Outbound:  # noqa: ANN401
    return Outbound(target, text, "t-1", **more)
