"""Clients of the socket: one that shows what it is given, and one that edits it too."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import anyio

from gateway.channels.loopback.channel import LoopbackChannel
from gateway.channels.settings import LoopbackSettings
from gateway.clock import FakeClock
from gateway.model import Change, ChatType, SessionSource
from tests.contract.base import Ability, People, Shown, Written
from tests.support.loopback import LoopbackClient, connected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from pathlib import Path


class LoopbackPlatform:
    """A client at the socket."""

    lacks: ClassVar[Mapping[Ability, str]] = {
        Ability.NAMES: "its client hands over what is meant for us",
        Ability.MARKUP: "its client is given the Markdown as it is",
        Ability.NOTIFIES: "its client notifies whom it likes",
    }
    patience_s = 30.0

    @staticmethod
    def missing() -> str:
        return ""

    def __init__(
        self,
        state_dir: Path,
        account: str = "acme",
        **settings: Any,  # noqa: ANN401 - of the channel
    ) -> None:
        made = LoopbackSettings(kind="loopback", max_text_chars=400, **settings)
        self.clock = FakeClock()
        self.channel = LoopbackChannel(account, made, state_dir, self.clock)
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
        return SessionSource("loopback", account=self.channel.account, **self._place(written))

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
