"""How long the event loop is held up by one step of a task, for laws that it never is for long."""

from __future__ import annotations

import gc
import time  # noqa: TID251 - how long the loop is held up is measured
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

HELD_UP_S: Final = 0.010
"""No step of a task may be longer."""


async def slowest_of_three(measure: Callable[[], Awaitable[dict[str, float]]]) -> dict[str, float]:
    """Return the first of three measurements that is within the limit, else the last.

    What else the machine does shows in single turns; what the code does shows each time.
    """
    slowest_s: dict[str, float] = {}
    for _ in range(3):
        slowest_s = await measure()
        if max(slowest_s.values()) < HELD_UP_S:
            break
    return slowest_s


@asynccontextmanager
async def watched() -> AsyncGenerator[list[float]]:
    """Yield how long the thread computed from one turn of a task beside to the next.

    The time of the processor is counted, not of the wall: a machine with other work to do is no
    failing law. The garbage collector goes over everything that a test made, and is left out.
    """
    turns: list[float] = []

    async def tick() -> None:
        last = time.thread_time()
        while True:
            await anyio.lowlevel.checkpoint()
            now = time.thread_time()
            turns.append(now - last)
            last = now

    gc.collect()
    gc.disable()
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            await anyio.lowlevel.checkpoint()
            yield turns
            group.cancel_scope.cancel()
    finally:
        gc.enable()
