"""Laws of a daemon that is killed at any moment under eight clients."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.support.daemon import Daemon, started_daemon
from tests.torture.clients import Caller, Client
from tests.torture.history import Outcome, read_history
from tests.torture.ordeal import Ordeal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Started

# As many snapshots as its duty allows: their steps are to be hit as well.
CONFIG = "[store]\nsnapshot_interval_s = 0.05\n"
CLIENTS = 8
START_S = 0.8
"""A little more than a start takes."""
STOP_S = 0.15
"""A little more than a stop takes."""


@dataclass(slots=True)
class Crowd:
    """The clients of one state directory; they stay while daemons come and go."""

    clients: list[Client]

    @classmethod
    def of(cls, ordeal: Ordeal, seed: int, daemon: Daemon) -> Crowd:
        clients = [
            Client(Caller(f"c{number}", ordeal.history, daemon), Random(f"{seed}-{number}"))
            for number in range(CLIENTS)
        ]
        return cls(clients)

    async def work(self, daemon: Daemon, outcomes: int, then: Callable[[], object]) -> None:
        """Let the clients ask until no answer comes; after so many outcomes do something."""
        told = 0

        def count() -> None:
            nonlocal told
            told += 1
            if told == outcomes:
                then()

        async with anyio.create_task_group() as group:
            for client in self.clients:
                client.caller.daemon = daemon
                group.start_soon(client.run, count)


async def passing(started: Started, seconds: float) -> None:
    """Let a time pass, or the daemon end."""
    with anyio.move_on_after(seconds):
        await started.process.wait()


async def kill_cycles(folder: Path, seed: int, cycles: int) -> int:
    """Start, kill and check a daemon so many times; return how many kills found it alive."""
    ordeal, numbers, kills = Ordeal(folder), Random(seed), 0
    crowd: Crowd | None = None
    for cycle in range(cycles):
        way = numbers.choices(["work", "start", "stop"], [70, 15, 15])[0] if cycle else "work"
        async with started_daemon(ordeal.state_dir, CONFIG) as started:
            if way == "start":
                await passing(started, numbers.uniform(0, START_S))
                kills += kill(started)
            else:
                async with started.ready() as daemon:
                    await ordeal.check_alive(daemon)
                    crowd = crowd or Crowd.of(ordeal, seed, daemon)
                    kills += await _strike(crowd, started, daemon, numbers, way)
            await started.ended()
        ordeal.check_dead()
        await ordeal.check_recovery()
    async with started_daemon(ordeal.state_dir, CONFIG) as started, started.ready() as daemon:
        await ordeal.check_alive(daemon)
        assert await daemon.terminate() == 0
    ordeal.check_dead()
    events = read_history(ordeal.history.folder)
    assert sum(isinstance(event, Outcome) and event.done for event in events) > cycles
    ordeal.history.close()
    return kills


async def _strike(crowd: Crowd, started: Started, daemon: Daemon, numbers: Random, way: str) -> int:
    """Let the clients work, and kill the daemon amid it, or while it stops."""
    killed: list[bool] = []

    async def stop_and_kill() -> None:
        daemon.signal(signal.SIGTERM)
        await passing(started, numbers.uniform(0, STOP_S))
        killed.append(kill(started))

    async def kill_soon() -> None:
        await passing(started, numbers.uniform(0, 0.01))
        killed.append(kill(started))

    async with anyio.create_task_group() as group:
        act = kill_soon if way == "work" else stop_and_kill
        outcomes = numbers.randint(1, 150)
        await crowd.work(daemon, outcomes, lambda: group.start_soon(act))
    return sum(killed)


def kill(started: Started) -> bool:
    """Kill a daemon; tell whether it still ran."""
    alive = started.process.returncode is None
    if alive:
        started.process.kill()
    return alive


@pytest.mark.parametrize("seed", [1])
async def test_a_daemon_killed_at_any_moment_keeps_what_it_acknowledged(
    tmp_path: Path, seed: int, torture_count: Callable[[str, int], None]
) -> None:
    kills = await kill_cycles(tmp_path, seed, 4)
    assert kills >= 3
    torture_count("random kills", kills)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(100, 150))
async def test_daemons_killed_many_times_keep_what_they_acknowledged(
    tmp_path: Path, seed: int, torture_count: Callable[[str, int], None]
) -> None:
    kills = await kill_cycles(tmp_path, seed, 22)
    assert kills >= 15
    torture_count("random kills", kills)
