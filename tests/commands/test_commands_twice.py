"""Laws of a command whose message is handed in again while it is carried out."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import anyio
import apsw

from gateway.commands.door import CUT_OFF
from gateway.errors import GatewayError
from gateway.model import ChatType, Inbound, SessionSource
from tests.support.commands import open_door

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.batch import Transaction
    from tests.support.commands import DoorBench

CHAT = SessionSource("loopback", "c", ChatType.DM, "lo", user_id="ann")
NEW = Inbound(CHAT, "/new", "m1")
REFUSE = (
    "CREATE TRIGGER no BEFORE INSERT ON outbox WHEN NEW.message_id = 'm1' "
    "BEGIN SELECT RAISE(ABORT, 'refused'); END"
)


async def test_a_command_that_comes_again_is_not_acknowledged_before_it_is_stored(
    tmp_path: Path,
) -> None:
    gate, acknowledged = threading.Event(), 0
    async with open_door(tmp_path) as bench:
        await bench.door.receive(Inbound(CHAT, "hello", "m0"))

        async def hand_in() -> None:
            nonlocal acknowledged
            assert (await bench.door.receive(NEW)).accepted
            acknowledged += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_hold, bench, gate)
            await anyio.wait_all_tasks_blocked()
            for _ in range(3):
                tasks.start_soon(hand_in)
            await anyio.wait_all_tasks_blocked()
            early = acknowledged
            gate.set()

        assert (early, acknowledged) == (0, 3)
        assert bench.door.counts["new"] == 1


async def test_a_command_that_comes_again_fails_with_the_first(tmp_path: Path) -> None:
    gate, failed = threading.Event(), list[str]()
    async with open_door(tmp_path) as bench:
        await bench.door.receive(Inbound(CHAT, "hello", "m0"))

        async def hand_in() -> None:
            try:
                await bench.door.receive(NEW)
            except (apsw.ConstraintError, GatewayError) as error:
                failed.append(str(error))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_hold, bench, gate, REFUSE)
            await anyio.wait_all_tasks_blocked()
            for _ in range(2):
                tasks.start_soon(hand_in)
            await anyio.wait_all_tasks_blocked()
            gate.set()

        assert sorted(failed) == [CUT_OFF, "refused"]


async def _hold(bench: DoorBench, gate: threading.Event, then: str = "") -> None:
    """Keep the database's writer busy until a gate opens."""

    def work(transaction: Transaction) -> None:
        gate.wait(20)
        if then:
            transaction.execute(then)

    await bench.turns.state.database.write_through(work)
