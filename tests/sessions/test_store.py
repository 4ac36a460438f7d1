"""Laws of the store: one entry a key, changed whole, seen once durable."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.clock import FakeClock
from gateway.errors import ConflictError, NotFoundError, StorageFullError
from gateway.sessions.policy import Action, Decision, ResetPolicy
from gateway.sessions.resolution import MovedOnError
from gateway.sessions.settings import ResetMode
from tests.support.disk import fill, small_disk
from tests.support.state import (
    NEVER_RESET,
    START,
    create_all,
    entry,
    key_of,
    open_state,
    power_cut,
    resolve,
    shown,
    source,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.resolution import Resolution

KEY = key_of()
HOURLY = ResetPolicy(mode=ResetMode.IDLE, idle=timedelta(hours=1))


def _one_turn(one: SessionEntry) -> SessionEntry:
    return replace(one, turns=one.turns + 1)


async def test_a_first_message_makes_a_session(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        found = await resolve(state.store)

        assert found.decision == Decision(Action.NEW)
        assert (found.previous_session_id, found.reset_reason) == (None, None)
        assert found.entry == entry(session_id=found.entry.session_id)
        assert state.store.get(KEY) == found.entry
        assert (await resolve(state.store)).decision == Decision(Action.CONTINUE)
        assert len(state.store) == 1


async def test_a_key_without_an_entry_has_none(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        assert state.store.get(KEY) is None
        assert len(state.store) == 0


async def test_an_update_replaces_the_entry_by_what_the_function_makes_of_it(
    tmp_path: Path,
) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.create(entry())

        assert (await state.store.update(KEY, _one_turn)).turns == 1
        assert state.store.get(KEY) == entry(turns=1)


async def test_an_update_that_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.create(entry())
        before = state.store.statistics().sequence

        await state.store.update(KEY, lambda one: one)

        assert state.store.statistics().sequence == before


async def test_an_update_whose_function_raises_changes_nothing(tmp_path: Path) -> None:
    def fail(_: SessionEntry) -> SessionEntry:
        raise ZeroDivisionError

    async with open_state(tmp_path / "state") as state:
        await state.store.create(entry())
        with pytest.raises(ZeroDivisionError):
            await state.store.update(KEY, fail)

        assert state.store.get(KEY) == entry()
        assert (await state.store.update(KEY, _one_turn)).turns == 1


async def test_concurrent_updates_of_one_entry_all_count(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.create(entry())
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for _ in range(300):
                    group.start_soon(state.store.update, KEY, _one_turn)

        assert state.store.get(KEY) == entry(turns=300)
        # They shared commits, or this would be no test of updates that follow unseen ones.
        assert state.database.statistics().largest_batch > 1


@pytest.mark.parametrize("verb", ["update", "remove", "reset", "suspend", "resume"])
async def test_what_is_not_there_cannot_be_changed(tmp_path: Path, verb: str) -> None:
    async with open_state(tmp_path / "state") as state:
        change = {"change": _one_turn} if verb == "update" else {}
        with pytest.raises(NotFoundError, match="no session with this key"):
            await getattr(state.store, verb)(KEY, **change)


async def test_a_key_is_created_once(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.create(entry())
        with pytest.raises(ConflictError, match="the key has a session"):
            await state.store.create(entry(turns=5))

        assert state.store.get(KEY) == entry()


async def test_suspending_keeps_everything_and_the_first_moment(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_state(tmp_path / "state", clock) as state:
        await state.store.create(entry(turns=3))
        assert await state.store.suspend(KEY) == entry(
            turns=3, suspended_at=START, suspended_by="operator"
        )
        clock.step_wall(timedelta(days=1))
        assert await state.store.suspend(KEY) == entry(
            turns=3, suspended_at=START, suspended_by="operator"
        )
        assert (await resolve(state.store)).decision == Decision(Action.PAUSED)
        assert await state.store.resume(KEY) == entry(turns=3)


@pytest.mark.parametrize("verb", ["create", "update", "suspend", "resume", "remove", "resolve"])
async def test_an_acknowledged_change_survives_a_power_cut(tmp_path: Path, verb: str) -> None:
    """`reset` and `undo` are shown in `test_history`."""
    async with open_state(tmp_path / "state") as state:
        await state.store.create(entry("bob", suspended_at=START))
        match verb:
            case "create":
                await state.store.create(entry())
            case "resolve":
                await resolve(state.store)
            case "update":
                await state.store.update(key_of("bob"), _one_turn)
            case _:
                await getattr(state.store, verb)(key_of("bob"))
        wanted = {one.session_key: one for one in state.store.entries()}
        left = power_cut(state, tmp_path / "left")

    async with open_state(left) as state:
        assert {one.session_key: one for one in state.store.entries()} == wanted
        assert state.store.statistics().replayed > 0


async def test_concurrent_first_messages_make_one_session(tmp_path: Path) -> None:
    found: list[Resolution] = []

    async with open_state(tmp_path / "state") as state:

        async def message() -> None:
            found.append(await resolve(state.store))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for _ in range(50):
                    group.start_soon(message)

        assert len({one.entry.session_id for one in found}) == 1
        assert [one.decision.action for one in found].count(Action.NEW) == 1
        assert state.store.statistics().sequence == 1


async def test_concurrent_messages_to_a_session_that_is_due_reset_it_once(tmp_path: Path) -> None:
    clock, found = FakeClock(), []
    async with open_state(tmp_path / "state", clock) as state:
        await state.store.create(entry())
        clock.step_wall(timedelta(hours=1))

        async def message() -> None:
            resolution = await state.store.resolve(KEY, source(), HOURLY, lambda _: False)
            found.append(resolution)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(message)

    actions = [one.decision.action for one in found]
    assert actions.count(Action.RESET) == 1
    assert actions.count(Action.CONTINUE) == 19
    assert len({one.entry.session_id for one in found}) == 1


async def test_a_decision_about_an_entry_that_moved_on_is_not_carried_out(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.create(entry())
        view = state.store.view(KEY, NEVER_RESET, lambda _: False)
        await state.store.update(KEY, _one_turn)

        with pytest.raises(MovedOnError):
            await state.database.write(
                lambda tx: state.store.stage_resolution(tx, KEY, source(), view)
            )

        assert state.store.get(KEY) == entry(turns=1)


async def test_a_full_disk_refuses_a_change_before_it_is_applied(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_mb=4) as disk:
        async with open_state(disk / "state") as state:
            await state.store.create(entry())
            fill(disk / "ballast")

            with pytest.raises(StorageFullError):
                await state.store.update(KEY, lambda one: replace(one, model="x" * 20_000))
            with pytest.raises(StorageFullError):
                await state.store.snapshots.write()
            assert state.store.get(KEY) == entry()
            assert state.store.snapshots.due_in_s() is not None
            assert shown(state.path) == {}

            (disk / "ballast").unlink()
            await state.store.update(KEY, _one_turn)
            await state.store.snapshots.write()
            assert shown(state.path)[KEY]["turns"] == 1


async def _pages(state_entries: Callable[..., list[SessionEntry]], limit: int) -> list[str]:
    seen: list[str] = []
    while page := state_entries(after=seen[-1] if seen else "", limit=limit):
        assert len(page) <= limit
        seen += [one.session_key for one in page]
    return seen


@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_paging_shows_every_entry_once(tmp_path: Path, limit: int) -> None:
    names = [f"c{n}" for n in range(60)]
    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, map(entry, names))

        seen = await _pages(state.store.entries, limit)

    assert sorted(seen) == sorted(map(key_of, names))


async def test_paging_is_not_disturbed_by_entries_that_come_and_go(tmp_path: Path) -> None:
    names = [f"c{n}" for n in range(60)]
    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, map(entry, names))
        order = await _pages(state.store.entries, 100)
        gone = order[:5] + order[12:14] + order[40:]
        seen: list[str] = []
        for number in range(100):
            page = state.store.entries(after=seen[-1] if seen else "", limit=4)
            if not page:
                break
            seen += [one.session_key for one in page]
            if number == 1:  # the page before, the next one and the last ones
                for key in gone:
                    await state.store.remove(key)  # type: ignore[arg-type]
                await create_all(state.store, (entry(f"new{n}") for n in range(20)))

    assert len(seen) == len(set(seen))
    assert set(order) - set(gone) <= set(seen)
    assert [key for key in seen if key in order] == sorted(
        (key for key in seen if key in order), key=order.index
    )


async def test_statistics_tell_entries_changes_and_snapshots(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_state(tmp_path / "state", clock) as state:
        await create_all(state.store, map(entry, "abc"))
        await state.store.remove(key_of("a"))
        await state.store.snapshots.write()
        found = state.store.statistics()

        assert (found.entries, found.sequence) == (2, 4)
        assert (found.replayed, found.quarantined) == (0, 0)
        assert found.last_prune is None
        assert found.snapshot.sequence == 4
        assert (found.snapshot.written, found.snapshot.failed) == (2, 0)
        assert found.snapshot.written_at == START
        assert found.snapshot.size_bytes == (state.path / "sessions.json").stat().st_size


async def test_readers_in_threads_see_whole_entries_and_never_an_older_one(
    tmp_path: Path,
) -> None:
    def next_state(one: SessionEntry) -> SessionEntry:
        return replace(one, turns=one.turns + 1, model=f"{one.turns + 1} " * 50)

    async with open_state(tmp_path / "state") as state:
        await state.store.create(entry(model="0 " * 50))
        stop, wrong, seen = threading.Event(), [], [0, 0]

        def read(reader: int) -> None:
            while not stop.is_set():
                one = state.store.get(KEY)
                if one is None or one.model != f"{one.turns} " * 50 or one.turns < seen[reader]:
                    wrong.append(one)
                else:
                    seen[reader] = one.turns

        threads = [threading.Thread(target=read, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        try:
            with anyio.fail_after(30):
                for _ in range(10):
                    async with anyio.create_task_group() as group:
                        for _ in range(50):
                            group.start_soon(state.store.update, KEY, next_state)
                while not (all(seen) or wrong):  # a reader may be late
                    await state.database.ping()
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    assert wrong == []
