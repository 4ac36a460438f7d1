"""Settings of the channels: a table of the configuration for each account, told apart by `kind`.

The class of a platform with an SDK stands in `<platform>_settings.py`, and in the union here.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from gateway.channels.matrix.settings import MatrixSettings
from gateway.channels.telegram.settings import TelegramSettings
from gateway.channels.webhook.settings import WebhookChannelSettings
from gateway.settings import PathSetting, Settings

ACCEPTED_ACCOUNT: Final = "a name of 1 to 32 characters a-z 0-9 _ - that begins with a-z or 0-9"
AccountName = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$",
        json_schema_extra={"accepted": ACCEPTED_ACCOUNT},
    ),
]


class LoopbackSettings(Settings):
    """A Unix socket that speaks JSON lines: a bridge or a script of one's own is the platform."""

    kind: Literal["loopback"]
    """The platform: `loopback`, `matrix`, `telegram` or `webhook`; it decides which keys the table
    takes."""
    path: PathSetting | None = None
    """The socket, of at most 107 bytes; left out: `NAME.sock` in the state directory."""
    idempotent: bool = False
    """Whether the client shows what it gets twice under one `deliver` only once. Where it does not,
    what may be a repeat says so."""
    max_text_chars: Annotated[int, Field(ge=256, le=10_000_000)] = 100_000
    """The longest text that the client is given at once, in characters; a longer reply comes in
    pieces."""
    max_line_bytes: Annotated[int, Field(ge=1_024, le=67_108_864)] = 1_048_576
    """The longest line taken, in bytes; a longer one ends its connection."""
    max_connections: Annotated[int, Field(gt=0, le=1_024)] = 16
    """How many clients may be connected at once."""
    answer_timeout_s: Annotated[float, Field(gt=0, le=3_600)] = 30.0
    """How long the client may take to say what became of a delivery, in seconds; then it is sent
    again later."""
    edits: bool = False
    """Whether the client can change what it shows: answers then grow in the chat while they are
    made."""
    edit_interval_s: Annotated[float, Field(ge=0.1, le=3_600)] = 1.0
    """The shortest time between two changes in one chat, in seconds."""
    typing: bool = False
    """Whether the client is told that an answer is being made."""


ChannelSettings = Annotated[
    LoopbackSettings | MatrixSettings | TelegramSettings | WebhookChannelSettings,
    Field(discriminator="kind"),
]
"""One `[channels.NAME]` table; `kind` says which. Further classes join by `|`."""
