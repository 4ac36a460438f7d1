"""Laws of one open question: an answer counts once it is stored, the first one, and in time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.model import AgentId, Inbound, ToolCall, TurnId
from gateway.turns.acceptance import Answer
from gateway.turns.approvals import Approvals, OpenQuestion, Verdict
from gateway.turns.budgets import user_of
from gateway.turns.outcome import Outcome
from gateway.turns.ticket import Progress, Reply
from tests.support.state import entry, key_of, source

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from gateway.durable.batch import Transaction

KEY = key_of()
USER = user_of(source())
CALL = ToolCall("c1", "send", "{}")
YES, NO = Verdict(approved=True, by="ann"), Verdict(approved=False, by="bob")


class GiveUpError(Exception):
    """Rolls a transaction back."""


async def take(
    database: Database, question: OpenQuestion, verdict: Verdict, *, fails: bool = False
) -> Verdict | None:
    """Store an answer, or fail to, and return the one that counts."""
    counts: list[Verdict | None] = []

    def work(transaction: Transaction) -> None:
        counts.append(question.take(transaction, verdict))
        if fails:
            raise GiveUpError

    if fails:
        with pytest.raises(GiveUpError):
            await database.write(work)
    else:
        await database.write(work)
    return counts[-1]


@dataclass
class Asked:
    """Questions that are asked one after the other, and what came of them."""

    approvals: Approvals
    outcome: Outcome = field(default_factory=lambda: Outcome(Progress(), TurnId("t1")))
    answers: list[bool] = field(default_factory=list)

    async def ask(self, times: int) -> None:
        for _ in range(times):
            self.answers.append(await self.approvals.approve(KEY, USER, CALL, self.outcome))

    def open(self) -> OpenQuestion:
        """Return the question that is open."""
        found = self.read("no")
        assert found is not None
        return found[0]

    def read(self, text: str, chat: str = "alice") -> tuple[OpenQuestion, bool | None] | None:
        return self.approvals.read(key_of(chat), Inbound(source(chat), text))


@asynccontextmanager
async def asking(clock: FakeClock, times: int = 1) -> AsyncGenerator[Asked]:
    """Ask; leaving waits until all is answered."""
    asked = Asked(Approvals(clock, 120))
    async with anyio.create_task_group() as group:
        group.start_soon(asked.ask, times)
        await anyio.wait_all_tasks_blocked()
        yield asked


async def test_the_first_answer_that_is_stored_counts(tmp_path: Path) -> None:
    question = OpenQuestion(USER, "4711", "", 120)
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        assert await take(database, question, YES, fails=True) == YES
        assert await take(database, question, NO) == NO
        assert await take(database, question, YES) == NO
        # One that only heard what counts takes nothing back.
        assert await take(database, question, YES, fails=True) == NO
        assert question.close() == NO
        assert await take(database, question, YES) is None


async def test_an_answer_that_is_being_stored_as_time_runs_out_came_in_time(
    tmp_path: Path,
) -> None:
    """Its user is told so by what is stored with it."""
    clock = FakeClock()
    async with Database.open(tmp_path / "gateway.db", clock) as database:
        for in_time in (True, False):
            async with asking(clock) as asked:
                question = asked.open()
                if in_time:
                    assert await take(database, question, YES) == YES
                await clock.advance(120)
            assert asked.answers == [in_time]
            assert await take(database, question, YES) is None


async def test_an_answer_to_a_question_that_is_settled_is_none_to_the_next_one(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    async with (
        Database.open(tmp_path / "gateway.db", clock) as database,
        asking(clock, times=2) as asked,
    ):
        # It was read twice while it was open; one answer is slow to be stored.
        first = asked.open()
        await take(database, first, YES)
        first.settle()
        await anyio.wait_all_tasks_blocked()
        assert asked.answers == [True]
        assert await take(database, first, YES) is None
        first.settle()
        await anyio.wait_all_tasks_blocked()
        assert (asked.answers, len(asked.approvals)) == ([True], 1)
        assert asked.open().number != first.number
        await clock.advance(120)
    assert (asked.answers, len(asked.approvals)) == ([True, False], 0)


async def test_a_stop_lets_an_answer_count_that_was_stored_just_before(tmp_path: Path) -> None:
    clock = FakeClock()
    async with (
        Database.open(tmp_path / "gateway.db", clock) as database,
        asking(clock, times=2) as asked,
    ):
        await take(database, asked.open(), YES)
        asked.approvals.stop()
    assert asked.answers == [True, False]
    assert [one.text for one in asked.outcome.messages][1:] == [
        "send may be used (allowed by ann).",
        "The gateway is stopping: send was not used.",
    ]


async def test_what_settles_nothing_is_a_message_like_all_others_once_the_question_is_closed(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    question = OpenQuestion(USER, "4711", "", ends_at=120)
    inbound, agent = Inbound(source(), "yes"), AgentId("main")
    answer = Answer(inbound, agent, entry(), TurnId("t2"), question, None, clock)
    async with Database.open(tmp_path / "gateway.db", clock) as database:
        assert isinstance(await database.write(answer.run), Reply)
        question.close()
        assert await database.write(answer.run) is None


async def test_a_number_stands_for_one_question_alone() -> None:
    async with asking(FakeClock(), times=100) as asked:
        numbers = []
        for _ in range(100):
            question = asked.open()
            numbers.append(question.number)
            question.settle()
            await anyio.wait_all_tasks_blocked()
    # Drawn at random, 100 of 9,000 would have two alike every other time.
    assert len(set(numbers)) == 100
    assert all(len(number) == 4 and number[0] != "0" for number in numbers)


@pytest.mark.parametrize(
    "text", ["yess", "yes please", "okay then", "", "1", "ye", "not", "?yes", "4711", "yes 47 11"]
)
async def test_other_words_are_no_answer(text: str) -> None:
    async with asking(FakeClock()) as asked:
        assert asked.read(text) is None
        assert asked.read("yes", "bob") is None
        assert asked.approvals.read(KEY, Inbound(source("bob"), "yes")) is None
        asked.approvals.stop()
    assert len(asked.approvals) == 0


async def test_a_yes_without_the_number_is_none() -> None:
    async with asking(FakeClock()) as asked:
        question = asked.open()
        other = "4711" if question.number != "4711" else "4712"
        for text, approved in (
            ("yes", None),
            (f"yes {other}", None),
            (f"no {other}", None),
            (f"yes {question.number}0", None),
            (f"yes {question.number}", True),
            (f"no {question.number}", False),
            ("no", False),
        ):
            assert asked.read(text) == (question, approved)
        asked.approvals.stop()
