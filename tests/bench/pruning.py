"""Rules over what sessions store: planning over a large store, and looking when nothing is due."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from gateway.clock import FakeClock
from gateway.daemon import spare_the_collector
from gateway.durable.database import Database
from gateway.pruning import (
    AgeCondition,
    ArchiveAction,
    CompactAction,
    CountCondition,
    ItemType,
    MemoryItemStore,
    Protections,
    PrunableItem,
    PruningConfig,
    PruningManager,
    PruningRule,
    RuleScope,
    SizeCondition,
    TokensCondition,
    TotalSizeCondition,
    TotalTokensCondition,
    TypeCondition,
)
from gateway.retention.items import SqliteItemStore
from tests.bench.report import Report, median
from tests.bench.ticking import forget_peak, peak_bytes, resident_bytes, ticking

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from gateway.durable.batch import Transaction
    from gateway.pruning import ItemStore
    from gateway.pruning.conditions import Condition
    from gateway.pruning.rules import Action

T = TypeVar("T")

ITEMS: Final = 1_000_000
IN_MEMORY: Final = 100_000
OF_SESSION: Final = 100
"""Items of a session, on the average; a fifth of all is in one of a hundred sessions."""
DAYS: Final = 360
"""The items were made within so many days, evenly."""
_TURN: Final = 4
"""Rows of a turn: a question, a call, its result, an answer."""
_TURNS: Final = 20_000
"""Turns that are written in one transaction."""
_DAY_S: Final = 86_400.0
RESULTS: Final = TypeCondition(include=frozenset({ItemType.TOOL_RESULT}))
MESSAGES: Final = TypeCondition(include=frozenset({ItemType.MESSAGE}))
_WRITE: Final = """
WITH RECURSIVE turns (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM turns WHERE n + 1 < :end),
dated AS (
    SELECT n, n * 2654435761 % 4294967296 AS h, n * 40503 % 65536 AS g,
        strftime('%Y-%m-%dT%H:%M:%S', :start + n * :step, 'unixepoch')
            || printf('.%06dZ', 1 + n * 7919 % 999998) AS at
    FROM turns
),
said AS (
    SELECT *, printf('session-%06d', CASE h % 5 WHEN 0 THEN g % max(1, :sessions / 100)
        ELSE h / 5 % :sessions END) AS session_id,
        CASE WHEN h % 500 = 1 THEN 30000 ELSE 100 + h % 1900 END AS length
    FROM dated
)
INSERT INTO messages
    (session_id, turn_id, role, text, tool_calls, tool_call_id, tool_name, created_at)
SELECT session_id, printf('turn-%08d', n), roles.role,
    substr(:text, 1, CASE roles.place WHEN 0 THEN 20 + g % 300 WHEN 1 THEN 0 WHEN 2 THEN length
        ELSE 20 + h % 1000 END),
    CASE roles.place WHEN 1 THEN printf(
        '[{"call_id":"call-%016d","name":"search","arguments":"{\\"query\\":\\"%d\\"}"}]',
        n, h) END,
    CASE roles.place WHEN 2 THEN printf('call-%016d', n) END,
    CASE roles.place WHEN 2 THEN 'search' END,
    at
