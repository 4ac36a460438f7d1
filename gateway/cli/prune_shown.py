"""What `gateway prune` shows to people: plans, runs, explanations, and how far a run is."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from gateway.cli import prune_tables as tables
from gateway.cli.output import local_time
from gateway.cli.prune_tables import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from gateway.cli.output import Screen

MAX_FAILURES: Final = 10
"""Failures that are shown one by one."""
_RULE: Final = Column("RULE", least=12)
_ACTION: Final = Column("ACTION", goes=1)
_WHY: Final = Column("WHY", least=20, folds=True)
_PLANNED: Final = (
    Column("ITEM"),
    Column("SESSION"),
    Column("TYPE", goes=2),
    Column("SIZE"),
    _RULE,
    _ACTION,
    Column("WHY", least=28, folds=True),
)
_SUMS: Final = (
    _RULE,
    Column("NAME", least=12, goes=1),
    Column("ACTION"),
    Column("ITEMS"),
    Column("FREED"),
    Column("TOKENS"),
)
_RUNS: Final = (
    Column("RUN"),
    Column("BEGAN"),
    Column("CAUSE", goes=2),
    Column("STATUS"),
    Column("ITEMS"),
    Column("FREED"),
    Column("TOKENS", goes=1),
)
_SIZE_AND_STATE: Final = (Column("SIZE"), Column("STATE"))
_DONE: Final = (
    Column("ITEM"),
    Column("WHEN"),
    _RULE,
    Column("ACTION", goes=2),
    *_SIZE_AND_STATE,
    Column("UNTIL", goes=1),
    _WHY,
)
_OF_RUN: Final = (
    Column("ITEM"),
    Column("WHEN", goes=2),
    _RULE,
    _ACTION,
    *_SIZE_AND_STATE,
    Column("UNTIL", goes=3),
    _WHY,
)
"""When the items of one run were taken, the run tells."""
_WHY_SKIPPED: Final = {
    "exempt": "their session is exempt",
    "pinned": "pinned",
    "system": "system messages",
    "live_turn": "a turn of their session runs or waits",
    "young": "younger than protections.min_age",
    "newest": "among the newest of their session (protections.keep_newest)",
    "tool_pair": "the other half of their tool call would stay behind",
    "restored": "given back a short while ago (protections.restored)",
    "quarantined": "failed too often",
    "failed": "a function of the rule failed",
    "settling": "made shorter a short while ago (protections.settle)",
    "already_applied": "made shorter in this way before",
    "no_content": "have nothing to make shorter",
    "no_gain": "would not become smaller",
    "budget_items": "left for later runs (budgets.max_items)",
    "budget_bytes": "left for later runs (budgets.max_size)",
    "budget_seconds": "left for later runs (budgets.max_duration)",
    "budget_summaries": "left for later runs (budgets.max_summaries)",
    "breaker": "the run would take too much (max_share)",
    "changed": "changed since the plan",
    "gone": "gone since the plan",
    "spared": "the rules do not take them any more",
    "stopped": "the run was ended",
    "summarizer": "summaries failed several times in a row",
    "disabled": "pruning is switched off",
}
"""Reasons in words; a new one is shown by its name."""


def plan(screen: Screen, planned: dict[str, Any], *, items: bool) -> None:
    """Show a plan; with its items where they were asked for."""
    scanned = planned["scanned"]
    screen.line(
        f"looked at {counted(scanned['items'], 'item')}, {_size(scanned['size_bytes'])}, "
        f"{counted(scanned['tokens'], 'token')}"
    )
    if items and planned["items"]:
        names = [one["session_id"] for one in planned["items"]]
        sessions = tables.shortened(names, tables.SESSION_CHARS)
        rows = [_planned(one, sessions) for one in planned["items"]]
        tables.write(screen, _PLANNED, rows)
    if planned["rules"]:
        _by_rule(screen, planned["by_rule"])
    else:
        screen.note("there are no rules: [[pruning.rules]] of the configuration")
    _skipped(screen, planned["skipped_by_reason"])
    _more_for_later(screen, planned)
    _failed(screen, planned["errors"], planned["error_count"])
    if not planned["enabled"]:
        screen.note("pruning is switched off (pruning.enabled): nothing of it is done")
    elif planned["breaker"]:
        screen.note(f"more than a run may do unless it is confirmed: {planned['breaker']}")


def brief_plan(screen: Screen, planned: dict[str, Any]) -> None:
    """Show what a plan would do, in short."""
    if planned["rules"]:
        _by_rule(screen, planned["by_rule"])
    else:
        screen.note("there are no rules: [[pruning.rules]] of the configuration")
    _more_for_later(screen, planned)
    if not planned["enabled"]:
        screen.note("pruning is switched off (pruning.enabled): nothing of it is done")


def result(screen: Screen, done: dict[str, Any], planned: dict[str, Any]) -> None:
    """Show what a run did; of what was shown before as planned only the sum."""
    stats = done["stats"]
    if done["by_rule"] == planned["by_rule"]:
        number = counted(stats["pruned_count"], "item")
        screen.line(f"{number} pruned, {_size(stats['freed_bytes'])} freed")
    elif done["by_rule"] or done["success"]:
        _by_rule(screen, done["by_rule"])
    _skipped(screen, stats["skipped_by_reason"])
    _more_for_later(screen, done)
    _failed(screen, done["errors"], stats["error_count"])
    if done["detail"] and not done["success"]:
        screen.note(f"{done['status']}: {done['detail']}")
    if stats["pruned_count"]:
        run = done["id"][: tables.SHORT_CHARS]
        screen.note(f"give it back with: gateway prune restore --run {run}")


def explanation(screen: Screen, told: dict[str, Any]) -> None:
    """Show why an item stays or goes."""
    screen.facts(
        [
            ("item", _number(told)),
            ("session", told["session_id"]),
            ("taken by", told["taken_by"] or "no rule now"),
            ("due", local_time(told["due_at"])),
            ("protected", ", ".join(told["protections"]) or "-"),
            ("quarantined", "yes" if told["quarantined"] else "no"),
        ]
    )
    for rule in filter(_concerns, told["rules"]):
        screen.line("")
        verdict = "takes it" if rule["takes"] else "does not take it"
        screen.line(f"{rule['rule_id']}  {rule['action']}, priority {rule['priority']}: {verdict}")
        screen.facts([*_conditions(rule), *_protections(rule), *_reason(rule)])


def restored(screen: Screen, told: dict[str, Any]) -> None:
    """Show what was given back, and what could not be."""
    screen.line(f"{counted(told['restored_count'], 'item')} given back")
    if told["refused"]:
        rows = [[_number(one), one["reason"]] for one in told["refused"]]
        screen.table(("ITEM", "NOT GIVEN BACK"), rows)
    more = told["refused_count"] - len(told["refused"])
    if more > 0:
        screen.note(f"and {more:,} more were not given back")


def runs(screen: Screen, told: dict[str, Any]) -> None:
    """Show runs."""
    rows = told["runs"]
    if not rows:
        screen.note("no runs")
        return

    names = tables.shortened((one["run_id"] for one in rows), tables.SHORT_CHARS)
    tables.write(screen, _RUNS, [_run(one, names) for one in rows])
    for one in rows:
        if one["detail"]:
            text = f"{names[one['run_id']]} {one['status']}: {one['detail']}"
            tables.paragraph(screen, text)
    _more(screen, told, len(rows))


def items(screen: Screen, told: dict[str, Any]) -> None:
    """Show what was done to items: of one run, with how that ended, or of several."""
    run = told.get("run")
    if run is not None:
        runs(screen, {"runs": [run], "next_cursor": None})
        failures = (run["record"] or {}).get("errors") or []
        _failed(screen, failures, run["error_count"])
    rows = told["items"]
    if not rows:
        screen.note("nothing was taken")
        return

    tables.write(screen, _OF_RUN if run else _DONE, [_done(one) for one in rows])
    _more(screen, told, len(rows))


@contextmanager
def progress(screen: Screen) -> Generator[Callable[[dict[str, Any]], None]]:
    """Show a bar at a terminal; give what moves it on: a table with `current` and `total`."""
    if screen.as_json or not sys.stderr.isatty():
        yield lambda _: None
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("pruning"), BarColumn(), MofNCompleteColumn(), TextColumn("items"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        # Until the plan is made nobody knows how many there are.
        task = bar.add_task("", total=None)
        yield lambda event: bar.update(task, completed=event["current"], total=event["total"])


def counted(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _by_rule(screen: Screen, sums: list[dict[str, Any]]) -> None:
    if not sums:
        screen.note("nothing is due")
        return

    rows = [[one["rule_id"], _name(one), one["action"], *_sums(one)] for one in sums]
    names = ("count", "freed_bytes", "freed_tokens")
    total = {name: sum(one[name] for one in sums) for name in names}
    tables.write(screen, _SUMS, [*rows, ["all", "", "", *_sums(total)]])


def _number(one: dict[str, Any]) -> str:
    """Return an id as people type it: without the zeros that make all of them equally long."""
    return str(one["item_id"]).lstrip("0")


def _name(one: dict[str, Any]) -> str:
    """Return the name of a rule; empty where that is its id."""
    return "" if one["rule_name"] == one["rule_id"] else str(one["rule_name"])


def _size(size_bytes: int) -> str:
    from gateway.pruning.units import format_size

    return format_size(size_bytes)


def _sums(one: dict[str, Any]) -> list[str]:
    return [f"{one['count']:,}", _size(one["freed_bytes"]), f"{one['freed_tokens']:,}"]


def _skipped(screen: Screen, by_reason: dict[str, int]) -> None:
    if by_reason:
        rows = [[f"{count:,}", _WHY_SKIPPED.get(why, why)] for why, count in by_reason.items()]
        screen.table(("STAY", "WHY"), rows)


def _concerns(rule: dict[str, Any]) -> bool:
    """Return whether a rule is one for the session of the item."""
    return bool(rule["counts"])


def _planned(one: dict[str, Any], sessions: dict[str, str]) -> list[str]:
    ids = (_number(one), sessions[one["session_id"]], one["type"])
    return [*ids, _change(one), one["rule_id"], one["action"]["type"], one["reason"]]


def _more_for_later(screen: Screen, told: dict[str, Any]) -> None:
    if told["more_count"]:
        screen.note(f"{counted(told['more_count'], 'more item')} for later runs")


def _failed(screen: Screen, failures: list[dict[str, Any]], count: int) -> None:
    for one in failures[:MAX_FAILURES]:
        screen.note(f"failed: {_number(one)} ({one['rule_id']}): {one['error']}")
    if count > MAX_FAILURES:
        screen.note(f"and {count - MAX_FAILURES:,} more failed (--json)")


def _change(one: dict[str, Any]) -> str:
    """Return the size of an item, and what is left of it; a dash where nobody knows."""
    before, after = one["before"], one["after"]
    if not before or not after:
        return "-"

    size = _size(before["size_bytes"])
    return f"{size} -> {_size(after['size_bytes'])}" if after["items"] else size


def _run(one: dict[str, Any], names: dict[str, str]) -> list[str]:
    return [
        names[one["run_id"]],
        tables.short_time(one["started_at"]),
        one["cause"],
        one["status"],
        *_sums({**one, "count": one["pruned_count"]}),
    ]


def _done(one: dict[str, Any]) -> list[str]:
    what = (one["rule_id"] or "-", one["action"]["type"], _change(one))
    until, why = tables.short_date(one["due_at"]), one["reason"] or "-"
    return [_number(one), tables.short_time(one["at"]), *what, one["state"], until, why]


def _conditions(rule: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            "  holds" if one["holds"] else "  does not hold",
            f"{one['text']} ({one['detail']})" if one["detail"] else one["text"],
        )
        for one in rule["conditions"]
    ]


def _protections(rule: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("  ignores" if one["ignored"] else "  protected by", one["protection"])
        for one in rule["protections"]
        if one["holds"]
    ]


def _reason(rule: dict[str, Any]) -> list[tuple[str, str]]:
    told = [("  why", rule["reason"])]
    return told + ([("  due", local_time(rule["due_at"]))] if rule["due_at"] else [])


def _more(screen: Screen, told: dict[str, Any], count: int) -> None:
    if told["next_cursor"] is not None:
        screen.note(f"there are more than {count} (--limit)")
