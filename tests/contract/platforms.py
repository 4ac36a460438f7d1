"""Platforms that the contract of channels is tried on: each with people who write and read.

A new channel gets a class like `LoopbackPlatform` and its line in `PLATFORMS`: the server it talks
to, real or played, and the people there. What a platform has not, its class says by name in
`lacks`; the laws about that are then told as such and left out, all others hold.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import anyio
import anyio.lowlevel
import orjson
from typing_extensions import override

from gateway.channels.loopback import LoopbackChannel
from gateway.channels.settings import LoopbackSettings
from gateway.channels.telegram import TelegramChannel
from gateway.channels.telegram_settings import TelegramSettings
from gateway.clock import FakeClock
from gateway.model import Attachment, Change, ChatType, SessionSource
from gateway.settings import SecretSource
from tests.support.loopback import LoopbackClient, connected
from tests.support.telegram_api import Failure, Posted, TelegramServer
from tests.support.telegram_api import message as telegram_message
from tests.support.telegram_api import user as telegram_user

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from gateway.channels.base import Channel
    from gateway.clock import Clock


class Ability(StrEnum):
    """What not every platform has; the laws that need one name it."""

    GROUPS = "chats of several people"
    THREADS = "threads in a group"
    EDITED = "people who edit what they wrote"
    RETRACTED = "people who take back what they wrote"
    ATTACHMENTS = "things sent beside a text"
    GROWS = "edits of what we sent"
    TYPING = "a sign that somebody writes"
    BUSY = "a pause that it asks for"
    LOSS = "a connection that breaks before it says what became of a message"
    REPEATS = "messages handed over again until they are acknowledged"
    MARKUP = "rendered Markdown"
    OUTAGES = "a server that goes away and comes back while the channel runs"


@dataclass(frozen=True)
class Written:
    """What somebody writes."""

    name: str
    """What the test calls the message; the platform has an id of its own for it."""
    text: str = "hello"
    person: str = "ann"
    chat: str = ""
    """The group; empty: the direct chat of the person."""
    thread: str = ""
    """The thread in the group."""
    attachments: tuple[Attachment, ...] = ()
    change: Change = Change.NEW
    """What is done to the message of that name."""


@dataclass
class Shown:
    """A message of ours, as people see it."""

    place: str
    """The person of a direct chat, a group, or `group/thread`."""
    text: str
    """As it reads now: marks rendered, escapes undone, line breaks kept."""
    shown_id: str
    """The platform's id, as the channel is told it."""
    answers: str = ""
    """The name of the message that it refers to; empty: none."""
    read: list[str] = field(default_factory=list)
    """How it has read, one after the other, up to now."""
    notifies_all: bool = False
    """Whether the platform was asked to notify everybody there."""

    def edit(self, text: str) -> None:
        self.text = text
        self.read.append(text)


@dataclass
class People:
    """What happens on a platform, beyond the channel."""

    acknowledged: list[str] = field(default_factory=list)
    """Names of messages that the platform need not hand over again, each time."""
    told: list[str] = field(default_factory=list)
    """What senders were told at once."""
    shown: list[Shown] = field(default_factory=list)
    typing: list[str] = field(default_factory=list)
    """Places where it was shown that somebody writes, each time."""
    next_answers: list[str] = field(default_factory=list)
    """What becomes of the next messages and edits: `refused` (for good), `busy` (for 7 s), `lost`
    (shown, and the connection breaks before it is told); then all are shown."""
    changed: anyio.Event = field(default_factory=anyio.Event)

    def note(self) -> None:
        """Tell whoever waits that something happened."""
        self.changed.set()
        self.changed = anyio.Event()

    def at(self, place: str) -> list[str]:
        """Return how the messages at a place read."""
        return [one.text for one in self.shown if one.place == place]


