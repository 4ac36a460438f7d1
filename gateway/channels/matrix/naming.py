"""Whether a message on Matrix names us, and what it says beside that. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from gateway.channels.matrix.inbound import part
from gateway.channels.naming import needs_no_name
from gateway.model import Change

if TYPE_CHECKING:
    from gateway.channels.matrix.inbound import Event
    from gateway.model import Inbound

_QUOTED: Final = "<mx-reply>"
_QUOTED_END: Final = "</mx-reply>"


@dataclass(frozen=True, slots=True)
class Called:
    """What people call us."""

    user_id: str
    name: str = ""
    """What we call ourselves; empty: nothing."""


def heard(inbound: Inbound, event: Event, called: Called) -> Inbound:
    """Return the message of an event, with whether it names us and without our name before it."""
    content = part(event, "content")
    if inbound.change is Change.EDITED:
        content = part(content, "m.new_content")
    linked = _links_to(content, called.user_id)
    mentioned = _mentions(content, called.user_id) if "m.mentions" in content else linked
    found = _address(called, linked=linked).match(inbound.text)
    # Our name alone is a text as well.
    text = inbound.text[found.end() :] if found else ""
    inbound = replace(inbound, text=text or inbound.text)
    return replace(inbound, named=mentioned or bool(found) or needs_no_name(inbound))


def answered_id(event: Event) -> str:
    """Return the id of the message that an event answers; empty: it answers none.

    What answers none in a thread answers the message that the thread is about.
    """
    relation = part(part(event, "content"), "m.relates_to")
    answered = part(relation, "m.in_reply_to").get("event_id")
    threaded = relation.get("rel_type") == "m.thread"
    # There the one before is named as well, for clients that know no threads.
    if threaded and (answered is None or relation.get("is_falling_back") is True):
        answered = relation.get("event_id")
    return answered if isinstance(answered, str) else ""


def _mentions(content: Event, user_id: str) -> bool:
    """Return whether a message mentions somebody by its own word; old clients say none."""
    listed = part(content, "m.mentions").get("user_ids")
    return isinstance(listed, list) and user_id in listed


def _links_to(content: Event, user_id: str) -> bool:
    """Return whether somebody is linked in a message, as clients write a mention."""
    said = content.get("formatted_body")
    said = said if isinstance(said, str) else ""
    if said.startswith(_QUOTED):
        said = said.partition(_QUOTED_END)[2]
    return bool(_link(user_id).search(said))


@lru_cache(maxsize=64)
def _link(user_id: str) -> re.Pattern[str]:
    """Return what a link to somebody looks like, whatever of it is encoded."""
    encoded = "".join(f"(?:{re.escape(one)}|{_percent(one)})" for one in user_id[1:])
    start = r"https://matrix\.to/#/(?:@|%40)|matrix:u/"
    return re.compile(rf"""href=["'](?:{start}){encoded}["'?]""", re.IGNORECASE)


def _percent(char: str) -> str:
    return "".join(f"%{one:02x}" for one in char.encode())


@lru_cache(maxsize=64)
def _address(called: Called, *, linked: bool) -> re.Pattern[str]:
    """Return what our name looks like before what is said to us.

    Args:
        called: The name.
        linked: Whether the message has a link to us: the bare name, which stands for it in the
            text, then needs no colon behind it.
    """
    local = called.user_id.partition(":")[0]
    bare = {local.removeprefix("@"), called.name.strip()} - {""}
    marked = {called.user_id, *(f"@{one}" for one in bare)}
    colon = "[:,]?" if linked else "[:,]"
    return re.compile(
        rf"\s*(?:(?:{_either(marked)})[:,]?|(?:{_either(bare)}){colon})(?:\s+|$)", re.IGNORECASE
    )


def _either(names: set[str]) -> str:
    return "|".join(map(re.escape, sorted(names)))
