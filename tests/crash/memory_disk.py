"""A disk in memory that keeps apart what would survive power loss and what might.

The rules, on the cautious side of what file systems do (as ALICE has them):

- A sync of a file makes all of its content and its size before it durable, but no name of it.
- A sync of a directory makes the names in it durable, not what they lead to.
- Whatever is not synced survives or not, each write, cut and name by itself and in any order. A
  rename is one step: both of its names change or none. A torn write ends at a multiple of 512 bytes
  of the file; bytes beside a write are never touched (SQLite's "powersafe overwrite").
- Room that a file grew into without its data reads as zeros.
- After a failed sync, what it was to make durable is in doubt for ever: the next sync that
  succeeds says nothing of it, as on Linux, where the failing pages count as clean.
- Modes and owners are not simulated: each file is created with the mode it must have.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.crash.operations import (
    DIRECTORY,
    Create,
    Link,
    Rename,
    Sync,
    SyncDirectory,
    Truncate,
    Unlink,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.crash.operations import DiskOperation

Change = Write | Truncate
Names = dict[str, int]


@dataclass(frozen=True, slots=True)
class NameChange:
    """What one operation does to a directory."""

    folder: str
    name: str
    inode: int
    """What the name leads to from here on; the name goes where `gone` says so."""
    gone: str = ""
    """A name that goes in the same step."""
    adds: bool = True
    doubtful: bool = False

    def apply(self, names: Names) -> None:
        if self.gone and names.get(self.gone) == self.inode:
            del names[self.gone]
        if self.gone and self.inode == DIRECTORY:
            # Also where its first name was not durable yet: what is in it belongs to its inode.
            move_within(names, self.gone, self.name)
        if self.adds:
            names[self.name] = self.inode


@dataclass(slots=True)
class File:
    """One inode: what is durable, and what came after it."""

    durable: bytes = b""
    changes: list[Change] = field(default_factory=list)
    """In order; those that are durable stay in it only behind one that is in doubt."""
    surely: list[bool] = field(default_factory=list)
    """For each change: whether it is durable."""
    doubtful: list[bool] = field(default_factory=list)
    """For each change: whether a sync has failed with it."""
    version: int = 0
    """Changes with everything that happens to the file."""

    def loose(self) -> list[int]:
        """Return the places of the changes that may be lost."""
        return [place for place, sure in enumerate(self.surely) if not sure]

    def content(self, kept: Iterable[int]) -> bytes:
        """Return the content with the given loose changes, and all that are durable."""
        chosen = set(kept)
        return applied(
            self.durable,
            [
                change
                for place, change in enumerate(self.changes)
                if self.surely[place] or place in chosen
            ],
        )

    def add(self, change: Change) -> None:
        self.version += 1
        self.changes.append(change)
        self.surely.append(False)
        self.doubtful.append(False)

    def sync(self, *, failed: bool) -> None:
        self.version += 1
        for place in self.loose():
            if failed:
                self.doubtful[place] = True
            elif not self.doubtful[place]:
                self.surely[place] = True
        if all(self.surely):
            self.durable = applied(self.durable, self.changes)
            self.changes, self.surely, self.doubtful = [], [], []


class MemoryDisk:
    """All files by inode, and the names that lead to them."""

    def __init__(self, files: Mapping[str, bytes | None] | None = None) -> None:
        """Start with files that are durable; None stands for a directory."""
        self.files: dict[int, File] = {}
        self.names: Names = {}
        """The names that are durable."""
        self.loose_names: list[NameChange] = []
        for number, (name, data) in enumerate(sorted((files or {}).items()), start=1):
            self.names[name] = DIRECTORY if data is None else number
            if data is not None:
                self.files[number] = File(data)

    def apply(self, operation: DiskOperation) -> None:
        """Let one operation happen."""
        match operation:
            case Create(name, inode) | Link(name, inode):
                if isinstance(operation, Create) and inode != DIRECTORY:
                    self.files[inode] = File()
                self.loose_names.append(NameChange(folder_of(name), name, inode))
            case Rename(old, name, inode):
                self.loose_names.append(NameChange(folder_of(name), name, inode, gone=old))
            case Unlink(name, inode):
                self.loose_names.append(
                    NameChange(folder_of(name), name, inode, gone=name, adds=False)
                )
            case Write(inode, _, _) | Truncate(inode, _):
                self.files[inode].add(operation)
            case Sync(inode, failed):
                self.files[inode].sync(failed=failed)
            case SyncDirectory(folder, failed):
                self._sync_names(folder, failed=failed)

    def named(self, kept: Iterable[int]) -> Names:
        """Return the names there are with the given loose changes of names."""
        names = dict(self.names)
        for place in sorted(kept):
            self.loose_names[place].apply(names)
        return {name: inode for name, inode in names.items() if _reachable(name, names)}

    def _sync_names(self, folder: str, *, failed: bool) -> None:
        kept = []
        for change in self.loose_names:
            if change.folder != folder:
                kept.append(change)
            elif failed:
                kept.append(replace(change, doubtful=True))
            elif change.doubtful:
                kept.append(change)
            else:
                change.apply(self.names)
        self.loose_names = kept


def move_within(names: Names, old: str, new: str) -> None:
    """Let the names in a directory follow its own."""
    for name in [name for name in names if name.startswith(f"{old}/")]:
        names[new + name[len(old) :]] = names.pop(name)


def folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def _reachable(name: str, names: Names) -> bool:
    folder = folder_of(name)
    return not folder or (folder in names and _reachable(folder, names))


def applied(content: bytes, changes: Sequence[Change]) -> bytes:
    """Return a content after changes, in order."""
    result = bytearray(content)
    for change in changes:
        match change:
            case Write(_, offset, data):
                if offset > len(result):
                    result.extend(bytes(offset - len(result)))
                result[offset : offset + len(data)] = data
            case Truncate(_, size):
                del result[size:]
                result.extend(bytes(size - len(result)))
    return bytes(result)
