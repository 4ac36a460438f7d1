"""What an inbound message must be before anything else is done with it. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final
from unicodedata import category

from gateway.channels.attachments import with_attachments
from gateway.errors import BadRequestError
from gateway.model import Change, clean_name, clean_text

if TYPE_CHECKING:
    from gateway.model import Inbound

_IDS: Final = ("platform", "account", "chat_id", "thread_id", "user_id")


def checked(inbound: Inbound, max_text_chars: int, *, may_be_empty: bool = False) -> Inbound:
    """Return a message whose text and names any store, log and socket takes.

    What came beside the text is told at its end.

    Args:
        inbound: The message.
        max_text_chars: How long it may be.
        may_be_empty: Whether it says something without a text.

    Raises:
        BadRequestError: it is empty or too long, or an id holds what no platform puts there.
    """
    source = inbound.source
    ids = {name: str(getattr(source, name)) for name in _IDS}
    for name, value in (ids | {"message_id": inbound.message_id}).items():
        _check_id(name, value)
    text = with_attachments(clean_text(inbound.text), inbound.attachments)
    if not (text.strip() or may_be_empty or inbound.change is Change.RETRACTED):
        raise BadRequestError("The message is empty.")

    if len(text) > max_text_chars:
        raise BadRequestError(
            f"The message has {len(text)} characters, accepted are up to {max_text_chars}."
        )

    user_name, chat_name = clean_name(source.user_name), clean_name(source.chat_name)
    if (user_name, chat_name, text) == (source.user_name, source.chat_name, inbound.text):
        return inbound

    source = replace(source, user_name=user_name, chat_name=chat_name)
    return replace(inbound, source=source, text=text, attachments=())


def _check_id(name: str, value: str) -> None:
    """Refuse an id: replacing its characters, as in a text, could make two ids one."""
    if not value.isprintable() and any(category(char) in {"Cc", "Cs"} for char in value):
        raise BadRequestError(
            f"{name}: holds control characters or lone surrogates, accepted is text without them."
        )
