"""Stands in for a gateway that is killed: starts processes on a real state directory, and waits.

    python -m tests.processes.stand_in STATE CHAT COMMAND [CHAT COMMAND ...]

Commands are JSON lists. It writes a line for each process it has started: its id.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import orjson

from tests.processes.running import caller, running_registry


async def main(*words: str) -> None:
    state, *arguments = words
    async with running_registry(Path(state), leave=True) as running:
        for chat, command in zip(arguments[::2], arguments[1::2], strict=True):
            record = await running.registry.start(caller(chat), orjson.loads(command))
            sys.stdout.write(record.process_id + "\n")
            sys.stdout.flush()
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
