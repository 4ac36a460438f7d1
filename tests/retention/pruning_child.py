"""Prunes, keeps and gives back without end, for a parent that kills it: `pruning_child STATE SEED`.

The parent stored the messages; the clock starts where the seed says, always later than before.
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import anyio

from gateway.clock import FakeClock
from tests.support.kept import DAY_S, KEEP, store
from tests.support.state import START

KEEP_SHORT = replace(KEEP, archive_s=20 * DAY_S, removed_sessions_s=10 * DAY_S, audit_s=None)


async def main(path: Path, seed: int) -> None:
    """Work until somebody ends it."""
    chance = random.Random(seed)
    clock = FakeClock(START + timedelta(days=1_000 * seed))
    async with store(path, keep=KEEP_SHORT, clock=clock, max_content_bytes=2_000) as one:
        print("works", flush=True)  # noqa: T201 - the parent waits for it
        for number in range(10_000):
            there = (await one.present())[:-1]
            some = chance.sample(there, min(len(there), chance.randrange(1, 30)))
            action = chance.choice(("delete", "archive", "archive", "compact", "summarize"))
            await one.take(*some, action=action, run=f"{seed}-{number}")
            one.later(chance.choice([1, 3, 7]))
            await one.sweep()
            await one.give_back(run=f"{seed}-{chance.randrange(2 * number + 1)}")


anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
