"""People on a real Matrix homeserver of their own, which is killed with the rest."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
import httpx2
from typing_extensions import override

from gateway.clock import SystemClock
from gateway.sessions.key import encode_part
from tests.everywhere.growing import AGENT
from tests.everywhere.side import ASIDE, Side, group_of, takes_time
from tests.support.synapse import Synapse, User

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

PAUSE_S: Final = 0.3
MOST_EVENTS: Final = 1_000
"""How many events of a room the homeserver gives at once; a trial has fewer in each."""
PER_SECOND: Final = 15.0
"""How many messages the homeserver takes of a user in the long run, edits among them."""
AT_ONCE: Final = 15
THREADS: Final = 2
"""In each group; a direct room has one."""


@dataclass
class _Room:
    """A room, and who is in it beside the bot."""

    room_id: str
    members: list[User]
    threads: list[str] = field(default_factory=list)
    """The events that they begin with."""
    direct: bool = False
    agent: str = "main"
    """Whose it is outside of threads."""


class MatrixSide(Side):
    """Direct rooms and groups, with threads in both."""

    name = "matrix"

    def __init__(self, folder: Path, users: int) -> None:
        super().__init__(idempotent=True)
        self._folder = folder
        self._users = users
        self._clock = SystemClock()
        self._people: list[User] = []
        self._stranger: User
        self._bot: User
        self._room_of: list[_Room] = []
        """By user."""
        self._rooms: dict[str, _Room] = {}
        self._strange: list[_Room] = []
        """Where the stranger is."""
        self._events: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        """By room, what stands in it, as of the last look."""
        self._server: Synapse
        self._http: httpx2.AsyncClient
        self._sent = 0

    @asynccontextmanager
    @override
    async def serving(self) -> AsyncGenerator[None]:
        self._server = Synapse(per_second=PER_SECOND, at_once=AT_ONCE)
        try:
            await anyio.to_thread.run_sync(self._begin)
            async with httpx2.AsyncClient(
                base_url=f"{self._server.url}/_matrix/client/v3", timeout=30, trust_env=False
            ) as self._http:
                yield
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._server.remove)

    def _begin(self) -> None:
        server = self._server
        server.start()
        self._bot = server.register("bot")
        token = self._folder / "matrix.token"
        token.write_text(self._bot.token)
        token.chmod(0o600)
        self._stranger = server.register("stranger")
        self._people = [server.register(f"u{number}") for number in range(self._users)]
        groups: dict[int, list[int]] = {}
        for user in range(self._users):
            number = group_of(user)
            groups.setdefault(-1 - user if number is None else number, []).append(user)
        rooms: dict[int, _Room] = {}
        for number, users in groups.items():
            room = self._settle([self._people[user] for user in users], direct=number < 0)
            room.agent = AGENT if number < 0 and takes_time(users[0]) else "main"
            rooms |= dict.fromkeys(users, room)
        self._room_of = [rooms[user] for user in range(self._users)]
        self._strange.append(self._settle([self._stranger], direct=True))

    def _settle(self, members: list[User], *, direct: bool) -> _Room:
        """Make a room to which somebody invites the bot; of a group all are there before it."""
        first = self._server.client(members[0])
        others = members[1:] if direct else [*members[1:], self._stranger]
        made = first.create(self._bot, *others, is_direct=direct)
        room = _Room(made, list(members), direct=direct)
        for other in others:
            self._server.client(other).join(room.room_id)
        for number in range(1 if direct else THREADS):
            # A notice begins a thread and is answered by nobody.
            root = first.say(room.room_id, f"thread {number}", msgtype="m.notice")
            room.threads.append(root)
        self._rooms[room.room_id] = room
        if not direct:
            self._strange.append(room)
        return room

    @asynccontextmanager
    @override
    async def away(self) -> AsyncGenerator[None]:
        await anyio.to_thread.run_sync(lambda: self._server.stop(kill=True))
        yield
        await anyio.to_thread.run_sync(self._server.start)

    @override
    def config(self) -> str:
        allowed = ", ".join(f'"{user.user_id}"' for user in self._people)
        return f"""
[channels.mx]
kind = "matrix"
homeserver = "{self._server.url}"
token = {{ file = "{self._folder / "matrix.token"}" }}
join = ["*"]
edit_interval_s = 1

[access.platforms.matrix]
allow_users = [{allowed}]

