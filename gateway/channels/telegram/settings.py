"""Settings of a bot on Telegram, without its SDK."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from gateway.settings import (
    SecretSource,
    Settings,
    broken_rule,
    check_guarded_url,
    check_url,
    is_loopback,
)

OFFICIAL_TELEGRAM_URL: Final = "https://api.telegram.org"
_SUCH_AS: Final = "https://chat.example.org/hooks/NAME"
_TOKEN: Final = re.compile(r"[0-9]{1,20}:[A-Za-z0-9_-]{1,128}")
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{24,256}")
_MIN_DIFFERENT: Final = 8
"""A secret of fewer different characters was not drawn, but typed."""


def problem_of_token(token: str) -> str:
    """Return why a bot cannot have a token, without showing it; empty where it can."""
    if _TOKEN.fullmatch(token):
        return ""

    return "no token of a bot; accepted is what @BotFather gives, such as 123456:ABC-DEF"


def problem_of_webhook_secret(secret: str) -> str:
    """Return why the secret of a webhook will not do, without showing it; empty where it will."""
    if _SECRET.fullmatch(secret) and len(set(secret)) >= _MIN_DIFFERENT:
        return ""

    return (
        "cannot be used, accepted are 24 to 256 characters A-Z a-z 0-9 _ - drawn at random, as by "
        "openssl rand -hex 32"
    )


class TelegramWebhookSettings(Settings):
    """How Telegram calls the gateway."""

    url: str
    """The address that Telegram calls, of a front that leads to `/hooks/NAME` of the gateway, NAME
    being the name of the channel's table; https on port 443, 80, 88 or 8443."""
    secret: SecretSource
    """What Telegram shows with each call, as `{ file = ... }`, `{ env = ... }` or `{ credential =
    ... }`: 24 to 256 characters A-Z a-z 0-9 _ -, for this alone."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        return check_url(url, such_as=_SUCH_AS)


class TelegramSettings(Settings):
    """A bot on Telegram, which asks for what people write (long polling) or is called (webhook)."""

    kind: Literal["telegram"]
    """The platform: `loopback`, `matrix`, `telegram` or `webhook`; it decides which keys the table
    takes."""
    token: SecretSource
    """The bot's token, as `{ file = ... }`, `{ env = ... }` or `{ credential = ... }`; of a bot one
    table at most, and one daemon."""
    base_url: str = OFFICIAL_TELEGRAM_URL
    """The address of the Bot API; one of your own server may be http on this machine only."""
    webhook: TelegramWebhookSettings | None = None
    """How Telegram calls the gateway, as `{ url = ..., secret = ... }`; left out, the gateway asks
    Telegram for messages, and needs no address of its own."""
    poll_timeout_s: Annotated[int, Field(ge=1, le=50)] = 30
    """How long Telegram may wait for a message before it answers that there is none, in seconds."""
    request_timeout_s: Annotated[float, Field(ge=1, le=300)] = 20.0
    """How long any other request may take, in seconds."""
    edits: bool = True
    """Whether answers grow in the chat while they are made."""
    edit_interval_s: Annotated[float, Field(ge=1, le=3_600)] = 3.0
    """The shortest time between two changes in one chat, in seconds. Telegram takes 20 messages a
    minute in a group, and one a second in any chat."""
    typing: bool = True
    """Whether people see that an answer is being made."""
    answer_in_groups: Literal["all", "named"] = "named"
    """What is answered in chats of several people, in topics as well: `named`, what names the bot
    or answers a message of it, and commands; `all`, everything."""

    @field_validator("base_url")
    @classmethod
    def _guards_the_token(cls, url: str) -> str:
        fault = "would send the token in the clear"
        return check_guarded_url(url, such_as=OFFICIAL_TELEGRAM_URL, fault=fault).rstrip("/")

    @model_validator(mode="after")
    def _is_called_in_secret(self) -> Self:
        if self.webhook is None:
            return self

        parts = urlsplit(self.webhook.url)
        here = is_loopback(parts.hostname or "") and self.base_url != OFFICIAL_TELEGRAM_URL
        if parts.scheme != "https" and not here:
            raise broken_rule(
                "webhook",
                "would be called in the clear; accepted is https://, or http:// on this machine "
                f"with a Bot API of your own, such as {_SUCH_AS}",
                "url",
            )

        return self
