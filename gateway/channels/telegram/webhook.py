"""Messages of Telegram by webhook: Telegram calls the gateway.

It sends an update again, after a while, until it is answered 2xx; so that is answered only once
what the update says is stored or refused. One connection at a time keeps messages in their order.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

import anyio
import orjson
from aiogram.exceptions import (
    ClientDecodeError,
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramServerError,
)
from aiogram.methods import GetWebhookInfo, SetWebhook

from gateway.channels.base import LONGEST_WISH_S, ChannelError
from gateway.channels.hooks import HookAnswer, HookRequest
from gateway.channels.telegram.api import channel_error, read_update
from gateway.channels.telegram.inbound import UPDATES
from gateway.channels.telegram.settings import problem_of_webhook_secret
from gateway.log import get_logger
from gateway.model import clean_name
from gateway.secret_values import secret_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiogram import Bot
    from aiogram.types import WebhookInfo

    from gateway.channels.telegram.polling import HandOver
    from gateway.channels.telegram.settings import TelegramWebhookSettings
    from gateway.clock import Clock

CHECK_S: Final = 60.0
"""How often Telegram is asked whether its calls come through."""
MAX_UNANSWERED: Final = 3
"""After so many questions without an answer the channel counts as lost."""
SECRET_HEADER: Final = "x-telegram-bot-api-secret-token"  # noqa: S105 - the name of a header
_CONNECTIONS: Final = 1
"""With more, Telegram would hand over the messages of one chat in any order."""
_UNPROVEN: Final = HookAnswer(401, "The secret token is missing or wrong.")
_NOT_RUNNING: Final = HookAnswer(503, "The channel does not run.")
_NO_UPDATE: Final = HookAnswer(400, "Not an update.")
_NOT_STORED: Final = HookAnswer(503, "It cannot be stored at the moment.")


class Webhook:
    """The webhook of one bot."""

    def __init__(self, account: str, settings: TelegramWebhookSettings, clock: Clock) -> None:
        """Take the settings; nothing is set before `run`.

        Raises:
            ConfigurationError: the secret cannot be had, or is none.
        """
        self._account = account
        self._url = settings.url
        place = f"channels.{account}.webhook.secret"
        self._secret = secret_at(place, settings.secret, problem_of_webhook_secret)
        self._clock = clock
        self._taking: tuple[Bot, HandOver] | None = None
        """Where calls go; None while the channel does not run."""
        self._one_at_a_time = anyio.Lock()
        self._told = ""
        """The failure that was told last."""

    async def run(self, bot: Bot, hand_over: HandOver, ready: Callable[[], None]) -> None:
        """Have Telegram call, and take its calls, for ever.

        It goes on calling when this ends: what it is then answered lets it keep the messages.

        Raises:
            AiogramError, ChannelError: it does not call us, or nobody knows.
        """
        self._taking = (bot, hand_over)
        try:
            await bot(
                SetWebhook(
                    url=self._url,
                    secret_token=self._secret,
                    allowed_updates=list(UPDATES),
                    max_connections=_CONNECTIONS,
                    drop_pending_updates=False,
                )
            )
            ready()
            await self._watch(bot, ready)
        finally:
            self._taking = None

    async def call(self, request: HookRequest) -> HookAnswer:
        """Take an update; see `HookedChannel.call`."""
        refusal = self.refusal(request.headers)
        if refusal is not None or self._taking is None:
            return refusal or _NOT_RUNNING

        bot, hand_over = self._taking
        try:
            data = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            data = None
        if not isinstance(data, dict) or type(data.get("update_id")) is not int:
            return _NO_UPDATE

        update = read_update(data, bot)
        async with self._one_at_a_time:
            taken = await hand_over(update)
        return HookAnswer(200) if taken else _NOT_STORED

    def refusal(self, headers: Mapping[str, str]) -> HookAnswer | None:
        """Return why a call is not taken, whatever its body; see `JudgesHeads.refusal`."""
        given = headers.get(SECRET_HEADER, "").encode(errors="replace")
        if not hmac.compare_digest(given, self._secret.encode()):
            return _UNPROVEN

        return None if self._taking else _NOT_RUNNING

    async def _watch(self, bot: Bot, ready: Callable[[], None]) -> None:
        """Ask now and then whether calls come; that nobody answers says nothing of them.

        Raises:
            AiogramError: nobody has answered several times, or we are refused.
            ChannelError: they do not come.
        """
        unanswered, wait_s = 0, CHECK_S
        while True:
            await self._clock.sleep(wait_s)
            wait_s = CHECK_S
            try:
                info = await bot(GetWebhookInfo())
            except TelegramRetryAfter as error:
                wait_s = max(CHECK_S, min(error.retry_after, LONGEST_WISH_S))
            except (ClientDecodeError, TelegramNetworkError, TelegramServerError) as error:
                unanswered += 1
                if unanswered >= MAX_UNANSWERED:
                    raise

                reason = str(channel_error(error))
                get_logger().info("telegram.not_answered", account=self._account, reason=reason)
            else:
                self._check(info)
                if unanswered:
                    unanswered = 0
                    ready()

    def _check(self, info: WebhookInfo) -> None:
        """Say once why calls do not come through.

        Raises:
            ChannelError: somebody else has changed where they go.
        """
        if info.url != self._url:
            what = "removed it" if not info.url else "has the messages sent elsewhere"
            raise ChannelError(f"the webhook was changed: another program {what}")

        failure = clean_name(info.last_error_message or "") if info.pending_update_count else ""
        if failure and failure != self._told:
            get_logger().warning(
                "telegram.webhook_fails",
                account=self._account,
                reason=failure,
                waiting=info.pending_update_count,
            )
        self._told = failure
