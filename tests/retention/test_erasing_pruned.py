"""Laws of erasing what pruning took of a session: held, archived, shortened, and told."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from gateway.errors import DamagedDataError, UnavailableError
from gateway.retention.archiving import Archives
from gateway.retention.erasing import erase, is_erasure_unfinished
from gateway.transcripts import archives, pruned
from gateway.transcripts.pruned import RunRow
from gateway.transcripts.reading import sessions_of
from tests.retention.living import CANARY, hold_turn, holding, holding_canary, live
from tests.support.pruned import AT, take
from tests.support.state import START, key_of, open_state, resolve

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.state import State

SECOND = timedelta(seconds=1)


async def _said(state: State, *, canary: bool) -> list[int]:
    """Return the positions of what was said in sessions of the canary, or in others."""
    rows = await state.database.read(
        lambda conn: conn.execute(
            "SELECT messages.position FROM messages JOIN sessions USING (session_id) "
            "WHERE instr(session_key, ?) > 0 IS ? ORDER BY 1",
            (CANARY, canary),
        ).fetchall()
    )
    return [int(str(row[0])) for row in rows]


async def _take(state: State, items: list[int], action: str) -> None:
    await state.database.write(
        lambda tx: [take(tx.connection, item, action, due_at=AT) for item in items]  # type: ignore[func-returns-value]
    )


async def _end_run(state: State, run_id: str, session_id: str | None, *failed: int) -> None:
    """Note a run that was for a session, or failed at items."""
    errors = [{"item_id": f"{item:012}", "rule_id": "r", "error": "it failed"} for item in failed]
    record = {"session_id": session_id, "stats": {"scanned_count": 7}, "errors": errors}
    detail = f"of {session_id}" if session_id else ""
    row = RunRow(run_id, "apply", AT, AT, "partial", detail, 3, 20, 10, record)
    await state.database.write(lambda tx: pruned.end_run(tx, row))


async def _prune(state: State, archive: Archives) -> None:
    """Take items of every session: some to the archive, some to be held, some to be shortened."""
    for canary in (True, False):
        items = (await _said(state, canary=canary))[:-1]
        await _take(state, items[0:8:2], "archive")
    stored = await archive.store_due(START + SECOND, None)
    assert stored.items == 8
    for canary in (True, False):
        items = (await _said(state, canary=canary))[:-1]
        await _take(state, items[0:3], "archive")
        await _take(state, items[3:6], "delete")
        await _take(state, items[6:8], "compact")
        await _take(state, items[8:9], "summarize")


async def _kept(state: State, archive: Archives) -> dict[str, int]:
    """Return how many items are held, and how many the files of the archive have."""
    rows = await state.database.read(
        lambda conn: conn.execute("SELECT state, count(*) FROM pruned_items GROUP BY 1").fetchall()
    )
    files = [
        [one async for piece in archive.read(row) for one in piece]
        for row in await state.database.read(archives.all_of)
    ]
    return {str(name): int(str(count)) for name, count in rows} | {"in files": sum(map(len, files))}


@pytest.mark.parametrize("seed", [1, 2])
async def test_of_what_was_pruned_of_an_erased_session_nothing_is_left_on_disk(
    tmp_path: Path, seed: int
) -> None:
    async with open_state(tmp_path / "state") as state:
        archive = Archives(state.database, state.path / "archive")
        await live(state, ["alice", CANARY, "bob"], random.Random(seed))
        await _prune(state, archive)
        mine, others = [await _said(state, canary=canary) for canary in (True, False)]
        key = key_of(CANARY)
        ids = [one.session_id for one in await sessions_of(state.database, key)]
        other = (await sessions_of(state.database, key_of("bob")))[0].session_id
        await _end_run(state, "of-it", ids[0])
        await _end_run(state, "of-another", other, mine[0], others[0])
        await state.store.snapshots.write()
        before = holding(state.path, CANARY)
        assert await _kept(state, archive) == {"archived": 8, "held": 18, "in files": 8}
        await state.store.remove(key)

        await erase(state.database, state.store, key)

        assert any(name.endswith(".zst") for name in before), before
        assert holding(state.path, CANARY, *ids) == []
        assert await _kept(state, archive) == {"archived": 4, "held": 9, "in files": 4}
        assert await _said(state, canary=False) == others
        runs = await state.database.read(lambda place: pruned.runs(place, limit=9))
    assert holding(tmp_path / "state", CANARY, *ids) == []
    told = {run.run_id: (run.detail, run.pruned, run.record) for run in runs}
    kept = [{"item_id": f"{others[0]:012}", "rule_id": "r", "error": "it failed"}]
    stats = {"scanned_count": 7}
    assert told == {
        "of-it": ("", 3, {"session_id": None, "stats": stats, "errors": []}),
        "of-another": (f"of {other}", 3, {"session_id": other, "stats": stats, "errors": kept}),
    }


async def test_an_erasure_that_a_damaged_archive_holds_up_is_asked_for_again(
    tmp_path: Path,
) -> None:
    async with open_state(tmp_path / "state") as state:
        archive = Archives(state.database, state.path / "archive")
        await live(state, ["alice", CANARY], random.Random(1))
        await _prune(state, archive)
        await state.store.remove(key_of(CANARY))
        (file,) = (state.path / "archive").iterdir()
        file.write_bytes(b"altered")

        with pytest.raises(UnavailableError, match=file.name):
            await erase(state.database, state.store, key_of(CANARY))

        assert await is_erasure_unfinished(state.database)
        assert await sessions_of(state.database, key_of(CANARY)) == []
        file.unlink()
        await erase(state.database, state.store, key_of(CANARY))

        assert not await is_erasure_unfinished(state.database)
        assert holding_canary(state.path) == []


async def test_a_damaged_archive_without_the_session_holds_up_no_erasure(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        archive = Archives(state.database, state.path / "archive")
        await live(state, ["alice", CANARY], random.Random(1))
        await _take(state, (await _said(state, canary=False))[:3], "archive")
        await archive.store_due(START + SECOND, None)
        (file,) = (state.path / "archive").iterdir()
        file.write_bytes(b"altered")
        # As after a crash: it is to be looked into.
        await state.database.write(lambda tx: tx.execute("UPDATE archives SET items = items + 1"))
        await _take(state, (await _said(state, canary=True))[:3], "archive")
        await state.store.remove(key_of(CANARY))
        with pytest.raises(DamagedDataError, match=file.name):
            await archive.mend()

        await erase(state.database, state.store, key_of(CANARY))

        file.unlink()
        assert holding_canary(state.path) == []
        rows = await state.database.read(
            lambda conn: conn.execute("SELECT DISTINCT state FROM pruned_items").fetchall()
        )
        assert rows == [("archived",)]


async def test_positions_of_erased_messages_are_not_given_out_again(tmp_path: Path) -> None:
    """What tells of a position, of an item or a context, would tell of another message."""
    async with open_state(tmp_path / "state") as state:
        for number, name in enumerate(("alice", "alice", "bob", "bob")):
            await resolve(state.store, name)
            await hold_turn(state, number, name)
        taken = (await _said(state, canary=False))[3]
        await _take(state, [taken], "delete")
        await state.store.remove(key_of("bob"))
        await erase(state.database, state.store, key_of("bob"))

        await hold_turn(state, 9)

        assert await _said(state, canary=False) == [1, 2, 3, 9, 10]
