"""The law of the whole store: it holds what was acknowledged, whatever its history."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from gateway.clock import FakeClock
from gateway.sessions.entry import entry_from_dict
from gateway.sessions.recovery import SNAPSHOT
from tests.support.state import START, create_all, entry, key_of, open_state, power_cut, shown

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.sessions.entry import SessionEntry
    from tests.support.state import State

Model = dict[str, "SessionEntry"]
NAMES = [f"c{n}" for n in range(12)]


async def _step(state: State, model: Model, clock: FakeClock, chance: random.Random) -> None:
    """Do one thing to the store, and what it should come to to the model."""
    store, name = state.store, chance.choice(NAMES)
    key = key_of(name)
    match chance.choice(["put", "put", "update", "remove", "reset", "undo", "prune", "snapshot"]):
        case "put" if key not in model:
            model[key] = replace(
                entry(name, updated_at=clock.now()),
                session_id=entry(f"{name}-{chance.random()}").session_id,
            )
            await store.create(model[key])
        case "update" if key in model:
            model[key] = replace(model[key], turns=model[key].turns + 1, updated_at=clock.now())
            await store.update(key, lambda _: model[key])
        case "remove" if key in model:
            del model[key]
            await store.remove(key)
        case "reset" if key in model:
            model[key] = await store.reset(key)
        case "undo" if key in model and model[key].previous_session_id:
            wanted = model[key].previous_session_id
            model[key] = await store.undo(key)
            assert model[key].session_id == wanted
        case "prune":
            clock.step_wall(timedelta(hours=chance.choice([1, 8])))
            left = {k: one for k, one in model.items() if clock.now() - one.updated_at <= HOURS_10}
            assert (await store.prune_old_entries(10 / 24)).pruned == len(model) - len(left)
            model.clear()
            model.update(left)
        case "snapshot":
            await store.snapshots.write()
            assert {k: entry_from_dict(one) for k, one in shown(state.path).items()} == model


HOURS_10 = timedelta(hours=10)


@pytest.mark.parametrize("seed", range(12))
async def test_after_any_history_the_store_holds_what_was_acknowledged(
    tmp_path: Path, seed: int
) -> None:
    clock, chance, model = FakeClock(), random.Random(seed), Model()
    path = tmp_path / "state0"
    for life in range(1, 7):
        async with open_state(path, clock) as state:
            found = {one.session_key: one for one in state.store.entries()}
            assert found == model
            assert len(state.store) == len(model)
            for _ in range(chance.randrange(40)):
                await _step(state, model, clock, chance)
            if chance.random() < 0.7:
                path = power_cut(state, tmp_path / f"state{life}")
        if chance.random() < 0.3 and (path / f"{SNAPSHOT}.prev").exists():
            _damage(path / SNAPSHOT, chance)


def _damage(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 0xFF
    path.write_bytes(content)


async def test_a_store_of_many_entries_is_the_same_after_each_way_of_starting(
    tmp_path: Path,
) -> None:
    entries = [entry(f"c{n}", updated_at=START + timedelta(minutes=n)) for n in range(1500)]
    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, entries[:1000])
        await state.store.snapshots.write()
        await create_all(state.store, entries[1000:])
        unclean = power_cut(state, tmp_path / "unclean")
    (tmp_path / "backup").mkdir(mode=0o700)
    shutil.copy(tmp_path / "state" / SNAPSHOT, tmp_path / "backup" / SNAPSHOT)

    wanted = {one.session_key: one for one in entries}
    with capture_logs():
        for path in (tmp_path / "state", unclean, tmp_path / "backup"):
            async with open_state(path) as state:
                found = state.store.entries(limit=5000)
                assert {one.session_key: one for one in found} == wanted
