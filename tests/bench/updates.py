"""Goals 1 and 2: durable updates of one writer and of many, at every size.

Against the bare write, and beside what the two other designs take for the same.
"""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from gateway.daemon import spare_the_collector
from gateway.sessions.store import SessionStore
from tests.bench.baselines import Bare, SingleRow, WholeFile, timed_us
from tests.bench.report import Report, median, quantile
from tests.bench.states import keys, make_entry, opened, touch, write_state

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from gateway.model import SessionKey

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
ROUNDS: Final = 9
IN_USE: Final = 1_000
"""Sessions that updates "in use" go to; "any" picks from all, mostly ones not met before."""
BLOCKS: Final = 4
"""The kinds of write take turns so often in a round ..."""
WRITES: Final = 30
"""... with so many writes of each."""
WRITERS: Final = {32: 150, 256: 60}
"""Concurrent writers, and the updates of each in a round; together they see checkpoints."""
KINDS: Final = {
    "in_use": "update, 1,000 sessions in use",
    "any": "update, any session",
    "create": "create",
    "remove": "remove",
}

Times = dict[str, list[float]]


@dataclass(slots=True)
class Size:
    """The three designs filled with so many sessions, and what was measured of them."""

    entries: int
    store: SessionStore
    single_row: SingleRow
    whole_file: WholeFile
    figures: dict[str, list[float]] = field(default_factory=dict)
    """By name, one figure a round."""

    @property
    def in_use(self) -> int:
        """Return how many sessions are in use."""
        return min(IN_USE, self.entries)

    def add(self, name: str, value: float) -> None:
        self.figures.setdefault(name, []).append(value)

    def of(self, name: str) -> float:
        """Return the median over the rounds."""
        return median(self.figures[name])


async def measure(folder: Path, sizes: tuple[int, ...] = SIZES, rounds: int = ROUNDS) -> Report:
    """Measure all sizes in turn within each round.

    The sizes change places from round to round: what one leaves to the disk, the next one finds.
    """
    async with AsyncExitStack() as stack:
        bare = Bare(folder / "append", preallocated=False)
        stack.callback(bare.close)
        preallocated = Bare(folder / "preallocated", preallocated=True)
        stack.callback(preallocated.close)
        filled = [await _filled(stack, folder, entries) for entries in sizes]
        os.sync()
        spare_the_collector()
        for number in range(rounds):
            place = number % len(filled)
            for size in filled[place:] + filled[:place]:
                await _round(size, bare, preallocated, number)
            for size in filled:
                if _writes_whole_file(size.entries, number):
                    _whole_file(size, number)
            # What the whole files leave behind is none of the others' business.
            os.sync()
            await anyio.sleep(0.3)
    return _report(filled)


async def _filled(stack: AsyncExitStack, folder: Path, entries: int) -> Size:
    directory = folder / str(entries)
    write_state(directory, entries)
    store = (await stack.enter_async_context(opened(directory))).store
    single_row = SingleRow(folder / f"{entries}.sqlite", entries)
    stack.callback(single_row.close)
    whole_file = WholeFile(folder / f"{entries}.whole", entries)
    stack.callback(whole_file.close)
    return Size(entries, store, single_row, whole_file)


async def _round(size: Size, bare: Bare, preallocated: Bare, number: int) -> None:
    times: Times = {}
    # What came before this round has crowded them out.
    await _together(size.store, 32, keys(size.in_use, 3 * IN_USE, number))
    for block in range(BLOCKS):
        seed = number * BLOCKS + block
        picked = keys(size.entries, WRITES, seed)
        following = iter(picked)
        _extend(times, "append", timed_us(bare.write, WRITES))
        _extend(times, "preallocated", timed_us(preallocated.write, WRITES))
        await _ours(times, size, picked, seed)
        rows = timed_us(lambda: size.single_row.update(next(following)), WRITES)  # noqa: B023 - called here
        _extend(times, "single_row", rows)
    appended = times["append"]
    for name, taken in times.items():
        size.add(f"{name}_p50_us", median(taken))
        size.add(f"{name}_p99_us", quantile(taken, 0.99))
        size.add(f"{name}_x", median(taken) / median(appended))
        size.add(f"{name}_p99_x", quantile(taken, 0.99) / quantile(appended, 0.99))
        preallocated_p99_us = quantile(times["preallocated"], 0.99)
        size.add(f"{name}_to_preallocated_x", median(taken) / median(times["preallocated"]))
        size.add(f"{name}_p99_to_preallocated_x", quantile(taken, 0.99) / preallocated_p99_us)
    for writers, updates in WRITERS.items():
        for kind, among in (("in_use", size.in_use), ("any", size.entries)):
            picked = keys(among, writers * updates, ~number)
            rate, p99_ms = await _together(size.store, writers, picked)
            size.add(f"{writers}_{kind}_per_s", rate)
            size.add(f"{writers}_{kind}_x", rate * median(appended) / 1e6)
            size.add(f"{writers}_{kind}_p99_ms", p99_ms)