[[routes]]
platform = "matrix"
chat_type = "thread"
agent = "{AGENT}"
{"".join(map(self._route, self._rooms.values()))}
"""

    @staticmethod
    def _route(room: _Room) -> str:
        where = f'platform = "matrix"\nchat_id = "{room.room_id}"'
        return f'[[routes]]\n{where}\nagent = "{room.agent}"\n'

    @override
    def places_of(self, user: int) -> list[str]:
        room = self._room_of[user]
        return [room.room_id, *(_place(room, thread) for thread in room.threads)]

    @override
    def grows(self, place: str) -> bool:
        return f":{AGENT}:" in self.key_of(place)

    @override
    def key_of(self, place: str) -> str:
        room_id, _, thread = place.partition("/")
        room = self._rooms[room_id]
        kind = "dm" if room.direct else "thread" if thread else "group"
        agent = AGENT if kind == "thread" else room.agent
        # A direct room may become somebody else's: its key names the person, too.
        user = room.members[0].user_id if room.direct else ""
        parts = (agent, "matrix", "mx", kind, room_id, thread, user)
        return ":".join(("agent", *map(encode_part, parts)))

    @override
    async def say(self, user: int, place: str, text: str) -> None:
        await self._say(self._people[user], place, text)

    @override
    async def say_as_stranger(self, text: str) -> None:
        for room in self._strange:
            for place in (room.room_id, _place(room, room.threads[0])):
                await self._say(self._stranger, place, text)

    @override
    async def say_aside(self, text: str) -> None:
        for room in self._rooms.values():
            if not room.direct:
                await self._say(room.members[0], room.room_id, text, named=False)

    async def _say(self, user: User, place: str, text: str, *, named: bool = True) -> None:
        """Send until the homeserver has it; it takes a transaction once.

        `named`: whether the bot is mentioned in a group.
        """
        self._sent += 1
        room_id, _, thread = place.partition("/")
        path = f"/rooms/{room_id}/send/m.room.message/t{self._sent}"
        content: dict[str, Any] = {"msgtype": "m.text", "body": text}
        if named and not self._rooms[room_id].direct:
            content["m.mentions"] = {"user_ids": [self._bot.user_id]}
        if thread:
            content["m.relates_to"] = {"rel_type": "m.thread", "event_id": thread}
        await self._ask("PUT", path, user, json=content)

    @override
    async def look(self) -> None:
        """Read rooms anew: the homeserver alone knows in which order it took what was said.

        Where an answer is owed only the rooms of such are read, else the homeserver has little time
        for the answers.
        """
        owing = {place.partition("/")[0] for place in self.book.owing()}
        async with anyio.create_task_group() as group:
            for room_id in owing or self._rooms:
                group.start_soon(self._read, self._rooms[room_id])
        self.book.clear()
        for events in self._events.values():
            for room_id, event in events:
                if event["type"] == "m.room.message":
                    self._note(room_id, event)

    async def _read(self, room: _Room) -> None:
        query = f"?dir=b&limit={MOST_EVENTS}"
        path = f"/rooms/{room.room_id}/messages{query}"
        events = (await self._ask("GET", path, room.members[0]))["chunk"]
        assert len(events) < MOST_EVENTS, f"{room.room_id} has more events than are read"
        self._events[room.room_id] = [(room.room_id, event) for event in reversed(events)]

    def _note(self, room_id: str, event: dict[str, Any]) -> None:
        content, name = event["content"], event["event_id"]
        at = datetime.fromtimestamp(event["origin_server_ts"] / 1_000, UTC)
        relation = content.get("m.relates_to", {})
        threaded = relation.get("rel_type") == "m.thread"
        place = f"{room_id}/{relation['event_id']}" if threaded else room_id
        text = content["body"]
        if event["sender"] == self._bot.user_id:
            self._note_answer(place, event, relation, at)
        elif event["sender"] == self._stranger.user_id or ASIDE in text.split():
            self.book.refuse(place, name, text, at)
        elif content["msgtype"] == "m.text":
            self.book.accept(place, name, text, at)

    def _note_answer(
        self, place: str, event: dict[str, Any], relation: dict[str, Any], at: datetime
    ) -> None:
        content = event["content"]
        if relation.get("rel_type") == "m.replace":
            self.book.edit(relation["event_id"], content["m.new_content"]["body"])
        elif content["msgtype"] == "m.notice":
            self.book.told.append((place, content["body"]))
        else:
            answers = relation.get("m.in_reply_to", {}).get("event_id", "")
            self.book.show(place, event["event_id"], answers, content["body"], at)

    async def _ask(
        self,
        method: str,
        path: str,
        user: User,
        **more: Any,  # noqa: ANN401 - of the client
    ) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {user.token}"}
        while True:
            try:
                answer = await self._http.request(method, path, headers=headers, **more)
            except httpx2.TransportError:
                answer = None
            if answer is not None and answer.is_success:
                made: dict[str, Any] = answer.json()
                return made

            await self._clock.sleep(PAUSE_S)


def _place(room: _Room, thread: str) -> str:
    return f"{room.room_id}/{thread}"
