"""Laws of what was said: it comes back as it was, in its order."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.model import (
    Message,
    ModelCall,
    Role,
    SessionId,
    ToolCall,
    TurnId,
    Usage,
    clean_text,
)
from gateway.transcripts.reading import read_context, read_transcript
from gateway.transcripts.writing import append_messages, append_model_calls
from tests.support.state import START

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

ID, OTHER = SessionId("s1"), SessionId("s2")
ALL = 10**9
AT = "2026-01-01T00:00:00Z"
TEXTS = st.one_of(
    st.text().map(clean_text),
    st.sampled_from(
        ["", " ", "\n", "🇩🇪👩‍👩‍👧", "é", "é", "\ufeff", "\u2028", "'\"\\", "x" * 100_000]
    ),
)
CALLS = st.builds(ToolCall, call_id=TEXTS, name=TEXTS, arguments=TEXTS)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(Role),
    text=TEXTS,
    tool_calls=st.lists(CALLS, max_size=3).map(tuple),
    tool_call_id=TEXTS,
    tool_name=TEXTS,
    turn_id=TEXTS.map(TurnId),
)


def _said(text: str, role: Role = Role.USER) -> Message:
    return Message(role, text, turn_id=TurnId("t1"))


async def _add(database: Database, session_id: SessionId, *messages: Message) -> None:
    await database.write(lambda tx: append_messages(tx, session_id, messages, at=AT))


@given(messages=st.lists(MESSAGES, max_size=4))
async def test_messages_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, messages: list[Message]
) -> None:
    path = tmp_path_factory.mktemp("transcript")
    async with Database.open(path / "gateway.db", FakeClock()) as database:
        await _add(database, ID, *messages)

        rows = await read_transcript(database, ID)
        assert [row.message for row in rows] == messages
        assert {row.created_at for row in rows} <= {AT}
        context = [message for message in messages if message.role is not Role.NOTICE]
        assert (await read_context(database, ID, max_chars=ALL)).messages == context


async def test_sessions_are_kept_apart_and_in_order(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        for number in range(10):
            await _add(database, (ID, OTHER)[number % 2], _said(str(number)))

        rows = await read_transcript(database, ID)
        assert [row.message.text for row in rows] == ["0", "2", "4", "6", "8"]
        assert [row.position for row in rows] == sorted(row.position for row in rows)
        assert [
            one.text for one in (await read_context(database, OTHER, max_chars=ALL)).messages
        ] == list("13579")


async def test_a_transcript_is_read_page_by_page(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await _add(database, ID, *(_said(str(number)) for number in range(10)))
        read, after = [], 0
        while page := await read_transcript(database, ID, after=after, limit=4):
            assert len(page) <= 4
            read += [row.message.text for row in page]
            after = page[-1].position

    assert read == list("0123456789")


async def test_a_turn_of_very_many_messages_is_stored_whole(tmp_path: Path) -> None:
    messages = [_said(str(number)) for number in range(1_234)]
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await _add(database, ID, *messages)
        await _add(database, ID)

        assert (await read_context(database, ID, max_chars=ALL)).messages == messages


async def test_each_model_call_is_recorded_with_what_was_counted(tmp_path: Path) -> None:
    calls = [
        ModelCall("m1", START, Usage(1, 2, 3, 4)),
        ModelCall("m2", START + timedelta(seconds=1.5), None),
    ]
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await database.write(lambda tx: append_model_calls(tx, ID, TurnId("t1"), "main", calls))
        rows = await database.read(
            lambda conn: conn.execute("SELECT * FROM model_calls ORDER BY position").fetchall()
        )

    assert rows == [
        (1, ID, "t1", "main", "m1", "2026-01-01T00:00:00Z", 1, 2, 3, 4),
        (2, ID, "t1", "main", "m2", "2026-01-01T00:00:01.500000Z", None, None, None, None),
    ]


async def test_a_context_is_the_newest_whole_turns_that_fit(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        for number in range(10):
            turn = TurnId(f"t{number}")
            await _add(
                database,
                ID,
                Message(Role.USER, "q" * 10, turn_id=turn),
                Message(Role.ASSISTANT, "a" * 10, turn_id=turn),
                Message(Role.NOTICE, "n" * 1000, turn_id=turn),
            )

        tail = await read_context(database, ID, max_chars=69)
        assert [message.turn_id for message in tail.messages] == [
            "t7",
            "t7",
            "t8",
            "t8",
            "t9",
            "t9",
        ]
        assert (tail.chars, tail.older_turns) == (60, 7)
        assert (await read_context(database, ID, max_chars=60)).messages == tail.messages
        assert (await read_context(database, ID, max_chars=5)).older_turns == 10
        assert (await read_context(database, ID, max_chars=200)).older_turns == 0
