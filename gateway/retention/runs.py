"""What is kept and told of runs: those that changed something, were refused, or failed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from gateway.errors import NotFoundError
from gateway.log import get_logger
from gateway.pruning import RunStatus
from gateway.retention.naming import run_id_of
from gateway.transcripts import pruned
from gateway.transcripts.pruned import RUNNING, RunRow
from gateway.transcripts.reading import session_ids_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from gateway.durable.batch import Queries, Transaction
    from gateway.pruning import PruningResult, PruningStats
    from gateway.pruning.records import RunStarted, Tally
    from gateway.retention.keeping import Kept

INTERRUPTED: Final = "interrupted"
"""The status of a run that the end of the gateway has cut off."""
FAILED: Final = "failed"
"""The status of a run that an error has ended."""


def read_runs(place: Queries, *, limit: int, before: int | None) -> list[RunRow]:
    """Return runs, newest first; those whose end was not noted with what they have done so far.

    Their records come without failures and without sums by rule, for there may be many of each.

    Args:
        place: Where.
        limit: How many at most.
        before: Only those with a smaller position.
    """
    return [
        _so_far(place, row) if row.status == RUNNING else row
        for row in pruned.runs(place, limit=limit, before=before, brief=True)
    ]


def read_run(place: Queries, given: str) -> RunRow:
    """Return one run with all that is kept of it; see `read_runs` and `run_id_of`.

    Raises:
        BadRequestError: more than one may be meant.
        NotFoundError: there is none, or its row is lost.
    """
    run_id = run_id_of(place, given)
    row = pruned.find_run(place, run_id)
    if row is None:
        raise NotFoundError(f"of the run {run_id!r} nothing is known but its items")

    return _so_far(place, row) if row.status == RUNNING else row


def told(row: RunRow, in_progress: Collection[str | None]) -> RunRow:
    """Return a run as it is told: one without an end that is not in progress was cut off."""
    is_cut_off = row.status == RUNNING and row.run_id not in in_progress
    return replace(row, status=INTERRUPTED) if is_cut_off else row


def _so_far(place: Queries, row: RunRow) -> RunRow:
    """Return a run with what its items add up to."""
    count, freed_bytes, freed_tokens = pruned.sums_of_run(place, row.run_id)
    return replace(row, pruned=count, freed_bytes=freed_bytes, freed_tokens=freed_tokens)


def note_end(transaction: Transaction, row: RunRow) -> None:
    """Note how a run ended; of a session that was erased meanwhile it tells nothing."""
    record = dict(row.record or {})
    session_id = record.get("session_id")
    if session_id and not session_ids_of(transaction, str(session_id)):
        record["session_id"] = None
    pruned.end_run(transaction, replace(row, record=record))


def failed_row(started: RunStarted, ended_at: datetime, error: Exception) -> RunRow:
    """Return what is kept of a run that failed as a whole; what it did until then is added up."""
    return RunRow(
        run_id=started.run_id,
        cause=started.trigger,
        started_at=pruned.instant(started.started_at),
        ended_at=pruned.instant(ended_at),
        status=FAILED,
        # Its text may quote what somebody wrote.
        detail=f"{type(error).__name__} (the log tells more)",
        record={"force": started.force, "session_id": started.session_id},
    )


def note_failed(transaction: Transaction, row: RunRow) -> None:
    """Note that a run failed, with what it did until then."""
    note_end(transaction, _so_far(transaction, row))


def run_row(result: PruningResult) -> RunRow:
    """Return what is kept of a run."""
    stats = result.stats
    return RunRow(
        run_id=result.id,
        cause=result.trigger,
        started_at=pruned.instant(result.started_at),
        ended_at=pruned.instant(result.completed_at),
        status=result.status.value,
        detail=result.detail,
        pruned=stats.pruned_count,
        freed_bytes=stats.freed_bytes,
        freed_tokens=stats.freed_tokens,
        record={
            "plan_id": result.plan_id,
            "force": result.force,
            "session_id": result.session_id,
            "stats": plain_stats(stats),
            "errors": [
                {"item_id": one.item_id, "rule_id": one.rule_id, "error": one.error}
                for one in result.errors
            ],
        },
    )


def log_run(result: PruningResult) -> None:
    """Tell how a run ended; of contents nothing."""
    log = get_logger().info if result.status is RunStatus.OK else get_logger().warning
    log(
        "items.pruned",
        run_id=result.id,
        cause=result.trigger,
        status=result.status.value,
        detail=result.detail,
        pruned=result.stats.pruned_count,
        skipped=result.stats.skipped_count,
        errors=result.stats.error_count,
        freed_bytes=result.stats.freed_bytes,
        freed_tokens=result.stats.freed_tokens,
        duration_ms=result.stats.duration_ms,
    )


def log_sweep(kept: Kept) -> None:
    """Tell what became of what had been kept for long enough, if anything did."""
    if not kept.is_idle:
        get_logger().info(
            "items.kept_long_enough",
            purged=kept.purged_items,
            archived=kept.archived_items,
            archived_bytes=kept.archived_bytes,
            removed_archives=kept.removed_archives,
            moved=kept.moved_items,
            forgotten_sessions=kept.forgotten_sessions,
            forgotten_records=kept.forgotten_records,
            freed_bytes=kept.freed_bytes,
        )
    for problem in kept.problems:
        get_logger().warning("items.damaged", problem=problem)


def plain_stats(stats: PruningStats) -> dict[str, Any]:
    """Return the sums of a run, but for those that its row has."""
    return {
        "scanned_count": stats.scanned_count,
        "skipped_count": stats.skipped_count,
        "error_count": stats.error_count,
        "duration_ms": stats.duration_ms,
        "by_rule": _tallies(stats.by_rule),
        "by_action": _tallies(stats.by_action),
        "skipped_by_reason": dict(stats.skipped_by_reason),
    }


def _tallies(by: Mapping[str, Tally]) -> dict[str, dict[str, int]]:
    return {
        name: {
            "count": one.count,
            "freed_bytes": one.freed_bytes,
            "freed_tokens": one.freed_tokens,
        }
        for name, one in by.items()
    }
