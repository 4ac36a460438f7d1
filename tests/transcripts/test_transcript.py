"""Laws of what was said: it comes back as it was, in its order."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import FakeClock
from gateway.context.cache import CacheVerdict
from gateway.durable.database import Database
from gateway.model import (
    CallPurpose,
    Image,
    Message,
    ModelCall,
    Role,
    SessionId,
    ToolCall,
    TurnId,
    Usage,
    clean_text,
)
from gateway.transcripts import pruned
from gateway.transcripts.pruned import PrunedRow, instant
from gateway.transcripts.reading import (
    Beginning,
    beginning_after,
    count_gone,
    count_gone_since,
    is_changed_since,
    messages_after,
    newest_turn,
    read_transcript,
    turns_between,
)
from gateway.transcripts.writing import append_messages, append_model_calls
from tests.support.state import START

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.batch import Queries, Transaction

ID, OTHER = SessionId("s1"), SessionId("s2")
AT = "2026-01-01T00:00:00Z"
LATER = "2026-01-01T00:00:01.500000Z"
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
    images=st.lists(st.builds(Image, media_type=TEXTS, data=TEXTS), max_size=2).map(tuple),
)


def _said(text: str, role: Role = Role.USER) -> Message:
    return Message(role, text, turn_id=TurnId("t1"))


async def _add(database: Database, session_id: SessionId, *messages: Message) -> None:
    await database.write(lambda tx: append_messages(tx, session_id, messages, at=AT))


async def _after(database: Database, position: int, session_id: SessionId = ID) -> list[Message]:
    return await database.read(lambda conn: list(messages_after(conn, session_id, position)))


async def _beginning(database: Database, turn: str) -> Beginning:
    return await database.read(lambda conn: beginning_after(conn, ID, TurnId(turn)))


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
        sent = [message for message in messages if message.role is not Role.NOTICE]
        assert await _after(database, 0) == sent


async def test_sessions_are_kept_apart_and_in_order(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        for number in range(10):
            await _add(database, (ID, OTHER)[number % 2], _said(str(number)))

        rows = await read_transcript(database, ID)
        assert [row.message.text for row in rows] == ["0", "2", "4", "6", "8"]
        assert [row.position for row in rows] == sorted(row.position for row in rows)
        assert [one.text for one in await _after(database, 0, OTHER)] == list("13579")


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

        assert await _after(database, 0) == messages


async def test_each_model_call_is_recorded_with_what_was_counted(tmp_path: Path) -> None:
    calls = [
        ModelCall("m1", START, Usage(1, 2, 3, 4, 5, 6)),
        ModelCall("m2", START + timedelta(seconds=1.5), None, purpose=CallPurpose.COMPACTION),
    ]
    verdicts = [CacheVerdict.HIT, CacheVerdict.UNKNOWN]
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await database.write(
            lambda tx: append_model_calls(
                tx, ID, TurnId("t1"), "main", calls, verdicts, [0.5, None]
            )
        )
        rows = await database.read(
            lambda conn: conn.execute(
                "SELECT session_id, turn_id, agent, model, started_at, input_tokens, "
                "output_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, "
                "reasoning_tokens, cache_verdict, purpose, usd FROM model_calls ORDER BY position"
            ).fetchall()
        )

    nothing = (None,) * 6
    assert rows == [
        (ID, "t1", "main", "m1", "2026-01-01T00:00:00Z", 1, 2, 3, 4, 5, 6, "hit", "turn", 0.5),
        (ID, "t1", "main", "m2", LATER, *nothing, "unknown", "compaction", None),
    ]


@pytest.mark.parametrize(
    ("verdicts", "prices"),
    [
        pytest.param(["hit"], None, id="verdict"),
        pytest.param(["hit", "hit"], [0.5], id="price"),
    ],
)
async def test_each_call_needs_its_verdict_and_its_price_where_there_are_any(
    tmp_path: Path, verdicts: list[str], prices: list[float | None] | None
) -> None:
    calls = [ModelCall("m", START, None)] * 2
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        with pytest.raises(ValueError, match="shorter"):
            await database.write(
                lambda tx: append_model_calls(tx, ID, TurnId("t1"), "main", calls, verdicts, prices)
            )

        assert await database.read(
            lambda conn: conn.execute("SELECT count(*) FROM model_calls").fetchall()
        ) == [(0,)]


async def test_a_session_goes_on_after_the_turn_that_is_left_out(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        turns = [TurnId(f"t{number}") for number in range(4)]
        for turn in turns:
            await _add(
                database,
                ID,
                Message(Role.USER, f"q {turn}", turn_id=turn),
                Message(Role.NOTICE, "n", turn_id=turn),
                Message(Role.ASSISTANT, f"a {turn}", turn_id=turn),
                Message(Role.NOTICE, "n", turn_id=turn),
            )
            # The same turn id in another session changes nothing.
            await _add(database, OTHER, Message(Role.ASSISTANT, "other", turn_id=turn))
        begins = [await _beginning(database, turn) for turn in turns]
        rest = [[one.text for one in await _after(database, one.position)] for one in begins]

    assert [one.turns for one in begins] == [1, 2, 3, 4]
    answers = [Message(Role.ASSISTANT, f"a {turn}", turn_id=turn) for turn in turns]
    assert [one.last_answer for one in begins] == answers
    said = [text for turn in turns for text in (f"q {turn}", f"a {turn}")]
    assert rest == [said[2:], said[4:], said[6:], []]


async def test_without_an_answer_in_the_turns_left_out_there_is_no_last_one(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await _add(database, ID, _said("q"), _said("sorry", Role.NOTICE))
        begins = await _beginning(database, "t1")

        assert (begins.turns, begins.last_answer) == (1, None)
        assert await _after(database, begins.position) == []


async def test_after_a_turn_that_nothing_was_said_in_all_is_there(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await _add(database, ID, _said("q"))
        await _add(database, OTHER, Message(Role.USER, "x", turn_id=TurnId("t9")))

        assert await _beginning(database, "t9") == Beginning()


async def test_where_a_session_goes_on_is_known_also_when_the_turn_is_gone(tmp_path: Path) -> None:
    turns = [TurnId(f"t{number}") for number in range(4)]
    said = [
        Message(role, turn, turn_id=turn) for turn in turns for role in (Role.USER, Role.ASSISTANT)
    ]
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await _add(database, ID, *said)
        await database.write(lambda tx: tx.execute("DELETE FROM messages WHERE turn_id = 't1'"))
        known = await database.read(lambda conn: beginning_after(conn, ID, turns[1], 4))
        unknown = await _beginning(database, "t1")
        between = await database.read(lambda conn: turns_between(conn, ID, 2, 6))
        newest = [
            await database.read(lambda conn, until=until: newest_turn(conn, ID, until))  # type: ignore[misc]
            for until in (0, 4, 5)
        ]

    assert known == Beginning(4, 1, said[1])
    assert unknown == Beginning()
    assert between == 1
    assert newest == [None, "t0", "t2"]


@pytest.mark.parametrize(
    ("marks", "shortened"),
    [
        pytest.param(None, "", id="nothing"),
        pytest.param('{"restored_at":"2026-01-01T00:00:00Z"}', "", id="it-only-came-back"),
        pytest.param('{"summary":"refused"}', "", id="no-summary-was-kept"),
        pytest.param('{"summary":"made"}', "summary", id="a-summary"),
        pytest.param('{"ratio":0.5,"content_bytes":9}', "compacted", id="its-beginning"),
    ],
)
async def test_a_reader_is_told_what_rules_made_of_a_text(
    tmp_path: Path, marks: str | None, shortened: str
) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await _add(database, ID, _said("a"))
        await database.write(lambda tx: tx.execute("UPDATE messages SET marks = ?", (marks,)))
        (row,) = await read_transcript(database, ID)

    assert row.shortened == shortened


async def test_what_rules_took_of_a_session_is_counted(tmp_path: Path) -> None:
    rows = [
        (1, "delete", "purged", 1),
        (2, "archive", "archived", 2),
        (3, "delete", "restored", 2),
        (4, "compact", "held", 3),
        (9, "delete", "held", 4),
    ]

    def put(transaction: Transaction) -> None:
        for item, action, state, second in rows:
            at = instant(START + timedelta(seconds=second))
            pruned.add(
                transaction, PrunedRow("r", item, ID, action, state, at, None, None, {}), None
            )

    def facts(connection: Queries, after: int, second: int) -> tuple[int, int, bool]:
        since = instant(START + timedelta(seconds=second))
        return (
            count_gone(connection, ID),
            count_gone_since(connection, ID, after=after, since=since),
            is_changed_since(connection, ID, after=after, since=since),
        )

    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await database.write(put)
        found = [
            await database.read(lambda conn, one=one: facts(conn, *one))  # type: ignore[misc]
            for one in ((0, 0), (0, 1), (1, 1), (2, 3), (3, 4), (9, 0))
        ]
        other = await database.read(lambda conn: count_gone(conn, OTHER))

    assert found == [
        (3, 3, True),
        (3, 2, True),
        (3, 2, True),
        (3, 1, True),
        (3, 0, False),
        (3, 0, False),
    ]
    assert other == 0
