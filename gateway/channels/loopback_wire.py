"""The lines of the loopback channel: one JSON object each, in both directions. Pure.

A line that is wrong is answered with what is wrong and what is accepted; what a client wrote is
never quoted.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import orjson

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

    from gateway.channels.base import Outbound, Receipt

MAX_ID_CHARS: Final = 512
"""The longest id of a chat, a user, a thread or a message."""
MAX_ATTACHMENTS: Final = 100
_KINDS: Final = ("text", "retracted", "serve", "delivered", "failed")
_SOURCE: Final = (
    *("message_id", "chat_id", "chat_type", "thread_id", "user_id", "user_name", "chat_name"),
)
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "text": (*_SOURCE, "text", "forwarded", "attachments", "edited"),
    "retracted": (*_SOURCE, "retracted"),
    "serve": ("serve",),
    "delivered": ("delivered", "id"),
    "failed": ("failed", "retryable", "retry_after_s", "error"),
}


_ATTACHMENT: Final = ("kind", "media_type", "name", "size_bytes")
E = TypeVar("E", bound=StrEnum)


class WireError(ValueError):
    """A line is none of ours; the message says why."""


@dataclass(frozen=True, slots=True)
class Serve:
    """The client takes deliveries from now on, or no longer."""

    wanted: bool


@dataclass(frozen=True, slots=True)
class Delivered:
    """A delivery was shown."""

    delivery_id: str
    platform_id: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A delivery was not shown."""

    delivery_id: str
    retryable: bool
    retry_after_s: float | None
    error: str


Line: TypeAlias = Inbound | Serve | Delivered | Failed


def read_line(line: bytes, *, platform: str, account: str) -> Line:
    """Return what a line says.

    Raises:
        WireError: it says nothing that is known here.
    """
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise WireError("not JSON in UTF-8; accepted is one JSON object a line") from None
    if not isinstance(fields, dict):
        raise WireError("not an object; accepted is one JSON object a line")

    kind = next((name for name in _KINDS if name in fields), None)
    if kind is None:
        raise WireError(f"of no known kind; accepted is an object with one of {', '.join(_KINDS)}")

    reader = _Reader(fields)
    if any(name not in _FIELDS[kind] for name in fields):
        # The name itself may be what somebody wrote.
        raise WireError(f"an unknown field; accepted beside {kind}: {', '.join(_FIELDS[kind])}")
    match kind:
        case "serve":
            return Serve(reader.flag("serve", required=True))
        case "delivered":
            return Delivered(reader.identifier("delivered", required=True), reader.identifier("id"))
        case "failed":
            return _failed(reader)
        case "retracted":
            return _retraction(reader, platform, account)
        case _:
            return _message(reader, platform, account)


def message_id_of(line: bytes) -> str:
    """Return the message id of a line that is refused, as far as it has one; else nothing."""
    try:
        return _Reader(orjson.loads(line)).identifier("message_id")
    except (orjson.JSONDecodeError, WireError, AttributeError):
        return ""


def receipt_line(message_id: str, receipt: Receipt) -> bytes:
    """Return the answer to a message that is stored or refused."""
    said = {"accepted" if receipt.accepted else "refused": message_id}
    return _line(said | ({"text": receipt.text} if receipt.text else {}))


def retry_line(message_id: str, why: str) -> bytes:
    """Return the answer to a message that could be neither stored nor refused."""
    return _line({"retry": message_id, "error": why})


def error_line(why: str, message_id: str = "") -> bytes:
    """Return the answer to a line that is wrong."""
    return _line({"error": why} | ({"message_id": message_id} if message_id else {}))


def delivery_line(outbound: Outbound) -> bytes:
    """Return a delivery."""
    return _line(
        {
            "deliver": outbound.delivery_id,
            **_place(outbound.target),
            "reply_to": outbound.reply_to,
            "text": outbound.text,
            "repeat": outbound.repeat,
            "plain": outbound.plain,
        }
    )


def edit_line(outbound: Outbound, shown_id: str) -> bytes:
    """Return how something that was delivered is to read now."""
    return _line(
        {
            "edit": outbound.delivery_id,
            "of": shown_id,
            **_place(outbound.target),
            "text": outbound.text,
            "plain": outbound.plain,
        }
    )


