"""What we write on Matrix: the content of an event for each message and each edit. Pure.

Every content bears an empty `m.mentions`: nothing in its text then notifies a person or a room. It
bears our mark too, by which no gateway takes it for a person's message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.channels.matrix.inbound import MARK
from gateway.channels.matrix.markup import render
from gateway.text import whole

if TYPE_CHECKING:
    from gateway.channels.base import Outbound

MAX_TEXT_CHARS: Final = 6_000
"""Whatever they are, they make an event that a homeserver takes; as a rule with their HTML."""
MAX_CONTENT_BYTES: Final = 60_000
"""An event may have 65,536 bytes, with its signatures and the events that it names.

Source: Matrix specification 1.16, Client-Server API, Size limits."""
_HEAD_CHARS: Final = 200
"""What a client that knows no edits shows of one."""
_HTML: Final = "org.matrix.custom.html"


def message(outbound: Outbound, *, notice: bool = False) -> dict[str, Any]:
    """Return the content of a message; a notice is what bots answer to nobody."""
    content: dict[str, Any] = _text(outbound, room_bytes=MAX_CONTENT_BYTES, notice=notice)
    relation = _relation(outbound)
    return {**content, "m.relates_to": relation} if relation else content


def edit(outbound: Outbound, shown_id: str) -> dict[str, Any]:
    """Return the content of what lets a message read otherwise."""
    text = outbound.text
    head = text if len(text) <= _HEAD_CHARS else f"{text[: whole(text, _HEAD_CHARS)]} ..."
    return {
        "msgtype": "m.text",
        "body": f"* {head}",
        "m.mentions": {},
        MARK: True,
        "m.new_content": _text(outbound, room_bytes=MAX_CONTENT_BYTES - 6 * _HEAD_CHARS),
        "m.relates_to": {"rel_type": "m.replace", "event_id": shown_id},
    }


def _text(outbound: Outbound, *, room_bytes: int, notice: bool = False) -> dict[str, Any]:
    """Return a text, with its HTML where it has marks and both have room."""
    content: dict[str, Any] = {
        "msgtype": "m.notice" if notice else "m.text",
        "body": outbound.text,
        "m.mentions": {},
        MARK: True,
    }
    html = None if outbound.plain else render(outbound.text)
    if html is None:
        return content

    formatted = {**content, "format": _HTML, "formatted_body": html}
    return formatted if len(orjson.dumps(formatted)) <= room_bytes else content


def _relation(outbound: Outbound) -> dict[str, Any]:
    """Return what a message belongs to: a thread, a message that it answers, or both."""
    answered, root = outbound.reply_to, outbound.target.thread_id
    relation: dict[str, Any] = {}
    if is_event_id(root):
        relation = {"rel_type": "m.thread", "event_id": root}
        # Who knows no threads sees it as an answer to the message that began this one.
        relation["is_falling_back"] = not is_event_id(answered)
    said = answered if is_event_id(answered) else root
    if is_event_id(said):
        relation["m.in_reply_to"] = {"event_id": said}
    return relation


def is_event_id(text: str) -> bool:
    """Return whether a text is the id of an event."""
    return text.startswith("$") and len(text) > 1
