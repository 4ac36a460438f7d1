"""The fields of messages as programs write them: one JSON object a message. Pure.

What is wrong is told with what is accepted; what somebody wrote is never quoted.
"""

from __future__ import annotations

import unicodedata
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeVar

from gateway.model import (
    Attachment,
    AttachmentKind,
    Change,
    ChatType,
    Inbound,
    SessionSource,
    clean_name,
    clean_text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.channels.base import Outbound

MAX_ID_CHARS: Final = 512
"""The longest id of a chat, a user, a thread or a message."""
MAX_ATTACHMENTS: Final = 100
PLACE: Final = ("chat_id", "chat_type", "thread_id", "user_id", "user_name", "chat_name")
"""Fields that say where a message comes from."""
SAID: Final = ("text", "forwarded", "attachments")
"""Fields that say what it is."""
_ATTACHMENT: Final = ("kind", "media_type", "name", "size_bytes")
E = TypeVar("E", bound=StrEnum)


class FieldError(ValueError):
    """A field is none of ours; the message says why."""


class Reader:
    """Reads the fields of one object."""

    def __init__(self, fields: Mapping[str, object]) -> None:
        """Take the fields; nothing is checked before it is asked for."""
        self._fields = fields

    def text(self, name: str, *, required: bool = False) -> str:
        """Return a text, mended where no store would take it; empty where it is not there."""
        value = self._fields.get(name)
        if value is None and not required:
            return ""
        if not isinstance(value, str) or (required and not value):
            accepted = "a string that is not empty" if required else "a string"
            raise FieldError(f"{name}: accepted is {accepted}")

        return clean_text(value)

    def identifier(self, name: str, *, required: bool = False) -> str:
        """Return an id, which is never mended; empty where it is not there."""
        value = self.text(name, required=required)
        given = self._fields.get(name) or ""
        if len(value) > MAX_ID_CHARS or value != given or any(map(_is_unfit, value)):
            raise FieldError(
                f"{name}: accepted are up to {MAX_ID_CHARS} characters, none of them a control"
            )

        return value

    def flag(self, name: str, *, required: bool = False) -> bool:
        """Return true or false; false where it is not there."""
        value = self._fields.get(name)
        if value is None and not required:
            return False
        if not isinstance(value, bool):
            raise FieldError(f"{name}: accepted is true or false")

        return value

    def number(self, name: str) -> float | None:
        """Return a number from 0; None where it is not there."""
        value = self._fields.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise FieldError(f"{name}: accepted is a number from 0")

        return float(value)

    def choice(self, name: str, kinds: type[E], default: E) -> E:
        """Return one of the values of a kind."""
        value = self._fields.get(name, default)
        if not isinstance(value, str) or value not in list(kinds):
            raise FieldError(f"{name}: accepted is one of {', '.join(kinds)}")

        return kinds(value)

    def objects(self, name: str, accepted: Sequence[str]) -> list[Reader]:
        """Return what reads each object of a list; none where it is left out."""
        values = self._fields.get(name, [])
        if not isinstance(values, list) or len(values) > MAX_ATTACHMENTS:
            raise FieldError(f"{name}: accepted is a list of up to {MAX_ATTACHMENTS} objects")

        for one in values:
            if not isinstance(one, dict) or not one or set(one) - set(accepted):
                raise FieldError(f"{name}: accepted are objects with {', '.join(accepted)}")
        return [Reader(one) for one in values]


def message_of(reader: Reader, platform: str, account: str, *, message_id: str = "") -> Inbound:
    """Return a message, or how one reads now.

    Args:
        reader: Its fields.
        platform: The channel's.
        account: The channel's.
        message_id: Its id; empty: a field says it.

    Raises:
        FieldError: a field is wrong or missing.
    """
    attachments = tuple(map(_attachment, reader.objects("attachments", _ATTACHMENT)))
    return Inbound(
        source=_source(reader, platform, account),
        text=reader.text("text", required=not attachments),
        message_id=message_id or reader.identifier("message_id", required=True),
        typed=not reader.flag("forwarded"),
        attachments=attachments,
        change=Change.EDITED if reader.flag("edited") else Change.NEW,
    )


def retraction_of(reader: Reader, platform: str, account: str) -> Inbound:
    """Return that a message was taken back.

    Raises:
        FieldError: a field is wrong or missing.
    """
    if not reader.flag("retracted", required=True):
        raise FieldError("retracted: accepted is true")

    return Inbound(
        source=_source(reader, platform, account),
        text="",
        message_id=reader.identifier("message_id", required=True),
        change=Change.RETRACTED,
    )


def _attachment(reader: Reader) -> Attachment:
    size = reader.number("size_bytes")
    return Attachment(
        kind=reader.choice("kind", AttachmentKind, AttachmentKind.FILE),
        media_type=reader.text("media_type"),
        name=reader.text("name"),
        size_bytes=None if size is None else int(size),
    )


def _source(reader: Reader, platform: str, account: str) -> SessionSource:
    return SessionSource(
        platform=platform,
        account=account,
        chat_id=reader.identifier("chat_id", required=True),
        chat_type=reader.choice("chat_type", ChatType, ChatType.DM),
        thread_id=reader.identifier("thread_id"),
        user_id=reader.identifier("user_id"),
        user_name=clean_name(reader.text("user_name")),
        chat_name=clean_name(reader.text("chat_name")),
    )


def place_of(target: SessionSource) -> dict[str, str]:
    """Return the fields that say where something goes."""
    return {
        "chat_id": target.chat_id,
        "chat_type": target.chat_type,
        "thread_id": target.thread_id,
        "user_id": target.user_id,
    }


def shown_of(outbound: Outbound) -> dict[str, object]:
    """Return the fields of what is to be shown, but for its own id."""
    return {
        **place_of(outbound.target),
        "reply_to": outbound.reply_to,
        "text": outbound.text,
        "repeat": outbound.repeat,
        "plain": outbound.plain,
    }


def _is_unfit(char: str) -> bool:
    # U+FFFD may stand for a lone surrogate: two different ids could become the same.
    return char == "\ufffd" or unicodedata.category(char) in {"Cc", "Cs"}
