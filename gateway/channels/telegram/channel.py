"""The channel to Telegram: one bot, by long polling or by webhook.

Either way Telegram is done with a message only once that is stored or refused. It tells of nobody's
deletions.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import anyio.to_thread
from aiogram.exceptions import AiogramError, TelegramBadRequest, TelegramMigrateToChat
from aiogram.methods import EditMessageText, GetMe, SendChatAction, SendMessage
from aiogram.types import LinkPreviewOptions, ReplyParameters

from gateway.channels.base import ChannelError, NotConnectedError, SendError
from gateway.channels.hooks import HookAnswer, HookRequest
from gateway.channels.receipts import Receipts
from gateway.channels.telegram.api import channel_error, open_bot, send_error
from gateway.channels.telegram.inbound import PLATFORM, inbound_of, message_name
from gateway.channels.telegram.markup import render
from gateway.channels.telegram.polling import Polling
from gateway.channels.telegram.settings import problem_of_token
from gateway.channels.telegram.webhook import Webhook
from gateway.log import get_logger
from gateway.secret_values import secret_at

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping

    from aiogram import Bot
    from aiogram.methods import TelegramMethod
    from aiogram.types import Update
    from anyio.abc import TaskGroup

    from gateway.channels.base import Outbound, Receive
    from gateway.channels.telegram.settings import TelegramSettings
    from gateway.clock import Clock
    from gateway.model import SessionSource

MAX_TEXT_CHARS: Final = 2_048
"""Telegram takes 4,096 UTF-16 code units: so many characters, where each takes two."""
TYPING_S: Final = 5.0
"""Source: Bot API, sendChatAction."""
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}")
_MESSAGE: Final = re.compile(r"(?:([0-9]{1,18}):)?([0-9]{1,18})")
_UNREADABLE: Final = "can't parse entities"
_UNCHANGED: Final = "message is not modified"
_NO_PREVIEW: Final = LinkPreviewOptions(is_disabled=True)
T = TypeVar("T")


class TelegramChannel:
    """One bot."""

    platform = PLATFORM
    idempotent = False
    max_text_chars = MAX_TEXT_CHARS

    def __init__(self, account: str, settings: TelegramSettings, clock: Clock) -> None:
        """Take the settings of an account; nothing is asked before `run`.

        Raises:
            ConfigurationError: the token or the webhook's secret cannot be had, or is none.
        """
        self.account = account
        self._settings = settings
        self._token = secret_at(f"channels.{account}.token", settings.token, problem_of_token)
        self._bot_id = self._token.partition(":")[0]
        self._webhook = None
        if settings.webhook is not None:
            self._webhook = Webhook(account, settings.webhook, clock)
        self._polling = Polling(account, settings, clock)
        self._bot: Bot | None = None
        self._name = ""
        self._tasks: TaskGroup | None = None
        """Of the run; None while it does not."""
        self._receipts = Receipts(PLATFORM, account, clock, partial(self._send, quietly=True))
        self._calls = 0
        """Requests of `send` and its like that are being made."""
        self._call_ended = anyio.Event()

    @property
    def edits(self) -> bool:
        """Whether answers grow in the chat."""
        return self._settings.edits

    @property
    def edit_interval_s(self) -> float:
        """The shortest time between two edits in one chat."""
        return self._settings.edit_interval_s

    @property
    def typing_s(self) -> float:
        """For how long it is seen that an answer is being made."""
        return TYPING_S if self._settings.typing else 0.0

    @property
    def called(self) -> bool:
        """Whether messages come by webhook."""
        return self._webhook is not None

    async def call(self, request: HookRequest) -> HookAnswer:
        """Take a call of the webhook; see `HookedChannel.call`."""
        return await self._webhook.call(request) if self._webhook else HookAnswer(404)

    def refusal(self, headers: Mapping[str, str]) -> HookAnswer | None:
        """Return why a call is not taken, whatever its body; see `JudgesHeads.refusal`."""
        return self._webhook.refusal(headers) if self._webhook else HookAnswer(404)

    async def run(self, receive: Receive, *, ready: Callable[[], None]) -> None:
        """Take messages until cancelled; see `Channel.run`."""
        lost: ChannelError | None = None
        async with self._connected() as bot, anyio.create_task_group() as tasks:
            try:
                me = await bot(GetMe())
                self._name, self._bot, self._tasks = me.username or "", bot, tasks
                self._receipts.resume(tasks)
                way = self._webhook or self._polling
                await way.run(bot, partial(self._hand_over, receive), ready)
            except AiogramError as error:
                lost = channel_error(error)
            except ChannelError as error:
                lost = error
            finally:
                self._tasks = None
            tasks.cancel_scope.cancel()
        raise lost or AssertionError

    async def send(self, outbound: Outbound) -> str:
        """Show a message; see `Channel.send`."""
        return await self._send(outbound)

    async def edit(self, outbound: Outbound, shown_id: str) -> None:
        """Let a message read otherwise; see `Channel.edit`."""
        number = self._number(shown_id)
        if number is None:
            raise SendError("not the id of a message on Telegram", retryable=False)

        chat, _ = _place(outbound.target)

        def write(text: str, mode: str | None) -> EditMessageText:
            return EditMessageText(
                chat_id=chat,
                message_id=number,
                text=text,
                parse_mode=mode,
                link_preview_options=_NO_PREVIEW,
            )

        with _told():
            try:
                await self._written(outbound, write)
            except TelegramBadRequest as error:
                if _UNCHANGED not in error.message:
                    raise

    async def show_typing(self, target: SessionSource) -> None:
        """Show that an answer is being made; see `Channel.show_typing`."""
        if self._settings.typing:
            chat, topic = _place(target)
            with _told():
                await self._call(
                    SendChatAction(chat_id=chat, message_thread_id=topic, action="typing")
                )

    async def probe(self) -> None:
        """Ask whether the platform is there; see `Probed.probe`."""
        with _told():
            await self._call(GetMe())

    async def _send(self, outbound: Outbound, *, quietly: bool = False) -> str:
        """Show a message; quietly: no telephone rings for it."""
        chat, topic = _place(outbound.target)
        reply = None
        answered = self._number(outbound.reply_to)
        if answered is not None:
            reply = ReplyParameters(message_id=answered, allow_sending_without_reply=True)

        def write(text: str, mode: str | None) -> SendMessage:
            return SendMessage(
                chat_id=chat,
                message_thread_id=topic,
                text=text,
                parse_mode=mode,
                reply_parameters=reply,
                disable_notification=quietly or None,
                link_preview_options=_NO_PREVIEW,
            )

        with _told():
            message = await self._written(outbound, write)
        return message_name(self._bot_id, message.message_id)

    async def _hand_over(self, receive: Receive, update: Update | None) -> bool:
        """Hand over what an update says; return whether the platform is done with it."""
        if update is None:
            get_logger().warning("telegram.update_not_understood", account=self.account)
            return True

        self._note_move(update)
        inbound = inbound_of(update, account=self.account, bot_name=self._name, bot_id=self._bot_id)
        if inbound is None:
            return True

        if self._settings.answer_in_groups == "all":
            inbound = replace(inbound, named=True)
        receipt = await self._receipts.hand_over(receive, inbound)
        # A call of the webhook may outlast the run that it came in.
        if receipt is not None and self._tasks is not None:
            self._receipts.tell(self._tasks, inbound, receipt)
        return receipt is not None

    def _note_move(self, update: Update) -> None:
        """Tell that a group has another id from now on: settings that name the old one miss it."""
        message = update.message
        if message is not None and message.migrate_to_chat_id is not None:
            get_logger().warning(
                "telegram.chat_migrated",
                account=self.account,
                chat_id=str(message.chat.id),
                new_chat_id=str(message.migrate_to_chat_id),
            )

    async def _written(
        self, outbound: Outbound, write: Callable[[str, str | None], TelegramMethod[T]]
    ) -> T:
        """Have a text shown as HTML, or as it stands where it must be or Telegram wants it so."""
        html = None
        if not outbound.plain:
            # In a thread: marks without end take the parser up to a tenth of a second.
            html = await anyio.to_thread.run_sync(render, outbound.text)
        if html is not None:
            try:
                return await self._call(write(html, "HTML"))
            except TelegramBadRequest as error:
                if _UNREADABLE not in error.message:
                    raise

                get_logger().warning("telegram.markup_refused", account=self.account)
        return await self._call(write(outbound.text, None))

    def _number(self, message: str) -> int | None:
        """Return Telegram's number of a message of our bot; None where it has none here."""
        found = _MESSAGE.fullmatch(message)
        if found is None or found[1] not in (None, self._bot_id):
            return None

        return int(found[2])

    async def _call(self, method: TelegramMethod[T]) -> T:
        """Ask the platform for something.

        Raises:
            NotConnectedError: the channel does not run.
            AiogramError: it was not done, or may not have been.
        """
        bot = self._bot
        if bot is None:
            raise NotConnectedError

        self._calls += 1
        try:
            return await bot(method)
        except TelegramMigrateToChat as error:
            # The group has become a supergroup, with another id.
            moved = method.model_copy(update={"chat_id": error.migrate_to_chat_id})
            return await bot(moved)
        finally:
            self._calls -= 1
            self._call_ended.set()

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[Bot]:
        """Hold the connection; what is being sent at its end is waited for, unless cancelled."""
        bot = open_bot(self._token, self._settings)
        try:
            yield bot
        finally:
            self._bot = None
            try:
                while self._calls:
                    self._call_ended = anyio.Event()
                    await self._call_ended.wait()
            finally:
                with anyio.CancelScope(shield=True):
                    await bot.session.close()


def _place(target: SessionSource) -> tuple[int | str, int | None]:
    """Return the chat and the topic of a target."""
    chat, topic = target.chat_id or target.user_id, target.thread_id
    return (
        int(chat) if _NUMBER.fullmatch(chat) else chat,
        int(topic) if _NUMBER.fullmatch(topic) else None,
    )


@contextmanager
def _told() -> Generator[None]:
    """Tell failures as the contract has them, without what they quote."""
    try:
        yield
    except AiogramError as error:
        raise send_error(error) from None
