"""The rows that can still be read of a database, copied into a new one; see `row_checks`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.durable.connection import Connection
from gateway.durable.disk import SYSTEM_DISK
from gateway.durable.inspecting import NEWEST, readable_frames, version_of
from gateway.durable.salvaging import Row, TableReader, add_row, columns_of
from gateway.durable.wal import check_wal
from gateway.errors import DatabaseTooNewError, GatewayError
from gateway.upkeep import pairing_rows, process_rows, pruning_rows, token_rows, webhook_rows
from gateway.upkeep.losses import Losses
from gateway.upkeep.row_checks import CHECKS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

LOG: Final = "session_log"
TABLES: Final = (
    "sessions",
    "messages",
    "model_calls",
    "projections",
    "context_accounts",
    "summaries",
    "session_users",
    "usage",
    "inbox",
    "broken_starts",
    "outbox",
    "outbox_chats",
    *pairing_rows.CHECKS,
    *process_rows.CHECKS,
    *pruning_rows.CHECKS,
    *token_rows.CHECKS,
    *webhook_rows.CHECKS,
)
"""What is copied. The session log becomes part of the new snapshot, sums over items come with the
messages."""
MEANINGS: Final = {
    LOG: "changes of entries",
    "sessions": "sessions under their keys",
    "messages": "messages of transcripts",
    "model_calls": "model calls",
    "projections": "tool results that contexts hold shortened",
    "context_accounts": "accounts of contexts",
    "summaries": "summaries of old turns",
    "session_users": "names of users of sessions",
    "usage": "sums of what model calls used",
    "inbox": "messages that were accepted",
    "broken_starts": "sessions that broke starts",
    "outbox": "replies",
    "processes": "background processes",
    "outbox_chats": "chats that replies are owed to",
    "pairing_requests": "people who wait to be paired",
    "pairing_locks": "counts of wrong pairing codes",
    "paired_users": "paired users",
    "pruning_runs": "runs of pruning",
    "pruned_items": "items that pruning took",
    "pruned_originals": "contents of items that pruning holds",
    "archives": "files of the archive",
    "api_tokens": "tokens of clients",
    "webhook_events": "events for webhooks",
}
_SINCE: Final = (
    (NEWEST, "messages", "marks"),
    (6, "inbox", "begun"),
    (5, "model_calls", "purpose"),
    (4, "messages", "images"),
    (2, "outbox", "message_id"),
)
"""Which version brought a column of a table."""


@dataclass(slots=True)
class RowCopy:
    """Copies rows from a damaged database into a new one."""

    source: Connection
    target: Connection
    losses: Losses

    def copy_all(self) -> None:
        """Copy every table but the session log."""
        for table in TABLES:
            columns = columns_of(self.target, table)
            if not columns:
                # An older database: its new tables are made once it is filled.
                continue
            missing = set(columns) - set(columns_of(self.source, table))
            if missing:
                self.losses.add(f"gateway.db: {table}", f"all {MEANINGS[table]}: no such table")
                continue
            self._copy(table, columns)

    def _copy(self, table: str, columns: list[str]) -> None:
        check = CHECKS.get(table)

        def take(rowid: int, row: Row) -> None:
            fields = dict(zip(columns, row, strict=True))
            problem = "" if check is None else check(fields)
            if not problem and add_row(self.target, table, columns, tuple(fields.values())):
                return

            example = f"row {rowid}: {problem or 'refused by the table'}"
            self.losses.add(
                f"gateway.db: {table}", f"{MEANINGS[table]} that are not valid", example
            )

        read_rows(self.source, table, columns, take, self.losses)


def read_rows(
    source: Connection,
    table: str,
    columns: Sequence[str],
    take: Callable[[int, Row], None],
    losses: Losses,
) -> bool:
    """Read a table; tell whether something of it could not be read."""
    gaps = TableReader(source, table, columns, take).read()
    place, what = f"gateway.db: {table}", MEANINGS[table]
    for gap in gaps:
        if gap.open_ended and gap.after < 0:
            losses.add(place, f"all {what}: the table cannot be read")
        elif gap.open_ended:
            end = f"{what} from row {gap.after + 1} on; nobody knows how many"
            losses.add(place, end)
        else:
            example = f"rows {gap.after + 1} to {gap.before - 1}"
            most = f"{what} at most, in rows that cannot be read"
            losses.add(place, most, example, count=gap.at_most)
    return bool(gaps)


def count_rows(connection: Connection) -> dict[str, int]:
    """Return how many rows each table has, the session log apart."""
    return {
        table: int(str(connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]))  # noqa: S608 - names of ours
        for table in TABLES
    }


def version_to_read(connection: Connection, path: Path) -> int:
    """Return the version of a damaged database's tables.

    Raises:
        DatabaseTooNewError: a newer gateway wrote it.
    """
    version = version_of(connection)
    if 1 <= version <= NEWEST:
        return version

    if NEWEST < version <= NEWEST + 1000:
        raise DatabaseTooNewError(f"{path}: version {version} was written by a newer gateway")

    # The number itself is damaged: the tables tell.
    for told, table, column in _SINCE:
        if column in columns_of(connection, table):
            return told
    return 1


def wal_loss(connection: Connection, path: Path, losses: Losses) -> None:
    """Note commits at the end of the WAL that were synced and cannot be read any more."""
    try:
        check_wal(path, readable_frames(connection, path, SYSTEM_DISK))
    except GatewayError as error:
        losses.add(f"{path.name}-wal", "the newest commits", str(error))
