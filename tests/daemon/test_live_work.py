"""Laws of sessions with a background process, with the real daemon, keeper and prune."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import orjson
import pytest

from gateway.clock import SystemClock
from gateway.sessions.entry import entry_to_dict
from tests.support.daemon import START_S, running_daemon
from tests.support.state import entry, import_file

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from tests.support.daemon import Daemon

KEY = "agent:main:http::dm:alice::"
CONFIG = """
session_store_max_age_days = 0

[access]
admins = ["http:alice"]

[processes]
enabled = true
shell = ["/bin/sh", "-c"]
max_running_per_session = 3
"""
MESSAGES = CONFIG + 'report = "message"\n'


@pytest.fixture(autouse=True)
def _ends_what_is_left(tmp_path: Path) -> Generator[None]:
    """End the processes of a test that failed."""
    yield
    for status in tmp_path.glob("state/processes/*/status.json"):
        keeper = orjson.loads(status.read_bytes())["keeper"]["pid"]
        with suppress(ProcessLookupError):
            os.kill(keeper, signal.SIGTERM)


async def _say(daemon: Daemon, text: str) -> str:
    """Type something as alice, who is an admin."""
    body = {"chat_id": "alice", "user_id": "alice", "text": text}
    response = await daemon.post("/v1/messages", body)
    assert response.status_code == 200, response.text
    reply: str = response.json()["reply"]
    return reply


async def _background(daemon: Daemon, command: str) -> str:
    """Start a command; return the process's id."""
    reply = await _say(daemon, f"/bg {command}")
    assert reply.startswith("Started as p-"), reply
    return reply.split()[2].rstrip(".")


async def _processes(daemon: Daemon) -> dict[str, dict[str, Any]]:
    found = (await daemon.get("/v1/processes"))["processes"]
    return {one["process_id"]: one for one in found}


async def _until(daemon: Daemon, holds: Callable[[dict[str, dict[str, Any]]], bool]) -> None:
    with anyio.fail_after(START_S):
        while not holds(await _processes(daemon)):
            pass


def _is_quiet(status: dict[str, Any]) -> bool:
    """Return whether no turn runs; one that waits has not begun yet."""
    return not status["turns"]["running"] + status["turns"]["waiting"]


async def _reports(daemon: Daemon) -> list[str]:
    """Return what the session was told of processes, each by its first two lines."""
    said = await daemon.said(KEY)
    told = [text for role, text in said if role in {"user", "notice"} and "[Background" in text]
    return ["\n".join(text.splitlines()[:2]) for text in told]


async def _told(daemon: Daemon, count: int) -> list[str]:
    """Return what the session was told, once it is so much and no turn runs any more."""
    with anyio.fail_after(START_S):
        while len(told := await _reports(daemon)) < count:
            pass
    await daemon.until(_is_quiet)
    return told


async def _prune(daemon: Daemon) -> dict[str, Any]:
    response = await daemon.post("/v1/prune", {"max_age_days": 90})
    assert response.status_code == 200, response.text
    report: dict[str, Any] = response.json()
    return report


def _old_session(path: Path) -> None:
    """Make a state directory with a session that was last used 200 days ago."""
    at = SystemClock().now() - timedelta(days=200)
    one = entry(created_at=at, updated_at=at, turns=1)
    import_file(path, {"version": 1, "sessions": {KEY: entry_to_dict(one)}})


@pytest.mark.parametrize("config", [CONFIG, MESSAGES], ids=["turn", "message"])
async def test_an_old_session_lives_as_long_as_its_process_and_gets_its_result(
    tmp_path: Path, config: str
) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    _old_session(tmp_path / "state")
    async with running_daemon(tmp_path / "state", config) as daemon:
        before = await daemon.get(f"/v1/sessions/{KEY}")
        process = await _background(daemon, f"read line <{go}; echo got $line")

        kept = await _prune(daemon)
        assert (kept["pruned"], kept["kept_by_reason"]) == (0, {"active_process": 1})
        assert (await _processes(daemon))[process]["state"] == "running"

        await anyio.to_thread.run_sync(go.write_text, "it\n")
        await _until(daemon, lambda found: found[process]["reported_at"] is not None)
        command = f"/bin/sh -c 'read line <{go}; echo got $line'"
        (told,) = await _told(daemon, 1)
        assert told == f"[Background process {process}: {command}]\nIt ended with status 0."
        said = await daemon.said(KEY)
        assert any("got it" in text for _, text in said)
        roles = [role for role, _ in said]
        assert roles == (["user", "assistant"] if config == CONFIG else ["notice"])

        after = await daemon.get(f"/v1/sessions/{KEY}")
        assert after["updated_at"] == before["updated_at"], "no user has done anything"
        gone = await _prune(daemon)
        assert gone["pruned"] == 1
        assert (await daemon.client.get(f"/v1/sessions/{KEY}")).status_code == 404


async def test_a_killed_gateway_finds_its_processes_again(tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    async with running_daemon(tmp_path / "state", CONFIG) as daemon:
        await _say(daemon, "hello")
        lasting = [await _background(daemon, "exec sleep 1000") for _ in range(2)]
        dying = await _background(daemon, f"read line <{go}; echo bye; exit 7")
        keepers = {name: one["pid"] for name, one in (await _processes(daemon)).items()}
        await daemon.kill()

    end = os.pidfd_open(keepers[dying])
    await anyio.to_thread.run_sync(go.write_text, "on\n")
    with anyio.fail_after(START_S):
        await anyio.wait_readable(end)
    os.close(end)

    async with running_daemon(tmp_path / "state", CONFIG) as daemon:
        assert len(daemon.log.of("process.adopted")) == 2
        await _until(daemon, lambda found: found[dying]["reported_at"] is not None)
        found = await _processes(daemon)
        assert {name: found[name]["state"] for name in lasting} == dict.fromkeys(lasting, "running")
        assert {name: found[name]["pid"] for name in lasting} == {
            name: keepers[name] for name in lasting
        }
        assert found[dying]["exit_status"] == 7
        told = await _told(daemon, 1)
        assert [line.splitlines()[1] for line in told] == ["It ended with status 7."]
        await daemon.kill()

    async with running_daemon(tmp_path / "state", CONFIG) as daemon:
        await daemon.until(_is_quiet)
        assert await _reports(daemon) == told
        for name in lasting:
            stopped = await daemon.post(f"/v1/processes/{name}/stop")
            assert stopped.status_code == 200, stopped.text
        await _until(daemon, lambda found: all(one["reported_at"] for one in found.values()))
        assert len(await _told(daemon, 3)) == 3


async def test_what_a_service_manager_killed_with_the_gateway_is_lost_and_told(
    tmp_path: Path,
) -> None:
    async with running_daemon(tmp_path / "state", CONFIG) as daemon:
        await _say(daemon, "hello")
        process = await _background(daemon, "exec sleep 1000")
        keeper = (await _processes(daemon))[process]["pid"]
        await daemon.kill()
    # As systemd does with all that is left in the service.
    end = os.pidfd_open(keeper)
    os.killpg(keeper, signal.SIGKILL)
    with anyio.fail_after(START_S):
        await anyio.wait_readable(end)
    os.close(end)

    async with running_daemon(tmp_path / "state", CONFIG) as daemon:
        await _until(daemon, lambda found: found[process]["reported_at"] is not None)
        (told,) = await _told(daemon, 1)
        assert told.splitlines()[1].startswith("It is lost")
