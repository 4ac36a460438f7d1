"""What happens to a disk, in the order it happens, and the marks of the client between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from gateway.model import SessionId

DIRECTORY = -1
"""Stands for the inode of a directory: only its name matters."""


@dataclass(frozen=True, slots=True)
class Create:
    """A name for a new, empty file; or for a directory."""

    name: str
    inode: int


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes at an offset."""

    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A new size: cut off, or filled with zeros."""

    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """All of a file before this is durable; where it failed, that is in doubt for ever."""

    inode: int
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A second name."""

    name: str
    inode: int


@dataclass(frozen=True, slots=True)
class Rename:
    """Another name, in one step."""

    old: str
    name: str
    inode: int


@dataclass(frozen=True, slots=True)
class Unlink:
    """A name less."""

    name: str
    inode: int


@dataclass(frozen=True, slots=True)
class SyncDirectory:
    """All names of a directory before this are durable; where it failed, they are in doubt."""

    folder: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """A client is about to ask for a change."""

    number: int
    key: str
    value: bytes | None
    """What the entry is to be; None for no entry."""
    after: SessionId | None = None
    """Where the value is not known beforehand: what it says of the conversation before it."""
    open_ended: bool = False
    """Whether the value is not known beforehand."""
    rows: frozenset[str] = frozenset()
    """What else is to be in the database with it."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A client was told that its change is durable."""

    number: int
    value: bytes | None
    sequence: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A client was told that nothing of its change was applied."""

    number: int


@dataclass(frozen=True, slots=True)
class Given:
    """From here on the store is one of these, whatever clients did: imported, adopted."""

    contents: tuple[dict[str, bytes], ...]
    """The first is what clients go on from."""


DiskOperation: TypeAlias = Create | Write | Truncate | Sync | Link | Rename | Unlink | SyncDirectory
Mark: TypeAlias = Attempt | Acknowledged | Refused | Given
Operation: TypeAlias = DiskOperation | Mark
