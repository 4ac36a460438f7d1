"""One call of many that fails, once or from then on."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import Final

CHANGES: Final = frozenset(
    {
        *("create", "write", "sync", "sync_directory", "close", "rename", "link", "unlink"),
        *("mkdir", "db_write", "db_sync", "db_truncate"),
    }
)
"""Calls that change the disk, and those that make it sure."""
GROWING: Final = frozenset({"create", "write", "rename", "link", "mkdir", "db_write"})
"""Calls that need room."""
OPENING: Final = frozenset({"open", "create", "db_open"})
READING: Final = frozenset({"open", "read", "stat", "db_read", "db_size"})
SYNCS: Final = frozenset({"sync", "sync_directory", "db_sync"})

SHORT: Final = 0
"""Instead of an error: half of what is to be written is taken."""


@dataclass(slots=True)
class Fault:
    """Which call fails, and how; counts what it sees."""

    at: int = 0
    """The number of the call, from 1, among `calls`; 0: none fails, all are counted."""
    error: int = errno.EIO
    calls: frozenset[str] = CHANGES
    lasting: bool = False
    """Whether all of `calls` after it fail as well."""
    lies: frozenset[str] = frozenset()
    """Calls that say they were done and were not: `sync`, `sync_directory`, `db_sync`, `db_names`
    (the directory sync of SQLite's own)."""
    retried: bool = False
    """Whether a sync that failed is simply tried once more."""
    seen: int = 0
    fired: list[str] = field(default_factory=list)
    """The calls that failed."""

    def check(self, call: str) -> bool:
        """Let a call pass, or fail it; True where it is to be short.

        Raises:
            OSError: the call fails.
        """
        if call not in self.calls:
            return False

        self.seen += 1
        if not self.at or self.seen < self.at or (self.seen > self.at and not self.lasting):
            return False

        if self.error == SHORT:
            if call in {"write", "db_write"}:
                self.fired.append(call)
                return True
            return False

        self.fired.append(call)
        raise OSError(self.error, os.strerror(self.error))

    def end(self) -> None:
        """Fail nothing any more."""
        self.at = 0
