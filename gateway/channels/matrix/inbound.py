"""What people write on Matrix, as the gateway has it. Pure.

Contents of events are whatever their senders made them: nothing in one is taken for granted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from gateway.channels.fields import FieldError, Reader
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
    from collections.abc import Iterator

PLATFORM: Final = "matrix"
MESSAGES: Final = ("m.room.message", "m.sticker")
REDACTION: Final = "m.room.redaction"
MARK: Final = "org.session-gateway.answer"
"""What every message of a gateway bears: two of them in one room would answer each other without
end."""
_TEXTS: Final = frozenset({"m.text", "m.emote"})
"""`m.notice` is what bots write, and is answered to nobody."""
_FILES: Final = {
    "m.image": AttachmentKind.IMAGE,
    "m.file": AttachmentKind.FILE,
    "m.audio": AttachmentKind.AUDIO,
    "m.video": AttachmentKind.VIDEO,
}
_VOICE: Final = frozenset({"m.voice", "org.matrix.msc3245.voice"})
_QUOTED: Final = re.compile(r"> (?:\* )?<@[^>\n]*>[^\n]*(?:\n>[^\n]*)*(?:\n\n?|$)")
"""What clients put before an answer for those that know no answers.

Source: Matrix specification 1.12, Fallbacks for rich replies; later versions have none."""
Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """Who wrote a message, in which thread, and in what kind of room."""

    sender: str
    thread_id: str = ""
    direct: bool | None = None
    """Whether the room was a direct chat then; None: as it is now."""


@dataclass(frozen=True, slots=True)
class Where:
    """The room that an event comes from, as it was then."""

    account: str
    user_id: str
    """Our own."""
    room_id: str
    room_name: str
    direct: bool
    """Whether it was a direct chat then."""
    names: Mapping[str, str]
    """What people call themselves there, by their ids."""


def changed_id(event: Event) -> str:
    """Return the id of the message that an event changes; empty: it changes none."""
    if event.get("type") == REDACTION:
        return _text(part(event, "content").get("redacts")) or _text(event.get("redacts"))

    relation = _relation(event)
    return _text(relation.get("event_id")) if relation.get("rel_type") == "m.replace" else ""


def origin_of(event: Event) -> Origin:
    """Return who wrote a message, and in which thread."""
    relation = _relation(event)
    threaded = relation.get("rel_type") == "m.thread"
    return Origin(_text(event.get("sender")), _text(relation.get("event_id")) if threaded else "")


def inbound_of(event: Event, where: Where, origin: Origin | None) -> Inbound | None:
    """Return the message of an event, or the change of one; None where nobody said anything.

    Args:
        event: As the homeserver tells it.
        where: The room.
        origin: Of a change, that of the message; None: nobody knows it any more.
    """
    sender = _text(event.get("sender"))
    if sender in {"", where.user_id} or "state_key" in event or MARK in part(event, "content"):
        return None

    inbound = None
    if event.get("type") == REDACTION:
        inbound = _retraction(event, where, origin)
    elif event.get("type") in MESSAGES:
        inbound = _message(event, where, origin)
    return inbound if inbound is not None and _is_fit(inbound) else None


def _is_fit(inbound: Inbound) -> bool:
    """Return whether the ids are such as the gateway takes; a homeserver makes no others."""
    source = inbound.source
    ids = {
        "chat_id": source.chat_id,
        "user_id": source.user_id,
        "thread_id": source.thread_id,
        "message_id": inbound.message_id,
    }
    try:
        for name in ids:
            Reader(ids).identifier(name)
    except FieldError:
        return False
    return True


def _retraction(event: Event, where: Where, origin: Origin | None) -> Inbound | None:
    changed = changed_id(event)
    # Others who may do so take it back in the name of who wrote it.
    author = origin or origin_of(event)
    if not changed or author.sender == where.user_id:
        return None

    source = _source(where, author)
    return Inbound(source, "", changed, bot_name=_bot_name(where), change=Change.RETRACTED)


def _message(event: Event, where: Where, origin: Origin | None) -> Inbound | None:
    content, changed, own = part(event, "content"), changed_id(event), origin_of(event)
    if changed:
        content = part(content, "m.new_content")
    if changed:
        # It is of the message that it was, whatever has become of the room.
        own = replace(origin or Origin(""), sender=own.sender)
    kind = "m.sticker" if event.get("type") == "m.sticker" else _text(content.get("msgtype"))
    text, attachments = _said(content, kind)
    message_id = changed or _text(event.get("event_id"))
    if not message_id or (not text and not attachments):
        return None

    if not changed and "m.in_reply_to" in _relation(event):
        text = _QUOTED.sub("", text, count=1) if _QUOTED.match(text) else text
    return Inbound(
        source=_source(where, own),
        text=text,
        message_id=message_id,
        typed=kind == "m.text",
        bot_name=_bot_name(where),
        attachments=attachments,
        change=Change.EDITED if changed else Change.NEW,
    )


def _said(content: Event, kind: str) -> tuple[str, tuple[Attachment, ...]]:
    """Return what is said in words and what beside them."""
    body = clean_text(_text(content.get("body")))
    if kind in _TEXTS:
        return body, ()
    if kind == "m.location":
        name = f"location {body} {_text(content.get('geo_uri'))}"
        return "", (Attachment(AttachmentKind.OTHER, name=name),)
    if kind == "m.sticker":
        return "", (_attachment(AttachmentKind.STICKER, content, body),)
    if kind not in _FILES:
        return "", ()

    found = _FILES[kind]
    if found is AttachmentKind.AUDIO and not _VOICE.isdisjoint(content):
        found = AttachmentKind.VOICE
    name = _text(content.get("filename"))
    # Without a name of its own the text is the name.
    caption = body if name and name != body else ""
    return caption, (_attachment(found, content, name or body),)


def _attachment(kind: AttachmentKind, content: Event, name: str) -> Attachment:
    info = part(content, "info")
    size = info.get("size")
    size_bytes = size if type(size) is int and size >= 0 else None
    return Attachment(kind, _text(info.get("mimetype")), clean_text(name), size_bytes)


def _source(where: Where, origin: Origin) -> SessionSource:
    direct = where.direct if origin.direct is None else origin.direct
    kind = ChatType.THREAD if origin.thread_id else ChatType.GROUP
    return SessionSource(
        platform=PLATFORM,
        account=where.account,
        chat_id=where.room_id,
        # A thread of a direct chat is direct still: who may talk there goes by that.
        chat_type=ChatType.DM if direct else kind,
        thread_id=origin.thread_id,
        user_id=origin.sender,
        user_name=clean_name(where.names.get(origin.sender) or origin.sender),
        chat_name=clean_name(where.room_name),
    )


def names_in(events: Iterator[Event]) -> Iterator[tuple[str, str]]:
    """Return what people call themselves, of those events that say so."""
    for event in events:
        name = _text(part(event, "content").get("displayname"))
        if event.get("type") == "m.room.member" and name:
            yield _text(event.get("state_key")), name


def part(event: Event, key: str) -> Event:
    """Return an object within another; an empty one where there is none."""
    found = event.get(key)
    return found if isinstance(found, dict) else {}


def _relation(event: Event) -> Event:
    return part(part(event, "content"), "m.relates_to")


def _bot_name(where: Where) -> str:
    return where.user_id.partition(":")[0].removeprefix("@")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