def typing_line(target: SessionSource) -> bytes:
    """Return that an answer is being made, which is not answered."""
    return _line({"typing": True, **_place(target)})


class _Reader:
    """Reads the fields of one object."""

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = fields

    def text(self, name: str, *, required: bool = False) -> str:
        value = self._fields.get(name)
        if value is None and not required:
            return ""
        if not isinstance(value, str) or (required and not value):
            accepted = "a string that is not empty" if required else "a string"
            raise WireError(f"{name}: accepted is {accepted}")

        return clean_text(value)

    def identifier(self, name: str, *, required: bool = False) -> str:
        value = self.text(name, required=required)
        given = self._fields.get(name) or ""
        if len(value) > MAX_ID_CHARS or value != given or any(map(_is_control, value)):
            raise WireError(
                f"{name}: accepted are up to {MAX_ID_CHARS} characters, none of them a control"
            )

        return value

    def flag(self, name: str, *, required: bool = False) -> bool:
        value = self._fields.get(name)
        if value is None and not required:
            return False
        if not isinstance(value, bool):
            raise WireError(f"{name}: accepted is true or false")

        return value

    def number(self, name: str) -> float | None:
        value = self._fields.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise WireError(f"{name}: accepted is a number from 0")

        return float(value)

    def choice(self, name: str, kinds: type[E], default: E) -> E:
        value = self._fields.get(name, default)
        if not isinstance(value, str) or value not in list(kinds):
            raise WireError(f"{name}: accepted is one of {', '.join(kinds)}")

        return kinds(value)

    def objects(self, name: str, accepted: Sequence[str]) -> list[_Reader]:
        """Return what reads each object of a list; none where it is left out."""
        values = self._fields.get(name, [])
        if not isinstance(values, list) or len(values) > MAX_ATTACHMENTS:
            raise WireError(f"{name}: accepted is a list of up to {MAX_ATTACHMENTS} objects")

        for one in values:
            if not isinstance(one, dict) or not one or set(one) - set(accepted):
                raise WireError(f"{name}: accepted are objects with {', '.join(accepted)}")
        return [_Reader(one) for one in values]


def _message(reader: _Reader, platform: str, account: str) -> Inbound:
    attachments = tuple(map(_attachment, reader.objects("attachments", _ATTACHMENT)))
    return Inbound(
        source=_source(reader, platform, account),
        text=reader.text("text", required=not attachments),
        message_id=reader.identifier("message_id", required=True),
        typed=not reader.flag("forwarded"),
        attachments=attachments,
        change=Change.EDITED if reader.flag("edited") else Change.NEW,
    )


def _retraction(reader: _Reader, platform: str, account: str) -> Inbound:
    if not reader.flag("retracted", required=True):
        raise WireError("retracted: accepted is true")

    return Inbound(
        source=_source(reader, platform, account),
        text="",
        message_id=reader.identifier("message_id", required=True),
        change=Change.RETRACTED,
    )


def _attachment(reader: _Reader) -> Attachment:
    size = reader.number("size_bytes")
    return Attachment(
        kind=reader.choice("kind", AttachmentKind, AttachmentKind.FILE),
        media_type=reader.text("media_type"),
        name=reader.text("name"),
        size_bytes=None if size is None else int(size),
    )


def _source(reader: _Reader, platform: str, account: str) -> SessionSource:
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


def _failed(reader: _Reader) -> Failed:
    return Failed(
        delivery_id=reader.identifier("failed", required=True),
        retryable=reader.flag("retryable", required=True),
        retry_after_s=reader.number("retry_after_s"),
        error=reader.text("error"),
    )


def _place(target: SessionSource) -> dict[str, str]:
    return {
        "chat_id": target.chat_id,
        "chat_type": target.chat_type,
        "thread_id": target.thread_id,
        "user_id": target.user_id,
    }


def _line(fields: Mapping[str, object]) -> bytes:
    return orjson.dumps(fields) + b"\n"


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in {"Cc", "Cs"}
