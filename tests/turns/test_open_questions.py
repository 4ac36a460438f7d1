"""Laws of one open question: an answer counts once it is stored, the first one, and in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.turns.approvals import Approvals, OpenQuestion
from tests.support.state import key_of

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.batch import Transaction

KEY = key_of()


class GiveUpError(Exception):
    """Rolls a transaction back."""


async def take(
    database: Database, question: OpenQuestion, *, approved: bool, fails: bool = False
) -> bool | None:
    """Store an answer, or fail to, and return the one that counts."""
    counts: list[bool | None] = []

    def work(transaction: Transaction) -> None:
        counts.append(question.take(transaction, approved=approved))
        if fails:
            raise GiveUpError

    if fails:
        with pytest.raises(GiveUpError):
            await database.write(work)
    else:
        await database.write(work)
    return counts[-1]


async def test_the_first_answer_that_is_stored_counts(tmp_path: Path) -> None:
    question = OpenQuestion("ann")
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        assert await take(database, question, approved=True, fails=True) is True
        assert await take(database, question, approved=False) is False
        assert await take(database, question, approved=True) is False
        # One that only heard what counts takes nothing back.
        assert await take(database, question, approved=True, fails=True) is False
        assert question.close() is False
        assert await take(database, question, approved=True) is None


async def test_an_answer_that_is_being_stored_as_time_runs_out_came_in_time(
    tmp_path: Path,
) -> None:
    """Its user is told so by what is stored with it."""
    clock = FakeClock()
    approvals = Approvals(clock, 120)
    answers: list[bool | None] = []

    async def ask() -> None:
        answers.append(await approvals.ask(KEY, "ann"))

    async with Database.open(tmp_path / "gateway.db", clock) as database:
        for in_time in (True, False):
            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                found = approvals.read(KEY, "ann", "yes")
                assert found is not None
                question, approved = found
                if in_time:
                    assert await take(database, question, approved=approved) is True
                await clock.advance(120)
            assert await take(database, question, approved=approved) is None
    assert answers == [True, None]


async def test_an_answer_to_a_question_that_is_settled_is_none_to_the_next_one(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    approvals = Approvals(clock, 120)
    answers: list[bool | None] = []

    async def ask_twice() -> None:
        answers.append(await approvals.ask(KEY, "ann"))
        answers.append(await approvals.ask(KEY, "ann"))

    async with (
        Database.open(tmp_path / "gateway.db", clock) as database,
        anyio.create_task_group() as group,
    ):
        group.start_soon(ask_twice)
        await anyio.wait_all_tasks_blocked()
        first, second = (approvals.read(KEY, "ann", "yes") for _ in range(2))
        assert first is not None
        assert second is not None
        # Both were read while the first question was open; one is slow to be stored.
        await take(database, first[0], approved=True)
        first[0].settle()
        await anyio.wait_all_tasks_blocked()
        assert answers == [True]
        assert await take(database, second[0], approved=True) is None
        second[0].settle()
        await anyio.wait_all_tasks_blocked()
        assert (answers, approvals.is_open(KEY)) == ([True], True)
        await clock.advance(120)
    assert (answers, len(approvals)) == ([True, None], 0)


@pytest.mark.parametrize("text", ["yess", "yes please", "okay then", "", "1", "ye", "not", "?yes"])
async def test_other_words_are_no_answer(text: str) -> None:
    approvals = Approvals(FakeClock(), 120)
    async with anyio.create_task_group() as group:
        group.start_soon(approvals.ask, KEY, "ann")
        await anyio.wait_all_tasks_blocked()

        assert approvals.read(KEY, "ann", text) is None
        assert approvals.read(KEY, "bob", "yes") is None
        assert approvals.read(key_of("bob"), "ann", "yes") is None
        group.cancel_scope.cancel()
    assert len(approvals) == 0
