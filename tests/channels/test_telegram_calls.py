"""Telegram's calls to a real daemon: replays, a kill before the answer, strangers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2
import pytest

from tests.support.daemon import Daemon, running_daemon
from tests.support.telegram_api import TelegramServer, message

if TYPE_CHECKING:
    from pathlib import Path

KEY = "agent:main:telegram:bot:dm:7::"
SECRET = "a-secret_of-tests-0123456789"
HEADER = "x-telegram-bot-api-secret-token"


def config_of(tmp_path: Path, server: TelegramServer, *, webhook: bool = True) -> str:
    for name, secret in (("token", server.token), ("secret", SECRET)):
        (tmp_path / name).write_text(secret)
        (tmp_path / name).chmod(0o600)
    url = "https://chat.example.org/hooks/bot"
    hook = f'webhook = {{ url = "{url}", secret = {{ file = "{tmp_path}/secret" }} }}\n'
    return (
        f'[channels.bot]\nkind = "telegram"\nbase_url = "{server.url}"\nedits = false\n'
        f'token = {{ file = "{tmp_path}/token" }}\n{hook if webhook else ""}'
        '[access.platforms.telegram]\nallow_users = ["7"]\n'
    )


class Front:
    """What stands in front of the gateway, whichever daemon runs."""

    def __init__(self, server: TelegramServer) -> None:
        self.daemon: Daemon | None = None
        self.deaf = False
        """Whether what the gateway answers is lost on the way."""
        self.statuses: list[int] = []
        server.call = self._call

    async def _call(self, headers: dict[str, str], body: bytes) -> int:
        if self.daemon is None:
            return 502

        headers = headers | {"content-type": "application/json"}
        try:
            answer = await self.daemon.client.post("/hooks/bot", content=body, headers=headers)
        except httpx2.HTTPError:
            return 502

        self.statuses.append(answer.status_code)
        return 504 if self.deaf else answer.status_code


async def texts(daemon: Daemon) -> list[str]:
    return [text for role, text in await daemon.said(KEY) if role == "user"]


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_a_call_that_comes_again_after_a_restart_is_one_turn(
    tmp_path: Path, how: str
) -> None:
    server = TelegramServer()
    front, config = Front(server), config_of(tmp_path, server)
    async with server.serving():
        async with running_daemon(tmp_path / "state", config) as daemon:
            front.daemon, front.deaf = daemon, True
            first = server.push(message=message("one", 1))
            await server.until(lambda: len(front.statuses) >= 2 and server.posted)
            await (daemon.kill() if how == "killed" else daemon.terminate())
            front.daemon, front.deaf = None, False
        untold = dict(server.pending)
        async with running_daemon(tmp_path / "state", config) as daemon:
            front.daemon = daemon
            second = server.push(message=message("two", 2))
            await server.until(lambda: second in server.acknowledged)
            await server.until(lambda: any("two" in one.text for one in server.posted))
            said = await texts(daemon)
            front.daemon = None

    assert list(untold) == [first]
    assert server.acknowledged == [first, second]
    assert said == ["one", "two"]
    assert set(front.statuses) <= {200, 503}
    plain = [one.text for one in server.posted if "may be a repeat" not in one.text]
    assert plain in (["one", "two"], ["two"])


async def test_calls_without_the_secret_and_to_other_paths_are_turned_away(tmp_path: Path) -> None:
    server = TelegramServer()
    body = {"update_id": 1, "message": message("hello", 1)}
    async with server.serving():
        async with running_daemon(tmp_path / "state", config_of(tmp_path, server)) as daemon:
            await server.until(lambda: server.hook)
            statuses = []
            for path, secret in (
                ("/hooks/bot", ""),
                ("/hooks/bot", "wrong"),
                ("/hooks/other", SECRET),
                ("/hooks/bot", SECRET),
            ):
                headers = {HEADER: secret}
                answer = await daemon.client.post(path, json=body, headers=headers)
                statuses.append(answer.status_code)
            await server.until(lambda: server.posted)
            said = await texts(daemon)
        polled = config_of(tmp_path, server, webhook=False)
        async with running_daemon(tmp_path / "state", polled) as daemon:
            await server.until(lambda: server.polled)
            polling = await daemon.client.post("/hooks/bot", json=body, headers={HEADER: SECRET})

    assert statuses == [401, 401, 404, 200]
    assert said == ["hello"]
    assert polling.status_code == 404
    assert server.hook == {}
