"""Laws of a restart: what runs is adopted, what ended is told, what nobody knows of is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import orjson
import pytest

from gateway.clock import FakeClock, SystemClock
from gateway.durable.database import Database
from gateway.errors import ConflictError, DamagedDataError, UnavailableError
from gateway.processes import records
from gateway.processes.directory import ProcessDirectory
from gateway.processes.identity import KeeperIdentity, boot_id, open_keeper, start_ticks
from gateway.processes.records import EndReason, ProcessRecord
from gateway.processes.registry import ProcessRegistry
from gateway.processes.settings import ProcessSettings
from tests.processes.running import (
    PATIENCE_S,
    WAITS,
    Running,
    caller,
    end_keeper,
    execute,
    is_alive,
    running_registry,
    wait_readable,
)
from tests.support.state import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence


@contextmanager
def stand_in(
    state: Path, *commands: tuple[str, Sequence[str]]
) -> Generator[tuple[subprocess.Popen[str], list[str]]]:
    """Hold a gateway that has started processes; give their ids."""
    given = [word for chat, command in commands for word in (chat, orjson.dumps(command).decode())]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.processes.stand_in", state, *given],
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            # Its log comes the same way.
            ids: list[str] = []
            while len(ids) < len(commands):
                line = child.stdout.readline()
                assert line, "it ended"
                ids += [line.strip()] if line.startswith("p-") else []
            yield child, ids
        finally:
            child.kill()


def kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait(PATIENCE_S)


async def rows(state: Path) -> dict[str, ProcessRecord]:
    async with Database.open(state / "gateway.db", SystemClock()) as database:
        return {one.process_id: one for one in await database.read(records.unreported)}


async def ends(state: Path, process_id: str) -> None:
    """Wait until the keeper of a process has noted its end, and ended."""
    status = state / "processes" / process_id / "status.json"
    await wait_until(lambda: b"end_reason" in status.read_bytes())
    keeper = orjson.loads(status.read_bytes())["keeper"]["pid"]
    await wait_until(lambda: not is_alive(keeper))


async def wait_until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def test_after_kill_9_two_of_three_are_adopted_and_the_dead_one_is_told(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    go = tmp_path / "go"
    os.mkfifo(go)
    dies = ("sh", "-c", f"echo working; read x < {go}; echo done; exit 5")
    with stand_in(state, ("alice", ["cat"]), ("alice", dies), ("bob", WAITS)) as (child, ids):
        kill(child)
        go.write_text("x\n")
        await ends(state, ids[1])

        async with running_registry(state, clock=FakeClock()) as running:
            registry = running.registry
            told = await running.told_of(ids[1])
            assert told.end is not None
            assert (told.end.reason, told.end.exit_status) == (EndReason.EXITED, 5)
            assert told.end.output == "working\ndone\n"
            assert registry.statistics().adopted == 2
            assert {one.process_id for one in await registry.list() if one.end is None} == {
                ids[0],
                ids[2],
            }
            assert registry.has_active_for_session(key_of("alice"))
            assert registry.has_active_for_session(key_of("bob"))

            # An adopted one is as good as one's own.
            await registry.write(ids[0], "hello\n", last=True)
            assert (await running.told_of(ids[0])).end is not None
            stopped = await registry.stop(ids[2])
            assert stopped.end is not None
            assert (stopped.end.reason, stopped.end.exit_status) == (EndReason.STOPPED, -15)
            await running.told_of(ids[2])
            assert sorted(one.process_id for one in running.told) == sorted(ids)


async def test_processes_go_on_over_an_orderly_stop(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with running_registry(state, leave=True) as running:
        started = await running.registry.start(caller(), ["cat"])
    async with running_registry(state) as running:
        assert running.registry.statistics().adopted == 1
        await running.registry.write(started.process_id, "later\n", last=True)
        told = await running.told_of(started.process_id)

    assert told.end is not None
    assert (told.end.exit_status, told.end.output) == (0, "later\n")


async def test_killed_together_as_systemd_does_all_are_lost_and_told(tmp_path: Path) -> None:
    state = tmp_path / "state"
    said = ("sh", "-c", "echo so far; exec sleep 1000")
    with stand_in(state, ("alice", said), ("bob", WAITS)) as (child, ids):
        directory = ProcessDirectory(state, ids[0])
        await wait_until(lambda: directory.output(100).data == b"so far\n")
        kept = await rows(state)
        os.kill(child.pid, signal.SIGSTOP)
        for record in kept.values():
            kill_keeper(record)
        kill(child)

        async with running_registry(state) as running:
            told = [await running.told_of(one) for one in ids]
            assert running.registry.statistics().lost == 2
            assert len(running.registry) == 0

    assert [one.end.reason for one in told if one.end] == [EndReason.LOST] * 2
    assert [one.end.output for one in told if one.end] == ["so far\n", ""]
    assert {one.end.detail for one in told if one.end} == {"it was killed together with its keeper"}


def kill_keeper(record: ProcessRecord) -> None:
    """Kill a keeper that may be nobody's child here, and see it go."""
    assert record.keeper is not None
    pidfd = os.pidfd_open(record.keeper.pid)
    os.kill(record.keeper.pid, signal.SIGKILL)
    wait_readable(pidfd)
    os.close(pidfd)


