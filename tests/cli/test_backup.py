"""`gateway backup` beside the real daemon: under load, killed, and started from."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from tests.cli.processes import PATIENCE_S, gateway
from tests.support.daemon import Daemon, running_daemon
from tests.support.upkeep import change, found, used_state

if TYPE_CHECKING:
    from pathlib import Path

CLIENTS: Final = 8
CONFIG: Final = "[store]\nsnapshot_interval_s = 0.1\n"


async def test_a_backup_under_load_has_every_acknowledged_message_and_starts(
    tmp_path: Path,
) -> None:
    said: list[dict[str, str]] = []
    owed: list[list[dict[str, str]]] = []
    stop = anyio.Event()

    async def talk(daemon: Daemon, client: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            message_id = f"{client}-{number}"
            answer = await daemon.say(f"text {message_id}", f"c{client}", message_id)
            said.append({"chat": f"c{client}", "id": message_id, "turn": answer["turn_id"]})

    async with running_daemon(tmp_path / "state", CONFIG) as daemon:
        async with anyio.create_task_group() as group:
            for client in range(CLIENTS):
                group.start_soon(talk, daemon, client)
            for copy in ("one", "two"):
                while len(said) < 200 * (1 + len(owed)):
                    await daemon.get("/v1/status")
                owed.append(list(said))
                outcome = await anyio.to_thread.run_sync(
                    gateway, "backup", tmp_path / copy, "--state-dir", tmp_path / "state", "--json"
                )
                assert outcome.status == 0, outcome.stderr
                assert outcome.document["beside_daemon"] is True
            stop.set()
        assert len(said) > len(owed[-1]), "nothing was said during the last copy"
        assert await daemon.terminate() == 0

    for copy, wanted in zip(("one", "two"), owed, strict=True):
        assert {one.level for one in check_store(tmp_path / copy).findings} == {Level.OK}
        async with running_daemon(tmp_path / copy) as again:
            for one in wanted[:: len(wanted) // 40]:
                answer = await again.say("again", one["chat"], one["id"])
                assert (answer["duplicate"], answer["turn_id"]) == (True, one["turn"])
            for client in range(CLIENTS):
                texts = {text for _, text in await again.said(f"agent:main:http::dm:c{client}::")}
                mine = {f"text {one['id']}" for one in wanted if one["chat"] == f"c{client}"}
                assert mine <= texts


async def test_a_backup_that_is_killed_leaves_nothing_that_looks_like_one(tmp_path: Path) -> None:
    state, target = await used_state(tmp_path / "state"), tmp_path / "copy"
    aside = tmp_path / "copy.incomplete"
    change(state, "CREATE TABLE ballast (x)", "INSERT INTO ballast VALUES (zeroblob(60000000))")
    command = [sys.executable, "-m", "gateway", "backup", str(target), "--state-dir", str(state)]

    with subprocess.Popen(command) as child:
        with anyio.fail_after(PATIENCE_S):
            while not (aside / "gateway.db").exists():
                assert child.poll() is None, "it ended before it could be killed"
                await anyio.lowlevel.checkpoint()
        child.kill()

    assert aside.exists()
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


async def test_a_backup_says_what_it_holds(tmp_path: Path) -> None:
    state = await used_state(tmp_path / "state")

    told = gateway("backup", tmp_path / "one", "--state-dir", state)
    document = gateway("backup", tmp_path / "two", "--state-dir", state, "--json").document

    assert told.status == 0
    head, _, tail = told.stdout.partition(": ")
    assert head == str(tmp_path / "one")
    assert tail.startswith("3 sessions up to change 12, 12 messages, ")
    assert told.stderr == f"start from it with: gateway run --state-dir {tmp_path}/one\n"
    assert document["path"] == str(tmp_path / "two")
    assert document["beside_daemon"] is False


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
