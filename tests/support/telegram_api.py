"""The Bot API as Telegram speaks it, on loopback: what a bot asks for, and the people who write.

Strict where Telegram is: offsets, one poller a token, none beside a webhook, tags that must be
balanced, lengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio
import orjson
from aiohttp import web

from gateway.clock import SystemClock
from tests.support.ports import free_port
from tests.support.telegram_html import NoHtmlError, read_html
from tests.support.telegram_recalls import Recalls

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from aiohttp.web import Request, Response

TOKEN: Final = "123456:a-token_of-tests"
BOT_NAME: Final = "gateway_bot"
RECALL_S: Final = 0.01
"""How long a chat waits whose update a webhook has not taken, in real seconds."""


@dataclass
class Posted:
    """A message of the bot."""

    chat: str
    topic: str
    text: str
    """As people see it."""
    message_id: int
    fields: dict[str, str]
    """As they came."""
    notifies: bool = False
    """Whether a link in it, as it was sent or edited last, notifies a person: there is no mark that
    notifies all, but a link for each does."""


@dataclass(frozen=True)
class Failure:
    """What becomes of a request instead."""

    status: int = 200
    description: str = ""
    parameters: Mapping[str, int] = field(default_factory=dict)
    lost: bool = False
    """It is done, and the connection breaks."""
    body: str | bytes = ""
    """What is answered instead of JSON."""


@dataclass
class _Poll:
    ended: anyio.Event = field(default_factory=anyio.Event)
    replaced: bool = False


class TelegramServer:
    """One bot's side of the Bot API."""

    def __init__(self, token: str = TOKEN) -> None:
        self.port = free_port()
        self.token = token
        self.pending: dict[int, dict[str, Any]] = {}
        """Updates that no offset has passed."""
        self.acknowledged: list[int] = []
        self.posted: list[Posted] = []
        self.typing: list[tuple[str, str]] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        """Methods and what came with them, in order."""
        self.failures: dict[str, list[Failure]] = {}
        """By method, what becomes of the next requests."""
        self.hook: dict[str, str] = {}
        """What `setWebhook` was given; empty: updates wait to be asked for."""
        self.call: Callable[[dict[str, str], bytes], Awaitable[int]] | None = None
        """Calls the webhook with headers and a body; returns the status of the answer."""
        self.answers: list[int] = []
        """What the webhook answered, each time."""
        self.changed = anyio.Event()
        self._last_id = 1_000
        self._poll: _Poll | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def polled(self) -> bool:
        """Whether somebody waits for an update."""
        return self._poll is not None

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        app = web.Application()
        app.router.add_post("/bot{token}/{method}", self._serve)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._call_all)
                yield
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await runner.cleanup()

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def push(self, **update: object) -> int:
        """Have something happen; return the id of the update."""
        update_id = self.next_id()
        self.pending[update_id] = {"update_id": update_id, **update}
        self.end_poll()
        self.note()
        return update_id

    def end_poll(self) -> None:
        """Answer whoever waits, as when the time is over."""
        if self._poll is not None:
            self._poll.ended.set()

    def poll_elsewhere(self) -> None:
        """Have another program poll, which ends the poll that waits."""
        if self._poll is not None:
            self._poll.replaced = True
            self._poll.ended.set()

    async def until(self, holds: Callable[[], object]) -> None:
        with anyio.fail_after(30):
            while not holds():
                await self.changed.wait()

    def failure_of(self, method: str) -> Failure:
        """Return what becomes of a request."""
        failures = self.failures.get(method, [])
        return failures.pop(0) if failures else Failure()

    async def before(self, method: str) -> None:
        """Wait before a request is done."""

    def on_offset(self, offset: int) -> int:
        """Return what is heard of an offset that is told."""
        return offset

    def on_acknowledged(self, update_id: int) -> None:
        self.acknowledged.append(update_id)

    def note(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    def recall_s(self, failures: int) -> float:
        """Return how long a chat waits whose update was not taken so often in a row."""
        return RECALL_S

    async def _call_all(self) -> None:
        """Hand updates to the webhook, one at a time, each until it is taken."""
        clock, recalls = SystemClock(), Recalls()
        while True:
            changed, due = self.changed, recalls.next(self.pending, clock.monotonic())
            if due is None or self.call is None or not self.hook:
                await changed.wait()
                continue

            due_at, update_id = due
            wait_s = due_at - clock.monotonic()
            if wait_s > 0:
                with anyio.move_on_after(wait_s):
                    await changed.wait()
                continue

            update = self.pending[update_id]
            headers = {"x-telegram-bot-api-secret-token": self.hook.get("secret_token", "")}
            self.answers.append(await self.call(headers, orjson.dumps(update)))
            if 200 <= self.answers[-1] < 300:
                recalls.taken(update)
                del self.pending[update_id]
                self.on_acknowledged(update_id)
            else:
                pause_s = self.recall_s(recalls.failed(update))
                recalls.hold(update, clock.monotonic() + pause_s)
            self.note()

    def _hook_info(self) -> dict[str, Any]:
        info = {
            "url": self.hook.get("url", ""),
            "has_custom_certificate": False,
            "pending_update_count": len(self.pending),
        }
        failed = [one for one in self.answers if one >= 300]
        if failed:
            why = f"Wrong response from the webhook: {failed[-1]}"
            info |= {"last_error_date": 1_700_000_000, "last_error_message": why}
        return info

    async def _serve(self, request: Request) -> Response:
        method = request.match_info["method"]
        fields = {name: str(value) for name, value in (await request.post()).items()}
        self.asked.append((method, fields))
        self.note()
        failure = self.failure_of(method)
        if request.match_info["token"] != self.token:
            failure = Failure(401, "Unauthorized")
        if failure.body:
            body = failure.body.encode() if isinstance(failure.body, str) else failure.body
            return web.Response(status=failure.status, body=body, content_type="text/html")

        if failure.status != 200:
            return _refused(failure)

        await self.before(method)
        try:
            result = await self._does(method, fields)
        except _RefusedError as error:
            return _refused(error.failure)
        finally:
            self.note()
        if failure.lost and request.transport is not None:
            request.transport.abort()
        return web.json_response({"ok": True, "result": result}, dumps=_dumps)

    async def _does(self, method: str, fields: dict[str, str]) -> object:
        result: object = True
        match method:
            case "getMe":
                bot_id = int(self.token.partition(":")[0])
                result = {"id": bot_id, "is_bot": True, "first_name": "G", "username": BOT_NAME}
            case "getUpdates":
                result = await self._updates(fields)
            case "sendMessage":
                result = self._send(fields)
            case "editMessageText":
                result = self._edit(fields)
            case "getWebhookInfo":
                result = self._hook_info()
            case "setWebhook":
                self.hook = fields
            case "deleteWebhook":
                self.hook = {}
            case "sendChatAction":
                self.on_typing(fields["chat_id"], fields.get("message_thread_id", ""))
            case _:
                raise _RefusedError(Failure(404, "Not Found"))
        return result

    async def _updates(self, fields: dict[str, str]) -> list[dict[str, Any]]:
        if self.hook:
            why = "Conflict: can't use getUpdates method while webhook is active"
            raise _RefusedError(
                Failure(409, f"{why}; use deleteWebhook to delete the webhook first")
            )

        offset = self.on_offset(int(fields.get("offset", "0")))
        for update_id in [one for one in self.pending if one < offset]:
            del self.pending[update_id]
            self.on_acknowledged(update_id)
        self.note()
        self.poll_elsewhere()
        poll = self._poll = _Poll()
        if not self.pending and int(fields.get("timeout", "0")):
            try:
                self.note()
                await poll.ended.wait()
            finally:
                self._poll = None if self._poll is poll else self._poll
        self._poll = None if self._poll is poll else self._poll
        if poll.replaced:
            text = "Conflict: terminated by other getUpdates request; make sure that only one bot"
            raise _RefusedError(Failure(409, f"{text} instance is running"))

        return list(self.pending.values())[: int(fields.get("limit", "100"))]

    def _send(self, fields: dict[str, str]) -> dict[str, Any]:
        chat, topic = fields["chat_id"], fields.get("message_thread_id", "")
        posted = Posted(chat, topic, _shown(fields), self.next_id(), fields, _notifies(fields))
        self.posted.append(posted)
        self.on_posted(posted)
        return _message(posted)

    def _edit(self, fields: dict[str, str]) -> dict[str, Any]:
        place = (fields["chat_id"], int(fields["message_id"]))
        found = [one for one in self.posted if (one.chat, one.message_id) == place]
        if not found:
            raise _RefusedError(Failure(400, "Bad Request: message to edit not found"))

        text = _shown(fields)
        if text == found[0].text:
            why = "Bad Request: message is not modified: specified new message content and reply"
            raise _RefusedError(Failure(400, why))

        found[0].text, found[0].notifies = text, _notifies(fields)
        self.on_edited(found[0])
        return _message(found[0])

    def on_typing(self, chat: str, topic: str) -> None:
        self.typing.append((chat, topic))

    def on_posted(self, posted: Posted) -> None:
        """Take note of a message that is shown."""

    def on_edited(self, posted: Posted) -> None:
        """Take note of a message that reads otherwise."""


class _RefusedError(Exception):
    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.description)


