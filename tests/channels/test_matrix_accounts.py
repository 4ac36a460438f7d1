"""Accounts with many rooms, and several of one user."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.channels.base import ChannelError, Receipt
from gateway.channels.matrix import MatrixChannel
from gateway.channels.matrix_place import Place, Room, place_path, write_place
from gateway.clock import FakeClock
from tests.support.held_up import HELD_UP_S, slowest_of_three, watched
from tests.support.matrix import settings
from tests.support.played_matrix import BOT, PlayedHomeserver, event, running, said

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.model import Inbound

ROOMS = 20_000


async def test_with_many_rooms_no_message_holds_up_the_loop(tmp_path: Path) -> None:
    rooms = {f"!{number}": Room(3, f"room {number}") for number in range(ROOMS)}
    write_place(place_path(tmp_path, "work"), Place(BOT.user_id, "s0", rooms))
    server = PlayedHomeserver(BOT)
    messages = 0
    async with running(tmp_path, server) as run:

        async def measure() -> dict[str, float]:
            nonlocal messages
            messages += 1
            async with watched() as turns:
                server.push(said(f"s{messages}", event(messages)))
                await run.until(lambda: len(run.received) == messages)
                await server.until_asked("sync", messages + 2)
            return {"a message": max(turns)}

        slowest_s = await slowest_of_three(measure)

    assert slowest_s["a message"] < HELD_UP_S


async def test_a_second_account_of_a_user_is_refused_while_the_first_one_reads(
    tmp_path: Path,
) -> None:
    server = PlayedHomeserver(BOT)
    made = settings(tmp_path, server.url, BOT)
    second = MatrixChannel("second", made, tmp_path, FakeClock())

    async def receive(_: Inbound) -> Receipt:
        return Receipt()

    async with running(tmp_path, server):
        with pytest.raises(ChannelError) as caught:
            await second.run(receive, ready=lambda: None)
    async with server.serving(), anyio.create_task_group() as tasks:
        ready = anyio.Event()

        async def run() -> None:
            await second.run(receive, ready=ready.set)

        tasks.start_soon(run)
        with anyio.fail_after(10):
            await ready.wait()
        tasks.cancel_scope.cancel()

    assert "the same user as that of channels.work" in str(caught.value)
