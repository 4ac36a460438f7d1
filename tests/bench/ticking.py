"""How long an event loop is held up, how much memory is in use, and a steady stream of updates."""

from __future__ import annotations

import gc
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

TICK_S: Final = 0.001
_STATUS: Final = Path("/proc/self/status")


@dataclass(slots=True)
class Ticks:
    """How late a 1 ms ticker came each time."""

    gaps_ms: list[float] = field(default_factory=list)


@asynccontextmanager
async def ticking() -> AsyncGenerator[Ticks]:
    """Let a ticker run on the loop beside the body."""
    ticks = Ticks()

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await anyio.sleep(TICK_S)
            now = time.perf_counter()
            ticks.gaps_ms.append((now - last - TICK_S) * 1000)
            last = now

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        try:
            yield ticks
        finally:
            group.cancel_scope.cancel()


@asynccontextmanager
async def loaded(
    work: Callable[[int], Awaitable[object]], per_s: float
) -> AsyncGenerator[list[float]]:
    """Call work so many times a second beside the body, whether or not earlier calls have ended.

    The list that is yielded gets how long each took, in milliseconds.
    """
    taken_ms: list[float] = []

    async def one(number: int) -> None:
        start = time.perf_counter()
        await work(number)
        taken_ms.append((time.perf_counter() - start) * 1000)

    async def send() -> None:
        start, sent = time.perf_counter(), 0
        async with anyio.create_task_group() as calls:
            while True:
                due = int((time.perf_counter() - start) * per_s)
                for number in range(sent, due):
                    calls.start_soon(one, number)
                sent = max(sent, due)
                await anyio.sleep(TICK_S)

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        try:
            yield taken_ms
        finally:
            group.cancel_scope.cancel()


async def idle_gaps_ms(seconds: float) -> list[float]:
    """Return a ticker's gaps on a loop that does nothing else."""
    async with ticking() as ticks:
        await anyio.sleep(seconds)
    return ticks.gaps_ms


def resident_bytes() -> int:
    """Return the memory that this process has in RAM."""
    return _memory("VmRSS:")


def peak_bytes() -> int:
    """Return the most memory that this process had in RAM, since `forget_peak`."""
    return _memory("VmHWM:")


def forget_peak() -> None:
    """Let the peak begin anew from what is resident now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _memory(name: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise LookupError(name)