class Platform(Protocol):
    """A platform and the channel to it."""

    lacks: ClassVar[Mapping[Ability, str]]
    """What it has not, and why that is so."""

    @property
    def channel(self) -> Channel: ...

    @property
    def clock(self) -> Clock:
        """What the channel goes by."""
        ...

    @property
    def people(self) -> People: ...

    @property
    def patience_s(self) -> float:
        """How long anything may take there, in real seconds."""
        ...

    def server(self) -> AbstractAsyncContextManager[None]:
        """Be there for the channel to connect to; without it the platform cannot be reached."""
        ...

    def present(self) -> AbstractAsyncContextManager[None]:
        """Have people there, while the channel runs: they see what is sent."""
        ...

    async def write(self, written: Written) -> None:
        """Have somebody write, edit or take back; it is repeated until it is acknowledged."""
        ...

    async def repeat(self, name: str) -> None:
        """Hand a message over once more that was acknowledged."""
        ...

    def source(self, written: Written) -> SessionSource:
        """Return where a message comes from, by the ids of the platform, without names."""
        ...

    async def pass_s(self, seconds: float) -> None:
        """Let time pass, as far as the clock of the channel does not by itself."""
        ...


class LoopbackPlatform:
    """A client at the socket."""

    lacks: ClassVar[Mapping[Ability, str]] = {
        Ability.MARKUP: "its client is given the Markdown as it is",
    }
    patience_s = 5.0

    def __init__(self, state_dir: Path, **settings: Any) -> None:  # noqa: ANN401 - of the channel
        made = LoopbackSettings(kind="loopback", max_text_chars=400, **settings)
        self.clock = FakeClock()
        self.channel = LoopbackChannel("acme", made, state_dir, self.clock)
        self.people = People()
        self._client: LoopbackClient | None = None
        self._open: dict[str, dict[str, Any]] = {}
        """Lines of messages that are not acknowledged, by name."""
        self._lines: dict[str, dict[str, Any]] = {}
        self._deliveries: dict[str, Shown] = {}

    @asynccontextmanager
    async def server(self) -> AsyncGenerator[None]:
        yield

    @asynccontextmanager
    async def present(self) -> AsyncGenerator[None]:
        async with connected(self.channel.path) as client, anyio.create_task_group() as tasks:
            self._client = client
            await client.serve()
            tasks.start_soon(self._read, client)
            for fields in list(self._open.values()):
                await client.write(**fields)
            yield
            self._client = None
            tasks.cancel_scope.cancel()

    async def write(self, written: Written) -> None:
        fields: dict[str, Any] = {"message_id": written.name, **self._place(written)}
        if written.change is Change.RETRACTED:
            fields["retracted"] = True
        else:
            fields |= {"text": written.text, "edited": written.change is Change.EDITED}
            fields["attachments"] = [
                {"kind": one.kind, "media_type": one.media_type, "name": one.name}
                | ({} if one.size_bytes is None else {"size_bytes": one.size_bytes})
                for one in written.attachments
            ]
        self._open[written.name] = self._lines[written.name] = fields
        if self._client is not None:
            await self._client.write(**fields)

    async def repeat(self, name: str) -> None:
        assert self._client is not None
        await self._client.write(**self._lines[name])

    def source(self, written: Written) -> SessionSource:
        return SessionSource(platform="loopback", account="acme", **self._place(written))

    async def pass_s(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    def _place(self, written: Written) -> dict[str, Any]:
        kind = ChatType.GROUP if written.chat else ChatType.DM
        return {
            "chat_id": written.chat or written.person,
            "chat_type": ChatType.THREAD if written.thread else kind,
            "thread_id": written.thread,
            "user_id": written.person,
        }

    async def _read(self, client: LoopbackClient) -> None:
        while True:
            try:
                line = await client.read()
            except TimeoutError:
                continue
            if "deliver" in line or "edit" in line:
                await self._show(client, line)
            elif "typing" in line:
                self.people.typing.append(_place_of(line))
            elif "retry" in line:
                await client.write(**self._open[line["retry"]])
            else:
                name = line.get("accepted") or line["refused"]
                self._open.pop(name, None)
                self.people.acknowledged.append(name)
                self.people.told += [line["text"]] if "text" in line else []
            self.people.note()

    async def _show(self, client: LoopbackClient, line: dict[str, Any]) -> None:
        answer = self.people.next_answers.pop(0) if self.people.next_answers else "shown"
        delivery_id = line.get("deliver") or line["edit"]
        if answer == "refused":
            await client.write(failed=delivery_id, retryable=False, error="no such chat")
        elif answer == "busy":
            await client.write(failed=delivery_id, retryable=True, retry_after_s=7)
        else:
            shown_id = self._shown(line, delivery_id)
            if answer == "lost":
                await client.stream.aclose()
                await anyio.sleep_forever()
            await client.write(delivered=delivery_id, id=shown_id)

    def _shown(self, line: dict[str, Any], delivery_id: str) -> str:
        """Show what a line says; return the id of the message."""
        if "edit" in line:
            shown = next(one for one in self.people.shown if one.shown_id == line["of"])
            shown.edit(line["text"])
            return shown.shown_id

        known = self._deliveries.get(delivery_id)
        if known is None or not self.channel.idempotent:
            shown_id = f"p-{len(self.people.shown)}"
            known = Shown(_place_of(line), line["text"], shown_id, line["reply_to"], [line["text"]])
            self._deliveries[delivery_id] = known
            self.people.shown.append(known)
        return known.shown_id


def _place_of(line: dict[str, str]) -> str:
    return line["chat_id"] + (f"/{line['thread_id']}" if line["thread_id"] else "")


class PlainLoopback(LoopbackPlatform):
    """A client that shows what it is given, and no more."""

    lacks: ClassVar[Mapping[Ability, str]] = {
        **LoopbackPlatform.lacks,
        Ability.GROWS: "its client cannot edit",
        Ability.TYPING: "its client shows no such sign",
    }


class TelegramPlatform:
    """A bot, and the Bot API on loopback."""

    lacks: ClassVar[Mapping[Ability, str]] = {
        Ability.RETRACTED: "the Bot API tells of nobody's deletions",
    }
    patience_s = 5.0

    def __init__(self, state_dir: Path) -> None:
        self.people = People()
        self.clock = FakeClock()
        self._server = _TelegramPeople(self.people)
        secret = state_dir / "token"
        secret.write_text(self._server.token)
        settings = TelegramSettings(
            kind="telegram", token=SecretSource(file=str(secret)), base_url=self._server.url
        )
        self.channel = TelegramChannel("acme", settings, _AtOnce())

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
        user = self._server.number(written.person)
        if not written.chat:
            return SessionSource("telegram", str(user), ChatType.DM, "acme", user_id=str(user))

        return SessionSource(
            platform="telegram",
            chat_id=str(-self._server.number(written.chat)),
            chat_type=ChatType.THREAD if written.thread else ChatType.GROUP,
            account="acme",
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
        made = telegram_message(written.text, number(written.name), chat=chat, sender=user)
        if written.thread:
            made |= {"message_thread_id": number(written.thread), "is_topic_message": True}
        for one in written.attachments:
            made["caption"] = made.pop("text", "")
            made["document"] = {"file_id": "f", "file_unique_id": "f", "file_name": one.name}
            made["document"] |= {"mime_type": one.media_type, "file_size": one.size_bytes}
        return made


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
        shown = Shown(place, posted.text, str(posted.message_id), answers, [posted.text])
        self._people.shown.append(shown)

    @override
    def on_edited(self, posted: Posted) -> None:
        wanted = str(posted.message_id)
        next(one for one in self._people.shown if one.shown_id == wanted).edit(posted.text)

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


class _AtOnce(FakeClock):
    """Waits for nothing: what a channel does after a pause is done at once."""

    @override
    async def sleep(self, duration_s: float) -> None:
        await anyio.lowlevel.checkpoint()


PLATFORMS: dict[str, tuple[type[Platform], Callable[[Path], Platform]]] = {
    "loopback": (PlainLoopback, PlainLoopback),
    "loopback-that-edits": (
        LoopbackPlatform,
        partial(LoopbackPlatform, idempotent=True, edits=True, typing=True),
    ),
    "telegram": (TelegramPlatform, TelegramPlatform),
}
"""By name, the class and what makes one in a state directory."""
