"""Laws of what a command had started when its keeper is killed: ended where that is proven."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from typing_extensions import override

from gateway.clock import FakeClock, SystemClock
from gateway.processes.identity import KeeperIdentity, boot_id, start_ticks
from gateway.processes.leftovers import TERM_WAIT_S, Left, end_leftovers
from gateway.processes.records import EndReason
from gateway.processes.runner import run_runner
from tests.processes.running import (
    PATIENCE_S,
    Running,
    caller,
    is_alive,
    python,
    running_registry,
    wait_readable,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from gateway.processes.records import ProcessRecord

FAMILY = (
    "import os, signal\n"
    "for _ in range(2):\n"
    "    if not os.fork():\n"
    "        HOW\n"
    "        os.write(1, b'%d\\n' % os.getpid())\n"
    "        while True: signal.pause()\n"
    "    os.setpgid(0, 0)\n"
    "while True: signal.pause()\n"
)
"""A command that starts two others."""
ENDED = "it was killed together with its keeper; what it had started was ended"
NOT_PROVEN = "its keeper is gone; what it had started may still run"


def family(how: str = "pass") -> list[str]:
    return python(FAMILY.replace("HOW", how))


async def children(running: Running, process_id: str) -> list[int]:
    """Return who a family has started, once both are there."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            output = await running.registry.read_output(process_id, max_bytes=1_000)
            if output.data.count(b"\n") == 2:
                return [int(line) for line in output.data.split()]
            await anyio.lowlevel.checkpoint()


def kill_keeper(record: ProcessRecord) -> None:
    """Kill a keeper, and see it go and its command with it."""
    assert record.keeper is not None
    pidfd = os.pidfd_open(record.keeper.pid)
    os.kill(record.keeper.pid, signal.SIGKILL)
    wait_readable(pidfd)
    os.close(pidfd)


async def test_what_the_command_had_started_is_ended_with_it(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state", settings={"cwd": str(tmp_path)}) as running:
        started = await running.registry.start(caller(), family())
        found = await children(running, started.process_id)
        kill_keeper(started)
        told = await running.told_of(started.process_id)

        assert told.end is not None
        assert (told.end.reason, told.end.detail) == (EndReason.LOST, ENDED)
        assert not any(map(is_alive, found))


class WatchedClock(FakeClock):
    """Tells which time limits were set."""

    def __init__(self) -> None:
        super().__init__()
        self.limits_s: list[float] = []

    @override
    def move_on_after(self, duration_s: float) -> anyio.CancelScope:
        self.limits_s.append(duration_s)
        return super().move_on_after(duration_s)


async def test_who_is_deaf_is_killed_and_what_it_starts_meanwhile(tmp_path: Path) -> None:
    clock = WatchedClock()
    deaf = "signal.signal(15, lambda *_: os.fork())"
    async with running_registry(tmp_path / "state", clock=clock) as running:
        started = await running.registry.start(caller(), family(deaf))
        await children(running, started.process_id)
        assert started.keeper is not None
        kill_keeper(started)
        with anyio.fail_after(PATIENCE_S):
            while TERM_WAIT_S not in clock.limits_s:
                await anyio.lowlevel.checkpoint()
        # Once: who is killed may take real time to be gone.
        await clock.advance(TERM_WAIT_S)
        told = await running.told_of(started.process_id)

        assert told.end is not None
        assert told.end.detail == ENDED
        assert members(started.keeper.pid) == []


def members(session: int) -> list[int]:
    """Return who lives in a session."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "-s", str(session)], capture_output=True, text=True, check=False
    ).stdout.split()
    return [int(pid) for pid in found if is_alive(int(pid))]


async def test_the_runner_ends_what_is_left_of_its_keepers(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    settings = {"runner": str(path), "cwd": str(tmp_path)}
    async with anyio.create_task_group() as tasks:
        await tasks.start(run_runner, path, SystemClock())
        async with running_registry(tmp_path / "s", settings=settings, leave=True) as running:
            started = await running.registry.start(caller(), family())
            found = await children(running, started.process_id)
        # Nobody but the runner is there.
        kill_keeper(started)
        with anyio.fail_after(PATIENCE_S):
            while any(map(is_alive, found)):
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("place", "detail", "alive"),
    [
        # In a directory of its own no stranger works.
        pytest.param(None, ENDED, False, id="own-directory"),
        pytest.param("elsewhere", NOT_PROVEN, True, id="elsewhere"),
    ],
)
async def test_after_a_restart_only_what_is_proven_is_ended(
    tmp_path: Path, place: str | None, detail: str, *, alive: bool
) -> None:
    settings = {}
    if place:
        (tmp_path / place).mkdir()
        settings["cwd"] = str(tmp_path / place)
    state = tmp_path / "state"
    async with running_registry(state, settings=settings, leave=True) as running:
        started = await running.registry.start(caller(), family())
        found = await children(running, started.process_id)
    kill_keeper(started)
    assert started.keeper is not None
    # As after the end of the gateway whose child it was: nobody holds its number for it.
    os.waitpid(started.keeper.pid, 0)
    try:
        async with running_registry(state) as running:
            told = await running.told_of(started.process_id)
        assert told.end is not None
        assert (told.end.reason, told.end.detail) == (EndReason.LOST, detail)
        assert [is_alive(pid) for pid in found] == [alive] * 2
    finally:
        for pid in found if alive else ():
            os.kill(pid, signal.SIGKILL)


@contextmanager
def session(*, leader_lives: bool) -> Generator[tuple[KeeperIdentity, int]]:
    """Hold a session of strangers: who made it, and one of its members."""
    script = "sleep 1000 & echo $!; [ $0 = goes ] || wait"
    with subprocess.Popen(
        ["sh", "-c", script, "stays" if leader_lives else "goes"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as leader:
        ticks = start_ticks(leader.pid)
        assert leader.stdout is not None
        assert ticks is not None
        member = int(leader.stdout.readline())
        pidfd = os.pidfd_open(member)
        try:
            if not leader_lives:
                leader.wait(PATIENCE_S)
            yield KeeperIdentity(leader.pid, ticks, boot_id()), member
        finally:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            leader.kill()


@pytest.mark.parametrize(
    ("leader_lives", "ticks", "life", "left"),
    [
        pytest.param(True, 1, "", Left.NOTHING, id="number-reused"),
        pytest.param(True, 0, "", Left.UNKNOWN, id="keeper-of-another-gateway"),
        pytest.param(False, 0, "", Left.UNKNOWN, id="nobody-proves-it"),
        pytest.param(False, 0, "another", Left.NOTHING, id="another-boot"),
    ],
)
async def test_no_stranger_is_signalled(
    tmp_path: Path, *, leader_lives: bool, ticks: int, life: str, left: Left
) -> None:
    with session(leader_lives=leader_lives) as (made, member):
        keeper = KeeperIdentity(made.pid, ticks or made.start_ticks, life or made.boot_id)

        assert await end_leftovers(keeper, tmp_path, SystemClock(), met=True) is left
        assert is_alive(member)


async def test_the_same_session_where_one_is_proven_is_ended(tmp_path: Path) -> None:
    """What the strangers above lack: so it is not for another reason that they are left alone."""
    with session(leader_lives=False) as (keeper, member):
        place = Path(f"/proc/{member}/cwd").resolve()

        assert await end_leftovers(keeper, place, SystemClock()) is Left.ENDED
        assert not is_alive(member)
