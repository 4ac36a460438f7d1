"""Laws of check, backup and salvage of a store that prunes, from first plan to last purge."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread

from gateway.clock import FakeClock
from gateway.retention.erasing import erase
from gateway.retention.pruning import ItemPruning
from gateway.retention.settings import ItemPruningSettings
from gateway.upkeep.backup import back_up
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from tests.support.state import State, key_of, open_state
from tests.support.upkeep import look, used_state
from tests.upkeep.salvaging import salvaged

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

DAY_S: Final = 86_400.0
SETTINGS: Final[dict[str, Any]] = {
    "protections": {"keep_newest": 0, "min_age": "0s", "restored": "0s", "settle": "0s"},
    "max_share": 1.0,
    "grace": "1d",
    "archive_keep": "10d",
    "audit_keep": "20d",
    "removed_sessions_keep": "5d",
    "rules": [
        {
            "id": "many",
            "name": "More than three",
            "priority": 2,
            "conditions": [{"type": "count", "max_count": 3}],
            "action": {"type": "archive"},
        },
        {
            "id": "old",
            "name": "What is old",
            "priority": 1,
            "conditions": [{"type": "age", "max_age": "2d"}],
            "action": {"type": "delete"},
        },
    ],
}


@dataclass
class Pruned:
    """A state directory whose daemon prunes."""

    state: State
    pruning: ItemPruning
    clock: FakeClock
    copies: Path

    async def states(self) -> dict[str, int]:
        """Return how many items there are in each state."""
        rows = await self.state.database.read(
            lambda conn: conn.execute(
                "SELECT state, count(*) FROM pruned_items GROUP BY 1 "
                "UNION ALL SELECT 'there', count(*) FROM messages"
            ).fetchall()
        )
        return {str(name): int(str(count)) for name, count in rows}

    async def agrees(self) -> dict[str, int]:
        """Check the store beside its daemon and a backup of it; return its items by state."""
        path = self.state.path
        copy = self.copies / f"copy-{len(list(self.copies.glob('copy-*')))}"
        await anyio.to_thread.run_sync(back_up, path, copy, self.clock)
        for one in (path, copy):
            report = await anyio.to_thread.run_sync(check_store, one)
            told = [
                f"{one.check}: {one.text}" for one in report.findings if one.level is not Level.OK
            ]
            assert told == []
        before = look(copy)
        made = await salvaged(copy, self.copies / f"{copy.name}-salvaged")
        assert made.complete, made
        assert look(copy) == before
        return await self.states()

    async def days(self, number: int) -> None:
        """Let days pass, on each of which the daemon does what is due."""
        for _ in range(number):
            await self.clock.advance(DAY_S)
            await self.pruning.work()


@asynccontextmanager
async def pruning_state(tmp_path: Path) -> AsyncGenerator[Pruned]:
    path = await used_state(tmp_path / "state")
    clock = FakeClock()
    async with open_state(path, clock) as state:
        settings = ItemPruningSettings.model_validate(SETTINGS)
        pruning = ItemPruning(state.database, clock, settings, path / "archive")
        yield Pruned(state, pruning, clock, tmp_path)


async def test_at_each_step_of_what_is_pruned_all_agrees(tmp_path: Path) -> None:
    async with pruning_state(tmp_path) as here:
        whole = await here.agrees()
        await here.pruning.prune(confirmed=True)
        held = await here.agrees()
        await here.days(1)
        archived = await here.agrees()
        await here.pruning.restore(session=key_of("ann"))
        restored = await here.agrees()
        await here.days(2)
        deleted = await here.agrees()
        await here.state.store.remove(key_of("bob"))
        await erase(here.state.database, here.state.store, key_of("bob"))
        erased = await here.agrees()
        await here.days(12)
        purged = await here.agrees()
        await here.days(12)
        forgotten = await here.agrees()

    assert whole == {"there": 12}
    assert held == {"held": 4, "there": 8}
    assert archived == {"archived": 4, "there": 8}
    assert restored == {"archived": 1, "restored": 3, "there": 11}
    assert deleted == {"archived": 4, "held": 8, "restored": 3, "there": 0}
    assert erased == {"archived": 3, "held": 5, "restored": 3, "there": 0}
    assert purged == {"purged": 8, "restored": 3, "there": 0}
    assert forgotten == {"there": 0}
