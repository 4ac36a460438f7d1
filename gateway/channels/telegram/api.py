"""The Bot API over aiogram: the connection, and what its failures mean to the gateway.

No error that leaves this module quotes what anybody wrote, or the token, which is part of every
address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import (
    AiogramError,
    ClientDecodeError,
    TelegramAPIError,
    TelegramConflictError,
    TelegramEntityTooLarge,
    TelegramNetworkError,
    TelegramNotFound,
    TelegramRetryAfter,
    TelegramServerError,
    TelegramUnauthorizedError,
)
from aiogram.types import Update
from aiohttp import ClientConnectorError, ClientTimeout, ConnectionTimeoutError
from pydantic import ValidationError
from typing_extensions import override

from gateway.channels.base import ChannelError, NotConnectedError, SendError
from gateway.channels.causes import cause_of
from gateway.model import clean_name

if TYPE_CHECKING:
    from aiogram.methods import TelegramMethod

    from gateway.channels.telegram.settings import TelegramSettings

CONNECT_TIMEOUT_S: Final = 10.0
_REFUSED: Final = "Telegram refuses the token; the bot's owner is told a new one by @BotFather"
_NOT_SENT: Final = (ClientConnectorError, ConnectionTimeoutError)
"""Failures before anything was sent."""
T = TypeVar("T")


class _Session(AiohttpSession):
    """Connections that are kept, without the wait at their end; any answer is read or is none."""

    @override
    async def make_request(
        self, bot: Bot, method: TelegramMethod[T], timeout: int | None = None
    ) -> T:
        try:
            return await super().make_request(bot, method, timeout)
        except (LookupError, TypeError, UnicodeError) as error:
            # Of a front: bytes that are no text, or no word on why.
            raise ClientDecodeError("no answer of the Bot API", error, None) from error

    @override
    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def open_bot(token: str, settings: TelegramSettings) -> Bot:
    """Return the bot of a token; its session is to be closed."""
    timeout = ClientTimeout(total=settings.request_timeout_s, sock_connect=CONNECT_TIMEOUT_S)
    session = _Session(
        api=TelegramAPIServer.from_base(settings.base_url),
        json_loads=orjson.loads,
        json_dumps=_dumps,
        timeout=timeout,
    )
    return Bot(token, session=session)


def readable(error: ClientDecodeError, bot: Bot) -> list[tuple[int, Update | None]]:
    """Return the updates of an answer that cannot be read as a whole, by their ids.

    None stands for one that is not understood: it would be handed out again for ever.

    Raises:
        ChannelError: there are no updates in it.
    """
    data = error.data
    listed = data.get("result") if isinstance(data, dict) else None
    if not isinstance(listed, list) or not all(map(_has_id, listed)):
        raise channel_error(error) from None

    return [(one["update_id"], read_update(one, bot)) for one in listed]


def _has_id(update: object) -> bool:
    return isinstance(update, dict) and type(update.get("update_id")) is int


def read_update(data: dict[str, Any], bot: Bot) -> Update | None:
    """Return an update; None where it is not understood."""
    try:
        return Update.model_validate(data, context={"bot": bot})
    except ValidationError:
        return None


def channel_error(error: AiogramError) -> ChannelError:
    """Return why a channel is lost."""
    wish_s = None
    match error:
        case TelegramConflictError() if is_webhook(error):
            why = "another program has set a webhook for this bot (409)"
        case TelegramConflictError():
            why = "another program asks for this bot's messages (409)"
        case TelegramUnauthorizedError() | TelegramNotFound():
            why = _REFUSED
        case TelegramRetryAfter():
            wish_s = float(error.retry_after)
            why = f"Telegram asks to be left alone for {error.retry_after} s"
        case TelegramNetworkError():
            why = f"Telegram cannot be reached ({_cause(error)})"
        case ClientDecodeError():
            why = "Telegram's answer cannot be read"
        case _:
            why = f"Telegram fails ({_said(error)})"
    return ChannelError(why, retry_after_s=wish_s)


def is_webhook(error: TelegramConflictError) -> bool:
    """Return whether nobody can poll because messages go to a webhook."""
    return "webhook" in error.message


def send_error(error: AiogramError) -> SendError:
    """Return what became of a message that Telegram did not take."""
    match error:
        case TelegramRetryAfter():
            pause_s = float(error.retry_after)
            return SendError("too many requests", retryable=True, retry_after_s=pause_s)
        case TelegramUnauthorizedError() | TelegramNotFound():
            return NotConnectedError(_REFUSED)
        case TelegramNetworkError() if isinstance(error.__cause__, _NOT_SENT):
            return NotConnectedError(f"Telegram cannot be reached ({_cause(error)})")
    # Of a connection that broke and of a front that failed nobody knows whether all came through.
    doubtful = (TelegramNetworkError, TelegramServerError, ClientDecodeError)
    unknown = isinstance(error, doubtful) and not isinstance(error, TelegramEntityTooLarge)
    return SendError(_said(error), retryable=unknown, ambiguous=unknown)


def _said(error: AiogramError) -> str:
    """Return what Telegram says, without what it quotes of a text."""
    if isinstance(error, TelegramNetworkError) or not isinstance(error, TelegramAPIError):
        return f"no answer that can be read ({_cause(error)})"

    return clean_name(str(error.message).partition('"')[0].strip())


def _cause(error: AiogramError) -> str:
    return cause_of(error.__cause__ or error)


def _dumps(value: object) -> str:
    return orjson.dumps(value).decode()