FROM said, (
    SELECT 0 AS place, 'user' AS role UNION ALL SELECT 1, 'assistant' UNION ALL SELECT 2, 'tool'
    UNION ALL SELECT 3, 'assistant'
) AS roles
ORDER BY n, roles.place
"""


async def write_items(database: Database, number: int, *, until_s: float) -> None:
    """Fill a database with messages of many sessions, in the order in which they were made."""
    turns = number // _TURN
    text = ("The quick brown fox jumps over the lazy dog, which was not amused. " * 500)[:30_000]
    span_s = DAYS * _DAY_S

    def write(first: int) -> Callable[[Transaction], object]:
        bindings = {
            "first": first,
            "end": min(first + _TURNS, turns),
            "start": int(until_s - span_s),
            "step": span_s / turns,
            "sessions": max(1, number // OF_SESSION),
            "text": text,
        }
        return lambda transaction: transaction.execute(_WRITE, bindings)

    for first in range(0, turns, _TURNS):
        await database.write(write(first))


def memory_items(number: int, clock: FakeClock) -> list[PrunableItem]:
    """Return items in memory of the same kinds, without pairs."""
    step_s, sessions = DAYS * _DAY_S / number, max(1, number // OF_SESSION)
    return [
        PrunableItem(
            id=f"{place:012d}",
            session_id=f"session-{place * 2_654_435_761 % 4_294_967_296 % sessions:06d}",
            type=ItemType.TOOL_RESULT if place % 4 == 2 else ItemType.MESSAGE,
            created_at=clock.now() - timedelta(seconds=(number - place) * step_s),
            size_bytes=20 + place * 7_919 % 2_000,
            tokens=5 + place * 7_919 % 500,
        )
        for place in range(number)
    ]


def rules(number: int, *, share: float) -> tuple[PruningRule, ...]:
    """Return ten rules of all kinds, which take about a share of so many items."""

    def rule(name: str, priority: int, *conditions: Condition, **fields: Any) -> PruningRule:  # noqa: ANN401 - fields of the class
        action: Action = fields.pop("action", ArchiveAction())
        return PruningRule(name, name, priority, conditions, action, **fields)

    busy = number // 500  # What one of the hundred busy sessions has.
    old_s = DAYS * _DAY_S * (1 - share)
    return (
        rule("old", 9, AgeCondition(old_s + (DAYS * _DAY_S - old_s) * 0.3)),
        rule("old-results", 8, RESULTS, AgeCondition(old_s), SizeCondition(600),
             action=CompactAction(0.25)),
        rule("old-messages", 7, MESSAGES, AgeCondition(old_s), TokensCondition(200)),
        rule("large", 6, SizeCondition(25_000), action=CompactAction(0.1)),
        rule("wordy", 5, TokensCondition(9_000), AgeCondition(_DAY_S)),
        rule("count", 4, CountCondition(int(busy * (1.05 - share)))),
        rule("results", 3, RESULTS, CountCondition(busy // 4), action=CompactAction(0.5)),
        rule("session-tokens", 2, TotalTokensCondition(busy * 200)),
        rule("session-size", 1, TotalSizeCondition(busy * 800, 0.95)),
        rule("all", 0, CountCondition(number), scope=RuleScope.ALL),
    )  # fmt: skip


def manager(
    store: ItemStore | list[PrunableItem], clock: FakeClock, *some: PruningRule
) -> PruningManager:
    """Return a manager with the protections that the gateway has."""
    config = PruningConfig(rules=some, protections=Protections(keep_newest=10, min_age_s=3_600.0))
    return PruningManager(config, store, clock=clock)


async def measure(folder: Path, items: int = ITEMS, in_memory: int = IN_MEMORY) -> Report:
    """Plan over a large database and in memory, and look for what is due."""
    folder.mkdir(parents=True, exist_ok=True)
    report, clock = Report(), FakeClock()
    spare_the_collector()
    async with Database.open(folder / "gateway.db", clock) as database:
        start = time.perf_counter()
        await write_items(database, items, until_s=clock.now().timestamp())
        report.data["written_s"] = round(time.perf_counter() - start, 1)
        report.data["file_mb"] = round((folder / "gateway.db").stat().st_size / 1e6)
        store = SqliteItemStore(database, clock, lambda: 0.0)
        for share in (0.02, 0.1):
            await _plans(report, store, clock, items, share)
        await _nothing(report, store, clock, items)
    await _memory(report, in_memory)
    return report


async def _plans(
    report: Report, store: SqliteItemStore, clock: FakeClock, items: int, share: float
) -> None:
    one = manager(store, clock, *rules(items, share=share))
    forget_peak()
    before = resident_bytes()
    async with ticking() as ticks:
        start = time.perf_counter()
        plan = await one.plan()
        taken_s = time.perf_counter() - start
    used_mb = (peak_bytes() - before) / 1e6
    by_rule: dict[str, int] = {}
    for action in plan.actions:
        by_rule[action.rule_id] = by_rule.get(action.rule_id, 0) + 1
    name = f"plan, {items:,} items in SQLite, ten rules, {plan.selected.items:,} taken"
    report.at_most(name, "s", taken_s, 3)
    report.at_most(f"{name}: memory", "MB", used_mb, 200)
    report.show(f"{name}: longest wait of the loop", "ms", max(ticks.gaps_ms))
    report.data[f"plan_{share}"] = {"s": round(taken_s, 3), "mb": round(used_mb), **by_rule}


async def _nothing(report: Report, store: SqliteItemStore, clock: FakeClock, items: int) -> None:
    quiet = (
        PruningRule("old", "old", 0, (AgeCondition(DAYS * _DAY_S * 1.1),), ArchiveAction()),
        PruningRule(
            "old-results", "old results", 0, (RESULTS, AgeCondition(DAYS * _DAY_S * 1.1)),
            ArchiveAction(),
        ),
        PruningRule("count", "count", 0, (CountCondition(items // 100),), ArchiveAction()),
        PruningRule("tokens", "tokens", 0, (TotalTokensCondition(items * 20),), ArchiveAction()),
        PruningRule("size", "size", 0, (TotalSizeCondition(items * 80),), ArchiveAction()),
        PruningRule(
            "all", "all", 0, (TotalSizeCondition(items * 4_000),), ArchiveAction(),
            scope=RuleScope.ALL,
        ),
    )  # fmt: skip
    one = manager(store, clock, *quiet)
    name = f"nothing to do, {items:,} items in SQLite"
    report.at_most(f"{name}: next_due", "ms", await _median_ms(one.next_due), 20)
    report.at_most(f"{name}: prune_if_due", "ms", await _median_ms(one.prune_if_due), 20)


async def _memory(report: Report, items: int) -> None:
    clock = FakeClock()
    stored = memory_items(items, clock)
    for name, some in (
        ("ten rules", rules(items, share=0.1)),
        ("ten rules, all taken", (*rules(items, share=0.1)[:-1], PruningRule(
            "all", "all", 0, (), ArchiveAction(), match_all=True))),
    ):  # fmt: skip
        one = PruningManager(PruningConfig(rules=some), MemoryItemStore(stored), clock=clock)
        start = time.perf_counter()
        plan = await one.plan()
        taken_s = time.perf_counter() - start
        what = f"plan, {items:,} items in memory, {name}, {plan.selected.items:,} taken"
        report.at_most(what, "s", taken_s, 0.5)


async def _median_ms(work: Callable[[], Awaitable[T]], rounds: int = 9) -> float:
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        await work()
        taken.append((time.perf_counter() - start) * 1_000)
    return median(taken)
