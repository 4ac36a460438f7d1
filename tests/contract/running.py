"""A channel that runs on its platform: with a gateway that a test directs, or with the real one."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio

from gateway.access.settings import AccessSettings, PlatformAccess
from gateway.channels.base import Receipt
from gateway.channels.running import Channels, ChannelState
from gateway.commands.following import Followers
from gateway.delivery.delivery import Delivery
from gateway.delivery.settings import DeliverySettings
from gateway.errors import StorageBusyError
from gateway.model import Inbound
from tests.support.commands import open_door

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from gateway.agents.base import Agent
    from tests.contract.base import Platform
    from tests.support.commands import DoorBench

EVERYBODY: Final = PlatformAccess(allow_users=["*"])
TICK_S: Final = 0.02
"""How long a test waits for something to happen before it lets time pass on the channel's clock."""


@dataclass
class Gateway:
    """Takes what a channel hands over."""

    received: list[Inbound] = field(default_factory=list)
    troubles: int = 0
    """So many messages cannot be stored at first."""
    gate: anyio.Event = field(default_factory=anyio.Event)
    """Nothing is stored before it is set."""
    asked: int = 0
    reached: anyio.Event = field(default_factory=anyio.Event)

    async def receive(self, inbound: Inbound) -> Receipt:
        self.asked += 1
        await self.gate.wait()
        if self.troubles:
            self.troubles -= 1
            raise StorageBusyError

        self.received.append(inbound)
        return Receipt()


@asynccontextmanager
async def running(platform: Platform, *, gate_open: bool = True) -> AsyncGenerator[Gateway]:
    """Run the channel alone, people being there."""
    gateway = Gateway()
    if gate_open:
        gateway.gate.set()

    async def run() -> None:
        await platform.channel.run(gateway.receive, ready=gateway.reached.set)

    async with platform.server(), anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        with anyio.fail_after(platform.patience_s):
            await gateway.reached.wait()
        async with platform.present():
            yield gateway
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def whole(
    platform: Platform,
    path: Path,
    agent: Agent,
    *others: Platform,
    access: PlatformAccess = EVERYBODY,
) -> AsyncGenerator[DoorBench]:
    """Run channels with everything that answers there, people being there."""
    platforms = (platform, *others)
    async with AsyncExitStack() as stack:
        for one in platforms:
            await stack.enter_async_context(one.server())
        made = alone(platform, path, agent, *others, access=access)
        bench, channels = await stack.enter_async_context(made)
        for one in platforms:
            await stack.enter_async_context(joined(one, channels))
        yield bench


@asynccontextmanager
async def joined(platform: Platform, channels: Channels) -> AsyncGenerator[None]:
    """Have people at a channel that is started, once it reaches its platform."""
    with anyio.fail_after(4 * platform.patience_s):
        while state_of(platform, channels) is not ChannelState.RUNNING:
            with anyio.move_on_after(TICK_S):
                await anyio.sleep_forever()
            await platform.pass_s(0.25)
    async with platform.present():
        yield


@asynccontextmanager
async def alone(
    platform: Platform,
    path: Path,
    agent: Agent,
    *others: Platform,
    access: PlatformAccess = EVERYBODY,
) -> AsyncGenerator[tuple[DoorBench, Channels]]:
    """Run channels with everything that answers there; whether they are reached is left open.

    All go by the clock of the first.
    """
    every = [one.channel for one in (platform, *others)]
    channels = Channels(every, platform.clock, lambda: 1.0)
    settings = AccessSettings(platforms={one.platform: access for one in every})
    async with open_door(path, agent, access=settings) as bench:
        database, clock, turns = bench.turns.state.database, platform.clock, bench.turns.turns
        delivery = Delivery(database, clock, DeliverySettings(), channels, lambda: 0.0)
        followers = Followers(channels, clock, delivery)
        turns.hooks.on_replied = delivery.wake
        turns.hooks.on_begun = followers.follow
        async with anyio.create_task_group() as tasks:
            await tasks.start(delivery.run)
            await tasks.start(followers.run)
            tasks.start_soon(channels.run, bench.door.receive, delivery.reached)
            yield bench, channels
            tasks.cancel_scope.cancel()


def state_of(platform: Platform, channels: Channels) -> ChannelState:
    """Return what a platform's channel does."""
    wanted = (platform.channel.platform, platform.channel.account)
    found = {(one.platform, one.account): one.state for one in channels.statistics()}
    return found[wanted]


async def until(
    platform: Platform,
    holds: Callable[[], bool],
    *,
    stored: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Wait for people to see something, while time passes.

    `stored`: returns once the disk has what was given to it; no time passes before.
    """
    with anyio.fail_after(4 * platform.patience_s):
        while not holds():
            changed = platform.people.changed
            with anyio.move_on_after(TICK_S):
                await changed.wait()
            if stored is not None:
                await stored()
            await platform.pass_s(0.25)


async def acknowledged(platform: Platform, count: int) -> None:
    """Wait until so many messages are acknowledged; no time passes."""
    with anyio.fail_after(platform.patience_s):
        while len(platform.people.acknowledged) < count:
            await platform.people.changed.wait()
