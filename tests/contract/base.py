"""What the laws know of a platform: what it has, what people write there and what they see.

A channel gets a class of its own beside this, in a file of its own: the server it talks to, real or
played, and the people there; and its line in `platforms.PLATFORMS`. What a platform has not, its
class says by name in `lacks`: the laws about that are left out, which the end of the run tells; all
others hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Protocol

import anyio

from gateway.model import Attachment, Change

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from gateway.channels.base import Channel
    from gateway.clock import Clock
    from gateway.model import SessionSource


class Ability(StrEnum):
    """What not every platform has; the laws that need one name it."""

    GROUPS = "chats of several people"
    NAMES = "names by which people in a group say whom they mean"
    THREADS = "threads in a group"
    EDITED = "people who edit what they wrote"
    RETRACTED = "people who take back what they wrote"
    ATTACHMENTS = "things sent beside a text"
    GROWS = "edits of what we sent"
    TYPING = "a sign that somebody writes"
    BUSY = "a pause that it asks for"
    LOSS = "a connection that breaks before it says what became of a message"
    REPEATS = "messages handed over again until they are acknowledged"
    MARKUP = "rendered Markdown"
    NOTIFIES = "words or links that notify people"
    OUTAGES = "a server that goes away and comes back while the channel runs"


@dataclass(frozen=True)
class Written:
    """What somebody writes."""

    name: str
    """What the test calls the message; the platform has an id of its own for it."""
    text: str = "hello"
    person: str = "ann"
    chat: str = ""
    """The group; empty: the direct chat of the person."""
    thread: str = ""
    """The thread in the group."""
    named: bool = True
    """Whether it names us, as people do in a group; in a direct chat nobody does."""
    answers: str = ""
    """The platform's id of a message of ours that it answers; empty: none."""
    attachments: tuple[Attachment, ...] = ()
    change: Change = Change.NEW
    """What is done to the message of that name."""


@dataclass
class Shown:
    """A message of ours, as people see it."""

    place: str
    """The person of a direct chat, a group, or `group/thread`."""
    text: str
    """As it reads now: marks rendered, escapes undone, line breaks kept."""
    shown_id: str
    """The platform's id, as the channel is told it."""
    answers: str = ""
    """The name of the message that it refers to; empty: none."""
    read: list[str] = field(default_factory=list)
    """How it has read, one after the other, up to now."""
    notifies_all: bool = False
    """Whether the platform was ever asked to notify everybody there, or whomever a link names."""

    def edit(self, text: str) -> None:
        self.text = text
        self.read.append(text)


@dataclass
class People:
    """What happens on a platform, beyond the channel."""

    acknowledged: list[str] = field(default_factory=list)
    """Names of messages that the platform need not hand over again, each time."""
    told: list[str] = field(default_factory=list)
    """What senders were told at once."""
    shown: list[Shown] = field(default_factory=list)
    typing: list[str] = field(default_factory=list)
    """Places where it was shown that somebody writes, each time."""
    fetched: list[str] = field(default_factory=list)
    """What the channel asked for of things that were sent beside a text: it never should."""
    next_answers: list[str] = field(default_factory=list)
    """What becomes of the next messages and edits: `refused` (for good), `busy` (for 7 s), `lost`
    (shown, and the connection breaks before it is told); then all are shown."""
    changed: anyio.Event = field(default_factory=anyio.Event)

    def note(self) -> None:
        """Tell whoever waits that something happened."""
        self.changed.set()
        self.changed = anyio.Event()

    def at(self, place: str) -> list[str]:
        """Return how the messages at a place read."""
        return [one.text for one in self.shown if one.place == place]


class Platform(Protocol):
    """A platform and the channel to it."""

    lacks: ClassVar[Mapping[Ability, str]]
    """What it has not, and why that is so."""

    @staticmethod
    def missing() -> str:
        """Return which part of the server this machine lacks, and why; empty: it has all."""
        ...

    @property
    def channel(self) -> Channel: ...

    @property
    def clock(self) -> Clock:
        """What the channel goes by."""
        ...

    @property
    def people(self) -> People: ...

    @property
    def patience_s(self) -> float:
        """How long anything may take there, in real seconds."""
        ...

    def server(self) -> AbstractAsyncContextManager[None]:
        """Be there for the channel to connect to; without it the platform cannot be reached."""
        ...

    def present(self) -> AbstractAsyncContextManager[None]:
        """Have people there, while the channel runs: they see what is sent."""
        ...

    async def write(self, written: Written) -> None:
        """Have somebody write, edit or take back; it is repeated until it is acknowledged."""
        ...

    async def repeat(self, name: str) -> None:
        """Hand a message over once more that was acknowledged."""
        ...

    def source(self, written: Written) -> SessionSource:
        """Return where a message comes from, by the ids of the platform, without names."""
        ...

    async def pass_s(self, seconds: float) -> None:
        """Let time pass, as far as the clock of the channel does not by itself."""
        ...
