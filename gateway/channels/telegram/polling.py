"""Messages of Telegram by long polling.

Telegram hands out a message until it is told a later offset, so the offset moves past a message
only once that is stored or refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import ceil, inf
from typing import TYPE_CHECKING, Final

from aiogram.exceptions import (
    ClientDecodeError,
    TelegramConflictError,
    TelegramRetryAfter,
)
from aiogram.methods import DeleteWebhook, GetUpdates, GetWebhookInfo
from aiogram.types import Update

from gateway.channels.base import LONGEST_WISH_S
from gateway.channels.telegram.api import channel_error, is_webhook, readable
from gateway.channels.telegram.inbound import UPDATES
from gateway.log import get_logger

if TYPE_CHECKING:
    from aiogram import Bot

    from gateway.channels.telegram.settings import TelegramSettings
    from gateway.clock import Clock

RETRY_S: Final = 1.0
"""How long a message waits that could not be stored."""
BATCH: Final = 10
"""How many updates are asked for at once: reading one holds the event loop for up to half a
millisecond."""
CALM_S: Final = 600.0
"""After so long without another program that polls, one is told of anew; the pauses of two gateways
that take turns are shorter."""
UNDISTURBED_S: Final = 120.0
"""After so long without one, a bot that is written to all the time counts as up."""
HandOver = Callable[[Update | None], Awaitable[bool]]
"""Hands over what an update says, None for one that is not understood; returns whether the
platform is done with it."""


class Polling:
    """Asks for messages."""

    def __init__(self, account: str, settings: TelegramSettings, clock: Clock) -> None:
        """Take the settings; nothing is asked before `run`."""
        self._account = account
        self._settings = settings
        self._clock = clock
        self._offset: int | None = None
        """The first update that Telegram is not told of yet; None: it is told of all."""
        self._contested = False
        """Whether another program polled the last time."""
        self._conflict_at = -inf
        """When it last did, monotonic."""

    async def run(self, bot: Bot, hand_over: HandOver, ready: Callable[[], None]) -> None:
        """Ask for messages and hand them over, for ever.

        Raises:
            AiogramError, ChannelError: there are none to be had.
        """
        try:
            await self._remove_webhook(bot)
            await self._poll(bot, hand_over, ready)
        except TelegramConflictError as error:
            self._note_conflict(error)
            raise

    async def _remove_webhook(self, bot: Bot) -> None:
        """Have messages wait to be asked for, where they went to a webhook before."""
        info = await bot(GetWebhookInfo())
        if info.url:
            await bot(DeleteWebhook(drop_pending_updates=False))
            get_logger().warning("telegram.webhook_removed", account=self._account)

    async def _poll(self, bot: Bot, hand_over: HandOver, ready: Callable[[], None]) -> None:
        wait_s, told, began = 0, False, self._clock.monotonic()
        while True:
            updates = await self._updates(bot, wait_s)
            # Whoever polls ends the polls of all others, at once: only one that lasted tells that
            # nobody else does, and a message ends it early; several in a row last as well.
            lasted = bool(wait_s) and not updates
            undisturbed = self._clock.monotonic() - began >= UNDISTURBED_S
            self._contested = self._contested and not (lasted or undisturbed)
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
        method = GetUpdates(
            offset=self._offset, limit=BATCH, timeout=wait_s, allowed_updates=list(UPDATES)
        )
        timeout_s = wait_s + ceil(self._settings.request_timeout_s)
        while True:
            try:
                updates = await bot(method, request_timeout=timeout_s)
                return [(update.update_id, update) for update in updates]
            except ClientDecodeError as error:
                return readable(error, bot)
            except TelegramRetryAfter as error:
                await self._clock.sleep(min(error.retry_after, LONGEST_WISH_S))

    def _note_conflict(self, error: TelegramConflictError) -> None:
        """Say once that another program takes the messages, until it does no longer."""
        if not is_webhook(error):
            if self._is_calm():
                reason = str(channel_error(error))
                get_logger().error("telegram.second_poller", account=self._account, reason=reason)
            self._contested, self._conflict_at = True, self._clock.monotonic()

    def _is_calm(self) -> bool:
        return self._clock.monotonic() - self._conflict_at >= CALM_S
