"""Laws of how long stored messages live, and of erasing all of a session."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from gateway.access.pairing import Pairing
from gateway.clock import FakeClock
from gateway.errors import ConflictError
from gateway.model import AgentId, ModelCall, Summary, TurnId, Usage
from gateway.retention.discarding import DELIVERED_DAYS, discard_old
from gateway.retention.erasing import erase
from gateway.transcripts import inbox, summaries, usage
from gateway.transcripts.reading import read_transcript, sessions_of
from gateway.transcripts.usage import UsageBy
from gateway.turns.budgets import user_of
from tests.support.messages import commit_turn, inbox_row
from tests.support.state import START, entry, key_of, open_state, resolve, source

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.model import SessionId
    from tests.support.state import State

KEY = key_of()
SECOND = timedelta(seconds=1)
CANARY = "Canary7f3a"


async def _turn(state: State, number: int, chat_id: str = "alice", text: str = "hello") -> None:
    row = inbox_row(number, chat_id, text=text)
    one = state.store.get(row.session_key)
    await state.database.write(lambda tx: inbox.accept(tx, row))
    await state.database.write(
        lambda tx: commit_turn(tx, row, f"re {text}", session_id=one.session_id if one else None)
    )


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
        await _turn(state, 1)
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
        await _turn(state, 1)

        with pytest.raises(ConflictError, match="remove it first"):
            await erase(state.database, state.store, KEY)

        assert await _count(state, "messages") == 2
        assert await _count(state, "outbox") == 1


async def test_erasing_takes_all_of_one_session_and_nothing_of_others(tmp_path: Path) -> None:
    tables = ("messages", "inbox", "outbox", "sessions")
    async with open_state(tmp_path / "state") as state:
        for name in ("alice", "bob"):
            await resolve(state.store, name)
            await _turn(state, 1, name)
            await state.store.reset(key_of(name))
            await _turn(state, 2, name)
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
        await _turn(state, 1)
        await state.store.remove(KEY)
        assert len(await read_transcript(state.database, session_id)) == 2

        await erase(state.database, state.store, KEY)
        await erase(state.database, state.store, KEY)

        assert await read_transcript(state.database, session_id) == []


async def _used(state: State, session_id: SessionId, user: str) -> None:
    """Count a call of a user, and keep a summary of the session."""
    calls = [(ModelCall("m", START, Usage(input_tokens=10)), 0.5)]
    summary = Summary(TurnId("t1"), 1, CANARY, AgentId("main"), "m", 10, 5)
    await state.database.write(lambda tx: usage.count(tx, session_id, "main", user, calls))
    await state.database.write(lambda tx: summaries.keep(tx, session_id, summary, at="x"))


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
            await _used(state, session_id, user)
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


def _holding_canary(path: Path) -> list[str]:
    return [
        one.name for one in path.rglob("*") if one.is_file() and CANARY.encode() in one.read_bytes()
    ]


async def _live(state: State, names: list[str], chance: random.Random) -> None:
    """Let sessions live side by side: turns, changes, resets, snapshots, trimmed logs."""
    for name in names:
        await resolve(state.store, name)
    for number in range(120):
        name = chance.choice(names)
        text = f"{name if name == CANARY else 'x'} " * chance.choice([1, 20, 900])
        await _turn(state, number, name, text)
        await state.store.update(
            key_of(name),
            lambda one, name=name: replace(one, turns=one.turns + 1, model=name),  # type: ignore[misc]
        )
        session_id = (await resolve(state.store, name)).entry.session_id
        if name == CANARY:
            await _used(state, session_id, user_of(source(name)))
        if number % 20 == 7:
            await state.store.reset(key_of(name))
        if number % 15 == 3:
            await state.store.snapshots.write()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_of_an_erased_session_no_byte_is_left_on_disk(tmp_path: Path, seed: int) -> None:
    clock = FakeClock()
    async with open_state(tmp_path / "state", clock) as state:
        await _live(state, ["alice", CANARY, "bob"], random.Random(seed))
        row = inbox_row(999, CANARY, text=CANARY)
        await state.database.write(lambda tx: inbox.accept(tx, row))
        clock.step_wall(timedelta(days=8))
        await _discard(state, clock)
        assert set(_holding_canary(state.path)) >= {"gateway.db-wal", "sessions.json"}
        await state.store.remove(key_of(CANARY))

        await erase(state.database, state.store, key_of(CANARY))

        assert _holding_canary(state.path) == []
        left = await state.database.write(lambda tx: inbox.find(tx, row.session_key, "m999"))
        assert left is None
    assert _holding_canary(tmp_path / "state") == []
    async with open_state(tmp_path / "state", clock) as state:
        assert len(state.store) == 2
        assert state.store.get(key_of(CANARY)) is None
