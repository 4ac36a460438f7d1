"""What a client brings beside the text of a message, and how that is stored with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.agents.asked import NOTHING_ASKED, Asked, Wishes
from gateway.model import ToolSpec

if TYPE_CHECKING:
    from gateway.transcripts.inbox import InboxRow


@dataclass(frozen=True, slots=True)
class Brought:
    """What a client brings."""

    asked: Asked = NOTHING_ASKED
    """How it wants to be answered; kept until it is."""
    results: Mapping[str, str] = field(default_factory=dict)
    """What its tools have returned, by call; with nothing else to say, the turn of the calls goes
    on."""
    again: bool = False
    """Whether it says that it sends a message once more, which has no id."""
    heard: tuple[str, ...] = ()
    """The last answer in its copy of the conversation, before what it says now: the ids of its
    calls, else its text alone."""


NOTHING_BROUGHT: Final = Brought()


def encode_asked(asked: Asked) -> dict[str, Any] | None:
    """Return what is asked as plain fields; None where that is nothing."""
    if asked == NOTHING_ASKED:
        return None

    wishes = {name: getattr(asked.wishes, name) for name in sorted(asked.wishes.named())}
    tools = [{one.name: getattr(tool, one.name) for one in fields(tool)} for tool in asked.tools]
    return {"instructions": list(asked.instructions), "tools": tools, "wishes": wishes}


def asked_chars(asked: Asked) -> int:
    """Return how many characters it adds to each request, roughly."""
    tools = (
        len(tool.name) + len(tool.description) + len(orjson.dumps(tool.schema))
        for tool in asked.tools
    )
    return sum(map(len, asked.instructions)) + sum(tools)


def asked_of(row: InboxRow) -> Asked:
    """Return what is asked of the answer to a stored message.

    Raises:
        KeyError, TypeError: what is stored is damaged.
    """
    if row.asked is None:
        return NOTHING_ASKED

    wishes = dict(row.asked["wishes"])
    if "stop" in wishes:
        wishes["stop"] = tuple(wishes["stop"])
    return Asked(
        instructions=tuple(row.asked["instructions"]),
        tools=tuple(ToolSpec(**tool) for tool in row.asked["tools"]),
        wishes=Wishes(**wishes),
    )
