"""The channel to Telegram: one bot, by long polling.

Telegram hands out a message until it is told a later offset, so the offset moves past a message
only once that is stored or refused. It tells of nobody's deletions.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import anyio.to_thread
from aiogram.exceptions import (
    AiogramError,
    ClientDecodeError,
    TelegramBadRequest,
    TelegramConflictError,
    TelegramMigrateToChat,
    TelegramRetryAfter,
)
from aiogram.methods import EditMessageText, GetMe, GetUpdates, SendChatAction, SendMessage
from aiogram.types import LinkPreviewOptions, ReplyParameters

from gateway.channels.base import ChannelError, NotConnectedError, Outbound, SendError
from gateway.channels.telegram_api import channel_error, is_webhook, open_bot, readable, send_error
from gateway.channels.telegram_inbound import PLATFORM, UPDATES, inbound_of
from gateway.channels.telegram_markup import render
from gateway.errors import ConfigurationError, GatewayError
from gateway.log import get_logger
from gateway.settings import SecretError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

    from aiogram import Bot
    from aiogram.methods import TelegramMethod
    from aiogram.types import Update
    from anyio.abc import TaskGroup

    from gateway.channels.base import Receive
    from gateway.channels.telegram_settings import TelegramSettings
    from gateway.clock import Clock
    from gateway.model import Inbound, SessionSource

MAX_TEXT_CHARS: Final = 2_048
"""Telegram takes 4,096 UTF-16 code units: so many characters, where each takes two."""
TYPING_S: Final = 5.0
"""Source: Bot API, sendChatAction."""
RETRY_S: Final = 1.0
"""How long a message waits that could not be stored."""
MAX_TELLING: Final = 32
"""Answers to refused messages that are being sent; while there are as many, no more are."""
_TOKEN: Final = re.compile(r"[0-9]{1,20}:[A-Za-z0-9_-]{1,128}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}")
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
            ConfigurationError: the token cannot be had, or is none.
        """
        self.account = account
        self._settings = settings
        self._clock = clock
        self._token = _token(account, settings)
        self._bot: Bot | None = None
        self._name = ""
        self._offset: int | None = None
        """The first update that Telegram is not told of yet; None: it is told of all."""
        self._contested = False
        """Whether another program polled the last time."""
        self._telling = 0
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

    async def run(self, receive: Receive, *, ready: Callable[[], None]) -> None:
        """Take messages until cancelled; see `Channel.run`."""
        lost: ChannelError | None = None
        async with self._connected() as bot, anyio.create_task_group() as tasks:
            try:
                await self._poll(bot, partial(self._hand_over, receive, tasks), ready)
            except AiogramError as error:
                self._note_conflict(error)
                lost = channel_error(error)
            except ChannelError as error:
                lost = error
            tasks.cancel_scope.cancel()
        raise lost or AssertionError

    async def send(self, outbound: Outbound) -> str:
        """Show a message; see `Channel.send`."""
        return await self._send(outbound)

    async def edit(self, outbound: Outbound, shown_id: str) -> None:
        """Let a message read otherwise; see `Channel.edit`."""
        if not _NUMBER.fullmatch(shown_id):
            raise SendError("not the id of a message on Telegram", retryable=False)

        chat, _ = _place(outbound.target)

        def write(text: str, mode: str | None) -> EditMessageText:
            return EditMessageText(
                chat_id=chat,
                message_id=int(shown_id),
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

    async def _send(self, outbound: Outbound, *, quietly: bool = False) -> str:
        """Show a message; quietly: no telephone rings for it."""
        chat, topic = _place(outbound.target)
        reply = None
        if _NUMBER.fullmatch(outbound.reply_to):
            answered = int(outbound.reply_to)
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
        return str(message.message_id)

    async def _poll(
        self,
        bot: Bot,
        hand_over: Callable[[Update | None], Awaitable[bool]],
        ready: Callable[[], None],
    ) -> None:
        """Ask for messages and hand them over, for ever.

        Raises:
            AiogramError, ChannelError: there are none to be had.
        """
        me = await bot(GetMe())
        self._name, self._bot = me.username or "", bot
        wait_s, told = 0, False
        while True:
            updates = await self._updates(bot, wait_s)
            # Whoever polls ends the polls of all others, at once: only one that lasts tells that
            # nobody else does.
            self._contested = self._contested and not wait_s
            if not told and not self._contested:
                told = True
                ready()
            wait_s = self._settings.poll_timeout_s
            if not updates:
                # The numbers begin anew somewhere after a quiet week; an old one would pass them.
                self._offset = None
            for update_id, update in updates:
                if not await hand_over(update):
                    await self._clock.sleep(RETRY_S)
                    break

                self._offset = update_id + 1

    async def _updates(self, bot: Bot, wait_s: int) -> list[tuple[int, Update | None]]:
        """Return what comes next, and tell the platform what is stored."""
        method = GetUpdates(offset=self._offset, timeout=wait_s, allowed_updates=list(UPDATES))
        timeout_s = wait_s + ceil(self._settings.request_timeout_s)
        while True:
            try:
                updates = await bot(method, request_timeout=timeout_s)
                return [(update.update_id, update) for update in updates]
            except ClientDecodeError as error:
                return readable(error, bot)
            except TelegramRetryAfter as error:
                await self._clock.sleep(error.retry_after)

    async def _hand_over(self, receive: Receive, tasks: TaskGroup, update: Update | None) -> bool:
        """Hand over what an update says; return whether the platform may be told of it."""
        if update is None:
            get_logger().warning("telegram.update_not_understood", account=self.account)
            return True

        inbound = inbound_of(update, account=self.account, bot_name=self._name)
        if inbound is None:
            return True

        try:
            receipt = await receive(inbound)
        except GatewayError as error:
            get_logger().warning(
                "channel.message_not_stored",
                platform=PLATFORM,
                account=self.account,
                kind=type(error).__name__,
            )
            return False

        if receipt.text and self._telling < MAX_TELLING:
            self._telling += 1
            tasks.start_soon(self._tell, inbound, receipt.text)
        return True

    async def _tell(self, inbound: Inbound, text: str) -> None:
        """Tell the sender at once what becomes of a message; no harm is done where it fails."""
        told = Outbound(
            target=inbound.source,
            text=text,
            delivery_id=f"receipt-{inbound.message_id}",
            reply_to=inbound.message_id,
            plain=True,
        )
        try:
            await self._send(told, quietly=True)
        except SendError as error:
            get_logger().info(
                "channel.receipt_not_shown",
                platform=PLATFORM,
                account=self.account,
                reason=str(error),
            )
        finally:
            self._telling -= 1

    def _note_conflict(self, error: AiogramError) -> None:
        """Say once that another program takes the messages, until it does no longer."""
        if isinstance(error, TelegramConflictError) and not is_webhook(error):
            if not self._contested:
                reason = str(channel_error(error))
                get_logger().error("telegram.second_poller", account=self.account, reason=reason)
            self._contested = True

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


def _token(account: str, settings: TelegramSettings) -> str:
    place = f"channels.{account}.token"
    try:
        token = settings.token.resolve()
    except SecretError as error:
        raise ConfigurationError([f"{place}: {error}"]) from error

    if not _TOKEN.fullmatch(token):
        problem = "no token of a bot; accepted is what @BotFather gives, such as 123456:ABC-DEF"
        raise ConfigurationError([f"{place}: {problem}"])

    return token


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
