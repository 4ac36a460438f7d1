"""People on Telegram, over the played Bot API: one bot asks for messages, another one is called."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from tests.everywhere.growing import AGENT
from tests.everywhere.side import Side, group_of, takes_time
from tests.everywhere.switched import Switched
from tests.everywhere.telegram_bot import Bot, message_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.support.daemon import Daemon

FIRST: Final = 1_000
STRANGER: Final = 666
FIRST_GROUP: Final = -1_001_000_000_001
TOPICS: Final = (7, 8)
SECRET: Final = "a-secret_of-the-trial-0123456789"


class TelegramSide(Side):
    """Direct chats, groups and topics; Telegram keeps what is written until the gateway has it."""

    name = "telegram"

    def __init__(self, folder: Path, users: int) -> None:
        super().__init__(idempotent=False)
        self.polling = Bot("tg", "123456:a-token_of-tests", self.book, busy_every=12)
        self.called = Bot("called", "654321:b-token_of-tests", self.book, busy_every=60)
        self._bots = (self.polling, self.called)
        self._users = users
        self._files = {bot: _file(folder, f"{bot.account}.token", bot.token) for bot in self._bots}
        self._secret = _file(folder, "called.secret", SECRET)
        self._switch = Switched(self._both)

    @override
    def config(self) -> str:
        hook = f'url = "https://chat.example.org/hooks/{self.called.account}", secret = '
        return f"""
{self._table(self.polling)}
{self._table(self.called)}
webhook = {{ {hook}{{ file = "{self._secret}" }} }}

[access.platforms.telegram]
allow_users = [{", ".join(f'"{FIRST + one}"' for one in range(self._users))}]

[[routes]]
platform = "telegram"
chat_type = "thread"
agent = "{AGENT}"
{"".join(self._route(user) for user in range(self._users) if self._takes_time(user))}
"""

    def _table(self, bot: Bot) -> str:
        return f"""
[channels.{bot.account}]
kind = "telegram"
token = {{ file = "{self._files[bot]}" }}
base_url = "{bot.url}"
edit_interval_s = 1
"""

    @staticmethod
    def _route(user: int) -> str:
        where = f'platform = "telegram"\nchat_id = "{FIRST + user}"'
        return f'[[routes]]\n{where}\nagent = "{AGENT}"\n'

    @asynccontextmanager
    async def _both(self) -> AsyncGenerator[None]:
        async with self.polling.serving(), self.called.serving():
            yield

    @override
    def serving(self) -> AbstractAsyncContextManager[None]:
        return self._switch.on()

    @override
    def away(self) -> AbstractAsyncContextManager[None]:
        return self._switch.away()

    @override
    async def say_aside(self, text: str) -> None:
        for bot in self._bots:
            user = next(one for one in range(self._users) if self._is_in_group(one, bot))
            bot.write(FIRST + user, bot.place(FIRST_GROUP), text, named=False, taken=False)

    def _is_in_group(self, user: int, bot: Bot) -> bool:
        return self._bot_of(user) is bot and group_of(user // 2) == 0

    @override
    def note_dead(self, replies: list[dict[str, Any]]) -> None:
        for one in replies:
            if one["platform"] == self.name and one["may_have_been_sent"]:
                number = one["message_id"].rpartition(":")[2]
                self.book.dead.add(message_name(one["account"], one["chat_id"], number))

    @override
    async def begin_life(self, daemon: Daemon) -> None:
        self.called.begin_life(daemon)

    @override
    async def end_life(self) -> None:
        await self.called.end_life()

    def _bot_of(self, user: int) -> Bot:
        return self._bots[user % 2]

    @override
    def places_of(self, user: int) -> list[str]:
        bot, group = self._bot_of(user), group_of(user // 2)
        if group is None:
            return [bot.place(FIRST + user)]

        chat = FIRST_GROUP - group
        return [bot.place(chat), *(bot.place(chat, topic) for topic in TOPICS)]

    @staticmethod
    def _takes_time(user: int) -> bool:
        return takes_time(user // 2)

    @override
    def grows(self, place: str) -> bool:
        return f":{AGENT}:" in self.key_of(place)

    @override
    def key_of(self, place: str) -> str:
        account, chat, topic = (*place.split("/"), "")[:3]
        if int(chat) > 0:
            agent = AGENT if self._takes_time(int(chat) - FIRST) else "main"
            return f"agent:{agent}:telegram:{account}:dm:{chat}::"

        if topic:
            return f"agent:{AGENT}:telegram:{account}:thread:{chat}:{topic}:"
        return f"agent:main:telegram:{account}:group:{chat}::"

    @override
    async def say(self, user: int, place: str, text: str) -> None:
        self._bot_of(user).write(FIRST + user, place, text)

    @override
    async def say_as_stranger(self, text: str) -> None:
        """Write in a chat of one's own and in all of a group, and call in the name of others."""
        for bot in self._bots:
            chats = (FIRST_GROUP, STRANGER)
            for place in (*map(bot.place, chats), *(bot.place(FIRST_GROUP, one) for one in TOPICS)):
                bot.write(STRANGER, place, text, taken=False)
        await self.called.call_unproven(FIRST + 1, self.called.place(FIRST + 1), text)


def _file(folder: Path, name: str, secret: str) -> Path:
    path = folder / name
    path.write_text(secret)
    path.chmod(0o600)
    return path
