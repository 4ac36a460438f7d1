"""What pruning did: a row an item and action, a row a run. No contents, but for the originals.

An original is the row of `messages` as it was, all its columns but the generated ones, as long as
it can be given back from the database: a trigger deletes it with the change of its entry's state
that says it is not held any more, and with its entry. Instants are fixed to microseconds, so that
they compare as texts do. Rows are put in, and read newest first by position; what becomes of them
when their time is over is for others (`gateway.retention`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.transcripts.gone import NEXT_ENTRY
from gateway.transcripts.outbox import sortable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from gateway.durable.batch import Queries, Transaction

_COLUMNS: Final = "position, run_id, item, session_id, action, state, at, due_at, archive, record"
_RUN_COLUMNS: Final = (
    "position, run_id, cause, started_at, ended_at, status, detail, pruned, freed_bytes, "
    "freed_tokens, record"
)
_BRIEF: Final = (
    "CASE WHEN json_valid(record) THEN json_remove(record, '$.errors', '$.stats.by_rule') "
    "ELSE record END"
)
NEWEST: Final = 2**63 - 1
"""Beyond the position of any entry."""


class PrunedState(StrEnum):
    """Where what was taken is."""

    HELD = "held"
    """In its grace: the original is in the database until `due_at`."""
    ARCHIVED = "archived"
    """In the archive file that `archive` names."""
    PURGED = "purged"
    """Nowhere any more."""
    RESTORED = "restored"
    """Back in its place."""


class RunCause(StrEnum):
    """Why a run was made."""

    DUE = "due"
    """The rules were."""
    APPLY = "apply"
    """Somebody asked for it."""
    RETENTION = "retention"
    """Transcripts of removed sessions had been kept long enough."""


RUNNING: Final = "running"
"""The status of a run that has not ended; where none is in progress it was cut off."""


@dataclass(frozen=True, slots=True)
class PrunedRow:
    """What was done to one item."""

    run_id: str
    item: int
    """The position that the item has or had in `messages`."""
    session_id: str
    action: str
    """`delete`, `archive`, `summarize` or `compact`."""
    state: str
    """A `PrunedState`; another text is damage."""
    at: str
    """When, as `instant` writes it."""
    due_at: str | None
    """When the grace ends, as `instant` writes it; None where there is none."""
    archive: str | None
    """The name of the archive file; None where it is in none."""
    record: Mapping[str, Any] | None
    """Why, and what it took before and after; None where it cannot be read."""
    position: int = 0
    """Place in the order of all; grows. 0: not stored yet."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run that changed something, was refused, or failed."""

    run_id: str
    cause: str
    """A `RunCause`."""
    started_at: str
    """As `instant` writes it."""
    ended_at: str | None
    """None until it ends."""
    status: str
    """`running` until it ends."""
    detail: str = ""
    """Why it was refused, failed or ended early; else empty."""
    pruned: int = 0
    """How many items it changed."""
    freed_bytes: int = 0
    freed_tokens: int = 0
    record: Mapping[str, Any] | None = None
    """What else is kept of it; None where it cannot be read."""
    position: int = 0
    """Place in the order of all; grows. 0: not stored yet."""


def instant(at: datetime) -> str:
    """Return an instant in UTC so that instants compare as texts do."""
    return sortable(at)


def add(transaction: Transaction, row: PrunedRow, original: Mapping[str, Any] | None) -> int:
    """Store what was done to an item, with its row as it was; return the position of the entry."""
    transaction.execute(
        f"INSERT INTO pruned_items ({_COLUMNS}) "  # noqa: S608 - constant column names
        f"VALUES ({NEXT_ENTRY}, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.run_id,
            row.item,
            row.session_id,
            row.action,
            row.state,
            row.at,
            row.due_at,
            row.archive,
            _json(row.record),
        ),
    )
    position = transaction.connection.last_insert_rowid()
    if original is not None:
        transaction.execute(
            "INSERT INTO pruned_originals (entry, original) VALUES (?, ?)",
            (position, orjson.dumps(original)),
        )
    return position


def find(place: Queries, position: int) -> PrunedRow | None:
    """Return one entry by its position."""
    rows = place.execute(
        f"SELECT {_COLUMNS} FROM pruned_items WHERE position = ?",  # noqa: S608 - constant column names
        (position,),
    ).fetchall()
    return _row(rows[0]) if rows else None


def original(place: Queries, position: int) -> dict[str, Any] | None:
    """Return the row of `messages` that an entry holds, by column; None where it holds none.

    Raises:
        ValueError: it cannot be read.
    """
    rows: list[Any] = place.execute(
        "SELECT original FROM pruned_originals WHERE entry = ?", (position,)
    ).fetchall()
    if not rows:
        return None

    columns = orjson.loads(rows[0][0])
    if not isinstance(columns, dict):
        raise ValueError("the original is no table of columns")  # noqa: TRY004 - bad data

    return columns


