"""Laws of stored projections: they come back as they were made, each session's its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import settings as running
from hypothesis import strategies as st

from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.model import Projection, ProjectionMode, SessionId, TurnId, clean_text
from gateway.transcripts import projections

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.batch import Transaction

ID, OTHER = SessionId("s1"), SessionId("s2")
AT = "2026-01-01T00:00:00Z"
TRIM = Projection("t1/0/c", ProjectionMode.TRIM, max_chars=4_000, head_chars=10, tail_chars=20)
CLEAR = Projection("t1/0/c", ProjectionMode.CLEAR, placeholder="[gone]")
TEXTS = st.text(max_size=30).map(clean_text)
SIZES = st.integers(0, 2**62)
MADE = st.builds(
    Projection,
    TEXTS,
    st.sampled_from(ProjectionMode),
    SIZES,
    SIZES,
    SIZES,
    TEXTS,
    st.none() | st.integers(1, 2**62),
)


async def _keep(database: Database, *made: Projection, session_id: SessionId = ID) -> None:
    await database.write(lambda tx: projections.keep(tx, session_id, made, at=AT))


async def _read(database: Database, session_id: SessionId = ID) -> list[Projection]:
    return await database.read(lambda conn: projections.read(conn, session_id))


def _once(made: list[Projection]) -> list[Projection]:
    """Return projections of items of their own, one left-out turn among them at most."""
    kept: dict[str, Projection] = {}
    for one in made:
        omits = any(other.mode is ProjectionMode.OMIT for other in kept.values())
        if not (omits and one.mode is ProjectionMode.OMIT):
            kept.setdefault(one.item, one)
    return list(kept.values())


@running(max_examples=30)
@given(made=st.lists(MADE, max_size=5).map(_once))
async def test_projections_come_back_as_they_were_made(
    tmp_path_factory: pytest.TempPathFactory, made: list[Projection]
) -> None:
    path = tmp_path_factory.mktemp("projections") / "gateway.db"
    async with Database.open(path, FakeClock()) as database:
        await _keep(database, *made)

        assert sorted(await _read(database), key=repr) == sorted(made, key=repr)
        assert await _read(database, OTHER) == []


async def test_a_trimmed_result_may_be_cleared(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await _keep(database, TRIM)
        await _keep(database, CLEAR)
        (kept,) = await _read(database)

    assert (kept.mode, kept.placeholder) == (ProjectionMode.CLEAR, "[gone]")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(TRIM, Projection(TRIM.item, TRIM.mode, 9, 9, 9), id="trimmed-otherwise"),
        pytest.param(CLEAR, TRIM, id="cleared-is-final"),
        pytest.param(
            CLEAR, Projection(CLEAR.item, CLEAR.mode, placeholder="x"), id="cleared-otherwise"
        ),
    ],
)
async def test_what_was_made_of_a_result_stays(
    tmp_path: Path, first: Projection, second: Projection
) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await _keep(database, first)
        await _keep(database, second)

        assert await _read(database) == [first]


async def test_of_the_turns_that_are_left_out_the_newest_is_kept(tmp_path: Path) -> None:
    first, second = (Projection(turn, ProjectionMode.OMIT) for turn in ("t1", "t2"))
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await _keep(database, first, session_id=OTHER)
        await _keep(database, TRIM, first)
        await _keep(database, second)

        assert await _read(database) == [TRIM, second]
        assert await _read(database, OTHER) == [first]
        await _keep(database, second)
        assert await _read(database) == [TRIM, second]


async def test_what_was_made_of_turns_that_left_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    """More than fit a statement, those of the same commit among them."""
    made = [Projection(f"t1/{number}/c'?", TRIM.mode, 9) for number in range(1_000, 2_203)]
    skip, omit = Projection("t2", ProjectionMode.SKIP), Projection("t3", ProjectionMode.OMIT)
    gone = [one.item for one in made[3:]] + ["t2", "t9/0/unknown"]
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await _keep(database, *made[:700], skip)
        await _keep(database, *made[:700], session_id=OTHER)

        def work(transaction: Transaction) -> None:
            projections.keep(transaction, ID, [*made[700:], omit], at=AT)
            projections.drop(transaction, ID, gone)

        await database.write(work)
        assert await _read(database) == [*made[:3], omit]
        assert await _read(database, OTHER) == made[:700]
        await database.write(lambda tx: projections.drop(tx, ID, []))
        # The newest turn that is left out stays known, whatever is deleted.
        await database.write(lambda tx: projections.drop(tx, ID, ["t3"]))
        assert await _read(database) == [*made[:3], omit]


async def test_a_turn_that_begins_anew_loses_what_was_made_of_its_results_and_no_other_does(
    tmp_path: Path,
) -> None:
    items = ["t-1/0/c", "t-1/1/c", "t-1/0/t-10/0/c", "t-1", "t-10/0/c", "t-10", "t-0/0/t-1/0/c"]
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        made = [Projection(item, ProjectionMode.CLEAR, placeholder="-") for item in items]
        for session_id in (ID, OTHER):
            await _keep(database, *made, session_id=session_id)
        await database.write(lambda tx: projections.drop_of_turn(tx, ID, TurnId("t-1")))

        assert {one.item for one in await _read(database)} == set(items[3:])
        assert {one.item for one in await _read(database, OTHER)} == set(items)
