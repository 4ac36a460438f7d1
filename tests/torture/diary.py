"""What a chat platform handed in, was told, and showed: each line synced before it goes on.

The place of an event in the list is its moment.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio
import orjson

from gateway.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

COMMANDS: Final = frozenset({"/new", "/resume", "/stop"})
HTTP: Final = "http"
LOOPBACK: Final = "loopback"


@dataclass(frozen=True, slots=True)
class Written:
    """Somebody's message, about to be handed in; the same one again where it is repeated."""

    message_id: str
    chat: str
    text: str
    platform: str = LOOPBACK

    @property
    def is_command(self) -> bool:
        return self.text in COMMANDS


@dataclass(frozen=True, slots=True)
class Taken:
    """The gateway says that it has a message."""

    message_id: str
    accepted: bool
    text: str
    """What its sender is told at once; of the HTTP API the reply."""
    at: str
    """RFC 3339 in UTC."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A delivery that people see from now on; noted before the gateway is told."""

    delivery_id: str
    chat: str
    reply_to: str
    text: str
    repeat: bool


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The gateway was told that a delivery was shown."""

    delivery_id: str


@dataclass(frozen=True, slots=True)
class Died:
    """A daemon has ended."""

    at: str
    """RFC 3339 in UTC; it has done nothing later."""


Event: TypeAlias = Written | Taken | Shown | Confirmed | Died
_KINDS: Final[dict[str, type[Event]]] = {
    kind.__name__: kind for kind in (Written, Taken, Shown, Confirmed, Died)
}


@dataclass(slots=True)
class Diary:
    """The events so far, in memory and in a file."""

    file: int
    events: list[Event] = field(default_factory=list)
    news: anyio.Event = field(default_factory=anyio.Event)

    def note(self, event: Event) -> None:
        """Add an event, and tell who waits for one."""
        line = orjson.dumps({"event": type(event).__name__, "fields": event})
        os.write(self.file, line + b"\n")
        os.fdatasync(self.file)
        self.events.append(event)
        news, self.news = self.news, anyio.Event()
        news.set()

    def taken(self) -> set[str]:
        """Return the ids of the messages that the gateway has."""
        return {one.message_id for one in self.events if isinstance(one, Taken)}

    def seen(self) -> set[str]:
        """Return the ids of the messages whose answers are shown."""
        return {one.reply_to for one in self.events if isinstance(one, Shown)}

    def written(self) -> list[Written]:
        """Return the messages, each once, in their order."""
        return list(dict.fromkeys(one for one in self.events if isinstance(one, Written)))


@contextmanager
def opened(path: Path) -> Generator[Diary]:
    """Begin a diary, or go on with one."""
    before = read(path) if path.exists() else []
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield Diary(file, list(before))
    finally:
        os.close(file)


def read(path: Path) -> Sequence[Event]:
    """Return the events of a diary from its file."""
    records = map(orjson.loads, path.read_bytes().splitlines())
    return [_KINDS[record["event"]](**record["fields"]) for record in records]


def now() -> str:
    """Return the wall clock as it stands in a diary."""
    return SystemClock().now().isoformat()
