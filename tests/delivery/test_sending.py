"""Laws of delivery where all goes well: owed replies are sent, a chat in order, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.model import SessionSource
from gateway.transcripts import outbox
from gateway.transcripts.outbox_rows import OutboxState
from tests.support.channels import PlayedChannel, asked_in, delivering, owe, place

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.channels.base import Outbound


async def test_a_committed_reply_is_sent_and_noted(tmp_path: Path) -> None:
    async with delivering(tmp_path / "gateway.db") as bench:
        await bench.owe(1)
        await bench.settle()

        (sent,) = bench.channel.asked
        assert (sent.target, sent.text, sent.delivery_id) == (place(), "ann 1", "ann-t1")
        assert (sent.reply_to, sent.repeat) == ("m1", False)
        row = await bench.row("ann-t1")
        assert (row.state, row.platform_id, row.attempts) == (OutboxState.SENT, "id-1", 1)
        assert row.sent_at == bench.clock.now()
        assert bench.delivery.statistics().sent == 1


async def test_replies_of_a_chat_are_sent_in_the_order_of_their_commits(tmp_path: Path) -> None:
    async with delivering(tmp_path / "gateway.db") as bench:
        for number in range(20):
            await bench.owe(number, "ann" if number % 2 else "bob")
        await bench.settle()

        assert bench.channel.texts("ann") == [f"ann {n}" for n in range(1, 20, 2)]
        assert bench.channel.texts("bob") == [f"bob {n}" for n in range(0, 20, 2)]
        queued = await bench.database.read(
            lambda db: db.execute("SELECT count(*) FROM outbox_chats").fetchall()
        )
        assert queued == [(0,)]


async def test_one_chat_that_hangs_holds_no_other(tmp_path: Path) -> None:
    channel = PlayedChannel()
    channel.plays = [channel.hang]
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        await bench.owe(1, "slow")
        await bench.hung()
        await bench.owe(2, "slow")
        await bench.owe(1, "quick")
        with anyio.fail_after(30):
            while bench.channel.texts() != ["quick 1"]:
                await anyio.wait_all_tasks_blocked()

        assert [one.delivery_id for one in channel.asked] == ["slow-t1", "quick-t1"]


async def test_to_no_more_chats_is_sent_at_once_than_may_be(tmp_path: Path) -> None:
    gate, under_way, most = anyio.Event(), 0, 0

    async def hold(_outbound: Outbound) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == 3:
            gate.set()
        await gate.wait()
        await anyio.wait_all_tasks_blocked()
        under_way -= 1

    channel = PlayedChannel(plays=[hold] * 12)
    async with delivering(tmp_path / "gateway.db", channel, max_parallel=3) as bench:
        for number in range(12):
            await bench.owe(number, f"chat{number}")
        await bench.settle()

        assert (len(channel.shown), most) == (12, 3)


async def test_a_channel_that_hangs_holds_no_other_channel(tmp_path: Path) -> None:
    broken, fine = PlayedChannel(account="broken"), PlayedChannel(account="fine")
    broken.plays = [broken.hang] * 9
    path = tmp_path / "gateway.db"
    async with delivering(path, broken, others=[fine], max_parallel=1) as bench:
        for number in range(9):
            for account in ("broken", "fine"):
                source = place(f"chat{number}", account=account)
                await owe(bench.database, number, source=source)
                bench.delivery.wake(source)
        with anyio.fail_after(30):
            while len(fine.shown) < 9:
                await anyio.wait_all_tasks_blocked()

        assert len(broken.asked) == 1


@pytest.mark.parametrize(
    ("first", "second", "one"),
    [
        pytest.param(place("a"), place("a"), True, id="the-same"),
        pytest.param(place("a"), place("b"), False, id="another-chat"),
        pytest.param(place("a"), place("a", account="two"), False, id="another-account"),
        pytest.param(
            SessionSource("played", "a", account="one", thread_id="t"),
            place("a"),
            False,
            id="a-thread",
        ),
        pytest.param(
            SessionSource("played", 'a","', account="one"),
            SessionSource("played", "a", account="one", thread_id=","),
            False,
            id="look-alikes",
        ),
        pytest.param(
            SessionSource("played", "", account="one", user_id="ann"),
            SessionSource("played", "ann", account="one", user_id="ann"),
            True,
            id="a-direct-chat-by-its-user",
        ),
    ],
)
async def test_what_is_one_chat_is_told_by_platform_account_chat_and_thread(
    tmp_path: Path, first: SessionSource, second: SessionSource, *, one: bool
) -> None:
    async with delivering(tmp_path / "gateway.db", configured=False) as bench:
        for number, source in enumerate((first, second)):
            row = asked_in(source, number)
            await bench.database.write(
                lambda tx, row=row: outbox.add(  # type: ignore[misc]
                    tx, row, reply='{"text":"x"}', at="2026-01-01T00:00:00Z"
                )
            )
        chats = {row.chat for row in await bench.rows(OutboxState.OWED)}

        assert (len(chats) == 1) is one


async def test_a_reply_that_a_client_fetches_is_sent_with_its_commit(tmp_path: Path) -> None:
    http = SessionSource("http", "ann")
    async with delivering(tmp_path / "gateway.db") as bench:
        await owe(bench.database, 1, source=http)
        bench.delivery.wake(http)
        await bench.settle()

        stored = await bench.database.read(
            lambda db: db.execute(
                "SELECT sent_at IS NOT NULL, channel, source FROM outbox"
            ).fetchall()
        )
        assert stored == [(1, None, None)]
        assert bench.channel.asked == []
        assert [await bench.rows(state) for state in OutboxState] == [[], [], []]


@pytest.mark.parametrize("text", ["", " \n\t"])
async def test_a_blank_reply_is_not_sent_and_holds_nothing_up(tmp_path: Path, text: str) -> None:
    async with delivering(tmp_path / "gateway.db") as bench:
        await bench.owe(1, text=text)
        await bench.owe(2)
        await bench.settle()

        assert bench.channel.texts() == ["ann 2"]
        assert await bench.ids(OutboxState.SENT) == ["ann-t2", "ann-t1"]


async def test_a_message_without_an_id_is_not_replied_to(tmp_path: Path) -> None:
    async with delivering(tmp_path / "gateway.db") as bench:
        row = asked_in(place(), 1)
        unnamed = type(row)(
            **{name: getattr(row, name) for name in row.__slots__} | {"message_id": row.turn_id}
        )
        await bench.database.write(
            lambda tx: outbox.add(tx, unnamed, reply='{"text":"x"}', at="2026-01-01T00:00:00Z")
        )
        bench.delivery.wake(place())
        await bench.settle()

        assert [one.reply_to for one in bench.channel.asked] == [""]


async def test_a_long_reply_comes_in_pieces_that_are_the_text(tmp_path: Path) -> None:
    text = "".join(f"Line {n} says something.\n" for n in range(200))
    async with delivering(tmp_path / "gateway.db", PlayedChannel(max_text_chars=1_000)) as bench:
        await bench.owe(1, text=text)
        await bench.owe(2)
        await bench.settle()

        *pieces, after = bench.channel.asked
        assert "".join(one.text for one in pieces) == text
        assert all(len(one.text) <= 1_000 and one.text.endswith("\n") for one in pieces)
        assert [one.reply_to for one in pieces] == ["m1"] + [""] * (len(pieces) - 1)
        assert len({one.delivery_id for one in pieces}) == len(pieces) > 4
        assert after.text == "ann 2"
        row = await bench.row("ann-t1")
        assert (row.state, row.platform_id) == (OutboxState.SENT, f"id-{len(pieces)}")
        assert bench.delivery.statistics().sent == 2


async def test_many_owed_replies_are_sent_whatever_number_of_chats_is_served_at_once(
    tmp_path: Path,
) -> None:
    channel = PlayedChannel()
    path = tmp_path / "gateway.db"
    async with delivering(path, channel, configured=False) as bench:
        for number in range(50):
            for chat in range(20):
                row = asked_in(place(f"c{chat}"), number)
                bench.database.submit(
                    lambda tx, row=row: outbox.add(  # type: ignore[misc]
                        tx, row, reply='{"text":"x"}', at="2026-01-01T00:00:00Z"
                    )
                )
        await bench.database.ping()
    async with delivering(path, channel, max_parallel=4) as bench:
        await bench.settle()

        assert len(channel.shown) == 1_000
        for chat in range(20):
            ids = [one for one in channel.ids() if one.startswith(f"c{chat}-")]
            assert ids == [f"c{chat}-t{number}" for number in range(50)]
