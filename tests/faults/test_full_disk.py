"""Laws of a real daemon on a disk that is full: nothing half done, reads go on, service returns."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio
import orjson
import pytest

from gateway.errors import UnavailableError
from gateway.sessions.recovery import PREVIOUS, SNAPSHOT
from tests.support.daemon import START_S, Daemon, run_to_end, running_daemon
from tests.support.disk import fill, fill_inodes, small_disk
from tests.support.state import import_file, key_of, shown
from tests.support.turns import Gate, PlayedAgent, full_disk, reply_of, running_turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

    Count = Callable[[str, int], None]

BACK_S: Final = 10
"""How long service may take to return once there is space."""
KEPT: Final = "session_store_max_age_days = 0\n"
RARE: Final = "[store]\nsnapshot_interval_s = 3600\n"
LARGE: Final = 20_000
SEND_AGAIN: Final = "send the same message id again"


@dataclass(slots=True)
class Ledger:
    """What was sent, and what became of it; every text stands for itself."""

    answered: dict[str, list[str]] = field(default_factory=dict)
    """Texts by chat."""
    refused: dict[str, list[str]] = field(default_factory=dict)
    late: dict[str, list[str]] = field(default_factory=dict)
    """Accepted, and answered once there is space again."""
    sent: int = 0

    async def send(self, daemon: Daemon, chars: int, chat: str) -> int:
        self.sent += 1
        name = f"m{self.sent}"
        text = f"{name} {'x' * chars}"
        response = await daemon.send(text, chat, name)
        book = self.answered
        if response.status_code != 200:
            assert response.status_code == 503, response.text
            problem = orjson.loads(response.content)["type"].rpartition(":")[2]
            book = {"storage-full": self.refused, "unavailable": self.late}[problem]
        book.setdefault(chat, []).append(text)
        return response.status_code

    async def check(self, daemon: Daemon) -> None:
        """Check that what was answered is there once, and of what was refused nothing is."""
        await daemon.until(
            lambda status: not status["turns"]["running"] + status["turns"]["waiting"]
        )
        for chat in self.answered.keys() | self.refused.keys() | self.late.keys():
            wanted = [*self.answered.get(chat, ()), *self.late.get(chat, ())]
            response = await daemon.client.get(f"/v1/sessions/{key_of(chat)}")
            assert response.status_code == (200 if wanted else 404)
            if wanted:
                said = await daemon.said(key_of(chat))
                asked = [text for role, text in said if role == "user"]
                assert sorted(asked) == sorted(wanted)
                assert [text for role, text in said if role != "user"] == asked
                assert (await daemon.get(f"/v1/sessions/{key_of(chat)}"))["turns"] == len(asked)


async def _back(daemon: Daemon) -> None:
    """Wait until it serves again by itself, nobody sending anything."""
    with anyio.fail_after(BACK_S):
        while (await daemon.client.get("/readyz")).status_code != 200:
            pass


async def _is_full(daemon: Daemon, write: Callable[[], Awaitable[object]]) -> None:
    with anyio.fail_after(START_S):
        while (ready := await daemon.client.get("/readyz")).status_code != 503:
            # Something small has still found room since; a large write finds none.
            await write()
    assert "the disk is full" in orjson.loads(ready.content)["reasons"]
    assert (await daemon.client.get("/livez")).status_code == 200
    told = await daemon.log.wait_for("watcher.duty_failed")
    assert told["level"] == "warning"
    assert "no space left" in told["error"]


@pytest.mark.alone
@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        ("ext4", 1),
        *(
            pytest.param(kind, seed, marks=pytest.mark.torture)
            for kind in ("ext4", "tmpfs")
            for seed in range(2, 12)
        ),
    ],
)
async def test_a_disk_that_fills_slowly_refuses_whole_and_serves_again_by_itself(
    tmp_path: Path, kind: str, seed: int, torture_count: Count
) -> None:
    numbers, ledger = random.Random(seed), Ledger()
    with small_disk(tmp_path / "disk", size_mb=12, kind=kind) as disk:
        async with running_daemon(disk / "state") as daemon:
            for number in range(10):
                await ledger.send(daemon, numbers.randrange(3000), f"early{number % 3}")
            ballast, refused = disk / "ballast", 0
            fill(ballast, leave_bytes=1_500_000)
            while refused < 3 and ledger.sent < 500:
                with ballast.open("ab", buffering=0) as file, suppress(OSError):
                    file.write(bytes(numbers.choice([512, 4096, 16_384])))
                status = await ledger.send(daemon, numbers.choice([1, 900, LARGE]), f"c{refused}")
                refused += status != 200
            fill(ballast)
            for number in range(20):
                await ledger.send(daemon, LARGE, f"d{number}")
            assert ledger.refused
            await _is_full(daemon, lambda: ledger.send(daemon, LARGE, "d"))
            assert await daemon.said(key_of("early0"))
            assert (await daemon.client.get("/v1/sessions")).status_code == 200

            ballast.unlink()
            await _back(daemon)
            await ledger.send(daemon, LARGE, "after")
            assert ledger.answered["after"]
            await ledger.check(daemon)
            await daemon.kill()
        async with running_daemon(disk / "state") as daemon:
            await ledger.check(daemon)
            assert await daemon.terminate() == 0
    torture_count("messages to a full disk", ledger.sent)


@pytest.mark.alone
async def test_turns_that_wait_for_space_are_answered_by_themselves(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_mb=24) as disk:
        async with running_daemon(disk / "state") as daemon:
            fill(disk / "ballast", leave_bytes=1_000_000)
            waiting = [f"chat{number}" for number in range(3)]
            for chat in waiting:
                response = await daemon.send("!tool 2000000", chat, "m1")
                assert response.status_code == 503
                assert SEND_AGAIN in response.text
            # The turns themselves try again.
            await _is_full(daemon, lambda: daemon.get("/v1/status"))
            (disk / "ballast").unlink()
            with anyio.fail_after(BACK_S):
                await daemon.log.wait_for("turn.completed", count=3)
            for chat in waiting:
                again = await daemon.say("!tool 2000000", chat, "m1")
                assert (again["duplicate"], again["status"]) == (True, "ok")
            assert (await daemon.client.get("/readyz")).status_code == 200


def _failed_snapshots(daemon: Daemon) -> list[dict[str, Any]]:
    return [line for line in daemon.log.of("watcher.duty_failed") if line["duty"] == "snapshot"]


@pytest.mark.alone
@pytest.mark.parametrize("scarce", ["space", pytest.param("inodes", marks=pytest.mark.torture)])
async def test_a_snapshot_that_finds_no_room_leaves_the_old_one_and_is_written_later(
    tmp_path: Path, scarce: str
) -> None:
    with small_disk(tmp_path / "disk", size_mb=24, kind="ext4", inodes=64) as disk:
        _import(disk / "state", (f"c{number}" for number in range(6_000)), age_days=1)
        async with running_daemon(disk / "state", KEPT) as daemon:
            before = (disk / "state" / SNAPSHOT).read_bytes()
            if scarce == "space":
                fill(disk / "ballast", leave_bytes=len(before) // 2)
            else:
                fill_inodes(disk / "ballast")
            with anyio.fail_after(START_S):
                # While a snapshot finds out that there is no room, there is none for a turn either.
                while (response := await daemon.send("hello", "new", "m1")).status_code != 200:
                    assert response.status_code == 503, response.text
            answer = orjson.loads(response.content)
            with anyio.fail_after(START_S):
                while not (told := _failed_snapshots(daemon)):
                    await daemon.log.news.wait()
            assert "no space left" in told[0]["error"]
            assert (disk / "state" / SNAPSHOT).read_bytes() == before
            assert (disk / "state" / PREVIOUS).exists()
            assert len(await daemon.said(answer["session_key"])) == 2

            subprocess.run(["rm", "-r", disk / "ballast"], check=True)
            with anyio.fail_after(BACK_S):
                while answer["session_key"] not in shown(disk / "state"):
                    await daemon.get("/v1/status")
            assert len(shown(disk / "state")) == 6_001
            assert (await daemon.client.get("/readyz")).status_code == 200
            assert await daemon.terminate() == 0


async def test_a_prune_that_finds_no_room_keeps_the_rest_and_is_done_later(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_mb=24, kind="ext4") as disk:
        _import(disk / "state", (f"c{number}" for number in range(4_000)), age_days=100)
        # No snapshot takes or makes room meanwhile.
        async with running_daemon(disk / "state", KEPT + RARE) as daemon:
            fill(disk / "ballast", leave_bytes=900_000)
            response = await daemon.post("/v1/prune", {"max_age_days": 1})
            assert response.status_code == 503
            assert b"storage-full" in response.content
            pruned = await daemon.log.wait_for("session.pruned", count=2)
            assert pruned["complete"] is False
            assert 0 < pruned["pruned"] < 4_000
            left = (await daemon.get("/v1/status"))["store"]["entries"]
            assert left == 4_000 - pruned["pruned"]
            await daemon.kill()

        (disk / "ballast").unlink()
        async with running_daemon(disk / "state", KEPT) as daemon:
            assert (await daemon.get("/v1/status"))["store"]["entries"] == left
            response = await daemon.post("/v1/prune", {"max_age_days": 1})
            assert orjson.loads(response.content)["pruned"] == left
            assert shown(disk / "state") == {}


def _import(path: Path, chats: Iterable[str], *, age_days: int) -> None:
    at = f"2026-0{3 if age_days > 1 else 9}-01T00:00:00Z"
    sessions: dict[str, Any] = {}
    for chat in chats:
        sessions[key_of(chat)] = {
            "session_key": key_of(chat),
            "session_id": f"id-{chat}",
            "created_at": at,
            "updated_at": at,
            "source": {"platform": "http", "chat_id": chat},
        }
    import_file(path, {"version": 1, "sessions": sessions})


async def test_a_start_on_a_full_disk_says_so_loses_nothing_and_works_with_the_space(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", size_mb=8, kind="ext4") as disk:
        async with running_daemon(disk / "state") as daemon:
            await daemon.say("hello")
            await daemon.kill()
        before = (disk / "state" / SNAPSHOT).read_bytes()
        for _ in range(2):
            fill(disk / "ballast")
            ended = await run_to_end(disk / "state")
            assert ended.code == 74
            assert "no space left on the disk; a start needs 1 MiB" in ended.log[-1]["error"]
            assert (disk / "state" / SNAPSHOT).read_bytes() == before

        (disk / "ballast").unlink()
        async with running_daemon(disk / "state") as daemon:
            assert await daemon.said(key_of()) == [("user", "hello"), ("assistant", "hello")]


async def test_who_waits_behind_a_turn_that_waits_for_space_is_told_too(tmp_path: Path) -> None:
    gate, long = Gate(), "first " + "x" * 50_000
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        first = await bench.submit(long, message_id="m1")
        await gate.reached(long)
        async with full_disk(bench.state.database):
            gate.open(long)
            with pytest.raises(UnavailableError, match=SEND_AGAIN):
                await reply_of(first)
            second = await bench.submit("second", message_id="m2")
            with pytest.raises(UnavailableError, match=SEND_AGAIN), anyio.fail_after(30):
                await second.progress.reply()


INDEX_GROWS = """
import pathlib, os, sys
import anyio, apsw
from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.errors import StorageFullError
from tests.support.disk import fill

