"""Laws of how long stored messages live, and of erasing all of a session."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from gateway.access.pairing import Pairing
from gateway.clock import FakeClock
from gateway.errors import ConflictError
from gateway.retention.discarding import DELIVERED_DAYS, discard_old
from gateway.retention.erasing import erase
from gateway.transcripts import inbox, usage
from gateway.transcripts.reading import read_transcript, sessions_of
from gateway.transcripts.usage import UsageBy
from gateway.turns.budgets import user_of
from tests.retention.living import CANARY, hold_turn, holding_canary, live, use
from tests.support.messages import commit_turn, inbox_row
from tests.support.state import entry, key_of, open_state, resolve, source

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.state import State

KEY = key_of()
SECOND = timedelta(seconds=1)


async def _discard(state: State, clock: FakeClock) -> int:
    pairing = await Pairing.load(state.database, clock)
    return await discard_old(state.database, clock, pairing)


async def _count(state: State, table: str) -> int:
    rows = await state.database.read(
        lambda conn: conn.execute(f"SELECT count(*) FROM {table}").fetchall()  # noqa: S608 - a name of ours
    )
    return int(str(rows[0][0]))


@pytest.mark.parametrize(
    ("age", "left"),
    [
        pytest.param(timedelta(days=7), 1, id="exactly seven days"),
        pytest.param(timedelta(days=7) + SECOND, 0, id="longer"),
        pytest.param(timedelta(0), 1, id="just now"),
    ],
)
async def test_answered_messages_and_sent_replies_live_for_seven_days(
    tmp_path: Path, age: timedelta, left: int
) -> None:
    clock = FakeClock()
    async with open_state(tmp_path / "state", clock) as state:
        await hold_turn(state, 1)
        clock.step_wall(age)

        assert await _discard(state, clock) == 1 - left

        assert await _count(state, "outbox") == left
        # What was said stays.
        assert len(await read_transcript(state.database, entry().session_id)) == 2
    assert DELIVERED_DAYS == 7


async def test_unanswered_messages_are_never_discarded(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_state(tmp_path / "state", clock) as state:
        await state.database.write(lambda tx: inbox.accept(tx, inbox_row(1)))
        clock.step_wall(timedelta(days=4000))

        assert await _discard(state, clock) == 0
        assert await state.database.read(inbox.unfinished) == [inbox_row(1)]


async def test_very_many_old_rows_all_go(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_state(tmp_path / "state", clock) as state:

        def fill(number: int) -> None:
            rows = [inbox_row(number * 500 + n) for n in range(500)]
            state.database.submit(
                lambda tx: [(inbox.accept(tx, row), commit_turn(tx, row, "")) for row in rows]  # type: ignore[func-returns-value]
            )

        for number in range(5):
            fill(number)
        await state.database.ping()
        clock.step_wall(timedelta(days=8))

        assert await _discard(state, clock) == 2500
        assert await _count(state, "outbox") == 0


async def test_a_session_that_has_an_entry_is_not_erased(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await resolve(state.store)
        await hold_turn(state, 1)

        with pytest.raises(ConflictError, match="remove it first"):
            await erase(state.database, state.store, KEY)

        assert await _count(state, "messages") == 2
        assert await _count(state, "outbox") == 1


async def test_erasing_takes_all_of_one_session_and_nothing_of_others(tmp_path: Path) -> None:
    tables = ("messages", "inbox", "outbox", "sessions")
    async with open_state(tmp_path / "state") as state:
        for name in ("alice", "bob"):
            await resolve(state.store, name)
            await hold_turn(state, 1, name)
            await state.store.reset(key_of(name))
            await hold_turn(state, 2, name)
            row = inbox_row(3, name)
            await state.database.write(lambda tx, row=row: inbox.accept(tx, row))  # type: ignore[misc]
        assert [await _count(state, table) for table in tables] == [8, 2, 4, 4]
        await state.store.remove(KEY)

        await erase(state.database, state.store, KEY)

        assert [await _count(state, table) for table in tables] == [4, 1, 2, 2]
        assert await sessions_of(state.database, KEY) == []
        # Nothing of the past is left to tell or to bring back.
        assert (await resolve(state.store)).reset_reason is None
        with pytest.raises(ConflictError):
            await state.store.undo(KEY)


async def test_a_removed_session_keeps_what_was_said_until_it_is_erased(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        session_id = (await resolve(state.store)).entry.session_id
        await hold_turn(state, 1)
        await state.store.remove(KEY)
        assert len(await read_transcript(state.database, session_id)) == 2

        await erase(state.database, state.store, KEY)
        await erase(state.database, state.store, KEY)

        assert await read_transcript(state.database, session_id) == []


async def _users(state: State) -> dict[str, int]:
    rows = await state.database.read(lambda conn: usage.read(conn, by=UsageBy.USER))
    return {row.name: row.calls for row in rows}


async def test_erasing_takes_summaries_and_the_names_of_users_that_have_no_other_session(
    tmp_path: Path,
) -> None:
    alice, bob = user_of(source("alice")), user_of(source("bob"))
    async with open_state(tmp_path / "state") as state:
        first = (await resolve(state.store)).entry.session_id
        second = (await state.store.reset(KEY)).session_id
        other = (await resolve(state.store, "bob")).entry.session_id
        for session_id, user in ((first, alice), (second, alice), (second, bob), (other, bob)):
            await use(state, session_id, user)
        before = await state.database.read(usage.total)
        await state.store.remove(KEY)
        removed = await _users(state)

        await erase(state.database, state.store, KEY)

        assert removed == {alice: 2, bob: 2}
        assert await _users(state) == {"": 2, bob: 2}
        assert await state.database.read(usage.total) == before
        counts = [await _count(state, table) for table in ("summaries", "session_users")]
        assert counts == [1, 1]
        assert await _count(state, "context_accounts") == 1


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_of_an_erased_session_no_byte_is_left_on_disk(tmp_path: Path, seed: int) -> None:
    clock = FakeClock()
    async with open_state(tmp_path / "state", clock) as state:
        await live(state, ["alice", CANARY, "bob"], random.Random(seed))
        row = inbox_row(999, CANARY, text=CANARY)
        await state.database.write(lambda tx: inbox.accept(tx, row))
        clock.step_wall(timedelta(days=8))
        await _discard(state, clock)
        assert set(holding_canary(state.path)) >= {"gateway.db-wal", "sessions.json"}
        await state.store.remove(key_of(CANARY))

        await erase(state.database, state.store, key_of(CANARY))

        assert holding_canary(state.path) == []
        left = await state.database.write(lambda tx: inbox.find(tx, row.session_key, "m999"))
        assert left is None
    assert holding_canary(tmp_path / "state") == []
    async with open_state(tmp_path / "state", clock) as state:
        assert len(state.store) == 2
        assert state.store.get(key_of(CANARY)) is None
