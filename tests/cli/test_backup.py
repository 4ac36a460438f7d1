"""`gateway backup` beside the real daemon: under load, killed, and started from."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import orjson
import pytest

from gateway.clock import SystemClock
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from tests.cli.processes import PATIENCE_S, gateway
from tests.support.daemon import Daemon, running_daemon
from tests.support.upkeep import change, found, used_state

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

CLIENTS: Final = 8
CONFIG: Final = "[store]\nsnapshot_interval_s = 0.1\n"
STOPPING: Final = """
import os, signal
from gateway.cli import main
from gateway.durable import copying
from gateway.durable.disk import SystemDisk

copy, sync = copying._copy_pages, SystemDisk.sync_data

def stop(disk, descriptor):
    SystemDisk.sync_data = sync
    os.kill(os.getpid(), signal.SIGSTOP)
    sync(disk, descriptor)

def copy_and_stop(*given):
    SystemDisk.sync_data = stop
    copy(*given)

copying._copy_pages = copy_and_stop
main()
"""
"""The command `gateway`, which stops itself once a backup has copied a part of the database."""


@asynccontextmanager
async def stopped_backup(state: Path, target: Path) -> AsyncGenerator[subprocess.Popen[bytes]]:
    """Begin a backup, which waits amid its copy until it is told to go on."""
    command = [sys.executable, "-c", STOPPING, "backup", str(target), "--state-dir", str(state)]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE) as child:
        try:
            with anyio.fail_after(PATIENCE_S):
                while not os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT):
                    assert child.poll() is None, "it ended before it was stopped"
                    await anyio.lowlevel.checkpoint()
            yield child
        finally:
            child.kill()


async def test_a_backup_under_load_has_every_acknowledged_message_and_starts(
    tmp_path: Path,
) -> None:
    said: list[dict[str, str]] = []
    stop = anyio.Event()

    async def talk(daemon: Daemon, client: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            message_id = f"{client}-{number}"
            answer = await daemon.say(f"text {message_id}", f"c{client}", message_id)
            said.append({"chat": f"c{client}", "id": message_id, "turn": answer["turn_id"]})

    copy = tmp_path / "copy"
    async with running_daemon(tmp_path / "state", CONFIG) as daemon:
        async with anyio.create_task_group() as group:
            for client in range(CLIENTS):
                group.start_soon(talk, daemon, client)
            while len(said) < 200:
                await daemon.get("/v1/status")
            owed = list(said)
            async with stopped_backup(tmp_path / "state", copy) as child:
                while len(said) < len(owed) + CLIENTS:
                    await daemon.get("/v1/status")
                child.send_signal(signal.SIGCONT)
                out, _ = await anyio.to_thread.run_sync(child.communicate)
            stop.set()
        assert child.returncode == 0
        assert orjson.loads(out)["beside_daemon"] is True

    assert {one.level for one in check_store(copy).findings} == {Level.OK}
    async with running_daemon(copy) as again:
        for one in owed[:: len(owed) // 40]:
            answer = await again.say("again", one["chat"], one["id"])
            assert (answer["duplicate"], answer["turn_id"]) == (True, one["turn"])
        for client in range(CLIENTS):
            texts = {text for _, text in await again.said(f"agent:main:http::dm:c{client}::")}
            assert {f"text {one['id']}" for one in owed if one["chat"] == f"c{client}"} <= texts


async def test_a_backup_that_is_killed_leaves_nothing_that_looks_like_one(tmp_path: Path) -> None:
    state, target = await used_state(tmp_path / "state"), tmp_path / "copy"
    aside = tmp_path / "copy.incomplete"
    change(state, "CREATE TABLE ballast (x)", "INSERT INTO ballast VALUES (zeroblob(6000000))")

    async with stopped_backup(state, target) as child:
        child.kill()

    assert (aside / "gateway.db").exists()
    assert not target.exists()
    assert not (aside / "sessions.json").exists()
    refused = gateway("backup", target, "--state-dir", state)
    assert (refused.status, refused.stdout) == (1, "")
    assert refused.stderr == (
        f"gateway: {aside}: is there already, of a command that runs or was broken off; "
        "in the second case remove it\n"
    )
    started = gateway("sessions", "list", "--state-dir", aside)
    assert started.status == 65, started.stdout
    assert found(check_store(state), Level.WRONG) == []


async def test_a_backup_goes_on_when_the_daemon_is_killed_meanwhile(tmp_path: Path) -> None:
    state, target = await used_state(tmp_path / "state"), tmp_path / "copy"
    change(state, "CREATE TABLE ballast (x)", "INSERT INTO ballast VALUES (zeroblob(6000000))")
    said = range(20)
    async with running_daemon(state, CONFIG) as daemon:
        for number in said:
            await daemon.say(f"text {number}", f"c{number % 5}", f"m{number}")
        async with stopped_backup(state, target) as child:
            await daemon.kill()
            child.send_signal(signal.SIGCONT)
            out, _ = await anyio.to_thread.run_sync(child.communicate)

    assert child.returncode == 0
    assert orjson.loads(out)["beside_daemon"] is True
    assert {one.level for one in check_store(target).findings} == {Level.OK}
    async with running_daemon(target) as copy:
        for number in said:
            answer = await copy.say("again", f"c{number % 5}", f"m{number}")
            assert answer["duplicate"] is True


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(5))
async def test_a_backup_killed_at_any_moment_is_whole_or_not_there(
    tmp_path: Path, torture_count: Callable[[str, int], None], seed: int
) -> None:
    state, target = await used_state(tmp_path / "state"), tmp_path / "copy"
    aside = tmp_path / "copy.incomplete"
    change(state, "CREATE TABLE ballast (x)", "INSERT INTO ballast VALUES (zeroblob(20000000))")
    command = [sys.executable, "-m", "gateway", "backup", str(target), "--state-dir", str(state)]
    clock, dice, seen = SystemClock(), random.Random(seed), Counter[str]()
    for _ in range(40):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
            while not aside.exists() and child.poll() is None:
                await anyio.lowlevel.checkpoint()
            await clock.sleep(dice.uniform(0.0, 0.25))
            child.kill()
        if target.exists():
            seen["whole"] += 1
            assert not aside.exists()
            assert {one.level for one in check_store(target).findings} == {Level.OK}
            shutil.rmtree(target)
        else:
            seen["not there"] += 1
            shutil.rmtree(aside)
        torture_count("backups killed", 1)
    assert seen["whole"], (seed, seen)
    assert seen["not there"], (seed, seen)


async def test_a_backup_says_what_it_holds(tmp_path: Path) -> None:
    state = await used_state(tmp_path / "state")

    told = gateway("backup", tmp_path / "one", "--state-dir", state)

    assert told.status == 0
    head, _, tail = told.stdout.partition(": ")
    assert head == str(tmp_path / "one")
    assert tail.startswith("3 sessions up to change 12, 12 messages, ")
    assert told.stderr == f"start from it with: gateway run --state-dir {tmp_path}/one\n"


async def test_a_damaged_state_ends_with_65_and_leaves_nothing(tmp_path: Path) -> None:
    state = await used_state(tmp_path / "state")
    (state / "sessions.json").write_bytes(b"{}")

    outcome = gateway("backup", tmp_path / "copy", "--state-dir", state)

    assert outcome.status == 65
    assert outcome.stderr.startswith(f"gateway: {state}/sessions.json: ")
    assert not list(tmp_path.glob("copy*"))


def test_what_is_no_state_directory_is_not_backed_up(tmp_path: Path) -> None:
    outcome = gateway("backup", tmp_path / "copy", "--state-dir", tmp_path / "state")

    assert outcome.status == 69
    assert "is no state directory" in outcome.stderr
    assert list(tmp_path.iterdir()) == []
