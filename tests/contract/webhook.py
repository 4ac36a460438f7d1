"""A program that posts signed messages, and takes signed answers on loopback."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import orjson

from gateway.channels.hooks import HookRequest
from gateway.channels.webhook.channel import WebhookChannel
from gateway.channels.webhook.settings import WebhookChannelSettings
from gateway.clock import FakeClock
from gateway.model import ChatType, SessionSource
from gateway.settings import SecretSource
from tests.contract.base import Ability, People, Shown, Written
from tests.support.webhooks import OTHER_SECRET, SECRET, Post, Reaction, Receiver, signed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from pathlib import Path

RETRY_S = 0.01
"""How long the program waits before it posts a message again that was not taken."""


class WebhookPlatform:
    """The program."""

    lacks: ClassVar[Mapping[Ability, str]] = {
        Ability.NAMES: "what is posted is meant for us",
        Ability.EDITED: "a post says something once",
        Ability.RETRACTED: "a post says something once",
        Ability.GROWS: "what was posted stays as it is",
        Ability.TYPING: "no program waits for a sign",
        Ability.MARKUP: "the program is given the Markdown as it is",
        Ability.NOTIFIES: "the program notifies whom it likes",
    }
    patience_s = 30.0

    def __init__(self, state_dir: Path, account: str = "acme") -> None:
        self.people = People()
        self.clock = FakeClock()
        self._receiver = Receiver(OTHER_SECRET)
        self._receiver.react = self._react
        settings = WebhookChannelSettings(
            kind="webhook",
            secrets=[secret_file(state_dir / f"{account}.in", SECRET)],
            reply_url=self._receiver.url,
            reply_secret=secret_file(state_dir / f"{account}.out", OTHER_SECRET),
            max_text_chars=400,
        )
        self.channel = WebhookChannel(account, settings, self.clock)
        self._bodies: dict[str, bytes] = {}
        self._pending: list[str] = []
        """Names of messages that are not acknowledged, in order."""
        self._more = anyio.Event()

    @staticmethod
    def missing() -> str:
        return ""

    @asynccontextmanager
    async def server(self) -> AsyncGenerator[None]:
        async with self._receiver.serving(), anyio.create_task_group() as tasks:
            tasks.start_soon(self._post_all)
            yield
            tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def present(self) -> AsyncGenerator[None]:
        yield

    async def write(self, written: Written) -> None:
        attachments = [
            {"kind": one.kind, "media_type": one.media_type, "name": one.name}
            | ({} if one.size_bytes is None else {"size_bytes": one.size_bytes})
            for one in written.attachments
        ]
        fields = {**self._place(written), "text": written.text, "attachments": attachments}
        self._bodies[written.name] = orjson.dumps(fields)
        await self.repeat(written.name)

    async def repeat(self, name: str) -> None:
        self._pending.append(name)
        self._more.set()

    def source(self, written: Written) -> SessionSource:
        account = self.channel.account
        return SessionSource(platform="webhook", account=account, **self._place(written))

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

    async def _post_all(self) -> None:
        while True:
            self._more = anyio.Event()
            while self._pending:
                if not await self._post(self._pending[0]):
                    with anyio.move_on_after(RETRY_S):
                        await anyio.sleep_forever()
            await self._more.wait()

    async def _post(self, name: str) -> bool:
        """Post a message once; return whether it need not be posted again."""
        body = self._bodies[name]
        headers = signed(SECRET, f"msg_{name}", self.clock.now(), body)
        assert self.channel.refusal(headers) is None
        answer = await self.channel.call(HookRequest(headers, body))
        assert answer.status in {200, 422, 503}, answer
        if answer.status == 503:
            return False

        self._pending.pop(0)
        self.people.acknowledged.append(name)
        self.people.told += [answer.text] if answer.text else []
        self.people.note()
        return True

    def _react(self, post: Post) -> Reaction:
        answer = self.people.next_answers.pop(0) if self.people.next_answers else "shown"
        if answer == "refused":
            return Reaction(403)
        if answer == "busy":
            return Reaction(429, {"Retry-After": "7"})

        data = post.body["data"]
        known = {one.shown_id for one in self.people.shown}
        if post.message_id not in known:
            place = data["chat_id"] + (f"/{data['thread_id']}" if data["thread_id"] else "")
            answers = data["reply_to"].removeprefix("msg_")
            shown = Shown(place, data["text"], post.message_id, answers, [data["text"]])
            self.people.shown.append(shown)
        self.people.note()
        return Reaction(lost=answer == "lost")


def secret_file(path: Path, secret: str) -> SecretSource:
    path.write_text(secret)
    return SecretSource(file=str(path))
