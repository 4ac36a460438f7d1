"""Laws of the daemon under a service manager, shown over a real notification socket."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager, closing, suppress
from socket import MSG_DONTWAIT
from typing import TYPE_CHECKING

import anyio
import apsw
import pytest
from anyio.abc import SocketAttribute

from tests.support.daemon import START_S, running_daemon
from tests.support.disk import fill, small_disk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from anyio.abc import UNIXDatagramSocket


class Manager:
    """What systemd would hear."""

    def __init__(self, socket: UNIXDatagramSocket) -> None:
        self.heard: list[str] = []
        self._socket = socket

    async def hear(self, state: str, *, count: int = 1) -> str:
        """Return the first later message that holds a state, once it came so many times."""
        with anyio.fail_after(START_S):
            while True:
                message = (await self._socket.receive())[0].decode()
                self.heard.append(message)
                count -= state in message.split("\n")
                if not count:
                    return message

    def forget(self) -> None:
        """Pass over what has come by now."""
        raw = self._socket.extra(SocketAttribute.raw_socket)  # noqa: S610 - anyio's, not Django's
        with suppress(BlockingIOError):
            while True:
                raw.recv(4_096, MSG_DONTWAIT)


@asynccontextmanager
async def listening(path: Path) -> AsyncGenerator[Manager]:
    async with await anyio.create_unix_datagram_socket(local_path=path) as socket:
        yield Manager(socket)


async def test_ready_stopping_and_reloading_are_told(tmp_path: Path) -> None:
    async with listening(tmp_path / "notify") as manager:
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        async with running_daemon(tmp_path / "state", env=env) as daemon:
            ready = await manager.hear("READY=1")
            assert f"STATUS=Listening on {daemon.client.base_url}".rstrip("/") in ready

            daemon.signal(signal.SIGHUP)
            assert "MONOTONIC_USEC=" in await manager.hear("RELOADING=1")
            assert await manager.hear("READY=1") == "READY=1"

            assert await daemon.terminate() == 0
            await manager.hear("STOPPING=1")
    assert not any("WATCHDOG=1" in message for message in manager.heard)


async def test_the_watchdog_is_fed_while_the_gateway_lives(tmp_path: Path) -> None:
    async with listening(tmp_path / "notify") as manager:
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "150000"}
        async with running_daemon(tmp_path / "state", env=env):
            await manager.hear("WATCHDOG=1", count=5)


@pytest.mark.slow
async def test_the_watchdog_starves_while_the_database_does_not_answer(tmp_path: Path) -> None:
    async with listening(tmp_path / "notify") as manager:
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "150000"}
        async with running_daemon(tmp_path / "state", env=env) as daemon:
            await manager.hear("WATCHDOG=1", count=3)
            with closing(apsw.Connection(str(tmp_path / "state" / "gateway.db"))) as intruder:
                intruder.set_busy_timeout(30_000)
                intruder.execute("BEGIN IMMEDIATE")
                manager.forget()
                meals = 0
                with anyio.move_on_after(1):
                    while True:
                        await manager.hear("WATCHDOG=1")
                        meals += 1
                assert meals <= 3

            await manager.hear("WATCHDOG=1", count=3)
            await daemon.say("hello")


async def test_the_watchdog_is_not_for_a_process_that_it_does_not_name(tmp_path: Path) -> None:
    async with listening(tmp_path / "notify") as manager:
        env = {
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "1000",
            "WATCHDOG_PID": "1",
        }
        async with running_daemon(tmp_path / "state", env=env) as daemon:
            await manager.hear("READY=1")
            await daemon.say("hello")
            await daemon.terminate()
            await manager.hear("STOPPING=1")
    assert "WATCHDOG=1" not in manager.heard


async def test_a_full_disk_refuses_clearly_keeps_the_watchdog_fed_and_heals_by_itself(
    tmp_path: Path,
) -> None:
    async with listening(tmp_path / "notify") as manager:
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000"}
        with small_disk(tmp_path / "disk", size_mb=8) as disk:
            async with running_daemon(disk / "state", env=env) as daemon:
                before = await daemon.say("x" * 1_000, "early")
                fill(disk / "filling")
                refused = await daemon.send("x" * 90_000, message_id="m1")
                assert refused.status_code == 503
                assert refused.headers["content-type"] == "application/problem+json"
                assert b"full" in refused.content
                for _ in range(20):
                    assert (await daemon.send("x" * 90_000, "bob")).status_code == 503
                assert (await daemon.client.get("/readyz")).status_code == 503
                assert (await daemon.client.get("/livez")).status_code == 200
                assert len(await daemon.said(before["session_key"])) == 2
                manager.forget()
                await manager.hear("WATCHDOG=1", count=3)

                (disk / "filling").unlink()
                answer = await daemon.say("x" * 90_000, message_id="m1")
                assert answer["duplicate"] is False
                assert (await daemon.client.get("/readyz")).status_code == 200
                assert await daemon.terminate() == 0
