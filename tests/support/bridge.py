"""A bridge at the loopback channel of a real daemon: it keeps what it is told and what it shows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from tests.support.daemon import START_S, Daemon, running_daemon
from tests.support.loopback import LoopbackClient, connected, short_directory

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

CHANNEL: Final = '[channels.lo]\nkind = "loopback"\n'
"""More keys of the channel may follow it, and then other tables."""
LIMIT_S: Final = START_S
_NUMBERS: Final = count(1)
"""No two messages have one id, whichever bridge they come by."""
Line = dict[str, Any]


@dataclass
class Bridge:
    """What one connection has brought so far."""

    client: LoopbackClient
    receipts: dict[str, Line] = field(default_factory=dict)
    """What was said at once of a message, by its id."""
    shown: list[Line] = field(default_factory=list)
    """What stands in the chats, with the texts as they were edited last."""
    edits: list[Line] = field(default_factory=list)
    """Each edit, as it came."""
    confirms_edits: bool = True
    refuse: Callable[[Line], Line | None] = lambda _: None
    """What is answered to a delivery that is not shown, without its id; None: it is shown."""
    _news: anyio.Event = field(default_factory=anyio.Event)

    def texts(self, chat: str) -> list[str]:
        return [line["text"] for line in self.shown if line["chat_id"] == chat]

    async def write(self, text: str, chat: str = "ann", **more: object) -> str:
        """Hand a message in, and return its id."""
        message_id = f"{chat}-{next(_NUMBERS)}"
        await self.client.write(message_id=message_id, chat_id=chat, text=text, **more)
        return message_id

    async def say(self, text: str, chat: str = "ann", **more: object) -> str:
        """Hand a message in, and return what its sender is told at once."""
        message_id = await self.write(text, chat, **more)
        await self.until(lambda: message_id in self.receipts)
        assert self.receipts[message_id]["accepted"] == message_id
        return str(self.receipts[message_id].get("text", ""))

    async def ask(self, text: str, chat: str = "ann", **more: object) -> str:
        """Hand a message in, and return the text that answers it."""
        message_id = await self.write(text, chat, **more)
        return str((await self.answer(message_id))["text"])

    async def answer(self, message_id: str) -> Line:
        """Return the first delivery that answers a message."""
        await self.until(lambda: any(one["reply_to"] == message_id for one in self.shown))
        return next(one for one in self.shown if one["reply_to"] == message_id)

    async def first(self) -> Line:
        """Return the first delivery."""
        await self.until(lambda: bool(self.shown))
        return self.shown[0]

    async def until(self, holds: Callable[[], bool]) -> None:
        with anyio.fail_after(LIMIT_S):
            while not holds():
                await self._news.wait()

    async def run(self) -> None:
        """Take what comes, until the daemon is gone."""
        while True:
            try:
                line = await self.client.read()
            except TimeoutError:
                continue
            except (anyio.BrokenResourceError, anyio.IncompleteRead):
                return

            if "deliver" in line:
                await self._take(line)
            elif "edit" in line:
                await self._edit(line)
            elif "serving" not in line:
                self.receipts[line.get("accepted") or line["refused"]] = line
            news, self._news = self._news, anyio.Event()
            news.set()

    async def _take(self, line: Line) -> None:
        answer = self.refuse(line)
        if answer is None:
            self.shown.append(line)
            answer = {"delivered": line["deliver"], "id": f"shown-{len(self.shown)}"}
        else:
            answer = {"failed": line["deliver"], **answer}
        await self.client.write(**answer)

    async def _edit(self, line: Line) -> None:
        self.edits.append(line)
        if not self.confirms_edits:
            return

        self.shown[int(line["of"].removeprefix("shown-")) - 1]["text"] = line["text"]
        await self.client.write(delivered=line["edit"])


@asynccontextmanager
async def bridge(
    daemon: Daemon, account: str = "lo", *, serves: bool = True, running: int = 1
) -> AsyncGenerator[Bridge]:
    """Connect to a daemon's channel; a bridge that does not serve is shown nothing.

    `running`: how many channels must run before.
    """
    await daemon.log.wait_for("channel.running", count=running)
    async with (
        connected(daemon.state_dir / f"{account}.sock") as client,
        anyio.create_task_group() as tasks,
    ):
        made = Bridge(client)
        tasks.start_soon(made.run)
        if serves:
            await client.write(serve=True)
        yield made
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def bridged_daemon(
    config: str = "", *, folder: Path | None = None, serves: bool = True
) -> AsyncGenerator[tuple[Daemon, Bridge]]:
    """Run a daemon with a bridge, in a directory of its own unless one is given."""
    if folder is None:
        with short_directory() as made:
            async with bridged_daemon(config, folder=Path(made), serves=serves) as both:
                yield both
        return

    async with (
        running_daemon(folder / "state", CHANNEL + config) as daemon,
        bridge(daemon, serves=serves) as open_bridge,
    ):
        yield daemon, open_bridge


async def owed(daemon: Daemon, state: str = "owed") -> list[Line]:
    """Return the replies that are owed, dead or sent."""
    replies: list[Line] = (await daemon.get(f"/v1/outbox?state={state}"))["replies"]
    return replies


async def until_owed(daemon: Daemon, number: int, state: str = "owed") -> list[Line]:
    """Return the replies in a state, once there are so many."""
    with anyio.fail_after(LIMIT_S):
        while len(found := await owed(daemon, state)) != number:
            pass
    return found
