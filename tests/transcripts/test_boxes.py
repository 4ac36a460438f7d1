"""Laws of the inbox and the outbox."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.model import ChatType, SessionSource, TurnId, clean_text
from gateway.transcripts import inbox, outbox
from tests.support.messages import commit_turn, inbox_row
from tests.support.state import key_of

if TYPE_CHECKING:
    from pathlib import Path

KEY = key_of()
TEXTS = st.text(max_size=30).map(clean_text)
SOURCES = st.builds(
    SessionSource,
    platform=TEXTS,
    chat_id=TEXTS,
    chat_type=st.sampled_from(ChatType),
    account=TEXTS,
    thread_id=TEXTS,
    user_id=TEXTS,
    user_name=TEXTS,
    chat_name=TEXTS,
)


async def test_a_message_is_found_by_its_session_and_id_until_it_is_answered(
    tmp_path: Path,
) -> None:
    row = inbox_row(1)
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        assert await database.write(lambda tx: inbox.find(tx, KEY, "m1")) is None
        await database.write(lambda tx: inbox.accept(tx, row))
        assert await database.write(lambda tx: inbox.find(tx, KEY, "m1")) == row
        assert await database.write(lambda tx: inbox.find(tx, key_of("bob"), "m1")) is None
        await database.write(lambda tx: commit_turn(tx, row, "hi"))
        assert await database.write(lambda tx: inbox.find(tx, KEY, "m1")) is None


@given(
    source=SOURCES,
    text=TEXTS,
    reset=st.none() | st.fixed_dictionaries({"reason": TEXTS, "previous": st.none() | TEXTS}),
    recoveries=st.integers(0, 9),
)
async def test_an_accepted_message_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    source: SessionSource,
    text: str,
    reset: dict[str, str | None] | None,
    recoveries: int,
) -> None:
    row = replace(inbox_row(1), source=source, text=text, reset=reset, recoveries=recoveries)
    path = tmp_path_factory.mktemp("inbox") / "gateway.db"
    async with Database.open(path, FakeClock()) as database:
        await database.write(lambda tx: inbox.accept(tx, row))

        assert await database.write(lambda tx: inbox.find(tx, KEY, "m1")) == row
        assert await database.read(inbox.unfinished) == [row]


async def test_a_message_id_is_accepted_once_in_its_session(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await database.write(lambda tx: inbox.accept(tx, inbox_row(1)))
        again = replace(inbox_row(1), turn_id=TurnId("other"))
        with pytest.raises(apsw.ConstraintError):
            await database.write(lambda tx: inbox.accept(tx, again))
        await database.write(lambda tx: inbox.accept(tx, inbox_row(1, "bob")))

        rows = await database.read(inbox.unfinished)
        assert rows == [inbox_row(1), inbox_row(1, "bob")]


async def test_what_is_owed_an_answer_comes_in_the_order_it_came(tmp_path: Path) -> None:
    rows = [inbox_row(n, name) for n in (3, 1, 2) for name in ("bob", "alice")]
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        for row in rows:
            await database.write(lambda tx, row=row: inbox.accept(tx, row))  # type: ignore[misc]
        await database.write(lambda tx: commit_turn(tx, rows[2], "hi"))

        assert await database.read(inbox.unfinished) == rows[:2] + rows[3:]


async def test_the_text_leaves_the_inbox_with_the_end_of_its_turn(tmp_path: Path) -> None:
    row, other = inbox_row(1, text="secret"), inbox_row(2, text="open")
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        for one in (row, other):
            await database.write(lambda tx, one=one: inbox.accept(tx, one))  # type: ignore[misc]
        await database.write(lambda tx: commit_turn(tx, row, "hi"))

        left = await database.read(
            lambda conn: conn.execute("SELECT text FROM inbox ORDER BY position").fetchall()
        )
        assert left == [("open",)]


async def test_a_second_run_is_noted_for_its_message_alone(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        for number in (1, 2):
            await database.write(lambda tx, n=number: inbox.accept(tx, inbox_row(n)))  # type: ignore[misc]
        again = replace(inbox_row(1), recoveries=1)
        for _ in range(2):
            await database.write(lambda tx: inbox.note_begun(tx, again))

        assert [one.recoveries for one in await database.read(inbox.unfinished)] == [1, 0]


async def test_a_reply_is_kept_for_the_message_that_comes_again(tmp_path: Path) -> None:
    row = inbox_row(1)
    async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
        await database.write(lambda tx: inbox.accept(tx, row))
        assert await database.write(lambda tx: outbox.reply_to(tx, KEY, "m1")) is None
        await database.write(lambda tx: commit_turn(tx, row, '{"reply":"ü😀"}'))

        assert await database.write(lambda tx: outbox.reply_to(tx, KEY, "m1")) == (
            '{"reply":"ü😀"}'
        )
