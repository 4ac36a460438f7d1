"""The folder of archive files: which are there, under which names, and how one is taken away.

Blocking: call it in a thread. Knows nothing of the database.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.durable.disk import Disk, exists
from gateway.durable.files import shrink, storage_errors, sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

_END: Final = ".jsonl.zst"
_ASIDE: Final = f"{_END}.tmp"


@dataclass(frozen=True, slots=True)
class ArchiveFolder:
    """A folder, which is made when the first file is."""

    path: Path
    disk: Disk

    def make(self) -> None:
        """Make it, unless it is there.

        Durability: on return it survives power loss.
        """
        with storage_errors(self.path):
            if not exists(self.disk, self.path):
                self.disk.mkdir(self.path, 0o700)
                sync_directory(self.path.parent, self.disk)

    def names(self) -> list[str]:
        """Return the archive files that are there, also half-written ones; other files are left."""
        with storage_errors(self.path):
            try:
                names = [one.name for one in self.path.iterdir()]
            except FileNotFoundError:
                return []

        return sorted(name for name in names if name.endswith((_END, _ASIDE)))

    def has(self, name: str) -> bool:
        """Return whether a file is there."""
        with storage_errors(self.path / name):
            return exists(self.disk, self.path / name)

    def free_names(self, at: datetime) -> Iterator[str]:
        """Yield names of a time that no file has."""
        for number in itertools.count(1):
            name = f"{at:%Y-%m-%dT%H%M%SZ}-{number}{_END}"
            if not self.has(name):
                yield name

    def remove(self, name: str) -> None:
        """Take a file away, a large one in steps, so that no sync of the disk waits long for it.

        Durability: on return it is gone for good, also after power loss.
        """
        path = self.path / name
        while shrink(path):
            pass
        with storage_errors(path), suppress(FileNotFoundError):
            self.disk.unlink(path)
            sync_directory(self.path, self.disk)
