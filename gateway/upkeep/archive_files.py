"""The files of `archive/`: as their rows say they are, and copied with a proof that they still are.

A file is there before its row is, and goes after it, in steps: one without a row is left over, and
taken away by the gateway's next sweep; a row without its file is damage. Read in pieces, however
large.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.durable.disk import Disk, remove
from gateway.durable.files import Replacement, storage_errors
from gateway.durable.salvaging import columns_of
from gateway.errors import DamagedDataError, StorageError, StorageFullError
from gateway.transcripts import archives
from gateway.upkeep.findings import Level, Report, Tally, tell
from gateway.upkeep.pruning_rows import is_file_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.durable.connection import Connection

FOLDER: Final = "archive"
_PIECE_BYTES: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class Content:
    """What tells one content of a file from another."""

    size_bytes: int
    sha256: str


def archives_of(connection: Connection) -> dict[str, Content]:
    """Return the files that a database names, and what their contents must be."""
    if not columns_of(connection, "archives"):
        # A database of an older gateway.
        return {}

    return {row.name: Content(row.file_bytes, row.sha256) for row in archives.all_of(connection)}


def content_of(path: Path, disk: Disk, take: Callable[[bytes], object] = len) -> Content:
    """Read a file, and hand its pieces on.

    Raises:
        StorageError: it is not there, or cannot be read.
    """
    size, digest = 0, hashlib.sha256()
    with storage_errors(path):
        descriptor = disk.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with disk.reader(descriptor) as file:
            while piece := file.read(_PIECE_BYTES):
                take(piece)
                size += len(piece)
                digest.update(piece)
    return Content(size, digest.hexdigest())


def copy_file(path: Path, target: Path, disk: Disk) -> Content:
    """Copy a file, readable by its owner only; return what was copied."""
    replacement = Replacement(target, disk=disk)
    try:
        content = content_of(path, disk, replacement.write)
        replacement.commit()
    finally:
        replacement.discard()
    return content


def make_folder(path: Path, disk: Disk) -> None:
    """Make a folder that is its owner's alone, unless it is there."""
    with storage_errors(path), suppress(FileExistsError):
        disk.mkdir(path, 0o700)


def check_archives(report: Report, connection: Connection, state_dir: Path, disk: Disk) -> bool:
    """Check that each archive is there as it was written.

    Returns False where one is not, which a daemon that took it away meanwhile would explain.
    """
    named = archives_of(connection)
    missing, altered = Tally("archives are not there"), Tally("archives are not as written")
    for name, wanted in named.items():
        path = state_dir / FOLDER / name
        try:
            found = content_of(path, disk)
        except StorageError as error:
            gone = isinstance(error.__cause__, FileNotFoundError)
            (missing if gone else altered).add(str(error))
            continue
        if found.size_bytes != wanted.size_bytes:
            altered.add(f"{path} ({found.size_bytes} bytes, {wanted.size_bytes} were written)")
        elif found != wanted:
            altered.add(f"{path} (its check sum is wrong)")
    left = len(names_in(state_dir / FOLDER) - named.keys())
    fine = f"{len(named)} files, each as it was written"
    fine += f"; {left} that no row names, which the next sweep takes away" if left else ""
    tell(report, FOLDER, [missing, altered], level=Level.WRONG, fine=fine)
    return not (missing.count or altered.count)


@dataclass(frozen=True, slots=True)
class ArchiveCopies:
    """Copies of a daemon's archive files, which may come and go meanwhile."""

    source: Path
    """The folder of the files."""
    target: Path
    """Where the copies go; the folder is made with the first of them."""
    disk: Disk
    copied: dict[str, Content] = field(default_factory=dict)

    def copy_all(self) -> None:
        """Copy what is there, for it may be gone once the database is read."""
        for name in sorted(names_in(self.source) - self.copied.keys()):
            if is_file_name(name) and (self.source / name).is_file():
                try:
                    self._copy(name)
                except StorageFullError:
                    raise
                except StorageError:
                    # Gone meanwhile, or to be told of where the database names it.
                    continue

    def copy_named(self, named: Mapping[str, Content]) -> None:
        """Copy the rest of what a database names, and let go of what it does not.

        Raises:
            DamagedDataError: a file is not there, or not as it was written.
        """
        for name in sorted(self.copied.keys() - named.keys()):
            self._drop(name)
        for name, wanted in named.items():
            try:
                found = self.copied.get(name) or self._copy(name)
            except StorageError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    raise DamagedDataError(self.source / name, "missing") from error
                raise
            if found != wanted:
                self._drop(name)
                raise DamagedDataError(self.source / name, "not as it was written")

    def _drop(self, name: str) -> None:
        del self.copied[name]
        with storage_errors(self.target):
            remove(self.disk, self.target / name)

    def _copy(self, name: str) -> Content:
        make_folder(self.target, self.disk)
        self.copied[name] = copy_file(self.source / name, self.target / name, self.disk)
        return self.copied[name]


def names_in(folder: Path) -> set[str]:
    """Return what is in a folder; nothing where there is none.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with storage_errors(folder):
            return {one.name for one in folder.iterdir()}
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return set()
        raise
