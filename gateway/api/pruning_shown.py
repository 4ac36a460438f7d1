"""Plans and runs of the rules as clients get them: sums by rule and action, and items in pages."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

from gateway.pruning.loading import plain_action
from gateway.retention.runs import plain_stats
from gateway.transcripts.items import item_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.pruning.explain import Explanation
    from gateway.pruning.plan import Plan, PlannedAction
    from gateway.pruning.records import PrunedItem, PruningResult
    from gateway.retention.pruning import PruningStatistics
    from gateway.retention.restoring import Restored
    from gateway.transcripts.pruned import PrunedRow, RunRow

MAX_LISTED: Final = 1_000
"""The most items in one answer."""
MAX_ERRORS: Final = 100
"""The most failures in one answer; all are counted."""

_OF_RECORD: Final = ("type", "rule_id", "rule_name", "reason", "observed", "before", "after")


@dataclass(slots=True)
class _Sum:
    """What one rule does by one action."""

    rule_id: str
    rule_name: str
    action: str
    count: int = 0
    freed_bytes: int = 0
    freed_tokens: int = 0


def shown_plan(plan: Plan, *, limit: int) -> dict[str, Any]:
    """Return a plan: its sums, and the first of its items.

    For a thread: of a large plan the sums take longer than the event loop may be held.
    """
    sums = _by_rule(chain.from_iterable(plan.units))
    return {
        "id": plan.id,
        "made_at": plan.made_at,
        "config_version": plan.config_version,
        "force": plan.force,
        "session_id": plan.session_id,
        "scanned": plan.scanned,
        "selected": plan.selected,
        "planned_count": sum(one.count for one in sums),
        "freed_bytes": sum(one.freed_bytes for one in sums),
        "freed_tokens": sum(one.freed_tokens for one in sums),
        "by_rule": sums,
        "more_count": plan.more,
        "skipped_count": sum(plan.skipped_by_reason.values()),
        "skipped_by_reason": dict(plan.skipped_by_reason),
        "breaker": plan.breaker or None,
        "error_count": plan.failed,
        "errors": plan.failures[:MAX_ERRORS],
        "skipped_items": plan.skipped[:limit],
        **shown_planned(plan, cursor=0, limit=limit),
    }


def shown_planned(plan: Plan, *, cursor: int, limit: int) -> dict[str, Any]:
    """Return a page of what a plan would do, in the order in which it is done."""
    actions = list(islice(chain.from_iterable(plan.units), cursor, cursor + limit + 1))
    more = len(actions) > limit
    return {
        "items": [_item(one) for one in actions[:limit]],
        "next_cursor": str(cursor + limit) if more else None,
    }


def shown_result(result: PruningResult, *, limit: int) -> dict[str, Any]:
    """Return what a run did, or in a dry run would do: its sums, and the first of its items.

    For a thread, as `shown_plan`.
    """
    stats = result.stats
    return {
        "id": result.id,
        "plan_id": result.plan_id,
        "trigger": result.trigger,
        "started_at": result.started_at,
        "completed_at": result.completed_at,
        "dry_run": result.dry_run,
        "force": result.force,
        "session_id": result.session_id,
        "success": result.success,
        "status": result.status,
        "detail": result.detail or None,
        "stats": plain_stats(stats)
        | {
            "pruned_count": stats.pruned_count,
            "freed_bytes": stats.freed_bytes,
            "freed_tokens": stats.freed_tokens,
        },
        "by_rule": _by_rule(result.pruned_items),
        "more_count": result.more,
        "pruned_items": [_item(one) | {"at": one.at} for one in result.pruned_items[:limit]],
        "skipped_items": result.skipped_items[:limit],
        "errors": result.errors[:MAX_ERRORS],
    }


def shown_explanation(explanation: Explanation) -> dict[str, Any]:
    """Return why an item stays or goes."""
    shown = asdict(explanation)
    for rule, told in zip(explanation.rules, shown["rules"], strict=True):
        for verdict, condition in zip(rule.conditions, told["conditions"], strict=True):
            condition["text"] = verdict.observation.text
    return shown


def shown_run(row: RunRow) -> dict[str, Any]:
    """Return a run as the history tells it, its failures counted."""
    stats = (row.record or {}).get("stats")
    return {
        "run_id": row.run_id,
        "cause": row.cause,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "status": row.status,
        "detail": row.detail or None,
        "pruned_count": row.pruned,
        "freed_bytes": row.freed_bytes,
        "freed_tokens": row.freed_tokens,
        "error_count": stats.get("error_count", 0) if isinstance(stats, dict) else 0,
        "record": row.record,
    }


def shown_entry(row: PrunedRow) -> dict[str, Any]:
    """Return what was done to an item as the history tells it."""
    record = row.record or {}
    return {
        "item_id": item_id(row.item),
        "session_id": row.session_id,
        "run_id": row.run_id,
        "state": row.state,
        "at": row.at,
        "due_at": row.due_at,
        "archive": row.archive,
        "action": record.get("action") or {"type": row.action},
        **{name: record.get(name) for name in _OF_RECORD},
    }


def shown_restored(restored: Restored) -> dict[str, Any]:
    """Return what was given back, and what was not: the first of each."""
    return {
        "restored_count": len(restored.items),
        "refused_count": len(restored.refused),
        "restored": restored.items[:MAX_LISTED],
        "refused": restored.refused[:MAX_LISTED],
    }


def shown_statistics(told: PruningStatistics) -> dict[str, Any]:
    """Return what pruning says of itself."""
    manager, stored = told.manager, told.stored
    last = manager.last_run
    return {
        "enabled": told.enabled,
        "rules": told.rules,
        "items": stored.totals.items,
        "size_bytes": stored.totals.size_bytes,
        "tokens": stored.totals.tokens,
        "sessions": stored.sessions,
        "held": stored.held,
        "archived": stored.archived,
        "archive": told.archive,
        "unreadable": stored.unreadable,
        "quarantined": manager.quarantined,
        "running": manager.is_running,
        "runs": manager.runs_by_status,
        "dry_runs": manager.dry_runs,
        "failures": manager.failures,
        "pruned_items": manager.pruned_items,
        "pruned_by_action": manager.pruned_by_action,
        "freed_bytes": manager.freed_bytes,
        "next_due_at": manager.next_due_at,
        "last_run": None
        if last is None
        else {
            "id": last.id,
            "trigger": last.trigger,
            "status": last.status,
            "detail": last.detail or None,
            "dry_run": last.dry_run,
            "started_at": last.started_at,
            "completed_at": last.completed_at,
            "pruned_count": last.stats.pruned_count,
            "freed_bytes": last.stats.freed_bytes,
            "freed_tokens": last.stats.freed_tokens,
            "duration_ms": last.stats.duration_ms,
        },
    }


def _by_rule(records: Iterable[PlannedAction | PrunedItem]) -> list[_Sum]:
    sums: dict[tuple[str, str], _Sum] = {}
    for one in records:
        place = one.rule_id, one.action.kind
        found = sums.get(place)
        if found is None:
            found = sums[place] = _Sum(one.rule_id, one.rule_name, one.action.kind)
        found.count += 1
        found.freed_bytes += one.before.size_bytes - one.after.size_bytes
        found.freed_tokens += one.before.tokens - one.after.tokens
    return list(sums.values())


def _item(one: PlannedAction | PrunedItem) -> dict[str, Any]:
    return {
        "item_id": one.item_id,
        "session_id": one.session_id,
        "type": one.type,
        "rule_id": one.rule_id,
        "rule_name": one.rule_name,
        "action": plain_action(one.action),
        "reason": one.reason,
        "observed": one.observed,
        "before": one.before,
        "after": one.after,
    }
