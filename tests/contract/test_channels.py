"""What every channel keeps, tried on each platform there is."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.channels.base import NotConnectedError, Outbound, Receipt, SendError
from gateway.errors import StorageBusyError
from gateway.model import ChatType, Inbound, SessionSource
from tests.contract.platforms import PLATFORMS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from tests.contract.platforms import Platform


@pytest.fixture(params=PLATFORMS)
def platform(request: pytest.FixtureRequest, state_dir: Path) -> Platform:
    return PLATFORMS[request.param](state_dir)


@dataclass
class Gateway:
    """Takes what a channel hands over."""

    received: list[Inbound] = field(default_factory=list)
    troubles: int = 0
    """So many messages cannot be stored at first."""
    gate: anyio.Event = field(default_factory=anyio.Event)
    """Nothing is stored before it is set."""
    reached: anyio.Event = field(default_factory=anyio.Event)

    async def receive(self, inbound: Inbound) -> Receipt:
        await self.gate.wait()
        if self.troubles:
            self.troubles -= 1
            raise StorageBusyError

        self.received.append(inbound)
        return Receipt()


@asynccontextmanager
async def running(platform: Platform, *, gate_open: bool = True) -> AsyncGenerator[Gateway]:
    gateway = Gateway()
    if gate_open:
        gateway.gate.set()

    async def run() -> None:
        await platform.channel.run(gateway.receive, ready=gateway.reached.set)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        with anyio.fail_after(5):
            await gateway.reached.wait()
        yield gateway
        tasks.cancel_scope.cancel()


def outbound(platform: Platform, text: str = "hi", delivery_id: str = "t-1") -> Outbound:
    channel = platform.channel
    target = SessionSource(channel.platform, "ann", ChatType.DM, channel.account)
    return Outbound(target, text, delivery_id)


async def test_messages_come_in_order_and_name_their_channel(platform: Platform) -> None:
    async with running(platform) as gateway, platform.there():
        for number in range(5):
            await platform.write(f"m{number}", f"text {number}")
        await platform.people.until(lambda: len(platform.people.acknowledged) == 5)

    assert [one.text for one in gateway.received] == [f"text {n}" for n in range(5)]
    assert len({one.message_id for one in gateway.received}) == 5
    assert {(one.source.platform, one.source.account) for one in gateway.received} == {
        (platform.channel.platform, platform.channel.account)
    }


async def test_a_message_is_acknowledged_only_once_it_is_stored(platform: Platform) -> None:
    async with running(platform, gate_open=False) as gateway, platform.there():
        await platform.write("m1", "hello")
        await anyio.wait_all_tasks_blocked()
        early = list(platform.people.acknowledged)
        gateway.gate.set()
        await platform.people.until(lambda: bool(platform.people.acknowledged))

    assert early == []


async def test_a_message_that_could_not_be_stored_comes_again(platform: Platform) -> None:
    async with running(platform) as gateway, platform.there():
        gateway.troubles = 2
        await platform.write("m1", "hello")
        await platform.people.until(lambda: bool(platform.people.acknowledged))

    assert [one.text for one in gateway.received] == ["hello"]


async def test_what_is_sent_is_shown_and_has_an_id(platform: Platform) -> None:
    async with running(platform), platform.there():
        ids = [
            await platform.channel.send(outbound(platform, text, f"t-{text}"))
            for text in ("one", "two")
        ]

    assert [(chat, text) for chat, text, _ in platform.people.shown] == [
        ("ann", "one"),
        ("ann", "two"),
    ]
    assert len(set(ids)) == 2
    assert all(ids)


async def test_the_longest_text_is_shown_whole(platform: Platform) -> None:
    longest = platform.channel.max_text_chars
    text = ("ü😀\n" * longest)[: longest - 1] + "."
    assert longest >= 256
    async with running(platform), platform.there():
        await platform.channel.send(outbound(platform, text))

    assert [shown for _, shown, _ in platform.people.shown] == [text]


async def test_the_same_delivery_is_shown_once_where_a_channel_says_so(platform: Platform) -> None:
    async with running(platform), platform.there():
        for _ in range(2):
            await platform.channel.send(outbound(platform))

    assert len(platform.people.shown) == (1 if platform.channel.idempotent else 2)


async def test_a_refusal_says_whether_to_try_again(platform: Platform) -> None:
    told = []
    async with running(platform), platform.there():
        platform.people.next_answers = ["refused", "busy"]
        for _ in range(2):
            with pytest.raises(SendError) as caught:
                await platform.channel.send(outbound(platform, "a secret"))
            told.append(caught.value)

    assert [(one.retryable, one.retry_after_s, one.ambiguous) for one in told] == [
        (False, None, False),
        (True, 7.0, False),
    ]
    assert "secret" not in str(told)
    assert platform.people.shown == []


async def test_a_connection_that_breaks_leaves_a_doubt(platform: Platform) -> None:
    async with running(platform), platform.there():
        platform.people.next_answers = ["lost"]
        with pytest.raises(SendError) as caught, anyio.fail_after(5):
            await platform.channel.send(outbound(platform))

    assert (caught.value.retryable, caught.value.ambiguous) == (True, True)
    assert not isinstance(caught.value, NotConnectedError)


async def test_a_platform_that_is_away_is_told_as_such_and_as_there_again(
    platform: Platform,
) -> None:
    async with running(platform) as gateway:
        with pytest.raises(NotConnectedError):
            await platform.channel.send(outbound(platform))
        gateway.reached = anyio.Event()
    async with running(platform) as gateway, platform.there():
        with anyio.fail_after(5):
            await gateway.reached.wait()
        await platform.channel.send(outbound(platform))

    assert len(platform.people.shown) == 1


async def test_a_channel_runs_again_after_it_was_stopped(platform: Platform) -> None:
    for number in range(2):
        async with running(platform) as gateway, platform.there():
            await platform.write(f"m{number}", "hello")
            await platform.people.until(lambda n=number: len(platform.people.acknowledged) > n)  # type: ignore[misc]

        assert len(gateway.received) == 1
