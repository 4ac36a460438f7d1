"""Settings of a bot on Telegram, without its SDK."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from gateway.settings import SecretSource, Settings, check_url, is_loopback

OFFICIAL_TELEGRAM_URL: Final = "https://api.telegram.org"


class TelegramSettings(Settings):
    """A bot on Telegram, which asks for what people write (long polling)."""

    kind: Literal["telegram"]
    """The platform: `loopback` or `telegram`; it decides which keys the table takes."""
    token: SecretSource
    """The bot's token, as `{ file = ... }`, `{ env = ... }` or `{ credential = ... }`; of a bot one
    table at most, and one daemon."""
    base_url: str = OFFICIAL_TELEGRAM_URL
    """The address of the Bot API; one of your own server may be http on this machine only."""
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

    @field_validator("base_url")
    @classmethod
    def _guards_the_token(cls, url: str) -> str:
        check_url(url, such_as=OFFICIAL_TELEGRAM_URL)
        parts = urlsplit(url)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise ValueError(
                "would send the token in the clear; accepted is https://, or http:// on this "
                f"machine, such as {OFFICIAL_TELEGRAM_URL}"
            )

        return url.rstrip("/")
