"""Laws of a daemon that is killed after each of its calls on its files, whichever thread's it is.

The daemon runs under strace, which stops it after each such call; the Nth stop is where it dies.
"""

from __future__ import annotations

import signal
from random import Random
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from tests.support.daemon import NeverReadyError, started_daemon
from tests.torture.ordeal import Ordeal
from tests.torture.scenario import CONFIG, play
from tests.torture.tracing import Gate, gate, gated, needs_strace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.support.daemon import Started

pytestmark = needs_strace
BLOCK: Final = 50
LAST_BLOCK: Final = 1001
"""The scenario makes fewer calls than this; the test of the last block demands it."""


async def run_gated(
    ordeal: Ordeal, kill_at: int, life: Callable[[Ordeal, Started], Awaitable[None]]
) -> Gate:
    """Run a daemon that is killed at a stop, check what it leaves, and return its gate."""
    with gate(kill_at) as at:
        async with (
            started_daemon(
                ordeal.state_dir, CONFIG, tracer=gated(ordeal.state_dir, at), pass_fds=[at.writer]
            ) as started,
            anyio.create_task_group() as group,
        ):
            group.start_soon(at.run, started.process.pid)
            await life(ordeal, started)
            code = await started.ended()
    assert code == (-signal.SIGKILL if at.killed else 0), started.log.raw.decode()
    ordeal.check_dead()
    await ordeal.check_recovery()
    return at


async def recover_and_stop(_ordeal: Ordeal, started: Started) -> None:
    """Be started and stopped."""
    try:
        async with started.ready() as daemon:
            daemon.signal(signal.SIGTERM)
    except NeverReadyError:
        return


async def survive(ordeal: Ordeal) -> None:
    """Start once more, untouched, and check what is shown and what is left."""
    async with started_daemon(ordeal.state_dir, CONFIG) as started, started.ready() as daemon:
        await ordeal.check_alive(daemon)
        assert await daemon.terminate() == 0
    ordeal.check_dead()
    ordeal.history.close()


def ordeal_in(folder: Path) -> Ordeal:
    """Return a fresh ordeal."""
    folder.mkdir()
    return Ordeal(folder)


@pytest.mark.parametrize("kill_at", [61, 205, 300])
async def test_a_daemon_killed_after_a_call_on_its_files_keeps_what_it_acknowledged(
    tmp_path: Path, kill_at: int, torture_count: Callable[[str, int], None]
) -> None:
    ordeal = ordeal_in(tmp_path / "one")
    at = await run_gated(ordeal, kill_at, play)
    assert at.killed
    await survive(ordeal)
    torture_count("kills at a system call", 1)


@pytest.mark.torture
@pytest.mark.parametrize("first", range(1, LAST_BLOCK + 1, BLOCK))
async def test_a_daemon_killed_after_any_call_on_its_files_keeps_what_it_acknowledged(
    tmp_path: Path, first: int, torture_count: Callable[[str, int], None]
) -> None:
    for kill_at in range(first, first + BLOCK):
        ordeal = ordeal_in(tmp_path / f"{kill_at}")
        at = await run_gated(ordeal, kill_at, play)
        if not at.killed:
            assert first > 1
            assert at.stops > 0.98 * at.calls, "calls went by unseen"
            return
        assert first < LAST_BLOCK, "the scenario has more calls: raise LAST_BLOCK"
        await survive(ordeal)
        torture_count("kills at a system call", 1)


@pytest.mark.parametrize("seed", [1])
async def test_a_recovery_killed_after_a_call_on_its_files_is_recovered_from(
    tmp_path: Path, seed: int, torture_count: Callable[[str, int], None]
) -> None:
    await _kill_twice(tmp_path, Random(seed), torture_count)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(100, 112))
async def test_recoveries_killed_after_calls_on_their_files_are_recovered_from(
    tmp_path: Path, seed: int, torture_count: Callable[[str, int], None]
) -> None:
    numbers = Random(seed)
    for number in range(12):
        folder = tmp_path / str(number)
        folder.mkdir()
        await _kill_twice(folder, numbers, torture_count)


@pytest.mark.torture
@pytest.mark.parametrize("kill_at", [175, 230])
async def test_a_recovery_killed_after_each_call_on_its_files_is_recovered_from(
    tmp_path: Path, kill_at: int, torture_count: Callable[[str, int], None]
) -> None:
    again = 0
    while True:
        again += 1
        ordeal = ordeal_in(tmp_path / str(again))
        assert (await run_gated(ordeal, kill_at, play)).killed
        at = await run_gated(ordeal, again, recover_and_stop)
        await survive(ordeal)
        if not at.killed:
            assert again > 20
            return
        torture_count("kills at a system call of a recovery", 1)


async def _kill_twice(
    folder: Path, numbers: Random, torture_count: Callable[[str, int], None]
) -> None:
    """Kill a daemon amid its life, and the next one in its recovery or shortly after."""
    ordeal = ordeal_in(folder / "one")
    at = await run_gated(ordeal, numbers.randint(150, 300), play)
    again = await run_gated(ordeal, numbers.randint(1, 40), recover_and_stop)
    assert at.killed
    await survive(ordeal)
    torture_count("kills at a system call of a recovery", again.killed)
