"""Changes of items in one transaction: the rows, their originals, the audit, the row of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from gateway.pruning.conditions import NO_TOTALS, Totals
from gateway.pruning.items import MARKS
from gateway.pruning.store import Committed
from gateway.retention.rows import plain_record
from gateway.transcripts import gone, items, pruned
from gateway.transcripts.items import position_of
from gateway.transcripts.pruned import PrunedRow, PrunedState, RunCause

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.durable.batch import Transaction
    from gateway.pruning.records import PrunedItem, RunStarted
    from gateway.pruning.store import Change, Changes


def commit(
    transaction: Transaction, changes: Changes, *, due_at: str, run: RunStarted | None
) -> tuple[Committed, frozenset[str]]:
    """Do all of the changes, or none of them.

    Args:
        transaction: Where.
        changes: What becomes of which items.
        due_at: When their grace ends.
        run: The run in progress, for its row.

    Returns:
        What came of it, and the sessions whose contents are others now.
    """
    originals: dict[int, dict[str, Any]] = {}
    stale = set[str]()
    for change in changes:
        position = position_of(change.item_id)
        row = None if position is None else items.original(transaction, position)
        if position is None or row is None or row["version"] != change.version:
            stale.add(change.item_id)
        else:
            originals[position] = row
    if stale:
        return Committed(frozenset(stale)), frozenset()

    if any(change.after is None for change in changes):
        gone.keep_positions(transaction)  # The newest message of all may be among them.
    changed, left = set[str](), dict[str, Totals]()
    for change, (position, row) in zip(changes, originals.items(), strict=True):
        _change(transaction, position, change)
        if change.record is not None:
            if not changed:
                _begin(transaction, change, run)
            found = items.size_of(transaction, position)
            after = Totals(*found) if found else NO_TOTALS
            left[change.item_id] = after
            _audit(transaction, position, row, change.record, after, due_at)
            changed.add(row["session_id"])
    return Committed(after=left), frozenset(changed)


def _begin(transaction: Transaction, change: Change, run: RunStarted | None) -> None:
    """See to it that the run of a change has its row."""
    cause, started_at = RunCause.APPLY.value, change.at
    if run is not None and run.run_id == change.run_id:
        cause, started_at = run.trigger, run.started_at
    pruned.begin_run(transaction, change.run_id, cause=cause, started_at=started_at)


def _change(transaction: Transaction, position: int, change: Change) -> None:
    if change.after is None:
        items.remove(transaction, position)
        return

    marks = orjson.dumps(change.after.metadata.get(MARKS)).decode()
    if change.record is None:
        items.mark(transaction, position, marks)
    elif change.after.content is None:
        raise ValueError("an item without its content cannot take the place of one")
    else:
        items.shorten(transaction, position, change.after.content, marks)


def _audit(
    transaction: Transaction,
    position: int,
    original: Mapping[str, Any],
    record: PrunedItem,
    after: Totals,
    due_at: str,
) -> None:
    row = PrunedRow(
        run_id=record.run_id,
        item=position,
        session_id=original["session_id"],
        action=record.action.kind,
        state=PrunedState.HELD,
        at=pruned.instant(record.at),
        due_at=due_at,
        archive=None,
        record=plain_record(record, after),
    )
    pruned.add(transaction, row, original)
