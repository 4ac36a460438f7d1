"""A chat platform at the loopback socket of daemons that may die at any moment.

It hands a message in until it is told that the gateway has it, shows what it is given, and notes
all of it in its diary before it goes on. What is done there in all is `play`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx2
import orjson

from tests.support.daemon import START_S
from tests.support.loopback import LoopbackClient
from tests.torture.diary import HTTP, Confirmed, Diary, Event, Shown, Taken, Written, now

if TYPE_CHECKING:
    from anyio.abc import SocketStream

    from tests.support.daemon import Daemon

CONFIG: Final = """
default_agent = "echo"

[agents.echo]
kind = "echo"

[agents.silent]
kind = "scripted"
replies = ["!hang"]

[[routes]]
chat_id = "ann"
agent = "silent"

[channels.lo]
kind = "loopback"

[turns]
max_running = 1
grace_s = 1

[store]
snapshot_interval_s = 3600
"""
"""One turn at a time: while Ann's hangs, everybody else's messages wait."""
NEWS_S: Final = 1.0
"""After so long without news it is asked whether any is to come."""
_LOST: Final = (
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    anyio.IncompleteRead,
)


def _ann(number: int, text: str) -> Written:
    return Written(f"a{number}", "ann", text)


def _bob(number: int, text: str) -> Written:
    return Written(f"b{number}", "bob", text)


HANGS, WAITS, STOP, RESUME = (
    *(_ann(1, "say nothing"), _ann(2, "and nothing again")),
    *(_ann(3, "/stop"), _ann(4, "/resume")),
)
ONE, TWO, NEW, THREE = _bob(1, "one"), _bob(2, "two"), _bob(3, "/new"), _bob(4, "three")
FETCHED: Final = Written("c1", "carol", "four", HTTP)
ALL: Final = (HANGS, WAITS, STOP, RESUME, ONE, TWO, NEW, THREE, FETCHED)


class _GoneError(Exception):
    """The daemon is not there any more."""


@dataclass(slots=True)
class Platform:
    """A bridge, which stays while daemons come and go."""

    diary: Diary
    on_event: Callable[[Event], None] = lambda _: None
    """Called with each event once it is noted; of a delivery before the gateway is told."""
    _repeated: bool = False

    async def live(self, daemon: Daemon) -> bool:
        """Play to the end; False where the daemon is gone before."""
        whole = False
        try:
            async with await self._connected(daemon) as stream, anyio.create_task_group() as tasks:
                client = LoopbackClient(stream)
                tasks.start_soon(self._read, client)
                await client.write(serve=True)
                await self._play(client, daemon)
                whole = True
                tasks.cancel_scope.cancel()
        except* (_GoneError, *_LOST):
            pass
        return whole

    async def _play(self, client: LoopbackClient, daemon: Daemon) -> None:
        """Do what is not done yet."""
        await self._say(client, HANGS)
        # No turn can begin but that of the first, so these wait, one behind the other.
        await self._say(client, ONE, TWO)
        await self._say(client, WAITS)
        await self._say(client, STOP)
        await self._until_seen(daemon, HANGS, WAITS, STOP, ONE, TWO)
        if not self._repeated:
            await self._say_again(client, ONE)
            self._repeated = True
        await self._say(client, NEW)
        await self._say(client, THREE, RESUME)
        await self._fetch(daemon, FETCHED)
        await self._until_seen(daemon, NEW, THREE, RESUME)
        await self._until_quiet(daemon)

    async def _say(self, client: LoopbackClient, *messages: Written) -> None:
        """Hand messages in at once, as far as the gateway has not said that it has them."""
        missing = [one for one in messages if one.message_id not in self.diary.taken()]
        for one in missing:
            self._note(one)
        lines = [orjson.dumps(_fields(one)) + b"\n" for one in missing]
        if lines:
            await client.write_raw(b"".join(lines))
        wanted = {one.message_id for one in messages}
        await self._until(lambda: wanted <= self.diary.taken())

    async def _say_again(self, client: LoopbackClient, message: Written) -> None:
        """Hand a message in that the gateway has."""
        before = len(self.diary.events)
        self._note(message)
        await client.write(**_fields(message))
        await self._until(
            lambda: any(
                isinstance(one, Taken) and one.message_id == message.message_id
                for one in self.diary.events[before:]
            )
        )

    async def _fetch(self, daemon: Daemon, message: Written) -> None:
        """Send a message over HTTP, and the same once more."""
        while message.message_id not in self.diary.taken():
            self._note(message)
            try:
                response = await daemon.send(message.text, message.chat, message.message_id)
            except httpx2.TransportError:
                raise _GoneError from None

            if response.status_code == 503:
                raise _GoneError  # it is stopping

            assert response.status_code == 200, response.text
            answer = orjson.loads(response.content)
            self._note(Taken(message.message_id, accepted=True, text=answer["reply"], at=now()))

    async def _until_quiet(self, daemon: Daemon) -> None:
        """Wait until the gateway owes nothing any more."""
        with anyio.fail_after(START_S):
            while not await self._is_quiet(daemon):
                pass

    async def _is_quiet(self, daemon: Daemon) -> bool:
        try:
            turns = (await daemon.get("/v1/status"))["turns"]
            owed = (await daemon.get("/v1/outbox"))["replies"]
        except httpx2.TransportError:
            raise _GoneError from None
        return not (turns["running"] + turns["waiting"] or owed)

    async def _until_seen(self, daemon: Daemon, *messages: Written) -> None:
        """Wait until the answers to messages are shown, or will never be."""
        wanted = {one.message_id for one in messages}
        with anyio.fail_after(START_S):
            while not wanted <= self.diary.seen():
                with anyio.move_on_after(NEWS_S) as late:
                    await self.diary.news.wait()
                if late.cancelled_caught and await self._is_quiet(daemon):
                    return

    async def _until(self, holds: Callable[[], bool]) -> None:
        with anyio.fail_after(START_S):
            while not holds():
                await self.diary.news.wait()

    async def _connected(self, daemon: Daemon) -> SocketStream:
        """Connect once the channel runs."""
        found: list[SocketStream] = []

        async def connect() -> None:
            await daemon.log.wait_for("channel.running")
            with suppress(OSError):
                found.append(await anyio.connect_unix(daemon.state_dir / "lo.sock"))
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(connect)
            await daemon.process.wait()
            group.cancel_scope.cancel()
        if not found:
            raise _GoneError

        return found[0]

    async def _read(self, client: LoopbackClient) -> None:
        while True:
            try:
                line = await client.read()
            except TimeoutError:
                continue

            if "deliver" in line:
                await self._show(client, line)
            elif "accepted" in line or "refused" in line:
                message_id = line.get("accepted") or line["refused"]
                text = line.get("text", "")
                self._note(Taken(message_id, "accepted" in line, text, now()))
            elif "retry" not in line:  # which a gateway says that stops
                assert line == {"serving": True}, line

    async def _show(self, client: LoopbackClient, line: dict[str, Any]) -> None:
        shown = Shown(
            line["deliver"], line["chat_id"], line["reply_to"], line["text"], line["repeat"]
        )
        self._note(shown)
        await client.write(delivered=shown.delivery_id, id=f"shown-{shown.delivery_id}")
        self._note(Confirmed(shown.delivery_id))

    def _note(self, event: Event) -> None:
        self.diary.note(event)
        self.on_event(event)


def _fields(message: Written) -> dict[str, str]:
    return {"message_id": message.message_id, "chat_id": message.chat, "text": message.text}
