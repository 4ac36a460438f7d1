"""What clients tried and what they were told, each line synced before they go on.

A client writes an attempt before it sends, and the outcome after the answer has come; an attempt
without an outcome was cut off. `moment` puts the events of all clients in one order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.clock import SystemClock


class Kind(StrEnum):
    """What a client asks for."""

    SAY = "say"
    RESET = "reset"
    UNDO = "undo"
    SUSPEND = "suspend"
    RESUME = "resume"
    REMOVE = "remove"
    ERASE = "erase"
    PRUNE = "prune"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A change that is about to be asked for."""

    moment: int
    at: str
    """RFC 3339 in UTC."""
    client: str
    kind: Kind
    key: str = ""
    """Empty for a prune, which is of all sessions."""
    text: str = ""
    message_id: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt."""

    moment: int
    attempt: int
    """Its moment."""
    status: int
    body: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether the change was acknowledged."""
        return self.status == 200

    @property
    def refused(self) -> bool:
        """Whether the answer promises that nothing was changed."""
        return 400 <= self.status < 500 or self.lacked_storage

    @property
    def lacked_storage(self) -> bool:
        """Whether the disk was full, or another program's."""
        return str(self.body.get("type", "")).endswith(("storage-full", "storage-busy"))


@dataclass(frozen=True, slots=True)
class Restarted:
    """A daemon that has recovered, and the entries it shows."""

    moment: int
    entries: dict[str, dict[str, Any]]


Event = Attempt | Outcome | Restarted
_KINDS: Final[dict[str, type[Attempt | Outcome | Restarted]]] = {
    kind.__name__: kind for kind in (Attempt, Outcome, Restarted)
}


@dataclass(slots=True)
class History:
    """The histories of all clients, a file each, written by one process."""

    folder: Path
    _moments: Iterator[int] = field(init=False)
    _files: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Go on after what is there."""
        self._moments = count(1 + len(read_history(self.folder)))

    def attempt(
        self, client: str, kind: Kind, key: str = "", *, text: str = "", message_id: str = ""
    ) -> Attempt:
        """Note what a client is about to ask for."""
        at = SystemClock().now().isoformat()
        made = Attempt(next(self._moments), at, client, kind, key, text, message_id)
        self._append(client, made)
        return made

    def outcome(self, attempt: Attempt, status: int, body: dict[str, Any]) -> Outcome:
        """Note what a client was told."""
        told = Outcome(next(self._moments), attempt.moment, status, body)
        self._append(attempt.client, told)
        return told

    def restarted(self, entries: dict[str, dict[str, Any]]) -> None:
        """Note what a restarted daemon shows; every attempt before has had its effect or none."""
        self._append("daemon", Restarted(next(self._moments), entries))

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def _append(self, name: str, event: Event) -> None:
        if name not in self._files:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._files[name] = os.open(self.folder / f"{name}.jsonl", flags, 0o600)
        line = orjson.dumps({"event": type(event).__name__, "fields": event})
        os.write(self._files[name], line + b"\n")
        os.fdatasync(self._files[name])


def read_history(folder: Path) -> list[Event]:
    """Return the events of all clients in their order."""
    events: list[Event] = []
    for file in folder.glob("*.jsonl"):
        for line in file.read_bytes().splitlines():
            record = orjson.loads(line)
            kind, values = _KINDS[record["event"]], record["fields"]
            if kind is Attempt:
                values["kind"] = Kind(values["kind"])
            events.append(kind(**{one.name: values[one.name] for one in fields(kind)}))
    return sorted(events, key=lambda event: event.moment)
