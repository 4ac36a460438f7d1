"""Laws of the audit of pruning: entries and runs come back as they were put in, newest first."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.transcripts import pruned
from gateway.transcripts.pruned import PrunedRow, PrunedState, RunCause, RunRow
from tests.support.database import opened_database

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database

AT = datetime(2026, 1, 1, tzinfo=UTC)
ORIGINAL = {"position": 7, "text": "größer \U0001f600", "marks": None}
ROW = PrunedRow(
    run_id="run",
    item=7,
    session_id="s",
    action="delete",
    state=PrunedState.HELD,
    at=pruned.instant(AT),
    due_at=pruned.instant(AT + timedelta(days=7)),
    archive=None,
    record={"rule_id": "old", "before": {"items": 1}},
)


async def _add(database: Database, *rows: PrunedRow) -> list[PrunedRow]:
    """Store entries; return them with their positions."""

    def work(place: Any) -> list[PrunedRow]:  # noqa: ANN401 - a transaction
        return [replace(row, position=pruned.add(place, row, ORIGINAL)) for row in rows]

    return await database.write(work)


async def _page(database: Database, **query: Any) -> list[PrunedRow]:  # noqa: ANN401 - of `page`
    return await database.read(lambda place: pruned.page(place, **{"limit": 100, **query}))


async def test_an_entry_comes_back_as_it_was_with_its_original(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        without = replace(ROW, state=PrunedState.ARCHIVED, due_at=None, archive="a.jsonl.zst")
        first, second = await _add(database, ROW, without)

        assert await database.read(lambda place: pruned.find(place, first.position)) == first
        assert await database.read(lambda place: pruned.find(place, second.position)) == second
        assert await database.read(lambda place: pruned.find(place, 99)) is None
        held = await database.read(lambda place: pruned.original(place, first.position))
        assert held == ORIGINAL
        assert await database.read(lambda place: pruned.original(place, 99)) is None


@pytest.mark.parametrize(
    ("statement", "is_kept"),
    [
        *((f"UPDATE pruned_items SET state = '{state}'", state == "held") for state in PrunedState),  # noqa: S608 - texts of ours
        ("UPDATE pruned_items SET state = 'lost'", False),
        ("UPDATE pruned_items SET due_at = NULL, archive = 'x', record = '{}'", True),
        ("DELETE FROM pruned_items", False),
    ],
)
async def test_an_original_is_there_as_long_as_its_entry_is_held_whoever_changes_that(
    tmp_path: Path, statement: str, *, is_kept: bool
) -> None:
    async with opened_database(tmp_path) as database:
        first, _ = await _add(database, ROW, replace(ROW, item=2))

        await database.write(lambda tx: tx.execute(f"{statement} WHERE item = {ROW.item}"))

        held = await database.read(lambda place: pruned.original(place, first.position))
        left = await database.read(
            lambda place: place.execute("SELECT count(*) FROM pruned_originals").fetchall()
        )
    assert held == (ORIGINAL if is_kept else None)
    assert left == [(1 + is_kept,)]


async def test_entries_come_newest_first_in_pages(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        rows = await _add(database, *(replace(ROW, item=number) for number in range(25)))
        seen: list[PrunedRow] = []
        while part := await _page(database, limit=10, before=seen[-1].position if seen else None):
            assert len(part) <= 10
            seen += part
            await _add(database, ROW)

    assert seen == rows[::-1]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [4, 3, 2, 1, 0]),
        ({"item": 1}, [1]),
        ({"item": 99}, []),
        ({"run_id": "r2"}, [4, 2]),
        ({"session_ids": ["p", "nobody"]}, [3, 1]),
        ({"session_ids": ["p", "s"], "run_id": "r2"}, [4, 2]),
        ({"session_ids": []}, []),
        ({"states": ["restored"]}, [4]),
        ({"states": ["held", "restored"], "session_ids": ["s"]}, [4, 2, 0]),
        ({"item": 1, "run_id": "r2"}, []),
    ],
)
async def test_entries_are_found_by_what_they_are_of(
    tmp_path: Path, query: dict[str, Any], expected: list[int]
) -> None:
    async with opened_database(tmp_path) as database:
        await _add(
            database,
            ROW,
            replace(ROW, item=1, session_id="p"),
            replace(ROW, item=2, run_id="r2"),
            replace(ROW, item=3, session_id="p"),
            replace(ROW, item=4, run_id="r2", state=PrunedState.RESTORED, due_at=None),
        )
        await database.write(lambda tx: tx.execute("UPDATE pruned_items SET item = 0 WHERE item=7"))

        assert [row.item for row in await _page(database, **query)] == expected


async def test_entries_of_an_item_a_run_or_a_session_are_found_by_an_index(tmp_path: Path) -> None:
    class Explaining:
        def __init__(self, place: Any) -> None:  # noqa: ANN401 - a connection
            self.place = place
            self.steps: list[str] = []

        def execute(self, sql: str, bindings: Any = ()) -> Any:  # noqa: ANN401 - as apsw has it
            plan = self.place.execute(f"EXPLAIN QUERY PLAN {sql}", bindings)
            self.steps += [str(row[3]) for row in plan]
            return self.place.execute(sql, bindings)

    def work(place: Any) -> list[str]:  # noqa: ANN401 - a connection
        explaining = Explaining(place)
        pruned.page(explaining, limit=1, item=1)
        pruned.page(explaining, limit=1, run_id="r")
        pruned.page(explaining, limit=1, session_ids=["s"])
        pruned.page(explaining, limit=1, session_ids=["s"], states=["held"])
        pruned.sums_of_run(explaining, "r")
        pruned.count_in(explaining, "held")
        return [step for step in explaining.steps if "pruned_items" in step]

    async with opened_database(tmp_path) as database:
        steps = await database.read(work)

    names = [step.split("INDEX ")[1].split()[0] for step in steps]
    by_session = ["pruned_items_by_session"] * 2
    assert names == [
        "pruned_items_by_item",
        "pruned_items_by_run",
        *by_session,
        "pruned_items_by_run",
        "pruned_items_due",
    ]


async def test_what_cannot_be_read_is_told_as_unreadable_and_never_as_empty(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        (row,) = await _add(database, ROW)
        for damage in ("{", "[1]"):

            def spoil(tx: Transaction, damage: str = damage) -> None:
                tx.execute("UPDATE pruned_items SET record = ?", (damage,))
                tx.execute("UPDATE pruned_originals SET original = ?", (damage.encode(),))

            await database.write(spoil)

            (found,) = await _page(database)
            assert found == replace(row, record=None)
            with pytest.raises(ValueError, match=r".+"):
                await database.read(lambda place: pruned.original(place, row.position))


async def test_a_run_is_noted_when_it_begins_and_completed_when_it_ends(tmp_path: Path) -> None:
    ended = RunRow(
        run_id="r1",
        cause=RunCause.DUE,
        started_at=pruned.instant(AT),
        ended_at=pruned.instant(AT + timedelta(seconds=2)),
        status="ok",
        detail="all of it",
        pruned=3,
        freed_bytes=300,
        freed_tokens=30,
        record={"plan_id": "p"},
    )
    async with opened_database(tmp_path) as database:
        for cause in (RunCause.DUE, RunCause.APPLY):
            await database.write(
                lambda tx, cause=cause: pruned.begin_run(tx, "r1", cause=cause, started_at=AT)  # type: ignore[misc]
            )
        begun = await database.read(lambda place: pruned.find_run(place, "r1"))
        assert begun == RunRow(
            "r1", "due", ended.started_at, None, "running", record={}, position=1
        )

        await database.write(lambda tx: pruned.end_run(tx, ended))
        refused = replace(ended, run_id="r2", status="refused", pruned=0, record=None)
        await database.write(lambda tx: pruned.end_run(tx, refused))

        runs = await database.read(lambda place: pruned.runs(place, limit=10))
        assert runs == [replace(refused, record={}, position=2), replace(ended, position=1)]
        assert await database.read(lambda place: pruned.runs(place, limit=1)) == runs[:1]
        assert await database.read(lambda place: pruned.runs(place, limit=9, before=2)) == runs[1:]
        assert await database.read(lambda place: pruned.find_run(place, "r9")) is None


async def test_entries_are_counted_by_run_and_state(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        took = {"before": {"size_bytes": 9, "tokens": 3}, "after": {"size_bytes": 4, "tokens": 1}}
        gone = {"before": {"size_bytes": 7, "tokens": 2}}
        other = replace(ROW, run_id="r2", state=PrunedState.PURGED)
        await _add(database, replace(ROW, record=took), replace(ROW, record=gone), other)
        await database.write(
            lambda tx: tx.execute("UPDATE pruned_items SET record = '{' WHERE run_id = 'r2'")
        )

        def work(place: Any) -> list[int]:  # noqa: ANN401 - a connection
            return [
                *pruned.sums_of_run(place, "run"),
                *pruned.sums_of_run(place, "r2"),
                *pruned.sums_of_run(place, "nobody"),
                pruned.count_in(place, PrunedState.HELD),
                pruned.count_in(place, PrunedState.ARCHIVED),
            ]

        assert await database.read(work) == [2, 12, 4, 1, 0, 0, 0, 0, 0, 2, 0]


@given(st.lists(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)), max_size=9))  # noqa: DTZ001 - as hypothesis wants it
def test_instants_are_in_order_as_texts(instants: list[datetime]) -> None:
    aware = [one.replace(tzinfo=UTC) for one in instants]

    assert sorted(map(pruned.instant, aware)) == list(map(pruned.instant, sorted(aware)))
