"""Laws of running channels: each alone, with a back-off of its own, and told as it is."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import pytest
from structlog.testing import capture_logs
from typing_extensions import override

from gateway.channels.base import LONGEST_WISH_S, ChannelError, Receipt
from gateway.channels.loopback.channel import LoopbackChannel
from gateway.channels.running import (
    LONGEST_PAUSE_S,
    STEADY_S,
    Channels,
    ChannelState,
    longest_pause_s,
    open_channels,
)
from gateway.channels.settings import LoopbackSettings
from gateway.clock import FakeClock
from tests.support.channels import PlayedChannel
from tests.support.loopback import connected, message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from gateway.channels.base import Channel, Receive
    from gateway.model import Inbound


@dataclass
class Fragile(PlayedChannel):
    """Ends as it is told."""

    ends: list[Exception | None] = field(default_factory=list)
    """How its runs end, in order; then it stays up."""
    broken: anyio.Event = field(default_factory=anyio.Event)
    connects: bool = True
    runs: int = 0

    @override
    async def run(self, receive: Receive, *, ready: Callable[[], None]) -> None:
        self.runs += 1
        if self.connects:
            ready()
        if not self.ends:
            await anyio.sleep_forever()
        await self.broken.wait()
        self.broken = anyio.Event()
        end = self.ends.pop(0)
        if end is not None:
            raise end

    async def lose(self) -> None:
        self.broken.set()
        await anyio.wait_all_tasks_blocked()


@dataclass
class Run:
    channels: Channels
    clock: FakeClock
    reached: list[str] = field(default_factory=list)

    def state(self, place: int = 0) -> ChannelState:
        return self.channels.statistics()[place].state


async def _receive(_inbound: Inbound) -> Receipt:
    await anyio.lowlevel.checkpoint()
    return Receipt()


@asynccontextmanager
async def running(*channels: Channel, share: float = 1.0) -> AsyncGenerator[Run]:
    clock = FakeClock()
    run = Run(Channels(channels, clock, lambda: share), clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run.channels.run, _receive, lambda one: run.reached.append(one.account))
        await anyio.wait_all_tasks_blocked()
        yield run
        tasks.cancel_scope.cancel()


async def test_a_channel_goes_through_its_states() -> None:
    channel = Fragile(ends=[ChannelError("connection reset")], connects=False)
    async with running(channel) as run:
        states = [run.state()]
        channel.connects = True
        await channel.lose()
        states.append(run.state())
        await run.clock.advance(1)
        states.append(run.state())
        told = run.channels.statistics()[0]

        assert states == [ChannelState.STARTING, ChannelState.BACKING_OFF, ChannelState.RUNNING]
        assert (told.platform, told.account) == ("played", "one")
        assert (told.restarts, told.last_error) == (1, "connection reset")
        assert told.since == run.clock.now()
        assert run.reached == ["one"]
    assert run.state() is ChannelState.STOPPED


async def test_a_channel_that_fails_waits_longer_each_time() -> None:
    channel = Fragile(ends=[ChannelError("no")] * 12, connects=False)
    async with running(channel) as run:
        for pause_s in (1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300):
            await channel.lose()
            runs = channel.runs
            await run.clock.advance(pause_s - 0.001)
            assert channel.runs == runs
            await run.clock.advance(0.001)
            assert channel.runs == runs + 1


@pytest.mark.parametrize("failures", [1, 2, 9, 10, 100, 100_000])
def test_no_pause_is_longer_than_the_longest(failures: int) -> None:
    assert longest_pause_s(failures) == min(LONGEST_PAUSE_S, 2.0 ** min(failures - 1, 20))


@pytest.mark.parametrize(
    ("wish_s", "pause_s"),
    [
        pytest.param(120.0, 120.0, id="longer-than-ours"),
        pytest.param(0.1, 1.0, id="shorter-than-ours"),
        pytest.param(1e9, LONGEST_WISH_S, id="longer-than-is-borne"),
    ],
)
async def test_a_pause_that_the_platform_asks_for_is_kept(wish_s: float, pause_s: float) -> None:
    channel = Fragile(ends=[ChannelError("busy", retry_after_s=wish_s)], connects=False)
    async with running(channel) as run:
        with capture_logs() as logs:
            await channel.lose()
        await run.clock.advance(pause_s - 0.001)
        early = channel.runs
        await run.clock.advance(0.001)

        assert (early, channel.runs) == (1, 2)
    assert [line["pause_s"] for line in logs] == [pause_s]


async def test_a_pause_is_any_part_of_the_longest() -> None:
    channel = Fragile(ends=[ChannelError("no")])
    async with running(channel, share=0.25) as run:
        await channel.lose()
        await run.clock.advance(0.25)

        assert run.state() is ChannelState.RUNNING


async def test_a_channel_that_ran_for_a_while_starts_anew_with_the_shortest_pause() -> None:
    channel = Fragile(ends=[ChannelError("no")] * 5)
    async with running(channel) as run:
        for pause_s in (1, 2, 4):
            await channel.lose()
            await run.clock.advance(pause_s)
        await run.clock.advance(STEADY_S)
        await channel.lose()
        await run.clock.advance(1)

        assert run.state() is ChannelState.RUNNING


@pytest.mark.parametrize(
    ("end", "told"),
    [
        pytest.param(RuntimeError("a bug"), "it crashed (RuntimeError)", id="a-bug"),
        pytest.param(None, "it ended by itself", id="an-end"),
        pytest.param(
            ExceptionGroup("tasks", [ChannelError("reset")]), "reset", id="an-error-in-a-group"
        ),
    ],
)
async def test_a_broken_channel_harms_no_other(end: Exception | None, told: str) -> None:
    broken, fine = Fragile(account="broken", ends=[end]), Fragile(account="fine")
    async with running(broken, fine) as run:
        with capture_logs() as logs:
            await broken.lose()

        assert [run.state(0), run.state(1)] == [ChannelState.BACKING_OFF, ChannelState.RUNNING]
        assert run.channels.statistics()[0].last_error == told
        (lost,) = [line for line in logs if line["event"] == "channel.lost"]
        assert (lost["log_level"], lost["account"], lost["reason"]) == ("warning", "broken", told)
        await run.clock.advance(1)
        assert run.state(0) is ChannelState.RUNNING
        assert (broken.runs, fine.runs) == (2, 1)


async def test_configured_channels_are_opened_by_account(state_dir: Path) -> None:
    settings = {name: LoopbackSettings(kind="loopback") for name in ("a", "b")}
    channels = open_channels(settings, state_dir, FakeClock())
    reached = []
    both = anyio.Event()

    def note(channel: Channel) -> None:
        reached.append(channel.account)
        if len(reached) == len(settings):
            both.set()

    assert len(channels) == 2
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(channels.run, _receive, note)
        with anyio.fail_after(30):
            await both.wait()
        for channel in channels:
            assert isinstance(channel, LoopbackChannel)
            async with connected(channel.path) as client:
                assert await client.ask(**message()) == {"accepted": "m1"}
        tasks.cancel_scope.cancel()

    assert sorted(reached) == ["a", "b"]
    assert list(state_dir.iterdir()) == []