async def main():
    path = pathlib.Path(sys.argv[1]) / "gateway.db"
    async with Database.open(path, FakeClock()) as database:
        async def add(name):
            sql = "INSERT INTO store_state (name, value) VALUES (?, 0)"
            await database.write(lambda tx: tx.execute(sql, (name,)))

        await add("first")
        reader = apsw.Connection(str(path))
        reader.execute("BEGIN; SELECT * FROM store_state").fetchall()
        number = 0
        while (path.parent / "gateway.db-wal").stat().st_size < 4_055 * 4_120:
            number += 1
            await add(f"k{number}")
        fill(path.parent / "ballast", leave_bytes=int(sys.argv[2]))
        for number in range(60):
            try:
                await add(f"last{number}")
            except StorageFullError:
                print("full", database.statistics().failed)
                break
        reader.close()

anyio.run(main)
"""


@pytest.mark.torture
@pytest.mark.parametrize("block", ["1024", "4096"])
@pytest.mark.parametrize("leave_bytes", [30_000, 45_056, 61_440])
def test_a_wal_whose_index_must_grow_on_a_full_disk_ends_no_process(
    tmp_path: Path, block: str, leave_bytes: int
) -> None:
    with small_disk(tmp_path / "disk", size_mb=48, kind="ext4", block=block) as disk:
        child = subprocess.run(
            [sys.executable, "-c", INDEX_GROWS, disk, str(leave_bytes)],
            capture_output=True,
            check=False,
            text=True,
        )
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout == "full False\n"
