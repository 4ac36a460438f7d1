"""Goal 5: what a prune of a large store costs the event loop, and how long it takes."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
from typing_extensions import override

from gateway.daemon import spare_the_collector
from gateway.processes.active import ActiveProcesses
from tests.bench.report import Report, quantile, spread
from tests.bench.states import SPREAD_S, opened, updated_at, write_state

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")

ENTRIES: Final = 1_000_000
SHARE: Final = 0.25
"""How much of the store is old enough to go."""


@dataclass(slots=True)
class Timed(Awaitable[T]):
    """Awaits a coroutine and notes how long each of its steps held the event loop."""

    coroutine: Coroutine[Any, Any, T]
    ended: Callable[[], bool]
    """Asked after each step; steps after the first yes are noted apart."""
    steps_ms: list[float] = field(default_factory=list)
    later_steps_ms: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    wall_s: float = 0.0

    @override
    def __await__(self) -> Generator[Any, Any, T]:
        began, steps = time.perf_counter(), self.steps_ms
        step = self.coroutine.__await__()
        value = None
        while True:
            start, cpu = time.perf_counter(), time.thread_time()
            try:
                wanted = step.send(value)
            except StopIteration as stop:
                result: T = stop.value
                return result
            finally:
                steps.append((time.perf_counter() - start) * 1000)
                if steps is self.steps_ms:
                    self.cpu_s += time.thread_time() - cpu
                    self.wall_s = time.perf_counter() - began
                    if self.ended():
                        steps = self.later_steps_ms
            value = yield wanted


async def measure(folder: Path, entries: int = ENTRIES) -> Report:
    """Prune a quarter of a store, with the daemon's own callbacks but no turns or processes."""
    directory = folder / str(entries)
    write_state(directory, entries)
    max_age_s = SPREAD_S * (1 - SHARE)
    newest = max(map(updated_at, range(1_000)))
    async with opened(directory) as state:
        store, lanes, dropped = state.store, set[str](), list[str]()
        os.sync()
        store.is_busy = lambda key: key in lanes
        store.has_active_processes = ActiveProcesses(state.clock, 86_400.0).has_active_for_session
        store.on_dropped = lambda key, _: dropped.append(key)
        spare_the_collector()
        age = state.clock.now() - newest + timedelta(seconds=max_age_s)
        days = age / timedelta(days=1)
        dry = Timed(store.prune_old_entries(days, dry_run=True), lambda: False)
        due = (await dry).pruned
        wanted = len(store) - due
        await anyio.sleep(1)
        timed = Timed(store.prune_old_entries(days), lambda: len(store) <= wanted)
        pruned = (await timed).pruned
    assert len(dropped) == pruned == due > entries * SHARE / 2
    return _report(entries, pruned, timed, dry)


def _report(entries: int, pruned: int, timed: Timed[Any], dry: Timed[Any]) -> Report:
    report, thousands = Report(), pruned / 1000
    name = f"prune of {pruned:,} of {entries:,}"
    on_loop = sum(timed.steps_ms) / thousands
    report.at_most(f"{name}: on the loop, for 1,000", "ms", on_loop, 1)
    report.at_most(f"{name}: longest slice on the loop", "ms", max(timed.steps_ms), 2)
    report.show(f"{name}: slice p99.9", "ms", quantile(timed.steps_ms, 0.999))
    report.show(f"{name}: wall time for 1,000", "ms", timed.wall_s * 1000 / thousands)
    report.data = {
        "pruned": pruned,
        "loop_ms_per_1000": round(on_loop, 3),
        "loop_cpu_ms_per_1000": round(timed.cpu_s * 1000 / thousands, 3),
        "wall_s": round(timed.wall_s, 3),
        "slice_ms": spread(timed.steps_ms),
        "dry_run_loop_ms_per_1000": round(sum(dry.steps_ms) / thousands, 3),
        "dry_run_slice_ms": spread(dry.steps_ms),
        "closing_snapshot_slice_ms": spread(timed.later_steps_ms or [0.0]),
    }
    return report
