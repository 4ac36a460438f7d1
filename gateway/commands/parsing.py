"""Commands as they are typed: `/name`, and what stands behind it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.model import Inbound


class Name(StrEnum):
    """What can be commanded in a chat."""

    NEW = "new"
    UNDO = "undo"
    STOP = "stop"
    RESUME = "resume"
    SESSIONS = "sessions"
    STATUS = "status"
    COMPACT = "compact"
    BG = "bg"
    PS = "ps"
    HELP = "help"


@dataclass(frozen=True, slots=True)
class Spec:
    """A command, and how it is used."""

    usage: str
    """What may stand behind the name; `KEY` is another's session, for admins."""
    does: str
    """What `/help` says of it."""


SPECS: Final = {
    Name.NEW: Spec("[KEY]", "begins a new conversation (also /reset)"),
    Name.UNDO: Spec("[KEY]", "brings the conversation before back"),
    Name.STOP: Spec("[KEY]", "ends the answer that is being made, and pauses"),
    Name.RESUME: Spec("[ID] [KEY]", "goes on after a pause, or with an earlier conversation"),
    Name.SESSIONS: Spec("[KEY]", "lists the conversations here"),
    Name.STATUS: Spec("[KEY]", "tells the size of the context, its cost, and what runs"),
    Name.COMPACT: Spec("[KEY]", "has the old part of the conversation summarised"),
    Name.BG: Spec("COMMAND", "starts a command in the background"),
    Name.PS: Spec("[stop ID] [KEY]", "lists the commands in the background, or ends one"),
    Name.HELP: Spec("", "tells the commands"),
}
ALIASES: Final = {"reset": Name.NEW}
"""Other names of commands."""
_KEY: Final = "agent:"
"""What every session key begins with, and nothing else that stands behind a command."""


@dataclass(frozen=True, slots=True)
class Typed:
    """A command that was typed."""

    name: Name
    rest: str
    """What stands behind the name, a session key apart."""
    key: str
    """The session key behind it; empty where there is none, and with `/bg`."""


def parse(inbound: Inbound) -> Typed | None:
    """Return the command that a message is; None for any other text.

    Its first word is the name, in any case, with the bot's own name behind an `@` or without:
    another bot's command is none of ours. Unknown names are no commands: paths and programs of
    agents begin with a slash as well.
    """
    text = inbound.text.strip()
    if not text.startswith("/"):
        return None

    first, rest = (*text.split(maxsplit=1), "")[:2]
    word, _, bot = first[1:].partition("@")
    if bot and bot.casefold() != inbound.bot_name.casefold():
        return None

    word = word.lower()
    name = ALIASES.get(word) or (Name(word) if word in list(Name) else None)
    if name is None:
        return None

    if name is Name.BG:
        return Typed(name, rest, "")

    words = rest.split()
    key = words.pop() if words and words[-1].startswith(_KEY) else ""
    return Typed(name, " ".join(words), key)


def usage(name: Name, *, admin: bool) -> str:
    """Return how a command is used."""
    text = SPECS[name].usage if admin else SPECS[name].usage.replace("[KEY]", "")
    return f"/{name} {text}".rstrip()


def help_text(*, admin: bool, starts: bool, lists: bool) -> str:
    """Return what `/help` answers.

    Args:
        admin: Whether to tell what admins may.
        starts: Whether the sender may start commands in the background.
        lists: Whether there may be any.
    """
    lines = ["Commands:"]
    for name, spec in SPECS.items():
        if (name is Name.BG and not starts) or (name is Name.PS and not lists):
            continue

        lines.append(f"{usage(name, admin=admin)} - {spec.does}")
    if admin:
        lines.append("KEY is the session of somebody else; without it they concern this one.")
    return "\n".join(lines)
