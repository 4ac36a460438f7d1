"""Commands as they are typed: `/name`, and what stands behind it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


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
    Name.PS: Spec("[KEY]", "lists the commands in the background"),
    Name.HELP: Spec("", "tells the commands"),
}
_ALIASES: Final = {"reset": Name.NEW}
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

    @property
    def usage(self) -> str:
        """How it is used."""
        return f"/{self.name} {SPECS[self.name].usage}".rstrip()


def parse(text: str) -> Typed | None:
    """Return the command that a text is; None for any other text.

    Its first word is the name, in any case; platforms add the bot's own name behind an `@`. Unknown
    names are no commands: paths and programs of agents begin with a slash as well.
    """
    head, _, rest = text.strip().partition("\n")
    first, _, behind = head.partition(" ")
    if not first.startswith("/"):
        return None

    word = first[1:].partition("@")[0].lower()
    name = _ALIASES.get(word) or (Name(word) if word in list(Name) else None)
    if name is None:
        return None

    rest = f"{behind}\n{rest}".strip()
    if name is Name.BG:
        return Typed(name, rest, "")

    words = rest.split()
    key = words.pop() if words and words[-1].startswith(_KEY) else ""
    return Typed(name, " ".join(words), key)


def help_text(*, admin: bool, processes: bool) -> str:
    """Return what `/help` answers.

    Args:
        admin: Whether to tell what admins may.
        processes: Whether commands may run in the background.
    """
    lines = ["Commands:"]
    for name, spec in SPECS.items():
        if name in {Name.BG, Name.PS} and not processes:
            continue

        usage = spec.usage if admin else spec.usage.replace("[KEY]", "")
        lines.append(f"/{name} {usage}".rstrip() + f" - {spec.does}")
    if admin:
        lines.append("KEY is the session of somebody else; without it they concern this one.")
    return "\n".join(lines)
