"""A message over the loopback socket: stored, answered, and its reply delivered over the same."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from gateway.channels.base import Receipt
from gateway.channels.running import open_channels
from gateway.channels.settings import LoopbackSettings
from gateway.delivery.delivery import Delivery
from gateway.delivery.settings import DeliverySettings
from gateway.transcripts import outbox_rows
from gateway.transcripts.outbox_rows import OutboxState
from tests.support.loopback import LoopbackClient, connected, message, short_directory
from tests.support.turns import running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from gateway.channels.base import Channel
    from gateway.model import Inbound
    from gateway.turns.ticket import Ticket
    from tests.support.turns import Bench


@asynccontextmanager
async def running_gateway(path: Path) -> AsyncGenerator[Bench]:
    """Run turns, channels and delivery, wired as the composition root wires them."""
    async with running_turns(path) as bench, anyio.create_task_group() as tasks:
        settings = {"lo": LoopbackSettings(kind="loopback")}
        channels = open_channels(settings, path, bench.clock)
        delivery = Delivery(bench.state.database, bench.clock, DeliverySettings(), channels)

        async def follow(ticket: Ticket, inbound: Inbound) -> None:
            await ticket.progress.ended()
            delivery.wake(inbound.source)

        async def receive(inbound: Inbound) -> Receipt:
            tasks.start_soon(follow, await bench.turns.submit(inbound), inbound)
            return Receipt()

        reached = anyio.Event()

        def on_reached(channel: Channel) -> None:
            delivery.reached(channel)
            reached.set()

        await tasks.start(delivery.run)
        tasks.start_soon(channels.run, receive, on_reached)
        await reached.wait()
        yield bench
        tasks.cancel_scope.cancel()


async def exchange(client: LoopbackClient, number: int) -> list[dict[str, object]]:
    """Say something; return the two lines that come of it, the acknowledgement first."""
    await client.write(**message(number))
    lines = [await client.read(), await client.read()]
    delivered = next(line for line in lines if "deliver" in line)
    await client.write(delivered=delivered["deliver"], id=f"shown-{number}")
    return sorted(lines, key=lambda line: "deliver" in line)


async def test_a_message_is_acknowledged_answered_and_its_reply_delivered() -> None:
    with short_directory() as folder:
        path = Path(folder) / "state"
        async with running_gateway(path) as bench, connected(path / "lo.sock") as client:
            await client.serve()
            (accepted, delivered) = await exchange(client, 1)
            await exchange(client, 2)
            with anyio.fail_after(30):
                while len(rows := await _sent(bench)) < 2:
                    await anyio.wait_all_tasks_blocked()

    assert accepted == {"accepted": "m1"}
    assert (delivered["text"], delivered["reply_to"], delivered["chat_id"]) == (
        *("re: hello 1", "m1"),
        "ann",
    )
    assert [row.platform_id for row in rows] == ["shown-2", "shown-1"]


async def test_a_reply_waits_for_a_client_over_a_restart() -> None:
    with short_directory() as folder:
        path = Path(folder) / "state"
        async with running_gateway(path) as bench, connected(path / "lo.sock") as client:
            assert await client.ask(**message()) == {"accepted": "m1"}
            with anyio.fail_after(30):
                while await bench.unfinished():
                    await anyio.wait_all_tasks_blocked()
        async with running_gateway(path), connected(path / "lo.sock") as client:
            await client.write(serve=True)
            lines = [await client.read(), await client.read()]

    assert {"serving": True} in lines
    assert [line["text"] for line in lines if "deliver" in line] == ["re: hello 1"]


async def _sent(bench: Bench) -> list[outbox_rows.OutboxRow]:
    return await bench.state.database.read(
        lambda db: outbox_rows.page(db, OutboxState.SENT, limit=9)
    )
