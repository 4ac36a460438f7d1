"""People on Telegram, over the fake of the Bot API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from typing_extensions import override

from tests.everywhere.side import Side
from tests.everywhere.switched import Switched
from tests.support.telegram_api import TOKEN, Posted, TelegramServer, message, user

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

FIRST: Final = 1_000
STRANGER: Final = 666


class _Server(TelegramServer):
    def __init__(self, side: TelegramSide) -> None:
        super().__init__()
        self._side = side

    @override
    def on_posted(self, posted: Posted) -> None:
        self._side.book.show(posted.chat, posted.text)


class TelegramSide(Side):
    """Direct chats with a bot; Telegram keeps what is written until the bot has it."""

    name = "telegram"

    def __init__(self, folder: Path) -> None:
        super().__init__(idempotent=False)
        self._server = _Server(self)
        self._token = folder / "telegram.token"
        self._token.write_text(TOKEN)
        self._token.chmod(0o600)
        self._numbers: dict[int, int] = {}
        self._switch = Switched(self._server.serving)
        self.book.strangers.add(str(STRANGER))

    @override
    def config(self) -> str:
        return f"""
[channels.tg]
kind = "telegram"
token = {{ file = "{self._token}" }}
base_url = "{self._server.url}"

[access.platforms.telegram]
allow_users = [{", ".join(f'"{FIRST + one}"' for one in range(1_000))}]
"""

    @override
    def serving(self) -> AbstractAsyncContextManager[None]:
        return self._switch.on()

    @override
    def away(self) -> AbstractAsyncContextManager[None]:
        return self._switch.away()

    @override
    def chat_of(self, user: int) -> str:
        return str(FIRST + user)

    @override
    def key_of(self, user: int) -> str:
        return f"agent:main:telegram:tg:dm:{FIRST + user}::"

    @override
    async def say(self, user: int, text: str) -> None:
        self._write(FIRST + user, text)

    @override
    async def say_as_stranger(self, text: str) -> None:
        self._write(STRANGER, text)

    def _write(self, sender: int, text: str) -> None:
        number = self._numbers[sender] = self._numbers.get(sender, 0) + 1
        chat = {"id": sender, "type": "private", "first_name": "A"}
        self.book.accepted[str(sender)].append(text)
        self._server.push(message=message(text, number, sender=user(sender), chat=chat))
