"""Laws of resets, of returning after a prune, and of undoing both."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from gateway.clock import FakeClock
from gateway.errors import ConflictError
from gateway.sessions.policy import Action, Decision, ResetPolicy
from gateway.sessions.settings import ResetMode
from gateway.transcripts.reading import sessions_of
from tests.support.state import START, entry, key_of, open_state, power_cut, resolve, source

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from gateway.durable.batch import Transaction
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.store import SessionStore

KEY = key_of()
HOUR = timedelta(hours=1)
HOURLY = ResetPolicy(mode=ResetMode.IDLE, idle=HOUR)


def _used(*, updated_at: datetime = START, suspended_at: datetime | None = None) -> SessionEntry:
    """Return an entry that has seen something."""
    one = entry(updated_at=updated_at, suspended_at=suspended_at)
    return replace(one, turns=5, input_tokens=70, total_tokens=70, model="m")


async def test_a_reset_starts_anew_and_names_what_was_before(tmp_path: Path) -> None:
    clock = FakeClock(START + HOUR)
    async with open_state(tmp_path / "state", clock) as state:
        await state.store.create(_used())

        fresh = await state.store.reset(KEY)

        assert fresh == entry(
            session_id=fresh.session_id,
            created_at=START + HOUR,
            updated_at=START + HOUR,
            previous_session_id=entry().session_id,
            reset_reason="manual",
        )
        assert fresh.session_id != entry().session_id
        assert state.store.get(KEY) == fresh


async def test_a_message_after_the_idle_time_resets_and_tells_why(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_state(tmp_path / "state", clock) as state:
        await state.store.create(_used())
        await clock.advance(HOUR.total_seconds())

        found = await state.store.resolve(KEY, source(), HOURLY, lambda _: False)

        assert found.decision == Decision(Action.RESET, "idle")
        assert (found.previous_session_id, found.reset_reason) == (entry().session_id, "idle")
        assert found.entry.previous_session_id == entry().session_id
        assert found.entry.turns == 0


async def test_a_reset_of_a_paused_session_leaves_it_paused(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.create(_used(suspended_at=START))

        assert (await state.store.reset(KEY)).suspended_at == START


async def _go(store: SessionStore, way: str) -> None:
    match way:
        case "reset":
            await store.reset(KEY)
        case "prune":
            await store.prune_old_entries(1)
        case "prune and return":
            await store.prune_old_entries(1)
            await resolve(store)
        case "remove":
            await store.remove(KEY)
        case _:
            await store.remove(KEY)
            await resolve(store)


WAYS = ["reset", "prune", "prune and return", "remove", "remove and return"]


@pytest.mark.parametrize("way", WAYS)
async def test_undo_brings_back_the_conversation_as_it_was(tmp_path: Path, way: str) -> None:
    clock = FakeClock(START + timedelta(days=2))
    async with open_state(tmp_path / "state", clock) as state:
        await state.store.create(_used())
        await _go(state.store, way)

        restored = await state.store.undo(KEY)

        # Undoing is the user's doing, so the next prune does not take it at once again.
        assert restored == _used(updated_at=clock.now())
        assert state.store.get(KEY) == restored
        assert (await state.store.prune_old_entries(1)).pruned == 0


@pytest.mark.parametrize("way", WAYS)
async def test_undo_survives_a_power_cut_and_works_after_one(tmp_path: Path, way: str) -> None:
    clock = FakeClock(START + timedelta(days=2))
    async with open_state(tmp_path / "state", clock) as state:
        await state.store.create(_used())
        await _go(state.store, way)
        left = power_cut(state, tmp_path / "left")
    async with open_state(left, clock) as state:
        restored = await state.store.undo(KEY)
        again = power_cut(state, tmp_path / "again")
    async with open_state(again, clock) as state:
        assert state.store.get(KEY) == restored


async def test_undo_goes_back_step_by_step(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_state(tmp_path / "state", clock) as state:
        first = (await resolve(state.store)).entry
        second = await state.store.reset(KEY)
        await state.store.reset(KEY)

        assert (await state.store.undo(KEY)).session_id == second.session_id
        assert (await state.store.undo(KEY)).session_id == first.session_id
        with pytest.raises(ConflictError, match="no earlier conversation"):
            await state.store.undo(KEY)
        assert state.store.get(KEY) == first


async def test_an_earlier_conversation_is_gone_on_with_and_undo_leaves_it_again(
    tmp_path: Path,
) -> None:
    async with open_state(tmp_path / "state") as state:
        first = (await resolve(state.store)).entry
        await state.store.reset(KEY)
        third = await state.store.reset(KEY)

        def switch(transaction: Transaction) -> SessionEntry:
            return state.store.lifecycle.switch(transaction, KEY, first.session_id)

        found = await state.database.write(switch)
        assert found == replace(
            first, previous_session_id=third.session_id, reset_reason="switched"
        )
        assert state.store.get(KEY) == found
        with pytest.raises(ConflictError, match="no earlier conversation"):
            await state.database.write(switch)
        assert (await state.store.undo(KEY)).session_id == third.session_id


async def test_a_conversation_of_another_key_cannot_be_gone_on_with(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.create(entry("bob"))
        bobs = entry("bob").session_id
        await state.store.reset(key_of("bob"))
        await resolve(state.store)

        with pytest.raises(ConflictError, match="no earlier conversation"):
            await state.database.write(
                lambda transaction: state.store.lifecycle.switch(transaction, KEY, bobs)
            )


async def test_a_paused_session_stays_paused_when_it_goes_back(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.create(_used())
        await state.store.reset(KEY)
        await state.store.suspend(KEY)

        assert await state.store.undo(KEY) == replace(
            _used(suspended_at=START), suspended_by="operator"
        )


@pytest.mark.parametrize("there", [False, True])
async def test_without_anything_before_there_is_nothing_to_undo(
    tmp_path: Path, *, there: bool
) -> None:
    async with open_state(tmp_path / "state") as state:
        if there:
            await resolve(state.store)
        with pytest.raises(ConflictError, match="no earlier conversation to bring back"):
            await state.store.undo(KEY)


@pytest.mark.parametrize(("way", "reason"), [("prune", "pruned"), ("remove", "removed")])
async def test_who_returns_is_told_what_was_before_and_why_it_ended(
    tmp_path: Path, way: str, reason: str
) -> None:
    clock = FakeClock(START + timedelta(days=2))
    async with open_state(tmp_path / "state", clock) as state:
        await state.store.create(_used())
        await _go(state.store, way)

        found = await resolve(state.store)

        assert found.decision == Decision(Action.NEW)
        assert (found.previous_session_id, found.reset_reason) == (entry().session_id, reason)
        stored = (found.entry.previous_session_id, found.entry.reset_reason)
        assert stored == (entry().session_id, reason)
        assert found.entry.session_id != entry().session_id
        # Told once: the next message goes on.
        assert (await resolve(state.store)).reset_reason is None


async def test_an_imported_session_can_be_reset_and_brought_back(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.create(_used())
    (tmp_path / "new").mkdir(mode=0o700)
    (tmp_path / "state" / "sessions.json").rename(tmp_path / "new" / "sessions.json")

    async with open_state(tmp_path / "new") as state:
        await state.store.reset(KEY)
        assert await state.store.undo(KEY) == _used()


async def test_every_session_id_of_a_key_is_on_record(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_state(tmp_path / "state", clock) as state:
        first = (await resolve(state.store)).entry
        await clock.advance(60)
        second = await state.store.reset(KEY)
        await clock.advance(60)
        await state.store.undo(KEY)
        found = await sessions_of(state.database, KEY)

    assert [(one.session_id, one.started_at, one.ended_at, one.end_reason) for one in found] == [
        (second.session_id, "2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z", "undone"),
        (first.session_id, "2026-01-01T00:00:00Z", None, None),
    ]


async def test_a_reset_that_is_rolled_back_leaves_no_record(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.create(_used())
        with pytest.raises(ZeroDivisionError):
            await state.store.update(KEY, lambda one: replace(one, turns=1 // 0))
        with pytest.raises(ConflictError):
            await state.store.create(entry())

        assert [one.ended_at for one in await sessions_of(state.database, KEY)] == [None]
