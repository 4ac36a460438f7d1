"""Laws of taking `sessions.json` as the truth because an operator says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.durable.directory import hold
from gateway.errors import DamagedDataError
from gateway.sessions.adopting import Adopted, adopt
from gateway.sessions.entry import entry_to_dict
from gateway.sessions.recovery import PREVIOUS, SNAPSHOT
from gateway.transcripts import inbox
from tests.support.messages import inbox_row
from tests.support.state import START, create_all, entry, key_of, open_state, power_cut

if TYPE_CHECKING:
    from pathlib import Path


async def _used(tmp_path: Path) -> tuple[Path, bytes]:
    """Make a state after a power cut, with an old snapshot that its log no longer covers."""
    async with open_state(tmp_path / "state") as state:
        await state.store.create(entry("a"))
        await state.store.snapshots.write()
        old = (state.path / SNAPSHOT).read_bytes()
        await create_all(state.store, [entry("b"), entry("c")])
        await state.store.snapshots.write()
        await state.store.snapshots.write()
        await state.store.create(entry("d"))
        await state.database.write(lambda tx: inbox.accept(tx, inbox_row(1)))
        return power_cut(state, tmp_path / "left"), old


async def _adopt(path: Path) -> Adopted:
    with hold(path, started_at=START) as directory:
        async with Database.open(path / "gateway.db", FakeClock()) as database:
            return await adopt(directory, database, START)


async def test_an_adopted_file_is_the_truth_and_the_rest_is_set_aside(tmp_path: Path) -> None:
    path, old = await _used(tmp_path)
    previous = (path / PREVIOUS).read_bytes()
    (path / SNAPSHOT).write_bytes(old)
    with pytest.raises(DamagedDataError, match="gateway store adopt"):
        async with open_state(path):
            pass

    assert await _adopt(path) == Adopted(
        entries=1, checked=True, log_rows_set_aside=1, previous_set_aside=True
    )

    for _ in range(2):
        async with open_state(path) as state:
            assert [one.source.chat_id for one in state.store.entries()] == ["a"]
            assert state.store.statistics().sequence >= 4
            # What was received is no part of the file and stays.
            assert await state.database.read(inbox.unfinished) == [inbox_row(1)]
    (log,) = (path / "quarantine").glob("*-session_log.jsonl")
    (record,) = map(orjson.loads, log.read_bytes().splitlines())
    assert (record["session_key"], record["sequence"]) == (key_of("d"), 4)
    assert record["entry"]["session_id"] == entry("d").session_id
    (kept,) = (path / "quarantine").glob(f"*-{PREVIOUS}")
    assert kept.read_bytes() == previous


async def test_numbers_go_on_above_all_that_was_given_up(tmp_path: Path) -> None:
    path, old = await _used(tmp_path)
    (path / SNAPSHOT).write_bytes(old)
    await _adopt(path)

    async with open_state(path) as state:
        await state.store.create(entry("e"))
        assert state.store.statistics().sequence == 5
        left = power_cut(state, tmp_path / "again")
    async with open_state(left) as state:
        assert sorted(one.source.chat_id for one in state.store.entries()) == ["a", "e"]


async def test_a_file_made_by_hand_can_be_adopted(tmp_path: Path) -> None:
    path, old = await _used(tmp_path)
    raw = orjson.loads(old)
    raw["sessions"]["bad"] = {}
    (path / SNAPSHOT).write_bytes(orjson.dumps({"version": 1, "sessions": raw["sessions"]}))

    adopted = await _adopt(path)

    assert (adopted.entries, adopted.checked) == (2, False)
    async with open_state(path) as state:
        assert [one.source.chat_id for one in state.store.entries()] == ["a"]
        assert state.store.statistics().quarantined == 1


@pytest.mark.parametrize("content", [None, b"", b"{"])
async def test_what_cannot_be_read_cannot_be_adopted_and_nothing_is_given_up(
    tmp_path: Path, content: bytes | None
) -> None:
    path, _ = await _used(tmp_path)
    good = (path / SNAPSHOT).read_bytes()
    (path / SNAPSHOT).unlink() if content is None else (path / SNAPSHOT).write_bytes(content)

    with pytest.raises(DamagedDataError):
        await _adopt(path)

    assert not (path / "quarantine").exists()
    (path / SNAPSHOT).write_bytes(good)
    async with open_state(path) as state:
        assert len(state.store) == 4


async def test_changes_that_cannot_be_read_are_set_aside_as_they_are(tmp_path: Path) -> None:
    path, old = await _used(tmp_path)
    (path / SNAPSHOT).write_bytes(old)
    async with Database.open(path / "gateway.db", FakeClock()) as database:
        await database.write(
            lambda tx: tx.execute("UPDATE session_log SET member = x'7bff' WHERE sequence = 4")
        )

    assert (await _adopt(path)).log_rows_set_aside == 1

    (log,) = (path / "quarantine").glob("*-session_log.jsonl")
    assert orjson.loads(log.read_bytes())["unreadable"] == "{\\xff"


@pytest.mark.parametrize("checked", [True, False])
async def test_a_session_that_had_ended_since_goes_on(tmp_path: Path, checked: bool) -> None:  # noqa: FBT001 - a column
    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, [entry("a"), entry("b")])
        await state.store.snapshots.write()
        old = (state.path / SNAPSHOT).read_bytes()
        await state.store.remove(key_of("a"))
        await state.store.remove(key_of("b"))
        path = power_cut(state, tmp_path / "left")
    one = {"version": 1, "sessions": {key_of("a"): entry_to_dict(entry("a"))}}
    (path / SNAPSHOT).write_bytes(old if checked else orjson.dumps(one))

    await _adopt(path)

    async with open_state(path) as state:
        rows = await state.database.read(
            lambda conn: conn.execute(
                "SELECT session_key FROM sessions WHERE ended_at IS NULL ORDER BY 1"
            ).fetchall()
        )
        assert {key for (key,) in rows} == {one.session_key for one in state.store.entries()}
        assert len(rows) == (2 if checked else 1)
