"""What programs post to a webhook channel, and what is posted back. Pure.

Where something that is posted is refused, no value of it is quoted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import orjson

from gateway.channels.fields import PLACE, SAID, FieldError, Reader, message_of, shown_of
from gateway.model import Inbound, SessionSource
from gateway.strict_json import StrictJsonError, parse, quoted

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.channels.base import Outbound

PLATFORM: Final = "webhook"
SENT: Final = "message.sent"
"""The type of the event that an answer is posted as."""
_FIELDS: Final = (*PLACE, *SAID)
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_-]")


def message_in(body: bytes, account: str, message_id: str) -> Inbound:
    """Return the message that a body is.

    Raises:
        FieldError: it is none; the message says why.
    """
    fields = _parsed(body)
    if not isinstance(fields, dict):
        raise FieldError("the body is not a JSON object, accepted is { ... }")
    unknown = next((name for name in fields if name not in _FIELDS), None)
    if unknown is not None:
        raise FieldError(f"{quoted(unknown)}: no such field; accepted: {', '.join(_FIELDS)}")

    return message_of(Reader(fields), PLATFORM, account, message_id=message_id)


def event_in(body: bytes, account: str, message_id: str, chat_id: str) -> Inbound:
    """Return the message that an event becomes: all of it, compact, in one chat.

    Raises:
        FieldError: it is no JSON; the message says why.
    """
    text = orjson.dumps(_parsed(body)).decode()
    source = SessionSource(PLATFORM, chat_id, account=account, user_id=chat_id)
    # Nobody typed it: what looks like a command is none.
    return Inbound(source, text, message_id, typed=False)


def event_id_of(outbound: Outbound) -> str:
    """Return the webhook-id of an answer: the same however often it is sent.

    Pieces of one have a full stop in their ids, which a webhook-id may not have.
    """
    return _UNFIT.sub("_", outbound.delivery_id)


def sent_event(outbound: Outbound, event_id: str, account: str, at: datetime) -> bytes:
    """Return the body that an answer is posted as."""
    data = {"id": event_id, "account": account, **shown_of(outbound)}
    event = {"type": SENT, "timestamp": at, "data": data}
    return orjson.dumps(event, option=orjson.OPT_UTC_Z)


def _parsed(body: bytes) -> object:
    try:
        return parse(body)
    except StrictJsonError as error:
        raise FieldError(str(error)) from None
