"""Laws of what was used: every counted call is in the sums once, under its own day and name."""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.model import ModelCall, SessionId, Usage
from gateway.transcripts import accounts, usage
from gateway.transcripts.accounts import ContextAccount
from gateway.transcripts.usage import MOST_TOKENS, PricedCall, Spent, UsageBy, UsageRow
from tests.support.state import START

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.batch import Transaction

ANN, BOB = "http::user:ann", "http::user:bob"
ONE, TWO = SessionId("s1"), SessionId("s2")
DAY = "2026-01-01"
COUNTED = Usage(100, 20, 1_000, 300, 40, 5)
TABLES = ("usage", "session_users", "context_accounts")
TOKENS = st.integers(0, 10**6)
USAGES = st.none() | st.builds(Usage, TOKENS, TOKENS, TOKENS, TOKENS)
CALLS = st.tuples(
    st.builds(
        ModelCall,
        model=st.sampled_from(["m1", "m2"]),
        started_at=st.integers(0, 3).map(lambda n: START + timedelta(hours=20 * n)),
        usage=USAGES,
    ),
    st.none() | st.integers(0, 1000).map(float),
)
TURNS = st.tuples(
    st.sampled_from([ONE, TWO]),
    st.sampled_from(["main", "other"]),
    st.sampled_from([ANN, BOB]),
    st.lists(CALLS, max_size=4),
)


def call(
    tokens: Usage | None = COUNTED, *, model: str = "m", at: datetime = START, usd: float | None = 1
) -> PricedCall:
    return ModelCall(model, at, tokens), usd


async def count(
    database: Database,
    *calls: PricedCall,
    session: SessionId = ONE,
    agent: str = "main",
    user: str = ANN,
) -> None:
    await database.write(lambda tx: usage.count(tx, session, agent, user, calls))


async def by_session(database: Database, session: SessionId = ONE) -> Spent:
    return await database.read(lambda conn: usage.spent_by_session(conn, session))


async def on_day(database: Database, day: str = DAY, user: str | None = None) -> Spent:
    return await database.read(lambda conn: usage.spent_on(conn, day, user=user))


async def names(
    database: Database, by: UsageBy, since: str = "", until: str = "", limit: int = 10
) -> list[tuple[str, int]]:
    """Return name and calls of each row."""
    rows = await database.read(
        lambda conn: usage.read(conn, by=by, since=since, until=until, limit=limit)
    )
    return [(row.name, row.calls) for row in rows]


async def table_rows(database: Database, table: str) -> int:
    found = await database.read(
        lambda conn: conn.execute(f"SELECT count(*) FROM {table}").fetchall()  # noqa: S608 - a name of ours
    )
    return int(str(found[0][0]))


@settings(max_examples=40)
@given(turns=st.lists(TURNS, max_size=6))
async def test_every_sum_is_that_of_its_calls(
    tmp_path_factory: pytest.TempPathFactory,
    turns: list[tuple[SessionId, str, str, list[PricedCall]]],
) -> None:
    expected = {by: Counter[str]() for by in UsageBy}
    sessions, tokens, usd, unpriced = Counter[str](), 0, 0.0, 0
    path = tmp_path_factory.mktemp("usage") / "gateway.db"
    async with Database.open(path, FakeClock()) as database:
        for session, agent, user, calls in turns:
            await count(database, *calls, session=session, agent=agent, user=user)
            for one, price in calls:
                if one.usage is None:
                    continue
                day = one.started_at.date().isoformat()
                for by, name in zip(UsageBy, (day, agent, one.model, user), strict=True):
                    expected[by][name] += 1
                sessions[session] += one.usage.total_tokens
                tokens, usd = tokens + one.usage.total_tokens, usd + (price or 0)
                unpriced += price is None

        for by in UsageBy:
            assert dict(await names(database, by)) == expected[by]
        total = await database.read(usage.total)
        assert (total.name, total.calls) == ("", sum(expected[UsageBy.DAY].values()))
        assert (total.total_tokens, total.usd, total.unpriced_calls) == (tokens, usd, unpriced)
        for session in (ONE, TWO):
            assert (await by_session(database, session)).tokens == sessions[session]
        days = [await on_day(database, day) for day in expected[UsageBy.DAY]]
        assert sum(one.tokens for one in days) == tokens
        for user in (ANN, BOB):
            mine = [await on_day(database, day, user) for day in expected[UsageBy.DAY]]
            assert sum(one.tokens for one in mine) <= tokens


