"""A durable update against a bare synced append, at several sizes; and many writers at once."""

from __future__ import annotations

import random
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio

from tests.bench.measuring import (
    Bare,
    make_entry,
    median,
    opened,
    p99,
    times_us,
    touch,
    write_state,
)

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.sessions.store import SessionStore

ROUNDS = 7
UPDATES = 300
WRITERS = 32
UPDATES_OF_A_WRITER = 100


async def measure_updates(folder: Path, sizes: list[int]) -> list[dict[str, object]]:
    """Return one row a size: the update's time and rate as ratios to the bare append's."""
    bare = Bare(folder / "bare")
    shared: dict[int, list[float]] = {size: [] for size in sizes}
    tails: dict[int, list[float]] = {size: [] for size in sizes}
    rates: dict[int, list[float]] = {size: [] for size in sizes}
    absolute: list[float] = []
    try:
        async with AsyncExitStack() as stack:
            stores = {}
            for size in sizes:
                write_state(folder / str(size), size)
                stores[size] = await stack.enter_async_context(opened(folder / str(size)))
            for _ in range(ROUNDS):
                # In turn within each round, so that a drift of the disk touches all alike.
                appended = bare.times_us(UPDATES)
                absolute.append(median(appended))
                for size, store in stores.items():
                    pick = random.Random(size)
                    taken = await times_us(
                        lambda store=store, size=size, pick=pick: touch(  # type: ignore[misc]
                            store, make_entry(pick.randrange(size))
                        ),
                        UPDATES,
                    )
                    shared[size].append(median(taken) / median(appended))
                    tails[size].append(p99(taken) / p99(appended))
                    rate = await _rate(store, size)
                    rates[size].append(rate * median(bare.times_us(UPDATES)) / 1e6)
    finally:
        bare.close()
    return [
        {
            "entries": size,
            "update_to_bare": round(median(shared[size]), 3),
            "p99_to_bare_p99": round(median(tails[size]), 3),
            "rate_of_32_writers_to_bare": round(median(rates[size]), 2),
            "bare_us": round(median(absolute), 1),
        }
        for size in sizes
    ]


async def _rate(store: SessionStore, size: int) -> float:
    """Return durable updates a second of concurrent writers."""

    async def write(number: int) -> None:
        pick = random.Random(number)
        for _ in range(UPDATES_OF_A_WRITER):
            await touch(store, make_entry(pick.randrange(size)))

    start = time.perf_counter()
    async with anyio.create_task_group() as group:
        for number in range(WRITERS):
            group.start_soon(write, number)
    return WRITERS * UPDATES_OF_A_WRITER / (time.perf_counter() - start)
