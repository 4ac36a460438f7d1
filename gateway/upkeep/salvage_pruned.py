"""What pruning took, in the new database of a salvage: each item in one place, each archive there.

Rows were read as they are, so after damage they may not agree: an item that is in its transcript
again counts as restored, one whose archive is lost as purged. Nothing is lost by either. One that
is held without what it was counts as purged, and what nothing tells of any more goes to a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from gateway.durable.connection import Connection
from gateway.durable.disk import Disk, remove
from gateway.durable.files import storage_errors
from gateway.errors import StorageError, StorageFullError
from gateway.upkeep.archive_files import (
    FOLDER,
    Content,
    archives_of,
    content_of,
    copy_file,
    make_folder,
    names_in,
)
from gateway.upkeep.losses import Losses
from gateway.upkeep.pruning_rows import (
    AWAY,
    KEPT,
    LEFT_ORIGINALS,
    is_file_name,
    lost_originals,
)

if TYPE_CHECKING:
    from collections.abc import Callable

STRAYS: Final = "salvaged-archive"
"""Files of the archive of which nothing tells any more what they hold."""
_ROWS: Final = "gateway.db: pruned_items"
_ORIGINALS: Final = "gateway.db: pruned_originals"
_RESTORED: Final = "SET state = 'restored', due_at = NULL, archive = NULL"
_COUNT_AGAIN: Final = (
    "UPDATE archives SET items = (SELECT count(*) FROM pruned_items WHERE archive = archives.name)"
)
_LOST: Final = "SET state = 'purged', due_at = NULL, archive = NULL"
_OF_NOBODY: Final = f"{KEPT} AND session_id NOT IN (SELECT session_id FROM sessions)"  # noqa: S608 - a text of ours
_OF_NO_ENTRY: Final = "entry NOT IN (SELECT position FROM pruned_items)"
_ARCHIVE_AGAIN: Final = (
    "INSERT INTO archives (name, made_at, purge_at, items, content_bytes, file_bytes, sha256) "
    "SELECT archive, max(at), NULL, count(*), "
    "CAST(total(json_extract(record, '$.before.size_bytes')) AS INTEGER), ?, ? "
    "FROM pruned_items WHERE archive = ?"
)
# Of an erased session an entry stays only as long as a file has something of it.
_WITHOUT_FILE: Final = (
    "DELETE FROM pruned_items WHERE archive = ? AND state = 'purged'",
    f"UPDATE pruned_items {_LOST} WHERE archive = ? AND state = 'archived'",
    "UPDATE pruned_items SET archive = NULL WHERE archive = ?",
    "DELETE FROM archives WHERE name = ?",
)


def settle_pruned(
    connection: Connection, losses: Losses, keep: Callable[[dict[str, object]], None]
) -> None:
    """Make the entries of the audit agree with messages and sessions.

    Args:
        connection: The new database, in a transaction, its messages settled.
        losses: Where it is told what is given up.
        keep: Takes the originals that nobody can be found for any more.
    """
    _settle_originals(connection, losses, keep)
    for (original,) in connection.execute(
        "SELECT original FROM pruned_originals JOIN pruned_items ON position = entry "  # noqa: S608 - texts of ours
        f"WHERE {_OF_NOBODY} ORDER BY item"
    ):
        keep(orjson.loads(original))
    connection.execute(f"UPDATE pruned_items {_LOST} WHERE {_OF_NOBODY}")
    if gone := connection.changes():
        what = "items of conversations whose key is lost; what was held is in "
        losses.add(_ROWS, f"{what}salvaged-messages.jsonl", count=gone)
    connection.execute(
        f"UPDATE pruned_items {_RESTORED} "  # noqa: S608 - texts of ours
        f"WHERE {AWAY} AND item IN (SELECT position FROM messages)"
    )
    if there := connection.changes():
        losses.note(f"{_ROWS}: {there} items that it took are in their transcripts")
    connection.execute(
        f"UPDATE pruned_items {_RESTORED} WHERE {AWAY} AND {KEPT} AND EXISTS "  # noqa: S608 - texts of ours
        "(SELECT 1 FROM pruned_items AS later WHERE later.item = pruned_items.item "
        f"AND later.position > pruned_items.position AND {AWAY} AND {KEPT})"
    )
    if twice := connection.changes():
        losses.note(f"{_ROWS}: {twice} items that it took were taken again since")


def _settle_originals(
    connection: Connection, losses: Losses, keep: Callable[[dict[str, object]], None]
) -> None:
    """See to it that what items were is there for those that are held, and for no others."""
    lost = lost_originals(connection)
    for entry in lost:
        for (original,) in connection.execute(
            "SELECT original FROM pruned_originals WHERE entry = ?", (entry,)
        ):
            # A row, but of another item.
            keep(orjson.loads(original))
        connection.execute(f"UPDATE pruned_items {_LOST} WHERE position = ?", (entry,))
    if lost:
        what = "items that were held, and are gone now"
        losses.add(_ROWS, what, f"row {lost[0]}: held without what it was", count=len(lost))
    for (original,) in connection.execute(
        f"SELECT original FROM pruned_originals WHERE {_OF_NO_ENTRY} ORDER BY entry"  # noqa: S608 - a text of ours
    ):
        keep(orjson.loads(original))
    connection.execute(f"DELETE FROM pruned_originals WHERE {_OF_NO_ENTRY}")  # noqa: S608 - a text of ours
    if aside := connection.changes():
        what = "places of items of which nothing is told any more; they are in "
        losses.add(_ORIGINALS, f"{what}salvaged-messages.jsonl", count=aside)
    connection.execute(
        f"DELETE FROM pruned_originals WHERE entry IN (SELECT entry FROM ({LEFT_ORIGINALS}))"  # noqa: S608 - a text of ours
    )
    if left := connection.changes():
        losses.note(f"{_ORIGINALS}: {left} items are not held any more; nothing is lost")


@dataclass(frozen=True, slots=True)
class ArchiveCarrying:
    """Carries the files of an archive over, each with the check that it is as it was written."""

    source: Path
    """The damaged state directory."""
    target: Path
    """The new one."""
    connection: Connection
    """Its database, in a transaction."""
    losses: Losses
    disk: Disk
    given_up: set[str] = field(default_factory=set)

    def carry(self) -> None:
        """Copy what the new database names; what it does not name is kept aside after a loss."""
        self._name_again()
        named = archives_of(self.connection)
        for name, wanted in named.items():
            problem = ""
            try:
                if self._copy(name, FOLDER) != wanted:
                    problem = "not as it was written"
            except StorageFullError:
                raise
            except StorageError as error:
                problem = str(error)
            if problem:
                self._give_up(name, problem)
        # Of a whole database such a file is left over: it still has all that is in it.
        if self.losses.losses:
            self._keep_strays(self.given_up | named.keys())
            # A file with more lines than are named is taken for one that was to be written anew.
            self.connection.execute(_COUNT_AGAIN)

    def _name_again(self) -> None:
        """Make the rows anew of files that only their items tell of."""
        for name, kept in self.connection.execute(
            "SELECT archive, sum(state = 'archived') FROM pruned_items WHERE archive IS NOT NULL "
            "AND archive NOT IN (SELECT name FROM archives) GROUP BY archive"
        ).fetchall():
            content, problem = None, ""
            if kept:
                try:
                    content = content_of(self.source / FOLDER / str(name), self.disk)
                except StorageError as error:
                    problem = str(error)
            if content is None:
                self._give_up(str(name), problem)
                continue
            self.connection.execute(_ARCHIVE_AGAIN, (content.size_bytes, content.sha256, name))
            what = "certainty: their check sums are lost, so they may be altered"
            self.losses.add(FOLDER, what, str(name))

    def _copy(self, name: str, folder: str) -> Content:
        make_folder(self.target / folder, self.disk)
        return copy_file(self.source / FOLDER / name, self.target / folder / name, self.disk)

    def _give_up(self, name: str, problem: str) -> None:
        """Let go of a file; items whose contents are nowhere else are purged thereby."""
        with storage_errors(self.target):
            remove(self.disk, self.target / FOLDER / name)
        rows = self.connection.execute(
            "SELECT count(*) FROM pruned_items WHERE archive = ? AND state = 'archived'", (name,)
        ).fetchall()
        for statement in _WITHOUT_FILE:
            self.connection.execute(statement, (name,))
        self.given_up.add(name)
        lost = int(str(rows[0][0]))
        if lost:
            what = "items in files that are lost or damaged"
            self.losses.add(FOLDER, what, f"{name}: {problem}", count=lost)
        else:
            self.losses.note(f"{FOLDER}/{name}: nothing that could be given back was in it")

    def _keep_strays(self, known: set[str]) -> None:
        folder = self.source / FOLDER
        for name in sorted(names_in(folder) - known):
            if not is_file_name(name) or name.endswith(".tmp") or not (folder / name).is_file():
                continue
            try:
                self._copy(name, STRAYS)
            except StorageFullError:
                raise
            except StorageError as error:
                self.losses.add(FOLDER, "files that cannot be read", str(error))
            else:
                what = f"files of which nothing tells what they hold, kept in {STRAYS}"
                self.losses.add(FOLDER, what, name)
