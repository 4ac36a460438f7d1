"""A daemon that is killed between the storing of a message from Telegram and the telling of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typing_extensions import override

from tests.support.daemon import Daemon, running_daemon
from tests.support.telegram_api import TelegramServer, message

if TYPE_CHECKING:
    from pathlib import Path

KEY = "agent:main:telegram:bot:dm:7::"


class Deaf(TelegramServer):
    """Hears of no offset while it is deaf; whoever tells it one waits."""

    deaf = True

    @property
    def told(self) -> bool:
        """Whether an offset was told."""
        return any(method == "getUpdates" and "offset" in said for method, said in self.asked)

    @override
    def on_offset(self, offset: int) -> int:
        return 0 if self.deaf else offset


async def texts(daemon: Daemon) -> list[str]:
    return [text for role, text in await daemon.said(KEY) if role == "user"]


@pytest.mark.parametrize("answered", [False, True])
async def test_a_message_that_comes_again_after_a_kill_is_one_turn(
    tmp_path: Path, *, answered: bool
) -> None:
    server = Deaf()
    (tmp_path / "token").write_text(server.token)
    (tmp_path / "token").chmod(0o600)
    config = (
        f'[channels.bot]\nkind = "telegram"\nbase_url = "{server.url}"\nedits = false\n'
        f'token = {{ file = "{tmp_path}/token" }}\n'
        '[access.platforms.telegram]\nallow_users = ["7"]\n'
    )
    async with server.serving():
        first = server.push(message=message("one", 1))
        async with running_daemon(tmp_path / "state", config) as daemon:
            await server.until(lambda: server.told and (server.posted or not answered))
            await daemon.kill()
        untold = dict(server.pending)
        server.deaf, server.asked = False, []
        async with running_daemon(tmp_path / "state", config) as daemon:
            second = server.push(message=message("two", 2))
            await server.until(lambda: second in server.acknowledged)
            await server.until(lambda: any("two" in one.text for one in server.posted))
            said = await texts(daemon)
            code = await daemon.terminate()

    assert list(untold) == [first]
    assert server.acknowledged == [first, second]
    assert said == ["one", "two"]
    assert code == 0
    replies = [one.text for one in server.posted if "disable_notification" not in one.fields]
    # Whoever is killed before it has noted that a reply was sent sends it once more, and says so.
    plain = [one for one in replies if "may be a repeat" not in one]
    assert plain in (["one", "two"], ["two"])
    assert [one.split()[-1] for one in replies] in (["one", "two"], ["one", "one", "two"])