async def add(state: Path, record: ProcessRecord) -> None:
    """Store a row as a gateway leaves it that ends at once."""
    async with Database.open(state / "gateway.db", SystemClock()) as database:
        await database.write(partial(records.add, record=record))
        if record.keeper is not None:
            note = partial(records.note_keeper, process_id=record.process_id, keeper=record.keeper)
            await database.write(note)


def a_record(keeper: KeeperIdentity | None = None) -> ProcessRecord:
    asked = caller()
    return ProcessRecord(
        process_id="p-0123456789",
        session_key=asked.session_key,
        session_id=asked.session_id,
        agent=asked.agent,
        source=asked.source,
        command=("sleep", "1000"),
        cwd="/",
        created_at="2026-11-01T00:00:00Z",
        keeper=keeper,
    )


@contextmanager
def a_stranger(cwd: Path) -> Generator[subprocess.Popen[bytes]]:
    """Hold a process that nobody here has anything to do with; a signal would end it."""
    cwd.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(WAITS, cwd=cwd) as stranger:
        try:
            yield stranger
        finally:
            stranger.kill()


def identity_of(pid: int) -> KeeperIdentity:
    ticks = start_ticks(pid)
    assert ticks is not None
    return KeeperIdentity(pid, ticks, boot_id())


@pytest.mark.parametrize(
    ("changed", "place", "detail"),
    [
        pytest.param({"start_ticks": 1}, "own", "together with its keeper", id="number-reused"),
        pytest.param({"boot_id": "x"}, "own", "the machine was restarted", id="another-boot"),
        pytest.param({}, "elsewhere", "together with its keeper", id="copied-state"),
    ],
)
async def test_no_stranger_is_adopted_or_signalled(
    tmp_path: Path, changed: dict[str, Any], place: str, detail: str
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    directory = state / "processes" / "p-0123456789"
    directory.mkdir(parents=True)
    with a_stranger(directory if place == "own" else tmp_path / place) as stranger:
        record = a_record(replace(identity_of(stranger.pid), **changed))
        await add(state, record)

        async with running_registry(state) as running:
            told = await running.told_of(record.process_id)
            assert running.registry.statistics().adopted == 0
            with pytest.raises(ConflictError):
                await running.registry.stop(record.process_id)

        assert told.end is not None
        assert told.end.reason is EndReason.LOST
        assert detail in told.end.detail
        assert stranger.poll() is None
        assert is_alive(stranger.pid)


async def test_the_recorded_keeper_in_its_directory_is_the_one_that_is_adopted(
    tmp_path: Path,
) -> None:
    """What the strangers above lack: so it is not for another reason that they are refused."""
    directory = tmp_path / "p-1"
    with a_stranger(directory) as process:
        pidfd = open_keeper(identity_of(process.pid), directory)
        assert pidfd is not None
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        os.close(pidfd)
        assert process.wait(PATIENCE_S) == -signal.SIGTERM


async def test_a_row_without_a_keeper_was_never_started(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    await add(state, a_record())

    async with running_registry(state) as running:
        told = await running.told_of("p-0123456789")

    assert told.end is not None
    assert told.end.reason is EndReason.LOST
    assert told.end.detail == "the gateway stopped before it was started"


async def test_killed_before_its_keeper_is_stored_nothing_was_started(tmp_path: Path) -> None:
    """The gateway dies between the two commits: its keeper hears no word and goes."""
    state = tmp_path / "state"
    async with running_registry(state, leave=True) as running:
        script = (
            "CREATE TRIGGER planted BEFORE UPDATE OF pid ON processes "
            "BEGIN SELECT sum(value) FROM (WITH RECURSIVE n(value) AS "
            "(SELECT 1 UNION ALL SELECT value + 1 FROM n) SELECT value FROM n); END"
        )
        await execute(running.database, script)
    command = orjson.dumps(["touch", str(tmp_path / "ran")]).decode()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.processes.stand_in", str(state), "alice", command]
    ) as child:
        try:
            await wait_until(lambda: keeper_of(state) is not None)
            keeper = keeper_of(state)
            assert keeper is not None
            pidfd = os.pidfd_open(keeper)
        finally:
            child.kill()
    wait_readable(pidfd)
    os.close(pidfd)

    async with running_registry(state) as running:
        await execute(running.database, "DROP TRIGGER planted")
        (record,) = await running.registry.list()
        told = await running.told_of(record.process_id)

    assert told.end is not None
    assert not (tmp_path / "ran").exists()
    assert "before it was started" in told.end.detail


def keeper_of(state: Path) -> int | None:
    """Return the process that works in the one directory of processes."""
    folder = state / "processes"
    for directory in folder.iterdir() if folder.exists() else ():
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (entry / "cwd").samefile(directory):
                    return int(entry.name)
    return None


async def test_an_end_that_was_not_told_before_the_stop_is_told_after_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with running_registry(state) as running:
        running.refuse = True
        started = await running.registry.start(caller(), ["true"])
        await running.tried()
        with anyio.fail_after(PATIENCE_S):
            while not running.registry.unreported():
                await anyio.lowlevel.checkpoint()
    for _ in range(2):
        async with running_registry(state) as running:
            if running.registry.has_active_for_session(key_of()):
                await running.told_of(started.process_id)
                assert len(running.told) == 1
    async with running_registry(state) as running:
        assert running.registry.unreported() == ()
        assert running.told == []


async def test_what_ended_unwatched_is_told_with_its_real_end(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with running_registry(state, leave=True) as running:
        started = await running.registry.start(caller(), ["cat"])
        record = started
    end_keeper(record, state)
    async with running_registry(state) as running:
        told = await running.told_of(started.process_id)

    assert told.end is not None
    assert (told.end.reason, told.end.exit_status) == (EndReason.STOPPED, -15)


async def test_directories_that_no_row_tells_of_are_deleted(tmp_path: Path) -> None:
    state = tmp_path / "state"
    left = state / "processes" / "p-left"
    (left / "work").mkdir(parents=True)
    (left / "spec.json").write_text("a secret")
    (state / "processes").chmod(0o700)
    async with running_registry(state) as running:
        started = await running.registry.start(caller(), list(WAITS))
        assert [path.name for path in (state / "processes").iterdir()] == [started.process_id]


async def test_a_damaged_row_ends_the_start(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    await add(state, a_record())
    async with Database.open(state / "gateway.db", SystemClock()) as database:
        await execute(database, "UPDATE processes SET source = '{'")
        registry = ProcessRegistry(database, SystemClock(), ProcessSettings(), state)
        with pytest.raises(DamagedDataError, match="processes"):
            await registry.recover()


async def test_without_a_daemon_processes_keep_their_sessions_and_can_be_stopped(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    async with running_registry(state, leave=True) as running:
        started = await running.registry.start(caller(), list(WAITS))
    async with Database.open(state / "gateway.db", SystemClock()) as database:
        registry = ProcessRegistry(database, SystemClock(), ProcessSettings(), state)
        await registry.look()
        assert registry.has_active_for_session(key_of())
        assert len(registry) == 1
        assert started.keeper is not None
        pidfd = os.pidfd_open(started.keeper.pid)
        await registry.stop(started.process_id)
        wait_readable(pidfd)
        os.close(pidfd)
    async with running_registry(state) as again:
        assert isinstance(again, Running)
        assert (await again.told_of(started.process_id)).end is not None


async def test_a_request_whose_gateway_died_before_the_start_says_so(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    process_id = records.process_id(caller().session_key, "m1")
    await add(state, replace(a_record(), process_id=process_id))

    async with running_registry(state) as running:
        await running.told_of(process_id)
        with pytest.raises(UnavailableError, match="stopped before it was started"):
            await running.registry.start(caller(), list(WAITS), request="m1")


async def test_who_only_looks_says_which_are_not_there_and_changes_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with running_registry(state, leave=True) as running:
        runs = await running.registry.start(caller(), list(WAITS))
        gone = await running.registry.start(caller("bob"), list(WAITS))
    kill_keeper(gone)
    before = await rows(state)
    async with Database.open(state / "gateway.db", SystemClock()) as database:
        registry = ProcessRegistry(database, SystemClock(), ProcessSettings(), state)
        await registry.look()

        assert registry.is_gone(gone.process_id)
        assert not registry.is_gone(runs.process_id)
        assert len(registry) == 1
        assert registry.running_of(gone.session_key) == 0
        assert registry.has_active_for_session(gone.session_key), "its end is owed to the session"
        with pytest.raises(ConflictError, match="not found; the next start says"):
            await registry.stop(gone.process_id)
    assert await rows(state) == before
    async with running_registry(state) as running:
        assert (await running.told_of(gone.process_id)).end is not None
