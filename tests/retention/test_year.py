"""A transcript that is pruned for a year stays within its bounds every day, and so do the files."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from gateway.pruning import PruningConfig, PruningManager, PruningRule
from gateway.pruning.conditions import AgeCondition, CountCondition, TotalSizeCondition
from gateway.pruning.rules import ArchiveAction, DeleteAction, RuleScope
from gateway.transcripts.gone import AUDIT_CUT
from tests.support.kept import DAY_S, KEEP, Store, disagreements, store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DAYS: Final = 365
MAX_AGE_DAYS: Final = 20
MAX_COUNT: Final = 60
MAX_SIZE: Final = 150_000
CHATS: Final = ("ann", "bob", "eve")
CHANGE_DAYS: Final = 40
"""How long a conversation goes on before another takes its place."""
FLOOD_DAY: Final = 100
"""The day on which much more is said than on any other."""
KEEP_SOME: Final = replace(
    KEEP,
    archive_s=30 * DAY_S,
    audit_s=45 * DAY_S,
    removed_sessions_s=5 * DAY_S,
)
RULES: Final = (
    PruningRule("age", "Old ones go", 3, (AgeCondition(MAX_AGE_DAYS * DAY_S),), DeleteAction()),
    PruningRule("count", "Not too many", 2, (CountCondition(MAX_COUNT),), ArchiveAction()),
    PruningRule(
        "size",
        "Not too much",
        1,
        (TotalSizeCondition(MAX_SIZE),),
        ArchiveAction(),
        scope=RuleScope.ALL,
    ),
)


@dataclass(frozen=True, slots=True)
class Day:
    """What there was at the end of a day."""

    database_bytes: int
    archive_bytes: int
    archives: int
    entries: int
    runs: int
    sessions: int


async def _live(one: Store, day: int, chance: random.Random) -> None:
    """Let a day pass in which something is said in every chat."""
    one.later(0.5)
    for chat in CHATS:
        session = f"{chat}-{(day + CHATS.index(chat)) // CHANGE_DAYS}"
        before = f"{chat}-{(day + CHATS.index(chat)) // CHANGE_DAYS - 1}"
        await one.say(session, chance.randrange(9), chars=chance.choice([40, 400, 4_000]))
        ended = "SELECT 1 FROM sessions WHERE session_id = ? AND ended_at IS NULL"
        if await one.rows(ended, before):
            await one.end(before)
    if day == FLOOD_DAY:
        await one.say("flood", 400, chars=30_000)
        await one.end("flood")
    one.later(0.5)


async def _within_bounds(one: Store) -> list[str]:
    """Return which bounds what is stored exceeds."""
    faults = []
    oldest = (one.clock.now() - timedelta(days=MAX_AGE_DAYS)).isoformat()[:19]
    late = await one.rows("SELECT position FROM messages WHERE created_at < ?", oldest)
    if late:
        faults.append(f"older than {MAX_AGE_DAYS} days: {late}")
    for session, items in await one.rows(
        "SELECT session_id, sum(items) FROM item_totals GROUP BY 1 HAVING sum(items) > ?", MAX_COUNT
    ):
        faults.append(f"{session}: {items} items")
    ((size,),) = await one.rows("SELECT coalesce(sum(size_bytes), 0) FROM item_totals")
    if size > MAX_SIZE:
        faults.append(f"{size} bytes")
    return faults


async def _known(one: Store) -> dict[int, str]:
    """Return what was said, but for what was forgotten because its audit is old enough."""
    rows = await one.rows("SELECT position FROM messages UNION SELECT item FROM pruned_items")
    told = {row[0] for row in rows}
    ((cut,),) = await one.rows(
        "SELECT coalesce(max(value), 0) FROM store_state WHERE name = ?", AUDIT_CUT
    )
    return {
        item: text
        for item, text in one.texts.items()
        if item in told or float(text.split()[2]) > cut
    }


async def _end_of(one: Store) -> Day:
    counts = [
        (await one.rows(f"SELECT count(*) FROM {table}"))[0][0]  # noqa: S608 - names of ours
        for table in ("pruned_items", "pruning_runs", "sessions")
    ]
    files = one.files()
    return Day(
        (one.path / "gateway.db").stat().st_size,
        sum(file.stat().st_size for file in files),
        len(files),
        *counts,
    )


def _most(days: Sequence[Day], name: str) -> int:
    return max(int(getattr(day, name)) for day in days)


async def test_a_year_of_pruning_stays_within_its_bounds_every_day(tmp_path: Path) -> None:
    chance = random.Random(7)
    days: list[Day] = []
    async with store(tmp_path / "state", keep=KEEP_SOME) as one:
        manager = PruningManager(PruningConfig(rules=RULES), one.items, clock=one.clock)
        for number in range(DAYS):
            await _live(one, number, chance)

            result = await manager.prune()
            kept = await one.sweep()

            assert (result.success, kept.problems) == (True, ()), number
            assert await _within_bounds(one) == [], number
            if number % 30 == 29:
                assert disagreements(one.path, await _known(one), live=True, swept=True) == [], (
                    number
                )
            days.append(await _end_of(one))
        known = await _known(one)
    assert len(days) == DAYS
    assert disagreements(one.path, known, swept=True) == []
    # As in the first months, but for the flood, so for ever.
    early, flood, late = days[60:FLOOD_DAY], days[FLOOD_DAY : FLOOD_DAY + 60], days[-150:]
    for name in ("archive_bytes", "archives", "entries", "runs", "sessions"):
        assert _most(late, name) < 1.3 * _most(early, name), name
    # What a flood took is given back to the disk, but for a reserve.
    assert _most(flood, "database_bytes") > 12_000_000
    assert _most(late, "database_bytes") < 6_000_000
