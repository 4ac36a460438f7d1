"""People of Telegram, with the Bot API on loopback."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final

import orjson
from typing_extensions import override

from gateway.channels.hooks import HookRequest
from gateway.channels.telegram.channel import TelegramChannel
from gateway.channels.telegram.settings import TelegramSettings, TelegramWebhookSettings
from gateway.clock import FakeClock, SystemClock
from gateway.model import Change, ChatType, SessionSource
from gateway.settings import SecretSource
from tests.contract.base import Ability, People, Shown, Written
from tests.support.telegram_api import BOT_NAME, TOKEN, Failure, Posted, TelegramServer
from tests.support.telegram_api import message as telegram_message
from tests.support.telegram_api import user as telegram_user

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path


SPEED: Final = 400
"""How much faster the clock of the channel runs."""


class TelegramPlatform:
    """A bot, and the Bot API on loopback."""

    lacks: ClassVar[Mapping[Ability, str]] = {
        Ability.RETRACTED: "the Bot API tells of nobody's deletions",
    }
    patience_s = 30.0

    @staticmethod
    def missing() -> str:
        return ""

    def __init__(self, state_dir: Path, account: str = "acme", **settings: Any) -> None:  # noqa: ANN401
        self.people = People()
        self.clock = FakeClock()
        self._server = _TelegramPeople(self.people)
        token = secret_file(state_dir / f"{account}.token", self._server.token)
        made = TelegramSettings(kind="telegram", token=token, base_url=self._server.url, **settings)
        self.channel = TelegramChannel(account, made, _Brisk())

    def server(self) -> AbstractAsyncContextManager[None]:
        return self._server.serving()

    @asynccontextmanager
    async def present(self) -> AsyncGenerator[None]:
        yield

    async def write(self, written: Written) -> None:
        kind = "edited_message" if written.change is Change.EDITED else "message"
        self._server.hand_over(written.name, kind, self._message(written))

    async def repeat(self, name: str) -> None:
        self._server.hand_over(name, *self._server.written[name])

    def source(self, written: Written) -> SessionSource:
        account, user = self.channel.account, self._server.number(written.person)
        if not written.chat:
            return SessionSource("telegram", str(user), ChatType.DM, account, user_id=str(user))

        return SessionSource(
            platform="telegram",
            chat_id=str(-self._server.number(written.chat)),
            chat_type=ChatType.THREAD if written.thread else ChatType.GROUP,
            account=account,
            thread_id=str(self._server.number(written.thread)) if written.thread else "",
            user_id=str(user),
        )

    async def pass_s(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    def _message(self, written: Written) -> dict[str, Any]:
        number = self._server.number
        user = telegram_user(number(written.person), written.person)
        chat = {"id": user["id"], "type": "private", "first_name": written.person}
        if written.chat:
            chat = {"id": -number(written.chat), "type": "supergroup", "title": written.chat}
        text, more = written.text, dict[str, object]()
        if written.chat and written.named:
            mention = {"type": "mention", "offset": 0, "length": len(BOT_NAME) + 1}
            text, more = f"@{BOT_NAME} {text}", {"entities": [mention]}
        if written.answers:
            answered, bot = written.answers.partition(":")[2], int(TOKEN.partition(":")[0])
            sender = telegram_user(bot, "G", is_bot=True)
            more["reply_to_message"] = telegram_message(
                "said", int(answered), chat=chat, sender=sender
            )
        made = telegram_message(text, number(written.name), chat=chat, sender=user, **more)
        if written.thread:
            made |= {"message_thread_id": number(written.thread), "is_topic_message": True}
        for one in written.attachments:
            made["caption"] = made.pop("text", "")
            made["document"] = {"file_id": "f", "file_unique_id": "f", "file_name": one.name}
            made["document"] |= {"mime_type": one.media_type, "file_size": one.size_bytes}
        return made


class TelegramWebhookPlatform(TelegramPlatform):
    """A bot that is called."""

    def __init__(self, state_dir: Path, account: str = "acme") -> None:
        secret = secret_file(state_dir / f"{account}.secret", "a-secret_of-tests-0123456789")
        webhook = TelegramWebhookSettings(
            url=f"https://chat.example.org/hooks/{account}", secret=secret
        )
        super().__init__(state_dir, account, webhook=webhook)
        self._server.call = self._call

    async def _call(self, headers: dict[str, str], body: bytes) -> int:
        return (await self.channel.call(HookRequest(headers, body))).status


def secret_file(path: Path, secret: str) -> SecretSource:
    path.write_text(secret)
    return SecretSource(file=str(path))


class _TelegramPeople(TelegramServer):
    """The Bot API with people who have names."""

    def __init__(self, people: People) -> None:
        super().__init__()
        self.written: dict[str, tuple[str, dict[str, Any]]] = {}
        """By name, the kind of the last update of a message, and the message."""
        self._people = people
        self._numbers: dict[str, int] = {}
        self._updates_of: dict[int, str] = {}

    def number(self, name: str) -> int:
        return self._numbers.setdefault(name, self.next_id())

    def hand_over(self, name: str, kind: str, message: dict[str, Any]) -> None:
        self.written[name] = (kind, message)
        self._updates_of[self.push(**{kind: message})] = name

    @override
    def on_acknowledged(self, update_id: int) -> None:
        self._people.acknowledged.append(self._updates_of[update_id])

    @override
    def failure_of(self, method: str) -> Failure:
        self._people.fetched += [method] if method == "getFile" else []
        if method not in {"sendMessage", "editMessageText"} or not self._people.next_answers:
            return Failure()

        match self._people.next_answers.pop(0):
            case "refused":
                return Failure(403, "Forbidden: bot was blocked by the user")
            case "busy":
                return Failure(429, "Too Many Requests: retry after 7", {"retry_after": 7})
            case "lost":
                return Failure(lost=True)
        return Failure()

    @override
    def on_posted(self, posted: Posted) -> None:
        if posted.fields.get("disable_notification") == "true":
            self._people.told.append(posted.text)
            return

        reply = orjson.loads(posted.fields.get("reply_parameters", "{}"))
        place = self._place(posted.chat, posted.topic)
        answers = self._name(str(reply.get("message_id", "")))
        shown = Shown(place, posted.text, _name_of(posted), answers, [posted.text])
        shown.notifies_all = posted.notifies
        self._people.shown.append(shown)

    @override
    def on_edited(self, posted: Posted) -> None:
        wanted = _name_of(posted)
        shown = next(one for one in self._people.shown if one.shown_id == wanted)
        shown.edit(posted.text)
        shown.notifies_all |= posted.notifies

    @override
    def on_typing(self, chat: str, topic: str) -> None:
        self._people.typing.append(self._place(chat, topic))

    @override
    def note(self) -> None:
        super().note()
        self._people.note()

    def _place(self, chat: str, topic: str) -> str:
        return self._name(chat.lstrip("-")) + (f"/{self._name(topic)}" if topic else "")

    def _name(self, number: str) -> str:
        return next((name for name, one in self._numbers.items() if str(one) == number), "")


def _name_of(posted: Posted) -> str:
    return f"{TOKEN.partition(':')[0]}:{posted.message_id}"


class _Brisk(FakeClock):
    """Waits for hardly anything: a second takes some milliseconds."""

    @override
    async def sleep(self, duration_s: float) -> None:
        await SystemClock().sleep(duration_s / SPEED)
