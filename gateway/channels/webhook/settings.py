"""Settings of a channel that programs call: signed JSON in, signed JSON out."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from gateway.settings import SecretSource, Settings, broken_rule
from gateway.signing.addresses import PostAddress

MAX_ID_CHARS: Final = 512
"""The longest id of a chat."""


class WebhookChannelSettings(Settings):
    """Programs that post signed JSON to `/hooks/NAME`, by the rules of Standard Webhooks."""

    kind: Literal["webhook"]
    """The platform: `loopback`, `matrix`, `telegram` or `webhook`; it decides which keys the table
    takes."""
    secrets: Annotated[list[SecretSource], Field(min_length=1, max_length=4)]
    """Secrets that prove a request, `whsec_` and the base64 of 24 to 64 random bytes each; several
    while one takes the place of another."""
    format: Literal["message", "event"] = "message"
    """What a body is: `message`, a message with its chat and its user; `event`, any JSON, which
    becomes the text of a message as it is."""
    chat_id: Annotated[str, Field(max_length=MAX_ID_CHARS)] = ""
    """With `format = "event"`, the chat that all events come from, which is their user as well;
    empty: the name of the table."""
    replies: bool = True
    """Whether answers are posted to `reply_url`; false: they go nowhere but into the
    transcript."""
    reply_url: PostAddress | None = None
    """Where answers are posted: https, or http on this machine."""
    reply_secret: SecretSource | None = None
    """The secret that signs answers; not one of `secrets`, or an answer that somebody posts back
    would be proven."""
    timeout_s: Annotated[float, Field(ge=1, le=300)] = 20.0
    """How long a post of an answer may take, in seconds."""
    max_text_chars: Annotated[int, Field(ge=256, le=10_000_000)] = 100_000
    """The longest text that is posted at once, in characters; a longer answer comes in pieces."""

    @model_validator(mode="after")
    def _says_where_answers_go(self) -> Self:
        given = (self.reply_url is not None, self.reply_secret is not None)
        if self.replies and not all(given):
            text = "is missing, accepted is one beside the other, or replies = false"
            raise broken_rule("reply_secret" if given[0] else "reply_url", text)
        if not self.replies and any(given):
            text = "is false beside an address of answers, accepted is one or the other"
            raise broken_rule("replies", text)
        if self.chat_id and self.format != "event":
            raise broken_rule("chat_id", 'is given, accepted only with format = "event"')

        return self
