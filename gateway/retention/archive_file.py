"""One file of the archive: written once in pieces, and read only after its check sum was seen.

A line an item, JSON: `position` (of its entry in `pruned_items`), `item`, `session_id`,
`session_key`, `run_id`, `at`, `record` (why it was pruned) and `row` (the row of `messages` as it
was). The lines are one zstd frame with a check sum of its own; the SHA-256 of the file stands in
the table `archives`. Blocking: call it in a thread. Whatever the size of a file, no more of it is
in memory than a few lines.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
import zstandard

from gateway.durable.files import Replacement, storage_errors
from gateway.errors import DamagedDataError, StorageError
from gateway.transcripts.archives import ArchiveRow

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from gateway.durable.disk import Disk
    from gateway.transcripts.graces import Held

LEVEL: Final = 6
"""How hard zstd tries: about 90 MB of transcripts each second."""
PIECE_BYTES: Final = 262_144
"""How much is read, or handed on, at once: a few milliseconds of work."""


@dataclass(frozen=True, slots=True)
class ArchivedItem:
    """One item of a file."""

    position: int
    """Of its entry in `pruned_items`."""
    item: int
    session_id: str
    row: Mapping[str, Any]
    """The row of `messages` as it was, by column."""
    line: bytes
    """All of it, as it stands in the file."""


class ArchiveWriter:
    """Writes one file; nothing of it is there before `commit`."""

    def __init__(self, path: Path, disk: Disk) -> None:
        """Begin the file aside.

        Raises:
            StorageFullError: no space left.
        """
        self.items = self.content_bytes = 0
        self._name = path.name
        self._file = Replacement(path, disk=disk)
        self._digest = hashlib.sha256()
        self._zstd = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compressobj()

    def add_held(self, piece: Sequence[Held]) -> list[int]:
        """Add entries; return the positions of those that were left out: they cannot be read."""
        unreadable = []
        for held in piece:
            try:
                self.add(_line(held))
            except ValueError:
                unreadable.append(held.due.position)
        return unreadable

    def add_lines(self, lines: Sequence[bytes]) -> None:
        """Add the lines of items, as they stand in another file."""
        for line in lines:
            self.add(line)

    def add(self, line: bytes) -> None:
        """Add the line of an item."""
        self._write(self._zstd.compress(line + b"\n"))
        self.items += 1
        self.content_bytes += len(line) + 1

    def commit(self) -> None:
        """Put the file in place.

        Durability: on return it survives power loss.
        """
        self._write(self._zstd.flush())
        self._file.commit()

    def row(self, made_at: str, purge_at: str | None) -> ArchiveRow:
        """Return what is to be known of the file once it is in place; instants as they stand there.

        Args:
            made_at: From when on its time counts.
            purge_at: When that is over; None: never.
        """
        return ArchiveRow(
            name=self._name,
            made_at=made_at,
            purge_at=purge_at,
            items=self.items,
            content_bytes=self.content_bytes,
            file_bytes=self._file.written_bytes,
            sha256=self._digest.hexdigest(),
        )

    def discard(self) -> None:
        """Give the file up; harmless after `commit`."""
        self._file.discard()

    def _write(self, piece: bytes) -> None:
        if piece:
            self._digest.update(piece)
            self._file.write(piece)


def _line(held: Held) -> bytes:
    row = orjson.loads(held.original)
    record = orjson.loads(held.record)
    if not isinstance(row, dict) or row.get("position") != held.item:
        raise ValueError("its original is not its row")

    return orjson.dumps(
        {
            "position": held.due.position,
            "item": held.item,
            "session_id": held.session_id,
            "session_key": held.session_key,
            "run_id": held.run_id,
            "at": held.at,
            "record": record,
            "row": row,
        }
    )


def read_file(path: Path, sha256: str, disk: Disk) -> Generator[list[ArchivedItem]]:
    """Yield what a file holds, in the order in which it was put in, some items at a time.

    Raises:
        DamagedDataError: it is not as it was written, or not there; told before any item.
        StorageError: it cannot be read.
    """
    try:
        with storage_errors(path):
            descriptor = disk.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise DamagedDataError(path, "the file of the archive is not there") from error
        raise

    with storage_errors(path), disk.reader(descriptor) as file:
        digest = hashlib.sha256()
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
        if digest.hexdigest() != sha256:
            raise DamagedDataError(path, "not as it was written: its SHA-256 is another")

        file.seek(0)
        try:
            with zstandard.ZstdDecompressor().stream_reader(file, closefd=False) as content:
                yield from _items(io.BufferedReader(content, PIECE_BYTES))
        except (zstandard.ZstdError, KeyError, TypeError, ValueError) as error:
            # Of what it says nothing is told: it may cite what it read.
            raise DamagedDataError(path, "not a file of the archive") from error


def _items(lines: io.BufferedReader) -> Generator[list[ArchivedItem]]:
    found: list[ArchivedItem] = []
    total = 0
    while line := lines.readline():
        fields = orjson.loads(line)
        if not isinstance(fields["row"], dict):
            raise ValueError("an item has no row")  # noqa: TRY004 - bad data

        found.append(
            ArchivedItem(
                int(fields["position"]),
                int(fields["item"]),
                str(fields["session_id"]),
                fields["row"],
                line.rstrip(b"\n"),
            )
        )
        total += len(line)
        if total >= PIECE_BYTES:
            yield found
            found, total = [], 0
    if found:
        yield found
