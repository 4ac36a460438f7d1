"""`gateway processes`, on a directory that no daemon runs on, with processes that do."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.cli.processes import gateway, running_gateway
from tests.processes.running import PATIENCE_S, WAITS, caller, running_registry, wait_readable
from tests.support.state import import_file, key_of

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = ["ID", "SESSION", "COMMAND", "STATE", "AGE", "BLOCKS"]


async def used(state: Path) -> tuple[str, str, int]:
    """Leave a process that runs and one that has ended; return their ids and a pidfd."""
    import_file(state, {"version": 1, "sessions": {}})
    async with running_registry(state, leave=True) as running:
        runs = await running.registry.start(caller(), [*WAITS])
        ended = await running.registry.start(
            caller("bob"), ["printf", "one\\ntwo\\033[31m \\342\\200\\256\\n"]
        )
        await running.told_of(ended.process_id)
        with anyio.fail_after(PATIENCE_S):
            while len(running.registry.unreported()):
                await anyio.lowlevel.checkpoint()
    assert runs.keeper is not None
    return runs.process_id, ended.process_id, os.pidfd_open(runs.keeper.pid)


async def test_processes_are_listed_shown_and_stopped(tmp_path: Path) -> None:
    state = tmp_path / "state"
    runs, ended, pidfd = await used(state)
    try:
        table = gateway("processes", "list", "--state-dir", state)
        document = gateway("processes", "list", "--state-dir", state, "--json").document
        of_bob = gateway("processes", "list", "--session", key_of("bob"), "--state-dir", state)
        shown = gateway("processes", "show", ended, "--state-dir", state)
        with running_gateway(state):
            beside = gateway("processes", "list", "--state-dir", state, "--json").document
    finally:
        stopped = gateway("processes", "stop", runs, "--state-dir", state)
        wait_readable(pidfd)
        os.close(pidfd)
    later = gateway("processes", "stop", ended, "--state-dir", state)

    head, first, second = (re.split(r" {2,}", line) for line in table.stdout.splitlines())
    assert head == COLUMNS
    assert (first[:4], first[-1]) == ([runs, key_of(), "sleep 1000", "running"], "reset, prune")
    assert (second[0], second[3], second[-1]) == (ended, "exited (0)", "-")
    assert [one["process_id"] for one in document["processes"]] == [runs, ended]
    assert [one["process_id"] for one in beside["processes"]] == [runs, ended]
    assert runs not in of_bob.stdout
    assert "exit_status" in shown.stdout
    assert shown.stdout.endswith("\none\ntwo \\u202e\n")
    assert (stopped.status, stopped.stdout.split()[0]) == (0, runs)
    assert later.status == 1
    assert "has ended" in later.stderr


async def test_one_that_was_killed_meanwhile_is_not_called_running(tmp_path: Path) -> None:
    state = tmp_path / "state"
    runs, _, pidfd = await used(state)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    wait_readable(pidfd)
    os.close(pidfd)
    table = gateway("processes", "list", "--state-dir", state)
    (shown, _) = gateway("processes", "list", "--state-dir", state, "--json").document["processes"]
    stopped = gateway("processes", "stop", runs, "--state-dir", state)

    line = next(line for line in table.stdout.splitlines() if runs in line)
    assert re.split(r" {2,}", line)[3] == "gone"
    assert f"{runs} is not found; the next start says what became of it" in table.stderr
    assert (shown["state"], shown["pid"], shown["overdue"]) == ("gone", None, False)
    assert shown["blocks"] == ["reset", "prune"], "its end is still owed to the session"
    assert "not found" in shown["detail"]
    assert (stopped.status, "not found" in stopped.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        pytest.param(("show", "p-0000000000"), 1, "There is no process with this id", id="unknown"),
        pytest.param(("show", "../status"), 1, "", id="no-way-out"),
        pytest.param(("stop", "x"), 1, "There is no process with this id", id="stop"),
        pytest.param(("list", "--session", "x"), 1, "accepted is a session key", id="key"),
        pytest.param(("list", "--limit", "0"), 2, "greater than or equal to 1", id="limit"),
        pytest.param(("list",), 0, "no processes", id="none"),
    ],
)
def test_what_is_wrong_is_told(
    tmp_path: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    state = import_file(tmp_path / "state", {"version": 1, "sessions": {}})

    outcome = gateway("processes", *arguments, "--state-dir", state)

    assert outcome.status == status
    assert said in " ".join(outcome.stderr.split())


async def test_a_session_whose_process_runs_is_not_pruned_without_a_daemon(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_gateway(state):
        for chat in ("alice", "carol"):
            assert gateway("chat", "--chat-id", chat, "hello", "--state-dir", state).status == 0
    async with running_registry(state, leave=True) as running:
        runs = await running.registry.start(caller(), [*WAITS])
        assert runs.keeper is not None
        pidfd = os.pidfd_open(runs.keeper.pid)
    try:
        arguments = ("sessions", "prune", "--max-age-days", "0.0000001", "--state-dir", state)
        report = gateway(*arguments, "--json").document
        listed = gateway("sessions", "list", "--state-dir", state, "--json").document
    finally:
        gateway("processes", "stop", runs.process_id, "--state-dir", state)
        wait_readable(pidfd)
        os.close(pidfd)

    assert report["pruned"] == 1
    assert [entry["session_key"] for entry in listed["sessions"]] == [key_of()]


def test_a_runner_needs_a_socket(tmp_path: Path) -> None:
    assert gateway("runner").status == 2
    outcome = gateway("runner", "--socket", tmp_path / "gone" / "socket")
    assert (outcome.status, "No such file" in outcome.stderr) == (69, True)
