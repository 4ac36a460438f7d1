"""A run that takes longer than a duty may be stuck shows systemd that it goes on."""

from __future__ import annotations

import itertools
import socket
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.lowlevel
import pytest

from gateway.daemon.running import _feed_watchdog
from gateway.pruning import ItemSummary
from gateway.retention.archiving import FOLDER
from gateway.retention.pruning import ItemPruning
from gateway.retention.settings import ItemPruningSettings
from gateway.systemd import Notifier
from gateway.watcher import STUCK_S, ExpiryWatcher, RetentionLimits
from tests.retention.telling import Stored, says, user
from tests.support.leaping import LeapingClock
from tests.support.state import State, open_state

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from pathlib import Path

    from gateway.pruning import PrunableItem
    from gateway.watcher import TimedWork

SUMMARY_S: Final = 50.0
SUMMARIES: Final = 30
WATCHDOG_S: Final = 180.0
SETTINGS: Final = ItemPruningSettings.model_validate(
    {
        "max_share": 1.0,
        "protections": {"keep_newest": 0, "min_age": "0s"},
        "budgets": {"max_duration": "40m", "max_summaries": 2 * SUMMARIES},
        "rules": [
            {
                "id": "long",
                "name": "Long ones",
                "priority": 1,
                "conditions": [{"type": "size", "max_size": "500B"}],
                "action": {"type": "summarize"},
            }
        ],
    }
)


@dataclass
class Slow:
    """Writes summaries, each of which takes a while."""

    clock: LeapingClock
    asked: int = 0

    async def summarize(
        self, item: PrunableItem, *, target_tokens: int | None, reason: str
    ) -> ItemSummary:
        self.asked += 1
        await self.clock.sleep(SUMMARY_S)
        return ItemSummary("short", 1)


@dataclass
class Stuck:
    """Work that does not end, and lets nobody in between."""

    begun: bool = False

    def next_in_s(self) -> float:
        return 0.0

    async def work(self, between: Callable[[], Awaitable[None]]) -> None:
        self.begun = True
        await anyio.sleep_forever()


@dataclass
class Dog:
    """systemd's end of the watchdog: counts how often it is fed."""

    heard: socket.socket
    meals: list[float] = field(default_factory=list)
    """When, by the clock."""

    def listen(self, now: float) -> None:
        with suppress(BlockingIOError):
            while True:
                self.meals += [now] * (self.heard.recv(4_096) == b"WATCHDOG=1")


@pytest.fixture
def dog(tmp_path: Path) -> Generator[Dog]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(0)
        yield Dog(heard)


@asynccontextmanager
async def watching(
    state: State, clock: LeapingClock, work: TimedWork, path: Path
) -> AsyncGenerator[ExpiryWatcher]:
    """Run the watcher and the feeding of the watchdog, as the daemon does."""

    async def nothing() -> int:
        return 0

    environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}
    limits = RetentionLimits(90, 0)
    watcher = ExpiryWatcher(state.store, state.database, clock, limits, nothing, work)
    parts = SimpleNamespace(database=state.database, watcher=watcher, clock=clock)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            await group.start(watcher.run)
            group.start_soon(_feed_watchdog, cast("Any", parts), Notifier(environ))
            yield watcher
            group.cancel_scope.cancel()


async def _until(state: State, holds: Callable[[], bool]) -> None:
    """Wait until threads and tasks have done what is to come."""
    while not holds():
        await state.database.ping()


async def test_a_run_of_25_minutes_feeds_the_watchdog(tmp_path: Path, dog: Dog) -> None:
    clock = LeapingClock()
    slow = Slow(clock)
    async with open_state(tmp_path / "state", clock) as state:
        path = tmp_path / "state" / FOLDER
        pruning = ItemPruning(state.database, clock, SETTINGS, path, summarizer=slow)
        one = Stored(state.database, pruning.items, clock)
        for number in range(SUMMARIES):
            await one.tell(user("x" * 600), says(), turn=f"t{number}")
        async with watching(state, clock, pruning, tmp_path / "notify") as watcher:
            begun = clock.monotonic()
            for number in range(1, SUMMARIES + 1):
                await _until(state, lambda number=number: slow.asked >= number)  # type: ignore[misc]
                assert watcher.alive
                dog.listen(clock.monotonic())
                clock.leap(SUMMARY_S)
            await _until(state, lambda: pruning.next_in_s() > 0 and not pruning.items.run_id)
            dog.listen(clock.monotonic())
            (run,) = await pruning.runs(limit=5)
            assert watcher.statistics().failures == {}

    assert (run.status, run.pruned) == ("ok", SUMMARIES)
    assert run.record is not None
    assert run.record["stats"]["duration_ms"] == 1_000 * SUMMARIES * SUMMARY_S > 2_000 * STUCK_S
    late = [0.0, *(at - begun for at in dog.meals), SUMMARIES * SUMMARY_S]
    assert max(after - before for before, after in itertools.pairwise(late)) <= WATCHDOG_S


async def test_work_that_is_stuck_starves_the_watchdog(tmp_path: Path, dog: Dog) -> None:
    clock, stuck = LeapingClock(), Stuck()
    async with (
        open_state(tmp_path / "state", clock) as state,
        watching(state, clock, stuck, tmp_path / "notify") as watcher,
    ):
        await _until(state, lambda: stuck.begun)
        begun = clock.monotonic()
        for _ in range(30):
            for _ in range(3):
                await state.database.ping()
            dog.listen(clock.monotonic())
            clock.leap(SUMMARY_S)
        alive = watcher.alive

    assert not alive
    assert dog.meals
    assert max(dog.meals) - begun <= STUCK_S
