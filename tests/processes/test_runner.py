"""Laws of the runner: it starts keepers for its own user, and they outlive the gateway."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio
import orjson
import pytest

from gateway.clock import FakeClock, SystemClock
from gateway.errors import AlreadyRunningError, UnavailableError
from gateway.processes import records
from gateway.processes.records import EndReason
from gateway.processes.runner import REQUEST_TIMEOUT_S, run_runner
from gateway.processes.spawning import RUNNER_TIMEOUT_S
from tests.processes.running import (
    PATIENCE_S,
    WAITS,
    caller,
    is_alive,
    python,
    running_registry,
    wait_readable,
)
from tests.support.state import key_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from gateway.clock import Clock


@asynccontextmanager
async def running_runner(path: Path, clock: Clock | None = None) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(run_runner, path, clock or SystemClock())
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()


async def ask(path: Path, message: bytes, descriptors: list[int]) -> dict[str, str]:
    with anyio.fail_after(PATIENCE_S):
        async with await anyio.connect_unix(path) as stream:
            if descriptors:
                await stream.send_fds(message, descriptors)
            else:
                await stream.send(message)
            answer: dict[str, str] = orjson.loads(await stream.receive())
            return answer


async def test_a_process_is_started_told_of_and_reaped(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    settings = {"runner": str(path)}
    async with running_runner(path), running_registry(tmp_path / "s", settings=settings) as running:
        assert path.stat().st_mode & 0o777 == 0o600
        started = await running.registry.start(caller(), python("print(input())"))
        await running.registry.write(started.process_id, "through\n")
        told = await running.told_of(started.process_id)
        assert told.end is not None
        assert (told.end.output, told.end.exit_status) == ("through\n", 0)
        assert started.keeper is not None
        with anyio.fail_after(PATIENCE_S):
            while os.path.exists(f"/proc/{started.keeper.pid}"):  # noqa: PTH110 - until it is reaped
                await anyio.lowlevel.checkpoint()


async def test_the_row_is_durable_before_anything_is_started(tmp_path: Path) -> None:
    """Seen from where a start comes by: the row is there, without a keeper, and no command."""
    path, seen = tmp_path / "socket", []
    settings = {"runner": str(path)}
    listener = await anyio.create_unix_listener(path)
    async with listener, running_registry(tmp_path / "s", settings=settings) as running:

        async def look(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                directory = orjson.loads(await stream.receive())["directory"]
                row = await running.row(directory.rpartition("/")[2])
                seen.append(row is not None and row.keeper is None and row.end is None)
                await stream.send(b'{"error":"looked"}')

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, look)
            with pytest.raises(UnavailableError, match="looked"):
                await running.registry.start(caller(), ["touch", str(tmp_path / "ran")])
            tasks.cancel_scope.cancel()

    assert seen == [True]
    assert not (tmp_path / "ran").exists()


async def test_without_its_runner_a_start_fails_and_nothing_else_does(tmp_path: Path) -> None:
    settings = {"runner": str(tmp_path / "socket")}
    async with running_registry(tmp_path / "s", settings=settings) as running:
        with pytest.raises(UnavailableError, match=r"is not to be had.*gateway-runner\.service"):
            await running.registry.start(caller(), list(WAITS))
        with anyio.fail_after(PATIENCE_S):
            while running.registry.has_active_for_session(key_of()):
                await anyio.lowlevel.checkpoint()
        (record,) = await running.registry.list()
        assert record.end is not None
        assert record.end.reason is EndReason.FAILED
        assert running.told == []
        await running.deleted(record.process_id)
        async with running_runner(tmp_path / "socket"):
            started = await running.registry.start(caller(), ["true"])
            await running.told_of(started.process_id)


async def test_a_runner_that_does_not_answer_holds_a_start_up_no_longer_than_it_may(
    tmp_path: Path,
) -> None:
    clock, path = FakeClock(), tmp_path / "socket"
    failures: list[str] = []
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        settings = {"runner": str(path)}
        async with running_registry(tmp_path / "s", clock=clock, settings=settings) as running:

            async def start() -> None:
                try:
                    await running.registry.start(caller(), list(WAITS))
                except UnavailableError as exc:
                    failures.append(str(exc))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(start)
                with anyio.fail_after(PATIENCE_S):
                    await anyio.wait_readable(silent)
                    await clock.advance(RUNNER_TIMEOUT_S)

    assert failures == [f"the runner at {path}: it does not answer"]


async def test_processes_outlive_the_gateway_and_its_whole_group(tmp_path: Path) -> None:
    """As under systemd, which kills all of a service: the runner is of another."""
    path, state = tmp_path / "socket", tmp_path / "s"
    settings = {"runner": str(path)}
    async with running_runner(path):
        async with running_registry(state, settings=settings, leave=True) as running:
            started = await running.registry.start(caller(), ["cat"])
            assert started.keeper is not None
            assert os.getsid(started.keeper.pid) == started.keeper.pid
        async with running_registry(state, settings=settings) as running:
            assert running.registry.statistics().adopted == 1
            await running.registry.write(started.process_id, "later", last=True)
            told = await running.told_of(started.process_id)

    assert told.end is not None
    assert told.end.output == "later"


async def private(tmp_path: Path, name: str = "d", mode: int = 0o700) -> Path:
    directory = tmp_path / name
    directory.mkdir()
    directory.chmod(mode)
    return directory


@pytest.mark.parametrize(
    ("message", "descriptors", "problem"),
    [
        pytest.param(b"not json", 2, "accepted is an object", id="no-json"),
        pytest.param(b"[]", 2, "accepted is an object", id="a-list"),
        pytest.param(b'{"directory":"relative"}', 2, "accepted is an object", id="relative"),
        pytest.param(b'{"directory":"%b/d"}', 0, "two descriptors", id="none"),
        pytest.param(b'{"directory":"%b/d"}', 1, "two descriptors", id="one"),
        pytest.param(b'{"directory":"%b/gone"}', 2, "No such file", id="gone"),
        pytest.param(b'{"directory":"%b/open"}', 2, "accepted is 0700", id="open-to-others"),
    ],
)
async def test_a_request_that_is_none_is_refused_and_the_next_is_served(
    tmp_path: Path, message: bytes, descriptors: int, problem: str
) -> None:
    path = tmp_path / "socket"
    await private(tmp_path)
    await private(tmp_path, "open", 0o755)
    if b"%b" in message:
        message %= os.fsencode(tmp_path)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a descriptor to send
        async with running_runner(path):
            fds = [nothing.fileno()] * descriptors
            answer = await ask(path, message, fds)
            assert problem in answer["error"]
            assert "directory" in (await ask(path, b"{}", [nothing.fileno()]))["error"]


async def test_who_says_nothing_is_dropped(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "socket"
    async with running_runner(path, clock), await anyio.connect_unix(path) as stream:
        ended = anyio.Event()

        async def wait() -> None:
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            with anyio.fail_after(PATIENCE_S):
                while not ended.is_set():
                    await clock.advance(REQUEST_TIMEOUT_S)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_is_refused(tmp_path: Path) -> None:
    """Even one who can open the socket, as root can everywhere."""
    path = tmp_path / "socket"
    script = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "print(s.recv(1000).decode())"
    )
    for directory in (tmp_path, *tmp_path.parents):
        if not directory.stat().st_mode & stat.S_IXOTH:
            directory.chmod(0o711)
    async with running_runner(path):
        path.chmod(0o666)
        told = await anyio.run_process(
            ["setpriv", "--reuid=65534", "--clear-groups", *python(script), str(path)], check=False
        )

    assert "only the runner's own user is served" in told.stdout.decode(), told.stderr


async def test_two_runners_do_not_share_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with running_runner(path):
        with pytest.raises(AlreadyRunningError):
            await run_runner(path, SystemClock())
    with pytest.raises(UnavailableError):
        await run_runner(tmp_path / "gone" / "socket", SystemClock())


async def test_a_socket_that_was_left_behind_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with running_runner(path):
        assert "error" in await ask(path, b"{}", [])


async def test_the_command_runs_until_it_is_ended_and_what_it_started_goes_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "socket"
    command = [sys.executable, "-m", "gateway", "runner", "--socket", str(path), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        assert orjson.loads(runner.stdout.readline())["event"] == "runner.ready"
        again = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False)
        assert again.returncode == 75
        settings = {"runner": str(path)}
        async with running_registry(tmp_path / "s", settings=settings) as running:
            started = await running.registry.start(caller(), list(WAITS))
            assert started.keeper is not None
            runner.send_signal(signal.SIGTERM)
            assert runner.wait(PATIENCE_S) == 0
            assert is_alive(started.keeper.pid)
            pidfd = os.pidfd_open(started.keeper.pid)
            # As systemd does, where the runner's service ends: its keepers hear it too.
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            wait_readable(pidfd)
            os.close(pidfd)
            told = await running.told_of(started.process_id)
        assert told.end is not None
        assert told.end.reason is EndReason.STOPPED


async def test_rows_that_were_reported_long_ago_are_discarded(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "s") as running:
        old = await running.registry.start(caller(), ["true"])
        await running.told_of(old.process_id)
        runs = await running.registry.start(caller(), list(WAITS))
        # Of the row: the registry may hold the record from before the report for a moment.
        reported = await running.row(old.process_id)
        assert reported is not None
        at = reported.reported_at
        assert at is not None
        discard = partial(records.discard_reported, before=at, limit=10)
        assert await running.database.write(discard) == 0
        discard = partial(records.discard_reported, before="9999", limit=10)
        assert await running.database.write(discard) == 1
        with anyio.fail_after(PATIENCE_S):
            while len(await running.registry.list()) > 1:
                await anyio.lowlevel.checkpoint()
        assert [one.process_id for one in await running.registry.list()] == [runs.process_id]
