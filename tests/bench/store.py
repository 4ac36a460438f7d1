"""A durable update against a bare synced append, at several sizes; and many writers at once."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from gateway.daemon import spare_the_collector
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

ROUNDS = 15
UPDATES = 150
WRITERS = 32
UPDATES_OF_A_WRITER = 50


@dataclass(slots=True)
class Case:
    """A store of some size of which some sessions are in use, and what was measured of it."""

    entries: int
    in_use: int
    """Updates go to this many sessions; all of them: each is likely met for the first time."""
    to_bare: list[float] = field(default_factory=list)
    tail_to_bare: list[float] = field(default_factory=list)
    rate_to_bare: list[float] = field(default_factory=list)

    def row(self) -> dict[str, float]:
        """Return the medians over all rounds."""
        return {
            "entries": self.entries,
            "in_use": self.in_use,
            "update_to_bare": round(median(self.to_bare), 3),
            "p99_to_bare_p99": round(median(self.tail_to_bare), 3),
            "rate_of_32_writers_to_bare": round(median(self.rate_to_bare), 2),
        }


async def measure_updates(folder: Path, cases: list[Case]) -> float:
    """Measure all cases in turn within each round, and return the bare append's median in us.

    The cases change places from round to round: what one leaves to the disk, the next one finds.
    """
    bare, absolute = Bare(folder / "bare"), []
    try:
        async with AsyncExitStack() as stack:
            stores: dict[int, SessionStore] = {}
            for size in {case.entries for case in cases}:
                write_state(folder / str(size), size)
                stores[size] = await stack.enter_async_context(opened(folder / str(size)))
            spare_the_collector()
            for number in range(ROUNDS):
                for place in range(len(cases)):
                    case = cases[(place + number) % len(cases)]
                    appended = bare.times_us(UPDATES)
                    absolute.append(median(appended))
                    await _measure(case, stores[case.entries], appended, number)
    finally:
        bare.close()
    return round(median(absolute), 1)


async def _measure(case: Case, store: SessionStore, appended: list[float], seed: int) -> None:
    picked = keys(case.in_use, UPDATES, seed)
    following = iter(picked)
    taken = await times_us(lambda: touch(store, next(following)), UPDATES)
    case.to_bare.append(median(taken) / median(appended))
    case.tail_to_bare.append(p99(taken) / p99(appended))
    rate = await _rate(store, keys(case.in_use, WRITERS * UPDATES_OF_A_WRITER, ~seed))
    case.rate_to_bare.append(rate * median(appended) / 1e6)


async def _rate(store: SessionStore, picked: list[SessionKey]) -> float:
    """Return durable updates a second of concurrent writers."""

    async def write(own: list[SessionKey]) -> None:
        for key in own:
            await touch(store, key)

    start = time.perf_counter()
    async with anyio.create_task_group() as group:
        for number in range(WRITERS):
            group.start_soon(write, picked[number::WRITERS])
    return len(picked) / (time.perf_counter() - start)
