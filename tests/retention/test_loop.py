"""Others on the event loop are never held up by rules over a database, however much is in it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from gateway.pruning import (
    AgeCondition,
    ArchiveAction,
    CompactAction,
    CountCondition,
    DeleteAction,
    PruningConfig,
    PruningManager,
    PruningRule,
    RuleScope,
    SizeCondition,
    TotalSizeCondition,
)
from tests.support.held_up import HELD_UP_S, slowest_of_three, watched
from tests.support.kept import DAY_S, KEEP, store

if TYPE_CHECKING:
    from pathlib import Path

SESSIONS: Final = 100
EACH: Final = 200
RULES: Final = (
    PruningRule("long", "Long ones", 9, (SizeCondition(990),), CompactAction(0.2)),
    PruningRule("count", "Many", 8, (CountCondition(190),), ArchiveAction()),
    PruningRule("size", "Much", 7, (TotalSizeCondition(72_000),), DeleteAction()),
    PruningRule("age", "Old", 6, (AgeCondition(2 * DAY_S),), DeleteAction()),
    PruningRule(
        "all", "Too many", 5, (CountCondition(17_000),), DeleteAction(), scope=RuleScope.ALL
    ),
)


@pytest.mark.alone
async def test_with_20_000_stored_items_the_loop_is_never_held_up_for_10_ms(
    tmp_path: Path,
) -> None:
    tries = iter(range(3))
    slowest_s = await slowest_of_three(lambda: _slowest_s(tmp_path / str(next(tries))))

    assert max(slowest_s.values()) < HELD_UP_S, slowest_s


async def _slowest_s(path: Path) -> dict[str, float]:
    async with store(path, keep=replace(KEEP, grace_s=0.0)) as one:
        for number in range(SESSIONS):
            chars = 1_000 if number % 10 == 0 else (100, 400)[number % 2]
            await one.say(f"s{number}", EACH, chars=chars)
            one.later(3 if number == SESSIONS // 20 else 0)
        config = PruningConfig(rules=RULES)
        manager = PruningManager(config, one.items, clock=one.clock)
        async with watched() as planning:
            plan = await manager.plan()
        async with watched() as applying:
            result = await manager.apply(plan)
        async with watched() as sweeping:
            await one.sweep()
        assert result.success
        assert result.stats.pruned_count == len(plan.actions) > 4_000
        assert set(result.stats.by_rule) == {rule.id for rule in RULES}
        assert await one.rows("SELECT * FROM pruned_originals") == []
        assert min(len(planning), len(applying), len(sweeping)) > 100
    return {"plan": max(planning), "apply": max(applying), "sweep": max(sweeping)}
