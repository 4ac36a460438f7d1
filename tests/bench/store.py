"""A durable update against a bare synced append, at several sizes; and many writers at once."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio

from tests.bench.measuring import (
    Bare,
    keys,
    median,
    opened,
    p99,
    times_us,
    touch,
    write_state,
)

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.model import SessionKey
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
            for number in range(ROUNDS):
                # In turn within each round, so that a drift of the disk touches all alike.
                appended = bare.times_us(UPDATES)
                absolute.append(median(appended))
                # The sizes change places: what one leaves to the disk, the next one finds.
                order = list(stores.items())[:: -1 if number % 2 else 1]
                for size, store in order:
                    picked = iter(keys(size, UPDATES, number))
                    taken = await times_us(
                        lambda store=store, picked=picked: touch(store, next(picked)),  # type: ignore[misc]
                        UPDATES,
                    )
                    shared[size].append(median(taken) / median(appended))
                    tails[size].append(p99(taken) / p99(appended))
                    rate = await _rate(store, size, number)
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


async def _rate(store: SessionStore, size: int, seed: int) -> float:
    """Return durable updates a second of concurrent writers."""
    count = WRITERS * UPDATES_OF_A_WRITER
    picked = keys(size, count, seed)

    async def write(own: list[SessionKey]) -> None:
        for key in own:
            await touch(store, key)

    start = time.perf_counter()
    async with anyio.create_task_group() as group:
        for number in range(WRITERS):
            group.start_soon(write, picked[number::WRITERS])
    return count / (time.perf_counter() - start)
