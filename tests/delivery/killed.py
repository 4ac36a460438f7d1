"""A program that delivers, and is killed by its channel in the middle: `killed.py DB FILE POINT`.

The channel shows by a line in FILE. POINT is `before` (before it is shown), `after`, or `never`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from typing_extensions import override

from gateway.clock import SystemClock
from gateway.delivery.delivery import Delivery
from gateway.delivery.settings import DeliverySettings
from gateway.durable.database import Database
from gateway.transcripts import outbox_rows
from tests.support.channels import PlayedChannel

if TYPE_CHECKING:
    from gateway.channels.base import Outbound


class DeadlyChannel(PlayedChannel):
    """Kills its own process at a point."""

    def __init__(self, shown: Path, point: str, *, idempotent: bool) -> None:
        super().__init__(idempotent=idempotent)
        self.file = shown
        self.point = point

    @override
    async def send(self, outbound: Outbound) -> str:
        await anyio.lowlevel.checkpoint()
        if self.point == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        line = f"{outbound.delivery_id} {outbound.text.splitlines()[0]}"
        known = [one.split()[0] for one in lines]
        if not (self.idempotent and outbound.delivery_id in known):
            self.file.write_text("\n".join([*lines, line]))
        if self.point == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return "shown"


async def main(path: Path, shown: Path, point: str, kind: str) -> None:
    channel = DeadlyChannel(shown, point, idempotent=kind == "idempotent")
    async with Database.open(path, SystemClock()) as database:
        settings = DeliverySettings(ttl_s=2_592_000.0)
        delivery = Delivery(database, SystemClock(), settings, [channel])
        async with anyio.create_task_group() as tasks:
            await tasks.start(delivery.run)
            # A stop waits for a few seconds only, which a busy disk may take for less.
            while (await database.read(outbox_rows.counts)).owed:
                await delivery.drain()
            tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
