"""Laws of several daemons on one state directory: one serves, the others say which."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import orjson
import pytest

from gateway.durable.directory import read_holder
from tests.support.daemon import run_to_end, running_daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    Count = Callable[[str, int], None]

PATIENCE_S = 60


@pytest.mark.parametrize(
    ("count", "rounds", "used"),
    [
        (3, 1, True),
        *(
            pytest.param(count, 3, used, marks=pytest.mark.torture)
            for count in range(2, 9)
            for used in (False, True)
        ),
    ],
)
def test_of_many_that_start_at_once_exactly_one_serves(
    tmp_path: Path, count: int, rounds: int, torture_count: Count, *, used: bool
) -> None:
    for number in range(rounds):
        state = tmp_path / f"state{number}"
        if used:
            with _started(state, 1) as (one,):
                _ready(one)
        with _started(state, count) as daemons:
            lines = {daemon.pid: _last_line(daemon) for daemon in daemons}
            (owner,) = [pid for pid, line in lines.items() if line["event"] == "gateway.try"]
            for daemon in daemons:
                if daemon.pid == owner:
                    assert daemon.poll() is None
                    continue
                assert daemon.wait(PATIENCE_S) == 75
                told = lines[daemon.pid]
                assert told["event"] == "gateway.failed"
                # One that met the owner before it had written its pid can only say so.
                assert f"pid {owner}" in told["error"] or "starting or ending" in told["error"]
            holder = read_holder(state)
            assert holder is not None
            assert holder.pid == owner
        torture_count("daemons started at once", count)


async def test_a_stopped_owner_keeps_its_directory_and_goes_on(tmp_path: Path) -> None:
    async with running_daemon(tmp_path / "state") as daemon:
        await daemon.say("before")
        daemon.signal(signal.SIGSTOP)
        ended = await run_to_end(tmp_path / "state")
        daemon.signal(signal.SIGCONT)
        assert ended.code == 75
        assert f"pid {daemon.process.pid}" in ended.log[-1]["error"]
        assert (await daemon.say("after"))["reply"] == "after"
        assert [text for _, text in await daemon.said("agent:main:http::dm:alice::")] == [
            "before",
            "before",
            "after",
            "after",
        ]


@pytest.mark.torture
async def test_a_killed_owner_leaves_its_directory_to_the_next_at_once(tmp_path: Path) -> None:
    pids = set()
    for number in range(3):
        async with running_daemon(tmp_path / "state") as daemon:
            pids.add(daemon.process.pid)
            assert len((await daemon.get("/v1/sessions"))["sessions"]) == number
            await daemon.say("hello", f"chat{number}")
            await daemon.kill()
    assert len(pids) == 3


@contextmanager
def _started(state: Path, count: int) -> Generator[list[subprocess.Popen[bytes]]]:
    """Start daemons at once; leaving ends them by force."""
    config = state.with_suffix(".toml")
    config.write_text("")
    where = ("--config", str(config), "--state-dir", str(state), "--port", "0")
    command = [sys.executable, "-m", "gateway", "run", *where]
    with ExitStack() as stack:
        daemons = []
        for _ in range(count):
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            daemons.append(stack.enter_context(child))
            stack.callback(child.kill)
        yield daemons


def _last_line(daemon: subprocess.Popen[bytes]) -> dict[str, str]:
    """Return the line with which a start has come to its end, well or not."""
    assert daemon.stdout is not None
    for text in daemon.stdout:
        line: dict[str, str] = orjson.loads(text)
        if line["event"] in {"gateway.try", "gateway.failed"}:
            return line
    raise AssertionError("ended without a word")


def _ready(daemon: subprocess.Popen[bytes]) -> None:
    assert _last_line(daemon)["event"] == "gateway.try"
