"""Entries of an age, and what a prune makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.state import START, create_all, entry, open_state, power_cut

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta
    from pathlib import Path

    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.pruning import PruneReport
    from gateway.sessions.store import SessionStore


def aged(name: str, age: timedelta, *, suspended_at: datetime | None = None) -> SessionEntry:
    """Return an entry last updated that long before the start."""
    return entry(name, updated_at=START - age, suspended_at=suspended_at)


def names_of(store: SessionStore) -> set[str]:
    return {one.source.chat_id for one in store.entries(limit=100_000)}


async def pruned(
    tmp_path: Path, entries: Iterable[SessionEntry], max_age_days: float, *, max_entries: int = 0
) -> tuple[PruneReport, set[str]]:
    """Prune a store of these entries; return the report, and who is left after a power cut too."""
    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, entries)
        report = await state.store.prune_old_entries(max_age_days, max_entries=max_entries)
        left = names_of(state.store)
        cut = power_cut(state, tmp_path / "left")
    async with open_state(cut) as state:
        assert names_of(state.store) == left
    return report, left