async def _ours(times: Times, size: Size, picked: list[SessionKey], seed: int) -> None:
    store = size.store
    in_use = keys(size.in_use, WRITES, seed)
    # Numbers beyond the size, each used once: sessions that are not there yet.
    fresh = [make_entry(size.entries + 1_000 + seed * WRITES + n) for n in range(WRITES)]
    _extend(times, "in_use", await _timed_us([partial(touch, store, key) for key in in_use]))
    _extend(times, "any", await _timed_us([partial(touch, store, key) for key in picked]))
    _extend(times, "create", await _timed_us([partial(store.create, entry) for entry in fresh]))
    removals = [partial(store.remove, entry.session_key) for entry in fresh]
    _extend(times, "remove", await _timed_us(removals))


async def _timed_us(calls: Sequence[Callable[[], Awaitable[object]]]) -> list[float]:
    times = []
    for call in calls:
        start = time.perf_counter()
        await call()
        times.append((time.perf_counter() - start) * 1e6)
    return times


async def _together(
    store: SessionStore, writers: int, picked: list[SessionKey]
) -> tuple[float, float]:
    """Return durable updates a second of concurrent writers, and their p99 in ms."""
    taken: list[float] = []

    async def write(own: list[SessionKey]) -> None:
        for key in own:
            start = time.perf_counter()
            await touch(store, key)
            taken.append((time.perf_counter() - start) * 1000)

    start = time.perf_counter()
    async with anyio.create_task_group() as group:
        for number in range(writers):
            group.start_soon(write, picked[number::writers])
    return len(picked) / (time.perf_counter() - start), quantile(taken, 0.99)


def _writes_whole_file(entries: int, number: int) -> bool:
    """Tell whether a round has time for whole files of this size: a million take seconds."""
    return entries < 1_000_000 or number % 4 == 0


def _whole_file(size: Size, number: int) -> None:
    picked = iter(keys(size.entries, 5, number))
    count = 5 if size.entries <= 10_000 else 1
    taken = timed_us(lambda: size.whole_file.update(next(picked)), count)
    size.add("whole_file_p50_us", median(taken))
    size.add("whole_file_x", median(taken) / size.figures["append_p50_us"][number])


def _extend(times: Times, name: str, more: list[float]) -> None:
    times.setdefault(name, []).extend(more)


def _report(sizes: list[Size]) -> Report:
    report = Report()
    smallest, largest = sizes[0], sizes[-1]
    for name, what in KINDS.items():
        for size in sizes:
            place = f"{what}, {size.entries:,}"
            ratio = size.of(f"{name}_x")
            if size.entries == 100_000:
                report.at_most(place, "x bare append", ratio, 1.25)
                ratio = size.of(f"{name}_to_preallocated_x")
                report.show(place, "x bare preallocated", ratio)
            else:
                report.show(place, "x bare append", ratio)
        ratio = largest.of(f"{name}_x") / smallest.of(f"{name}_x")
        place = f"{what}, {largest.entries:,} to {smallest.entries:,}"
        report.at_most(place, "ratio of ratios", ratio, 1.2)
        tail = max(size.of(f"{name}_p99_x") for size in sizes)
        report.at_most(f"{what}, p99, worst size", "x bare append's p99", tail, 2)
    for kind, what in (("in_use", "1,000 in use"), ("any", "any session")):
        for size in sizes:
            place = f"{size.entries:,}, {what}"
            for writers, least in ((32, 7), (256, 9)):
                rate = size.of(f"{writers}_{kind}_x")
                report.at_least(f"{writers} writers, {place}", "x bare rate", rate, least)
            p99_ms = size.of(f"256_{kind}_p99_ms")
            report.at_most(f"256 writers, {place}, p99", "ms", p99_ms, 15)
    report.data = {
        str(size.entries): {name: float(f"{size.of(name):.4g}") for name in sorted(size.figures)}
        for size in sizes
    }
    return report