async def test_a_row_tells_each_kind_of_tokens(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await count(database, call(), call(usd=None), call(usd=0.25))
        [row] = await database.read(usage.read)

        assert row == UsageRow(DAY, 3, 300, 60, 3_000, 900, 4_260, 1.25, 1)
        assert await by_session(database) == Spent(4_260, 1.25, 1)
        assert await on_day(database, user=ANN) == await on_day(database) == Spent(4_260, 1.25, 1)
        assert await on_day(database, user=BOB) == Spent()


async def test_the_calls_of_a_turn_are_one_row_for_each_day_and_model(tmp_path: Path) -> None:
    before_midnight = datetime(2026, 1, 1, 23, 59, 59, tzinfo=UTC)
    later = before_midnight + timedelta(seconds=1)
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        for _ in range(2):
            await count(database, call(at=before_midnight), call(at=later), call(model="n"))

        assert await table_rows(database, "usage") == 3
        assert await names(database, UsageBy.DAY) == [("2026-01-02", 2), (DAY, 4)]


async def test_a_day_is_one_of_utc_wherever_the_call_was_timed(tmp_path: Path) -> None:
    in_berlin = datetime(2026, 1, 2, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await count(database, call(at=in_berlin))

        assert await names(database, UsageBy.DAY) == [(DAY, 1)]


async def test_of_an_agent_that_never_counts_nothing_is_written(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await count(database, call(None, usd=None), call(None, usd=None))
        await count(database)

        assert [await table_rows(database, table) for table in TABLES] == [0, 0, 0]
        assert await by_session(database) == await on_day(database) == Spent()


async def test_a_call_without_a_count_is_left_out_whenever_the_others_are_stored(
    tmp_path: Path,
) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await count(database, call(), call(None, usd=None))
        await count(database, call(None, usd=None))

        assert await names(database, UsageBy.DAY) == [(DAY, 1)]
        assert await on_day(database) == Spent(COUNTED.total_tokens, 1.0, 0)


@pytest.mark.parametrize("first", [True, False], ids=["account-first", "usage-first"])
async def test_what_a_session_used_and_its_account_leave_each_other_alone(
    tmp_path: Path, *, first: bool
) -> None:
    account = ContextAccount(model="m", rounds=3)
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        if first:
            await database.write(lambda tx: accounts.keep(tx, ONE, account))
        await count(database, call())
        await database.write(lambda tx: accounts.keep(tx, ONE, account))
        await count(database, call())

        assert await by_session(database) == Spent(2 * COUNTED.total_tokens, 2.0, 0)
        assert await database.read(lambda conn: accounts.read(conn, ONE)) == account
        assert await table_rows(database, "context_accounts") == 1


@pytest.mark.parametrize("tokens", [10**30, -5])
async def test_a_provider_that_counts_nonsense_breaks_no_sum(tmp_path: Path, tokens: int) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        for _ in range(3):
            await count(database, call(Usage(tokens, tokens, tokens, tokens)))

        expected = 12 * (MOST_TOKENS if tokens > 0 else 0)
        assert (await on_day(database)).tokens == expected
        assert (await by_session(database)).tokens == expected


async def test_days_are_read_newest_first_and_others_most_tokens_first(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        for number, agent in enumerate("abc"):
            at = START + timedelta(days=number)
            tokens = Usage(input_tokens=(5, 9, 5)[number])
            await count(database, call(tokens, at=at), agent=agent)

        days = [name for name, _ in await names(database, UsageBy.DAY)]
        agents = [name for name, _ in await names(database, UsageBy.AGENT)]
        two = [name for name, _ in await names(database, UsageBy.AGENT, limit=2)]
        part = [name for name, _ in await names(database, UsageBy.DAY, "2026-01-02", "2026-01-02")]
        total = await database.read(lambda conn: usage.total(conn, since="2026-01-02"))
    assert days == ["2026-01-03", "2026-01-02", DAY]
    assert agents == ["b", "a", "c"]
    assert two == ["b", "a"]
    assert part == ["2026-01-02"]
    assert (total.calls, total.total_tokens) == (2, 14)


async def test_where_nothing_was_used_there_are_no_rows_and_a_total_of_nothing(
    tmp_path: Path,
) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        assert await database.read(usage.read) == []
        assert astuple(await database.read(usage.total)) == ("", 0, 0, 0, 0, 0, 0, 0.0, 0)


async def test_what_a_forgotten_user_used_stays_in_nobodys_name(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        carol = "http::user:carol"
        for user in (ANN, BOB, carol):
            await count(database, call(), call(model="n"), user=user)
        before = await database.read(usage.total)
        for user in (ANN, carol):
            await database.write(lambda tx, user=user: usage.forget_user(tx, user))  # type: ignore[misc]

        assert await database.read(usage.total) == before
        assert await names(database, UsageBy.USER) == [("", 4), (BOB, 2)]


async def test_a_turn_of_many_calls_changes_two_rows(tmp_path: Path) -> None:
    def work(transaction: Transaction) -> int:
        before: int = transaction.connection.total_changes()
        usage.count(transaction, ONE, "main", ANN, [call()] * 50)
        return transaction.connection.total_changes() - before

    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await count(database, call())

        # The sums of the day, and what the session used; who it was is known already.
        assert await database.write(work) == 2
