"""A gateway that is killed while it prunes, keeps and gives back leaves each item in one place."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest

from gateway.clock import FakeClock
from tests.support.kept import DAY_S, KEEP, disagreements, store
from tests.support.state import START

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEEP_SHORT: Final = replace(KEEP, archive_s=20 * DAY_S, removed_sessions_s=10 * DAY_S, audit_s=None)


def _killed_after(path: Path, seed: int, wait_s: float) -> None:
    """Let a process work on a state directory for so long, then kill it."""
    program = [sys.executable, "-m", "tests.retention.pruning_child", str(path), str(seed)]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"works\n"
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(wait_s)
        child.kill()
        assert child.wait() == -signal.SIGKILL


async def _survives(path: Path, kills: int, chance: random.Random) -> None:
    async with store(path) as one:
        for number in range(10):
            await one.say(f"s{number}", 60)
        await one.end("s3", "s4")
        texts = dict(one.texts)
    for seed in range(1, kills + 1):
        _killed_after(path, seed, chance.uniform(0.05, 0.6))

        assert disagreements(path, texts) == [], seed
        clock = FakeClock(START + timedelta(days=1_000 * seed + 500))
        async with store(path, keep=KEEP_SHORT, clock=clock) as one:
            assert (await one.sweep()).problems == ()
        assert disagreements(path, texts, swept=True) == [], seed


async def test_a_killed_gateway_leaves_each_item_in_one_place(tmp_path: Path) -> None:
    await _survives(tmp_path / "state", 3, random.Random(1))


@pytest.mark.torture
async def test_a_gateway_killed_often_leaves_each_item_in_one_place(
    tmp_path: Path, torture_count: Callable[[str, int], None]
) -> None:
    # After some kills all is purged, and there is nothing left to lose.
    for number in range(25):
        await _survives(tmp_path / str(number), 6, random.Random(number))
        torture_count("kills", 6)
