"""A user of a real homeserver on loopback, and the people in the rooms with it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, Final

import anyio
import anyio.to_thread
import httpx2
import orjson
from typing_extensions import override

from gateway.channels.matrix.channel import MatrixChannel
from gateway.channels.matrix.settings import MatrixSettings
from gateway.clock import FakeClock, SystemClock
from gateway.model import Change, ChatType, SessionSource
from gateway.settings import SecretSource
from tests.contract.base import People, Shown
from tests.support import synapse
from tests.support.matrix_front import Front
from tests.support.matrix_html import read_html

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from pathlib import Path

    from tests.contract.base import Ability, Written
    from tests.support.synapse import Client, Synapse, User

SETTLED_S: Final = 0.5
"""How long time stands still at most for what is under way."""
_WATCH: Final = orjson.dumps(
    {
        "presence": {"not_types": ["*"]},
        "account_data": {"not_types": ["*"]},
        "room": {
            "account_data": {"not_types": ["*"]},
            "ephemeral": {"not_types": ["*"]},
            "state": {"not_types": ["*"]},
            "timeline": {"types": ["m.room.message"], "limit": 100},
        },
    }
).decode()


class World:
    """The people and rooms of one account: made once, for what was written before is not read."""

    known: ClassVar[dict[str, World]] = {}
    people: ClassVar[dict[str, Client]] = {}

    def __init__(self, server: Synapse, account: str) -> None:
        if not self.people:
            for name in ("ann", "bob"):
                self.people[name] = server.client(server.register(name))
        ann, bob = self.people["ann"], self.people["bob"]
        self.user: User = server.register(account)
        bot = server.client(self.user)
        self.rooms = {
            "ann": ann.create(self.user),
            "bob": bob.create(self.user),
            "club": ann.create(self.user, bob.user, name="club"),
            "team": ann.create(self.user, bob.user, name="team"),
        }
        for name, room in self.rooms.items():
            bot.join(room)
            if name in {"club", "team"}:
                bob.join(room)
        self.roots = {
            name: ann.say(self.rooms["club"], name, msgtype="m.notice") for name in ("t1", "t2")
        }

    @classmethod
    def of(cls, server: Synapse, account: str) -> World:
        if account not in cls.known:
            cls.known[account] = World(server, account)
        return cls.known[account]

    def name(self, room: str) -> str:
        return next((name for name, one in self.rooms.items() if one == room), "")


class MatrixPlatform:
    """A user that the channel is, and Ann and Bob."""

    lacks: ClassVar[Mapping[Ability, str]] = {}
    patience_s = 30.0

    @staticmethod
    def missing() -> str:
        return synapse.missing()

    def __init__(self, state_dir: Path, account: str = "acme") -> None:
        server = synapse.shared()
        self.people = People()
        self.clock = FakeClock()
        self._server = server
        self._world = World.of(server, account)
        self._front = _People(server.url, self)
        self._events: dict[str, str] = {}
        """Ids of what was written, by the name of the message."""
        self._names: dict[str, str] = {}
        """The names, by the id of the message and of each change of it."""
        self._since: dict[str, str] = {}
        """How far each person has read."""
        secret = state_dir / f"{account}.token"
        # What a device has sent once it does not send again.
        secret.write_text(server.login(self._world.user).token)
        settings = MatrixSettings(
            kind="matrix",
            homeserver=self._front.url,
            token=SecretSource(file=str(secret)),
            poll_timeout_s=20,
            request_timeout_s=60,
        )
        self.channel = MatrixChannel(account, settings, state_dir, _Brisk())

    @asynccontextmanager
    async def server(self) -> AsyncGenerator[None]:
        async with self._front.serving(), self._people_read():
            yield

    @asynccontextmanager
    async def present(self) -> AsyncGenerator[None]:
        yield

    async def write(self, written: Written) -> None:
        room = self._world.rooms[written.chat or written.person]
        client = self._world.people[written.person]
        if written.change is Change.RETRACTED:
            event = await anyio.to_thread.run_sync(client.redact, room, self._events[written.name])
        elif written.change is Change.EDITED:
            original = self._events[written.name]
            text = self._content(written)["body"]
            event = await anyio.to_thread.run_sync(client.edit, room, original, text)
        else:
            event = await anyio.to_thread.run_sync(client.send, room, self._content(written))
            self._events[written.name] = event
        self._names[event] = written.name
        # The homeserver may have been faster.
        if event in self._front.acknowledged:
            self.acknowledge(event)

    async def repeat(self, name: str) -> None:
        self._front.hand_out_again(self._events[name])

    def source(self, written: Written) -> SessionSource:
        group = ChatType.THREAD if written.thread else ChatType.GROUP
        return SessionSource(
            platform="matrix",
            chat_id=self._world.rooms[written.chat or written.person],
            chat_type=group if written.chat else ChatType.DM,
            account=self.channel.account,
            thread_id=self._world.roots[written.thread] if written.thread else "",
            user_id=self._world.people[written.person].user.user_id,
        )

    async def pass_s(self, seconds: float) -> None:
        with anyio.move_on_after(SETTLED_S):
            while not self._is_settled():
                await self.people.changed.wait()
        await self.clock.advance(seconds)

    def _is_settled(self) -> bool:
        """Return whether nothing is under way: real time counts for nothing here."""
        front = self._front
        on_the_way = front.syncs and any(one not in front.events for one in self._names)
        return not (front.in_flight or front.sent or front.is_being_read or on_the_way)

    def acknowledge(self, event_id: str) -> None:
        if event_id in self._names:
            self.people.acknowledged.append(self._names[event_id])
            self.people.note()

    def show_typing(self, room: str) -> None:
        self.people.typing.append(self._world.name(room))

    def _content(self, written: Written) -> dict[str, Any]:
        content: dict[str, Any] = {"msgtype": "m.text", "body": written.text}
        if written.chat and written.named:
            user_id, name = self._world.user.user_id, self.channel.account
            content["body"] = f"{name}: {written.text}"
            link = f'<a href="https://matrix.to/#/{user_id}">{name}</a>'
            content["formatted_body"] = f"{link}: {escape(written.text)}"
            content["format"] = "org.matrix.custom.html"
            content["m.mentions"] = {"user_ids": [user_id]}
        for one in written.attachments:
            content |= {"msgtype": "m.file", "url": "mxc://matrix.test/file"}
            content |= {"filename": one.name, "body": written.text or one.name}
            content["info"] = {"mimetype": one.media_type, "size": one.size_bytes}
        if written.thread:
            root = self._world.roots[written.thread]
            content["m.relates_to"] = {"rel_type": "m.thread", "event_id": root}
        if written.answers:
            relation = content.setdefault("m.relates_to", {})
            relation["m.in_reply_to"] = {"event_id": written.answers}
        return content

    @asynccontextmanager
    async def _people_read(self) -> AsyncGenerator[None]:
        """Have people see what is written, up to what was when they leave."""
        url = f"{self._server.url}/_matrix/client/v3"
        async with httpx2.AsyncClient(base_url=url) as http:
            async with anyio.create_task_group() as tasks:
                for name in ("ann", "bob"):
                    if name not in self._since:
                        await self._read(http, name, 0)
                    tasks.start_soon(self._read_on, http, name)
                yield
                tasks.cancel_scope.cancel()
            # Once nobody else reads: an answer that somebody is amid would be seen twice.
            with anyio.CancelScope(shield=True), anyio.move_on_after(self.patience_s):
                for name in ("ann", "bob"):
                    await self._read(http, name, 0)

    async def _read_on(self, http: httpx2.AsyncClient, name: str) -> None:
        while True:
            await self._read(http, name, 20_000)

    async def _read(self, http: httpx2.AsyncClient, name: str, wait_ms: int) -> None:
        client, since = self._world.people[name], self._since.get(name)
        answer = await http.get(
            "/sync",
            params={"timeout": wait_ms, "filter": _WATCH, **({"since": since} if since else {})},
            headers={"Authorization": f"Bearer {client.user.token}"},
            timeout=60,
        )
        said = answer.raise_for_status().json()
        self._since[name] = said["next_batch"]
        rooms = said.get("rooms", {}).get("join", {}) if since else {}
        for room, part in rooms.items():
            # What both see, Ann tells of.
            if self._world.name(room) and (name == "ann" or room == self._world.rooms["bob"]):
                for event in part["timeline"]["events"]:
                    if event["sender"] == self._world.user.user_id:
                        self._see(room, event)
                        self._front.sent.discard(event["event_id"])
        self.people.note()

    def _see(self, room: str, event: dict[str, Any]) -> None:
        content = event["content"]
        relation = content.get("m.relates_to", {})
        if relation.get("rel_type") == "m.replace":
            edited = relation["event_id"]
            new = content["m.new_content"]
            shown = next(one for one in self.people.shown if one.shown_id == edited)
            shown.edit(_reads(new))
            shown.notifies_all |= _notifies_all(content)
            return

        if content["msgtype"] == "m.notice":
            self.people.told.append(content["body"])
            return

        place, text = self._world.name(room), _reads(content)
        if relation.get("rel_type") == "m.thread":
            root = relation["event_id"]
            place += "/" + next(name for name, one in self._world.roots.items() if one == root)
        answered = relation.get("m.in_reply_to", {}).get("event_id", "")
        shown = Shown(place, text, event["event_id"], self._names.get(answered, ""), [text])
        shown.notifies_all = _notifies_all(content)
        self.people.shown.append(shown)


class _People(Front):
    """Tells a platform what its front sees."""

    def __init__(self, behind: str, platform: MatrixPlatform) -> None:
        super().__init__(behind)
        self._platform = platform
        self.fetched = platform.people.fetched

    @override
    def on_acknowledged(self, event_id: str) -> None:
        self._platform.acknowledge(event_id)

    @override
    def on_typing(self, room: str, *, typing: bool) -> None:
        if typing:
            self._platform.show_typing(room)

    @override
    def next_failure(self) -> str:
        answers = self._platform.people.next_answers
        return answers.pop(0) if answers else ""

    @override
    def note(self) -> None:
        super().note()
        self._platform.people.note()


class _Brisk(FakeClock):
    """Waits for hardly anything: what a channel does after a pause is done almost at once."""

    @override
    async def sleep(self, duration_s: float) -> None:
        await SystemClock().sleep(0.05)


def _notifies_all(content: dict[str, Any]) -> bool:
    """Return whether a message, or an edit, notifies everybody; without a list `@room` does."""
    mentions: dict[str, Any] = content.get("m.mentions", {"room": True})
    return bool(mentions.get("room") or mentions.get("user_ids"))


def _reads(content: dict[str, Any]) -> str:
    """Return what people see of a message."""
    text: str = content["body"]
    if "formatted_body" not in content:
        return text

    assert content["format"] == "org.matrix.custom.html"
    return read_html(content["formatted_body"])
