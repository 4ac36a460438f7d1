"""The lines of the loopback channel: one JSON object each, in both directions. Pure.

A line that is wrong is answered with what is wrong and what is accepted; no value that a client
wrote is quoted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import orjson

from gateway.channels.fields import (
    PLACE,
    SAID,
    FieldError,
    Reader,
    message_of,
    place_of,
    retraction_of,
    shown_of,
)
from gateway.model import Inbound
from gateway.strict_json import StrictJsonError, parse, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.channels.base import Outbound, Receipt
    from gateway.model import SessionSource

_KINDS: Final = ("text", "retracted", "serve", "delivered", "failed")
_SOURCE: Final = ("message_id", *PLACE)
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "text": (*_SOURCE, *SAID, "edited"),
    "retracted": (*_SOURCE, "retracted"),
    "serve": ("serve",),
    "delivered": ("delivered", "id"),
    "failed": ("failed", "retryable", "retry_after_s", "error"),
}


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
        FieldError: it says nothing that is known here.
    """
    try:
        fields = parse(line, what="the line")
    except StrictJsonError as error:
        raise FieldError(f"{error}; accepted is one JSON object a line") from None
    if not isinstance(fields, dict):
        raise FieldError("not an object; accepted is one JSON object a line")

    kind = next((name for name in _KINDS if name in fields), None)
    if kind is None:
        raise FieldError(f"of no known kind; accepted is an object with one of {', '.join(_KINDS)}")

    reader = Reader(fields)
    unknown = next((name for name in fields if name not in _FIELDS[kind]), None)
    if unknown is not None:
        accepted = ", ".join(_FIELDS[kind])
        raise FieldError(f"{quoted(unknown)}: no such field; accepted beside {kind}: {accepted}")
    match kind:
        case "serve":
            return Serve(reader.flag("serve", required=True))
        case "delivered":
            return Delivered(reader.identifier("delivered", required=True), reader.identifier("id"))
        case "failed":
            return _failed(reader)
        case "retracted":
            return retraction_of(reader, platform, account)
        case _:
            return message_of(reader, platform, account)


def message_id_of(line: bytes) -> str:
    """Return the message id of a line that is refused, as far as it has one; else nothing."""
    try:
        return Reader(orjson.loads(line)).identifier("message_id")
    except (orjson.JSONDecodeError, FieldError, AttributeError):
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
            **shown_of(outbound),
        }
    )


def edit_line(outbound: Outbound, shown_id: str) -> bytes:
    """Return how something that was delivered is to read now."""
    return _line(
        {
            "edit": outbound.delivery_id,
            "of": shown_id,
            **place_of(outbound.target),
            "text": outbound.text,
            "plain": outbound.plain,
        }
    )


def typing_line(target: SessionSource) -> bytes:
    """Return that an answer is being made, which is not answered."""
    return _line({"typing": True, **place_of(target)})


def _failed(reader: Reader) -> Failed:
    return Failed(
        delivery_id=reader.identifier("failed", required=True),
        retryable=reader.flag("retryable", required=True),
        retry_after_s=reader.number("retry_after_s"),
        error=reader.text("error"),
    )


def _line(fields: Mapping[str, object]) -> bytes:
    return orjson.dumps(fields) + b"\n"
