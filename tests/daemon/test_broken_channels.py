"""A real daemon with channels that work and channels that do not."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from tests.cli.processes import gateway
from tests.support.bridge import CHANNEL, bridge
from tests.support.daemon import running_daemon
from tests.support.loopback import connected, short_directory
from tests.support.telegram_api import TelegramServer

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.support.daemon import Daemon


@pytest.fixture
def folder() -> Generator[Path]:
    """Give a directory whose path leaves room for a socket."""
    with short_directory() as path:
        yield Path(path)


def broken(folder: Path) -> str:
    """Return tables of a channel without the directory of its socket, and of a bot without net."""
    (folder / "token").write_text("1:a-token")
    (folder / "token").chmod(0o600)
    return (
        f'[channels.nowhere]\nkind = "loopback"\npath = "{folder}/none/x.sock"\n'
        f'[channels.bot]\nkind = "telegram"\nbase_url = "{TelegramServer().url}"\n'
        f'token = {{ file = "{folder}/token" }}\n'
    )


def by_account(channels: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {one["account"]: one for one in channels}


async def until_lost(daemon: Daemon, *accounts: str) -> dict[str, dict[str, Any]]:
    """Wait until channels were lost, and return what the status says of all."""
    found: dict[str, dict[str, Any]] = {}

    def lost(status: dict[str, Any]) -> bool:
        found.update(by_account(status["channels"]))
        return all(found[one]["restarts"] >= 1 and found[one]["last_error"] for one in accounts)

    await daemon.until(lost)
    return found


async def test_a_broken_channel_harms_no_other_and_is_told_everywhere(folder: Path) -> None:
    async with running_daemon(folder / "state", CHANNEL + broken(folder)) as daemon:
        async with bridge(daemon) as people:
            answers = [await people.ask("one")]
            status = await until_lost(daemon, "nowhere", "bot")
            answers.append(await people.ask("two"))
        ready = await daemon.client.get("/readyz")
        metrics = (await daemon.client.get("/metrics")).text.splitlines()
        command = partial(gateway, "status", "--state-dir", daemon.state_dir)
        shown = (await anyio.to_thread.run_sync(command)).stdout
        code = await daemon.terminate()
        warned = [line for line in daemon.log.of("channel.lost") if line["level"] == "warning"]

    assert answers == ["one", "two"]
    assert (status["lo"]["state"], status["lo"]["restarts"]) == ("running", 0)
    assert status["nowhere"]["last_error"] == f"{folder}/none/x.sock: No such file or directory"
    assert status["bot"]["last_error"].startswith("Telegram cannot be reached")
    assert ready.status_code == 200
    assert ready.json()["ready"] is True
    states = {name: one["state"] for name, one in by_account(ready.json()["channels"]).items()}
    assert states["lo"] == "running"
    assert {states["nowhere"], states["bot"]} <= {"starting", "backing_off"}
    labels = {"lo": "loopback", "nowhere": "loopback", "bot": "telegram"}
    for account, platform in labels.items():
        name = f'{{account="{account}",platform="{platform}"}}'
        running = f"gateway_channel_running{name} {1.0 if account == 'lo' else 0.0}"
        assert running in metrics
        restarts = f"gateway_channel_restarts_total{name} 0.0"
        assert (restarts in metrics) == (account == "lo")
    for account, platform in labels.items():
        assert f"{platform}/{account}" in shown
    assert "No such file or directory" in shown
    assert "Telegram cannot be reached" in shown
    assert sorted(line["account"] for line in warned) == ["bot", "nowhere"]
    assert code == 0


async def test_a_channel_that_was_broken_runs_once_it_can(folder: Path) -> None:
    async with running_daemon(folder / "state", CHANNEL + broken(folder)) as daemon:
        await until_lost(daemon, "nowhere")
        (folder / "none").mkdir()
        await daemon.until(
            lambda status: by_account(status["channels"])["nowhere"]["state"] == "running"
        )
        async with connected(folder / "none/x.sock") as client:
            accepted = await client.ask(message_id="m1", chat_id="ann", text="hello")
            await client.write(serve=True)
            lines = [await client.read(), await client.read()]

    assert accepted == {"accepted": "m1"}
    assert lines[0] == {"serving": True}
    assert (lines[1]["text"], lines[1]["reply_to"]) == ("hello", "m1")


async def test_while_the_gateway_stops_a_client_is_told_so(folder: Path) -> None:
    hangs = '[agents.main]\nkind = "scripted"\nreplies = ["!hang"]\n[turns]\ngrace_s = 20.0\n'
    async with running_daemon(folder / "state", CHANNEL + hangs) as daemon:
        await daemon.log.wait_for("channel.running")
        async with connected(daemon.state_dir / "lo.sock") as client:
            assert await client.ask(message_id="m1", chat_id="ann", text="one") == {
                "accepted": "m1"
            }
            daemon.signal(signal.SIGTERM)
            await daemon.log.wait_for("gateway.stopping")
            told = await client.ask(message_id="m2", chat_id="ann", text="two")
            daemon.signal(signal.SIGTERM)
        await daemon.ended()

    assert told == {"retry": "m2", "error": "the gateway is stopping, and takes no messages"}
