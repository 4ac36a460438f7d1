"""Laws of stored replies to channels: bounded reads, a queue that heals, nothing left behind."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.access.pairing import Pairing
from gateway.clock import FakeClock
from gateway.errors import DamagedDataError
from gateway.retention.discarding import DEAD_DAYS, DELIVERED_DAYS, discard_old
from gateway.retention.erasing import erase
from gateway.transcripts import outbox, outbox_changes, outbox_rows
from gateway.transcripts.inbox import Origin
from gateway.transcripts.outbox_rows import OutboxState, Repeat
from tests.support.channels import asked_in, owe, place
from tests.support.database import opened_database
from tests.support.state import START, open_state

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.database import Database

CHANNEL = "played/one"
AT = "2026-01-01T00:00:00Z"


async def found(database: Database, delivery_id: str) -> outbox_rows.OutboxRow:
    row = await database.read(lambda db: outbox_rows.find(db, delivery_id))
    assert row is not None
    return row


async def due(database: Database, *, limit: int = 100, after_s: float = 0) -> outbox_rows.DueChats:
    now = START + timedelta(seconds=after_s)
    horizon = now + timedelta(hours=1)
    return await database.read(
        lambda db: outbox_rows.due(db, CHANNEL, now=now, limit=limit, horizon=horizon)
    )


async def queued(database: Database) -> int:
    rows = await database.read(
        lambda db: db.execute("SELECT count(*) FROM outbox_chats").fetchall()
    )
    return int(str(rows[0][0]))


async def test_no_more_chats_are_read_than_asked_for(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        for number in range(30):
            await owe(database, number, chat=f"chat{number}")

        assert len((await due(database, limit=4)).chats) == 4
        assert len((await due(database)).chats) == 30


async def test_the_chat_that_waits_longest_comes_first(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        for number, chat in enumerate(("b", "a", "c")):
            await owe(database, number, chat=chat, at=START + timedelta(seconds=number))

        chats = (await due(database, after_s=2)).chats
        assert [chat.split(",")[2] for chat in chats] == ['"b"', '"a"', '"c"']


async def test_a_chat_is_due_to_the_microsecond(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        await owe(database, 1)
        row = await found(database, "ann-t1")
        due_at = START + timedelta(seconds=5)
        await database.write(
            lambda tx: outbox_changes.note_failed(tx, row, error="no", unknown=False, due_at=due_at)
        )

        early, late = await due(database, after_s=4.999999), await due(database, after_s=5)
        assert (early.chats, early.next_at, early.oldest_since) == ((), due_at, START)
        assert (len(late.chats), late.next_at) == (1, None)


async def test_channels_that_are_owed_something_are_each_told_once(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        for account in ("two", "one", "three"):
            for number in range(3):
                await owe(database, number, source=place(f"{account}{number}", account=account))

        names = await database.read(outbox_rows.channels_owed)
        assert names == ["played/one", "played/three", "played/two"]


async def test_the_end_of_a_background_process_is_no_message_to_reply_to(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        for number, origin in enumerate(Origin):
            row = asked_in(place(), number)
            fields = {name: getattr(row, name) for name in row.__slots__} | {"origin": origin}
            told = type(row)(**fields)
            await database.write(
                lambda tx, told=told: outbox.add(tx, told, reply='{"text":"x"}', at=AT)  # type: ignore[misc]
            )

        replied = [(await found(database, f"ann-t{n}")).reply_to for n in range(len(Origin))]
        assert replied == ["m0" if origin is Origin.USER else "" for origin in Origin]


async def test_a_reply_to_a_channel_serves_the_message_that_comes_again(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        await owe(database, 1)
        key = asked_in(place(), 1).session_key

        stored = await database.read(lambda db: outbox.reply_to(db, key, "m1"))
        assert stored == '{"text":"ann 1"}'


async def test_what_is_noted_of_a_reply_changes_no_other_at_its_position(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        await owe(database, 1)
        row = await found(database, "ann-t1")
        await database.write(lambda tx: outbox_changes.remove(tx, row))
        await owe(database, 2)
        other = await found(database, "ann-t2")
        assert other.position == row.position

        def note(transaction: Any) -> None:  # noqa: ANN401 - a transaction
            outbox_changes.note_sending(transaction, row, repeat=Repeat.MESSAGE, at=START)
            outbox_changes.note_sent(transaction, row, chars=99, platform_id="x", at=START)
            outbox_changes.bury(transaction, row, error="no", at=START)
            outbox_changes.remove(transaction, row)

        await database.write(note)
        assert await found(database, "ann-t2") == other


async def test_a_damaged_reply_is_never_sent(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        for number in (1, 2):
            await owe(database, number)
        await database.write(
            lambda tx: tx.execute("UPDATE outbox SET source = '{}' WHERE turn_id = 'ann-t1'")
        )
        chat = (await found(database, "ann-t2")).chat

        with pytest.raises(DamagedDataError, match="gateway store check"):
            await database.read(lambda db: outbox_rows.first_owed(db, chat))
        assert await database.read(lambda db: list(outbox_rows.unreadable(db))) == ["ann-t1"]


@pytest.mark.parametrize(
    ("days", "left"),
    [
        pytest.param(DELIVERED_DAYS, {"owed", "dead", "sent"}, id="a-week"),
        pytest.param(DELIVERED_DAYS + 0.01, {"owed", "dead"}, id="more-than-a-week"),
        pytest.param(DEAD_DAYS, {"owed", "dead"}, id="a-month"),
        pytest.param(DEAD_DAYS + 0.01, {"owed"}, id="more-than-a-month"),
    ],
)
async def test_replies_leave_by_what_became_of_them(
    tmp_path: Path, days: float, left: set[str]
) -> None:
    clock = FakeClock()
    async with open_state(tmp_path / "state", clock) as state:
        database = state.database
        for number in (1, 2, 3):
            await owe(database, number)
        dead, sent = await found(database, "ann-t2"), await found(database, "ann-t3")
        await database.write(lambda tx: outbox_changes.bury(tx, dead, error="no", at=START))
        await database.write(
            lambda tx: outbox_changes.note_sent(tx, sent, chars=99, platform_id="x", at=START)
        )
        clock.step_wall(timedelta(days=days))
        gone = await discard_old(database, clock, await Pairing.load(database, clock))

        assert gone == 3 - len(left)
        for one in OutboxState:
            rows = await database.read(lambda db, one=one: outbox_rows.page(db, one, limit=9))  # type: ignore[misc]
            assert bool(rows) == (one in left)


async def test_an_erased_session_leaves_no_chat_behind_and_takes_no_others(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        for chat in ("ann", "bob"):
            await owe(state.database, 1, chat=chat)
        await erase(state.database, state.store, asked_in(place("ann"), 1).session_key)

        (chat,) = (await due(state.database)).chats
        assert '"bob"' in chat
        assert await queued(state.database) == 1
