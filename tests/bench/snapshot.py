"""Goal 3: what others notice while a snapshot is written under 1,000 updates a second."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio

from gateway.daemon import spare_the_collector
from tests.bench.report import Report, median, quantile, spread
from tests.bench.states import keys, opened, touch, write_state
from tests.bench.ticking import (
    forget_peak,
    idle_gaps_ms,
    loaded,
    peak_bytes,
    resident_bytes,
    ticking,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from gateway.sessions.store import SessionStore

SNAPSHOTS: Final = {100_000: 12, 1_000_000: 5}
"""How many snapshots are written of each size."""
UPDATES_PER_S: Final = 1_000
CONTROL_S: Final = 5.0
MIB: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class Phase:
    """What was noticed for some time."""

    gaps_ms: list[float]
    updates_ms: list[float]
    wall_s: float
    loop_cpu_s: float
    process_cpu_s: float
    extra_bytes: int
    """How far the resident memory rose above where it was before."""


async def measure(folder: Path, snapshots: dict[int, int] = SNAPSHOTS) -> Report:
    """Measure every size on a store of its own."""
    report = Report()
    for entries, count in snapshots.items():
        directory = folder / str(entries)
        write_state(directory, entries)
        async with opened(directory) as state:
            spare_the_collector()
            await _measure(report, state.store, entries, count)
    return report


async def _measure(report: Report, store: SessionStore, entries: int, count: int) -> None:
    async def pause() -> None:
        await anyio.sleep(CONTROL_S)

    async def write() -> None:
        # One after the other: what one leaves to be done, the next one feels.
        for _ in range(count):
            start = time.perf_counter()
            await store.snapshots.write()
            durations_s.append(time.perf_counter() - start)

    durations_s: list[float] = []
    before = await idle_gaps_ms(CONTROL_S)
    control = await _phase(store, entries, pause)
    written = await _phase(store, entries, write)
    after = await idle_gaps_ms(CONTROL_S)
    idle_ms = quantile(before + after, 0.999)
    name = f"snapshot of {entries:,}"
    report.show(f"{name}: idle control, loop gap p99.9", "ms", idle_ms)
    gap_ms = quantile(written.gaps_ms, 0.999)
    report.at_most(f"{name}: loop gap p99.9", "ms", gap_ms, max(4.0, 2.5 * idle_ms))
    alone_ms = quantile(control.updates_ms, 0.99)
    report.show(f"{name}: control, the load without a snapshot, p99", "ms", alone_ms)
    update_ms = quantile(written.updates_ms, 0.99)
    report.at_most(f"{name}: durable update, p99", "ms", update_ms, 10)
    report.at_most(f"{name}: extra memory", "MiB", written.extra_bytes / MIB, 64)
    report.show(f"{name}: duration", "s", median(durations_s))
    report.data[str(entries)] = {
        "idle_before_gap_ms": spread(before),
        "idle_after_gap_ms": spread(after),
        "load_without_snapshot": _numbers(control),
        "snapshots": _numbers(written),
        "durations_s": [round(duration_s, 3) for duration_s in durations_s],
    }


async def _phase(store: SessionStore, entries: int, work: Callable[[], Awaitable[None]]) -> Phase:
    """Do work under a steady load of updates."""
    picked = keys(entries, 50_000, seed=7)
    async with AsyncExitStack() as stack:
        updates = await stack.enter_async_context(
            loaded(lambda number: touch(store, picked[number % len(picked)]), UPDATES_PER_S)
        )
        # Until the load has grown what it grows by itself.
        await anyio.sleep(0.5)
        updates.clear()
        ticks = await stack.enter_async_context(ticking())
        forget_peak()
        resident = resident_bytes()
        started, loop_cpu, cpu = time.perf_counter(), time.thread_time(), time.process_time()
        await work()
        return Phase(
            gaps_ms=ticks.gaps_ms,
            updates_ms=list(updates),
            wall_s=time.perf_counter() - started,
            loop_cpu_s=time.thread_time() - loop_cpu,
            process_cpu_s=time.process_time() - cpu,
            extra_bytes=peak_bytes() - resident,
        )


def _numbers(phase: Phase) -> dict[str, object]:
    return {
        "loop_gap_ms": spread(phase.gaps_ms),
        "update_ms": spread(phase.updates_ms),
        "wall_s": round(phase.wall_s, 3),
        "loop_cpu_s": round(phase.loop_cpu_s, 3),
        "process_cpu_s": round(phase.process_cpu_s, 3),
        "extra_mib": round(phase.extra_bytes / MIB, 2),
    }
