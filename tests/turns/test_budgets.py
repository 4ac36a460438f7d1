"""Laws of budgets: what is used up is told to who asks, and nobody's numbers to anybody else."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.model import ChatType, ModelCall, SessionId, SessionSource, Usage
from gateway.sessions.key import MAX_PART_CHARS
from gateway.transcripts import usage
from gateway.transcripts.usage import Spent
from gateway.turns.budgets import Budgets, BudgetSettings, over, user_of
from tests.support.state import START

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from pathlib import Path

    from gateway.durable.connection import Connection

T = TypeVar("T")

ONE, TWO = SessionId("s1"), SessionId("s2")
ANN, BOB = "http::user:ann", "http::user:bob"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOTHING = Usage()
ALL = BudgetSettings(
    session_tokens=1_000,
    session_usd=1.0,
    user_tokens_per_day=2_000,
    user_usd_per_day=2.0,
    tokens_per_day=3_000,
    usd_per_day=3.0,
)
SPENT = st.builds(Spent, st.integers(0, 4_000), st.floats(0, 4), st.integers(0, 9))


@pytest.mark.parametrize(
    ("session", "user", "day", "told"),
    [
        pytest.param(Spent(999, 0.999), Spent(1_999, 1.9), Spent(2_999, 2.9), None, id="within"),
        pytest.param(
            Spent(1_000),
            Spent(),
            Spent(),
            "This conversation has used 1,000 of 1,000 tokens. Please start a new one.",
            id="session-exactly",
        ),
        pytest.param(
            Spent(1_234_567, 1.5),
            Spent(),
            Spent(),
            "This conversation has used 1,234,567 of 1,000 tokens and 1.50 of 1.00 US dollars. "
            "Please start a new one.",
            id="session-both",
        ),
        pytest.param(
            Spent(),
            Spent(2_500),
            Spent(2_999),
            "Today you have used 2,500 of 2,000 tokens. You can go on from 2026-01-02 00:00 UTC.",
            id="user",
        ),
        pytest.param(
            Spent(),
            Spent(0, 2.0),
            Spent(),
            "Today you have used 2.00 of 2.00 US dollars. You can go on from 2026-01-02 00:00 UTC.",
            id="user-in-dollars",
        ),
        pytest.param(
            Spent(),
            Spent(),
            Spent(98_765, 45.67),
            "All of the 3,000 tokens and 3.00 US dollars for today are used up. "
            "It goes on from 2026-01-02 00:00 UTC.",
            id="day",
        ),
    ],
)
def test_a_budget_that_is_used_up_is_told_with_its_numbers(
    session: Spent, user: Spent, day: Spent, told: str | None
) -> None:
    assert over(ALL, session, user, day, NOON) == told


def test_every_budget_that_is_used_up_is_told_at_once() -> None:
    much = Spent(5_000, 5.0)
    told = over(ALL, much, much, much, NOON) or ""

    assert [told.count(begin) for begin in ("This conv", "Today you", "All of")] == [1, 1, 1]


@given(session=SPENT, user=SPENT, day=SPENT)
def test_without_a_limit_nothing_is_ever_over(session: Spent, user: Spent, day: Spent) -> None:
    assert over(BudgetSettings(), session, user, day, NOON) is None


@given(user=SPENT, others=st.integers(10_000, 10**9), session=SPENT)
def test_what_others_have_used_is_told_nobody(user: Spent, others: int, session: Spent) -> None:
    told = over(ALL, session, user, Spent(user.tokens + others), NOON) or ""

    assert f"{user.tokens + others:,}" not in told
    assert f"{others:,}" not in told


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        pytest.param(0.5, "0.50", id="half"),
        pytest.param(0.01, "0.01", id="a-cent"),
        pytest.param(0.00025, "0.00025", id="less-than-a-cent"),
        pytest.param(1.0, "1.00", id="one"),
        pytest.param(1_234.5, "1,234.50", id="many"),
    ],
)
def test_dollars_are_told_with_their_cents_and_small_ones_with_more(usd: float, text: str) -> None:
    settings = BudgetSettings(session_usd=usd)
    told = over(settings, Spent(0, usd), Spent(), Spent(), NOON) or ""

    assert f" {text} of {text} US dollars." in told


@pytest.mark.parametrize(
    ("now", "free_at"),
    [
        pytest.param(START, "2026-01-02 00:00 UTC", id="midnight-itself"),
        pytest.param(START - timedelta(microseconds=1), "2026-01-01 00:00 UTC", id="just-before"),
        pytest.param(datetime(2026, 12, 31, 23, tzinfo=UTC), "2027-01-01 00:00 UTC", id="new-year"),
    ],
)
def test_a_day_ends_at_midnight_utc(now: datetime, free_at: str) -> None:
    assert free_at in (over(ALL, Spent(), Spent(9_999), Spent(), now) or "")


class CountingDatabase(Database):
    """Counts its reads."""

    reads = 0

    @override
    async def read(self, query: Callable[[Connection], T]) -> T:
        self.reads += 1
        return await super().read(query)


@asynccontextmanager
async def budgets(
    tmp_path: Path, limits: Mapping[str, float], clock: FakeClock | None = None
) -> AsyncGenerator[tuple[Budgets, CountingDatabase]]:
    clock = clock or FakeClock()
    async with CountingDatabase.open(tmp_path / "gateway.db", clock) as database:
        assert isinstance(database, CountingDatabase)
        checked = Budgets(database, clock)
        checked.settings = BudgetSettings.model_validate(limits)
        yield checked, database


async def use(
    database: Database,
    tokens: int = 0,
    usd: float | None = 0.0,
    *,
    user: str = ANN,
    session: SessionId = ONE,
    at: datetime = START,
) -> None:
    calls = [(ModelCall("m", at, Usage(input_tokens=tokens)), usd)]
    await database.write(lambda tx: usage.count(tx, session, "main", user, calls))


@pytest.mark.parametrize(
    ("limit", "stopped"),
    [
        pytest.param("session_tokens", [(ONE, ANN), (ONE, BOB)], id="session"),
        pytest.param("user_tokens_per_day", [(ONE, ANN), (TWO, ANN)], id="user"),
        pytest.param("tokens_per_day", [(ONE, ANN), (ONE, BOB), (TWO, ANN), (TWO, BOB)], id="day"),
    ],
)
async def test_a_limit_stops_whom_it_is_for_and_nobody_else(
    tmp_path: Path, limit: str, stopped: list[tuple[SessionId, str]]
) -> None:
    everybody = [(session, user) for session in (ONE, TWO) for user in (ANN, BOB)]
    async with budgets(tmp_path, {limit: 100}) as (checked, database):
        await use(database, 99)
        before = [await checked.check(*one, NOTHING) for one in everybody]
        await use(database, 1)
        after = [one for one in everybody if await checked.check(*one, NOTHING)]

    assert before == [None] * 4
    assert after == stopped


@pytest.mark.parametrize("limit", ["session_usd", "user_usd_per_day", "usd_per_day"])
async def test_a_limit_in_dollars_stops_by_what_calls_cost(tmp_path: Path, limit: str) -> None:
    async with budgets(tmp_path, {limit: 0.5}) as (checked, database):
        await use(database, 10**6, 0.25)
        await use(database, 10**6, None)
        within = await checked.check(ONE, ANN, NOTHING)
        await use(database, 0, 0.25)

        assert within is None
        assert "0.50" in (await checked.check(ONE, ANN, NOTHING) or "")


@pytest.mark.parametrize("limit", ["session_tokens", "user_tokens_per_day", "tokens_per_day"])
async def test_what_the_turn_has_used_so_far_counts(tmp_path: Path, limit: str) -> None:
    async with budgets(tmp_path, {limit: 100}) as (checked, database):
        await use(database, 60)

        assert await checked.check(ONE, ANN, Usage(10, 10, 10, 9)) is None
        assert await checked.check(ONE, ANN, Usage(10, 10, 10, 10)) is not None


async def test_what_the_turn_has_cost_so_far_counts(tmp_path: Path) -> None:
    async with budgets(tmp_path, {"session_usd": 1.0}) as (checked, database):
        await use(database, 1, 0.5)

        assert await checked.check(ONE, ANN, NOTHING, extra_usd=0.25) is None
        assert await checked.check(ONE, ANN, NOTHING, extra_usd=0.5) is not None


async def test_the_next_day_begins_anew_but_a_conversation_goes_on(tmp_path: Path) -> None:
    clock = FakeClock()
    day = {"user_tokens_per_day": 100, "tokens_per_day": 100}
    async with budgets(tmp_path, day, clock) as (checked, database):
        await use(database, 100)
        clock.step_wall(timedelta(days=1) - timedelta(microseconds=1))
        late = await checked.check(ONE, ANN, NOTHING)
        clock.step_wall(timedelta(microseconds=1))
        next_day = await checked.check(ONE, ANN, NOTHING)
        checked.settings = BudgetSettings(session_tokens=100)

        assert late is not None
        assert next_day is None
        assert await checked.check(ONE, ANN, NOTHING) is not None


@pytest.mark.parametrize(
    ("limits", "reads"),
    [
        pytest.param({}, 0, id="no-limit"),
        pytest.param({"session_tokens": 1}, 1, id="one"),
        pytest.param(ALL.model_dump(), 1, id="all"),
    ],
)
async def test_a_check_reads_once_and_not_at_all_without_a_limit(
    tmp_path: Path, limits: dict[str, float], reads: int
) -> None:
    async with budgets(tmp_path, limits) as (checked, database):
        assert await checked.check(ONE, ANN, NOTHING) is None

    assert database.reads == reads


def _source(**fields: str) -> SessionSource:
    return SessionSource(**{"platform": "p", "chat_id": "", **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "user"),
    [
        pytest.param(_source(chat_id="c", user_id="u"), "p::user:u", id="user"),
        pytest.param(_source(chat_id="c", account="a"), "p:a:chat:c", id="chat-of-an-account"),
        pytest.param(
            _source(chat_id="c", thread_id="t", user_name="Ann", chat_name="C"),
            "p::chat:c",
            id="names-and-threads-do-not-count",
        ),
        pytest.param(_source(user_id="a:b c/é"), "p::user:a~3Ab~20c~2F~C3~A9", id="escaped"),
    ],
)
def test_a_user_is_named_by_platform_account_and_id(source: SessionSource, user: str) -> None:
    assert user_of(source) == user
    elsewhere = replace(source, chat_type=ChatType.GROUP, thread_id="other")
    assert user_of(elsewhere) == user


PARTS = st.text("ab:~ user:chat", max_size=4)


@given(st.tuples(*[PARTS] * 4), st.tuples(*[PARTS] * 4))
def test_no_two_users_are_mixed_up(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    names, told = [], []
    for platform, account, chat, user in (first, second):
        names.append(user_of(SessionSource(platform, chat, account=account, user_id=user)))
        told.append((platform, account, user or None, None if user else chat))

    assert (names[0] == names[1]) == (told[0] == told[1])


def test_a_name_stays_short_however_long_an_id_is() -> None:
    names = {user_of(_source(user_id="x" * 500 + end)) for end in "ab"}

    assert len(names) == 2
    assert max(map(len, names)) <= MAX_PART_CHARS + len("p::user:")
