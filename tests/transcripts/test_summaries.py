"""Laws of summaries: the newest of a session counts, and all of them are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.model import AgentId, SessionId, Summary, TurnId, clean_text
from gateway.transcripts import summaries
from gateway.transcripts.summaries import KeptSummary

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

ONE, TWO = SessionId("s1"), SessionId("s2")
AT = "2026-01-01T00:00:00Z"
TEXTS = st.text(max_size=50).map(clean_text)
COUNTS = st.integers(0, 2**62)
SUMMARIES = st.builds(
    Summary,
    through_turn=TEXTS.map(TurnId),
    turns=COUNTS,
    text=TEXTS,
    agent=TEXTS.map(AgentId),
    model=TEXTS,
    tokens_before=COUNTS,
    tokens_after=COUNTS,
    through=st.none() | COUNTS,
)
FIRST = Summary(TurnId("t3"), 3, "They talked.", AgentId("main"), "m", 9_000, 1_000)


async def keep(
    database: Database, summary: Summary, session: SessionId = ONE, at: str = AT
) -> None:
    await database.write(lambda tx: summaries.keep(tx, session, summary, at=at))


async def newest(database: Database, session: SessionId = ONE) -> Summary | None:
    return await database.read(lambda conn: summaries.newest(conn, session))


@settings(max_examples=30)
@given(kept=st.lists(st.tuples(st.sampled_from([ONE, TWO]), SUMMARIES), max_size=5))
async def test_summaries_come_back_as_they_were_each_session_its_own(
    tmp_path_factory: pytest.TempPathFactory, kept: list[tuple[SessionId, Summary]]
) -> None:
    path = tmp_path_factory.mktemp("summaries") / "gateway.db"
    async with Database.open(path, FakeClock()) as database:
        for session, summary in kept:
            await keep(database, summary, session)

        for session in (ONE, TWO):
            mine = [summary for owner, summary in kept if owner == session]
            found = await database.read(lambda conn, one=session: summaries.all_of(conn, one))  # type: ignore[misc]
            assert found == [KeptSummary(summary, AT) for summary in mine]
            assert await newest(database, session) == (mine[-1] if mine else None)


async def test_the_newest_is_the_one_stored_last_whatever_its_clock_said(tmp_path: Path) -> None:
    second = replace(FIRST, through_turn=TurnId("t9"), turns=9)
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await keep(database, FIRST)
        await keep(database, second, at="2020-01-01T00:00:00Z")

        assert await newest(database) == second