def _shown(fields: dict[str, str]) -> str:
    text = fields["text"]
    if fields.get("parse_mode") == "HTML":
        try:
            text = read_html(text)
        except NoHtmlError as error:
            why = f"Bad Request: can't parse entities: {error}"
            raise _RefusedError(Failure(400, why)) from None
    if len(text.encode("utf-16-le")) // 2 > 4_096:
        raise _RefusedError(Failure(400, "Bad Request: message is too long"))
    if not text.strip():
        raise _RefusedError(Failure(400, "Bad Request: message text is empty"))

    return text


def _notifies(fields: dict[str, str]) -> bool:
    return fields.get("parse_mode") == "HTML" and '<a href="tg://user' in fields["text"]


def _message(posted: Posted) -> dict[str, Any]:
    chat = {"id": int(posted.chat), "type": "private", "first_name": "A"}
    return {"message_id": posted.message_id, "date": 1_700_000_000, "chat": chat, "text": "x"}


def _refused(failure: Failure) -> Response:
    answer: dict[str, object] = {
        "ok": False,
        "error_code": failure.status,
        "description": failure.description,
    }
    if failure.parameters:
        answer["parameters"] = dict(failure.parameters)
    return web.json_response(answer, status=failure.status, dumps=_dumps)


def _dumps(value: object) -> str:
    return orjson.dumps(value).decode()


def user(number: int = 7, name: str = "Ann", **more: object) -> dict[str, Any]:
    return {"id": number, "is_bot": False, "first_name": name, **more}


def message(
    text: str | None = "hello",
    number: int = 1,
    *,
    sender: dict[str, Any] | None = None,
    **more: object,
) -> dict[str, Any]:
    """Return a message of Ann in her direct chat; None leaves a field out."""
    chat = {"id": 7, "type": "private", "first_name": "Ann"}
    made: dict[str, Any] = {"message_id": number, "date": 1_700_000_000, "chat": chat}
    made |= {"from": sender or user(), "text": text, **more}
    return {name: value for name, value in made.items() if value is not None}