def page(
    place: Queries,
    *,
    limit: int,
    before: int | None = None,
    item: int | None = None,
    run_id: str | None = None,
    session_ids: Collection[str] | None = None,
    states: Collection[str] | None = None,
) -> list[PrunedRow]:
    """Return entries, newest first: those for which everything holds that is not None.

    Args:
        place: Where.
        limit: How many at most.
        before: Only entries with a smaller position.
        item: Only of the item that has or had this position in `messages`.
        run_id: Only of one run.
        session_ids: Only of these sessions.
        states: Only in these states.
    """
    conditions, bindings = ["position < ?"], list[object]([NEWEST if before is None else before])
    for name, value in (("item", item), ("run_id", run_id)):
        if value is not None:
            conditions.append(f"{name} = ?")
            bindings.append(value)
    # The unary plus: by the state alone there is no index in the order of positions.
    for name, values in (("session_id", session_ids), ("+state", states)):
        if values is not None:
            conditions.append(f"{name} IN (SELECT value FROM json_each(?))")  # noqa: S608 - names of ours
            bindings.append(orjson.dumps(sorted(values)).decode())
    rows = place.execute(
        f"SELECT {_COLUMNS} FROM pruned_items WHERE {' AND '.join(conditions)} "  # noqa: S608 - constant column names
        "ORDER BY position DESC LIMIT ?",
        (*bindings, limit),
    )
    return [_row(row) for row in rows]


def sums_of_run(place: Queries, run_id: str) -> tuple[int, int, int]:
    """Return how many items a run has changed, and the bytes and tokens that this has freed."""
    rows = place.execute(
        "SELECT count(*), coalesce(sum(record ->> '$.before.size_bytes' "
        "- coalesce(record ->> '$.after.size_bytes', 0)), 0), "
        "coalesce(sum(record ->> '$.before.tokens' - coalesce(record ->> '$.after.tokens', 0)), 0) "
        "FROM (SELECT CASE WHEN json_valid(record) THEN record ELSE '{}' END AS record "
        "FROM pruned_items WHERE run_id = ?)",
        (run_id,),
    ).fetchall()
    count, freed_bytes, freed_tokens = (int(str(one)) for one in rows[0])
    return count, freed_bytes, freed_tokens


def is_grace_over(place: Queries, now: datetime) -> bool:
    """Return whether there is an original that has been held for long enough."""
    return bool(
        place.execute(
            "SELECT 1 FROM pruned_items WHERE state = ? AND due_at <= ? LIMIT 1",
            (PrunedState.HELD.value, instant(now)),
        ).fetchall()
    )


def count_in(place: Queries, state: str) -> int:
    """Return how many entries are in a state."""
    rows = place.execute("SELECT count(*) FROM pruned_items WHERE state = ?", (state,)).fetchall()
    return int(str(rows[0][0]))


def begin_run(transaction: Transaction, run_id: str, *, cause: str, started_at: datetime) -> None:
    """Note that a run has begun to change something; one that is noted already stays as it is."""
    transaction.execute(
        f"INSERT INTO pruning_runs ({_RUN_COLUMNS}) "  # noqa: S608 - constant column names
        "VALUES (NULL, ?, ?, ?, NULL, ?, '', 0, 0, 0, '{}') ON CONFLICT (run_id) DO NOTHING",
        (run_id, cause, instant(started_at), RUNNING),
    )


def end_run(transaction: Transaction, row: RunRow) -> None:
    """Note how a run ended, whether or not it was noted that it began."""
    transaction.execute(
        f"INSERT INTO pruning_runs ({_RUN_COLUMNS}) "  # noqa: S608 - constant column names
        "VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run_id) DO UPDATE SET "
        "ended_at = excluded.ended_at, status = excluded.status, detail = excluded.detail, "
        "pruned = excluded.pruned, freed_bytes = excluded.freed_bytes, "
        "freed_tokens = excluded.freed_tokens, record = excluded.record",
        (
            row.run_id,
            row.cause,
            row.started_at,
            row.ended_at,
            row.status,
            row.detail,
            row.pruned,
            row.freed_bytes,
            row.freed_tokens,
            _json(row.record),
        ),
    )


def find_run(place: Queries, run_id: str) -> RunRow | None:
    """Return one run."""
    rows = place.execute(
        f"SELECT {_RUN_COLUMNS} FROM pruning_runs WHERE run_id = ?",  # noqa: S608 - constant column names
        (run_id,),
    ).fetchall()
    return _run_row(rows[0]) if rows else None


def runs(
    place: Queries, *, limit: int, before: int | None = None, brief: bool = False
) -> list[RunRow]:
    """Return runs, newest first.

    Args:
        place: Where.
        limit: How many at most.
        before: Only those with a smaller position.
        brief: Whether their records come without failures and without sums by rule.
    """
    columns = f"{_RUN_COLUMNS.removesuffix('record')}{_BRIEF}" if brief else _RUN_COLUMNS
    rows = place.execute(
        f"SELECT {columns} FROM pruning_runs WHERE position < ? "  # noqa: S608 - constant column names
        "ORDER BY position DESC LIMIT ?",
        (NEWEST if before is None else before, limit),
    )
    return [_run_row(row) for row in rows]


def _row(row: Sequence[Any]) -> PrunedRow:
    position, run_id, item, session_id, action, state, at, due_at, archive, record = row
    return PrunedRow(
        run_id, item, session_id, action, state, at, due_at, archive, _read(record), position
    )


def _run_row(row: Sequence[Any]) -> RunRow:
    position, *fields, record = row
    return replace(RunRow(*fields), record=_read(record), position=position)


def _json(record: Mapping[str, Any] | None) -> str:
    return orjson.dumps(dict(record or {})).decode()


def _read(text: str) -> dict[str, Any] | None:
    try:
        record = orjson.loads(text)
    except ValueError:
        return None

    return record if isinstance(record, dict) else None
