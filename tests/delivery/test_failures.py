"""Laws of delivery where a platform fails: tried again, in order, not for ever, and seen."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import anyio
import pytest
from structlog.testing import capture_logs
from typing_extensions import override

from gateway.channels.base import LONGEST_WISH_S, REPEAT, NotConnectedError, SendError
from gateway.clock import FakeClock
from gateway.delivery.planning import KEPT_DAYS, REPEAT_AFTER_S
from gateway.durable.database import Database
from gateway.errors import ConflictError, NotFoundError, StorageFullError
from gateway.transcripts.outbox_rows import OutboxState
from tests.support.channels import PlayedChannel, busy, delivering, owe, place, refusal
from tests.support.state import START

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.durable.batch import Transaction

T = TypeVar("T")
LATE = "(Late: this was answered on 2026-01-01 at 00:00 UTC.)\n\n"


class Refusing(Database):
    """A database on a disk that is full while a test says so."""

    full = False

    @override
    async def write_through(self, work: Callable[[Transaction], T]) -> T:
        if self.full:
            raise StorageFullError

        return await super().write_through(work)


async def test_a_failed_try_is_made_again_after_a_growing_pause(tmp_path: Path) -> None:
    channel = PlayedChannel(plays=[busy(), busy(), busy()])
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        await bench.owe(1)
        tries = []
        for pause_s in (3, 9, 27):
            await bench.settle()
            await bench.later(pause_s - 0.001)
            tries.append(len(channel.asked))
            await bench.later(0.001)

        assert tries == [1, 2, 3]
        assert channel.texts() == ["ann 1"]
        assert (await bench.row("ann-t1")).error == ""
        assert bench.delivery.statistics().retried == 3


async def test_no_two_chats_need_to_try_at_the_same_time(tmp_path: Path) -> None:
    channel = PlayedChannel(plays=[busy()])
    async with delivering(tmp_path / "gateway.db", channel, share=0.25) as bench:
        await bench.owe(1)
        await bench.settle()
        await bench.later(0.75)

        assert channel.texts() == ["ann 1"]


@pytest.mark.parametrize(
    ("wish_s", "kept_s"),
    [
        pytest.param(40.0, 40.0, id="longer-than-ours"),
        pytest.param(1.0, 3.0, id="shorter-than-ours"),
        pytest.param(0.0, 3.0, id="none"),
        pytest.param(-1e300, 3.0, id="of-less-than-no-length"),
        pytest.param(float("nan"), 3.0, id="no-number"),
        pytest.param(1e300, LONGEST_WISH_S, id="beyond-the-cap"),
    ],
)
async def test_what_a_platform_asks_for_is_kept_to(
    tmp_path: Path, wish_s: float, kept_s: float
) -> None:
    channel = PlayedChannel(plays=[busy(wish_s)])
    async with delivering(tmp_path / "gateway.db", channel, ttl_s=90_000) as bench:
        await bench.owe(1)
        await bench.settle()
        await bench.later(kept_s - 0.01)
        early = len(channel.asked)
        await bench.later(0.01)

        assert (early, len(channel.asked)) == (1, 2)


async def test_a_pause_that_a_platform_names_uses_up_no_try(tmp_path: Path) -> None:
    channel = PlayedChannel(plays=[busy(5)] * 40)
    async with delivering(tmp_path / "gateway.db", channel, max_attempts=2, ttl_s=90_000) as bench:
        await bench.owe(1)
        await bench.settle()
        for _ in range(40):
            await bench.later(900)
        row = await bench.row("ann-t1")

        assert (row.state, row.attempts) == (OutboxState.SENT, 1)
        assert (len(channel.asked), channel.texts()) == (41, ["ann 1"])


@pytest.mark.parametrize("wish_s", [0, 2])
async def test_a_platform_that_asks_for_pauses_without_end_is_asked_ever_more_seldom(
    tmp_path: Path, wish_s: float
) -> None:
    channel = PlayedChannel(plays=[busy(wish_s)] * 8)
    asked = []
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        await bench.owe(1)
        await bench.settle()
        for pause_s in (3, 9, 27, 81, 243, 729, 900, 900):
            await bench.later(pause_s - 0.1)
            asked.append(len(channel.asked))
            await bench.later(0.1)
        await bench.owe(2)
        channel.plays = [busy(wish_s)]
        await bench.settle()
        await bench.later(3)

        assert asked == [1, 2, 3, 4, 5, 6, 7, 8]
        # What was taken since begins anew.
        assert len(channel.shown) == 2


async def test_later_replies_of_a_chat_wait_for_one_that_is_tried_again(tmp_path: Path) -> None:
    channel = PlayedChannel(plays=[busy(), None, busy()])
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        for number in (1, 2, 3):
            await bench.owe(number)
        await bench.settle()
        await bench.owe(1, "bob")
        await bench.settle()
        assert channel.texts() == ["bob 1"]
        await bench.later(3)
        await bench.later(9)

        assert channel.texts("ann") == ["ann 1", "ann 2", "ann 3"]


async def test_a_reply_that_is_refused_is_dead_at_once_and_holds_nothing_up(tmp_path: Path) -> None:
    channel = PlayedChannel(plays=[refusal()])
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        with capture_logs() as logs:
            await bench.owe(1, text="a secret")
            await bench.owe(2)
            await bench.settle()

        assert channel.texts() == ["ann 2"]
        row = await bench.row("ann-t1")
        assert (row.state, row.error) == (OutboxState.DEAD, "refused: chat not found")
        (told,) = [line for line in logs if line["event"] == "outbox.dead"]
        assert (told["log_level"], told["reason"], told["turn_id"]) == (
            *("warning", "refused"),
            "ann-t1",
        )
        assert "secret" not in str(logs)
        assert "chat not found" not in str(logs)


async def test_a_reply_is_tried_as_often_as_it_may_be_and_is_dead_then(tmp_path: Path) -> None:
    channel = PlayedChannel(plays=[busy()] * 8)
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        await bench.owe(1)
        await bench.owe(2)
        await bench.settle()
        for pause_s in (3, 9, 27, 81, 243, 729, 900):
            assert await bench.ids(OutboxState.DEAD) == []
            await bench.later(pause_s)

        assert len(channel.asked) == 9
        row = await bench.row("ann-t1")
        assert (row.state, row.attempts) == (OutboxState.DEAD, 8)
        assert row.error == "given up after 8 tries: too many requests"
        assert channel.texts() == ["ann 2"]


async def test_a_platform_that_does_not_answer_may_have_shown_it(tmp_path: Path) -> None:
    channel = PlayedChannel()
    channel.plays = [channel.hang_shown]
    async with delivering(tmp_path / "gateway.db", channel, send_timeout_s=20) as bench:
        await bench.owe(1)
        await bench.hung()
        await bench.later(20)
        row = await bench.row("ann-t1")
        assert (row.state, row.error) == (OutboxState.OWED, "no answer within 20 seconds")
        await bench.later(REPEAT_AFTER_S)

        assert channel.texts() == ["ann 1", f"{REPEAT}ann 1"]
        assert [one.repeat for one in channel.shown] == [False, True]


async def test_what_may_have_been_sent_is_sent_once_more_and_never_a_third_time(
    tmp_path: Path,
) -> None:
    channel = PlayedChannel()
    channel.plays = [channel.doubtful_shown, channel.doubtful_shown]
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        await bench.owe(1)
        await bench.owe(2)
        await bench.settle()
        await bench.later(REPEAT_AFTER_S - 0.01)
        assert channel.texts() == ["ann 1"]
        await bench.later(0.01)

        assert channel.texts() == ["ann 1", f"{REPEAT}ann 1", "ann 2"]
        row = await bench.row("ann-t1")
        assert row.state is OutboxState.DEAD
        assert row.error == (
            "nobody knows whether it was sent, nor whether its repeat was: connection reset"
        )


async def test_a_repeat_that_surely_failed_is_made_again_as_a_repeat(tmp_path: Path) -> None:
    channel = PlayedChannel()
    channel.plays = [channel.doubtful_shown, busy(), NotConnectedError()]
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        await bench.owe(1)
        await bench.settle()
        for _ in range(3):
            await bench.later(30)

        assert channel.texts() == ["ann 1", f"{REPEAT}ann 1"]


async def test_an_idempotent_platform_is_given_the_same_id_as_often_as_it_takes(
    tmp_path: Path,
) -> None:
    channel = PlayedChannel(idempotent=True)
    channel.plays = [channel.doubtful, channel.doubtful_shown, channel.doubtful_shown]
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        await bench.owe(1)
        await bench.settle()
        for pause_s in (3, 9, 27):
            await bench.later(pause_s)

        assert {one.delivery_id for one in channel.asked} == {"ann-t1"}
        assert len(channel.asked) == 4
        assert channel.texts() == ["ann 1"]


async def test_a_fault_of_a_channel_ends_nothing_else(tmp_path: Path) -> None:
    channel = PlayedChannel(plays=[RuntimeError("a bug")])
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        with capture_logs() as logs:
            await bench.owe(1)
            await bench.settle()
        await bench.later(REPEAT_AFTER_S)

        assert "outbox.channel_crashed" in [line["event"] for line in logs]
        assert channel.texts() == [f"{REPEAT}ann 1"]


async def test_a_platform_that_cannot_be_reached_uses_up_no_try(tmp_path: Path) -> None:
    channel = PlayedChannel(plays=[NotConnectedError()] * 50)
    async with delivering(tmp_path / "gateway.db", channel, ttl_s=90_000) as bench:
        for number in range(5):
            await bench.owe(number, f"chat{number}")
        await bench.settle()
        at_first = len(channel.asked)
        for _ in range(30):
            await bench.later(60)
        later = len(channel.asked)
        channel.plays.clear()
        bench.delivery.reached(channel)
        await bench.settle()

        assert at_first <= 5
        assert later <= at_first + 30 + 6
        assert len(channel.shown) == 5
        assert {one.repeat for one in channel.shown} == {False}
        assert {row.attempts for row in await bench.rows(OutboxState.SENT)} == {1}


async def test_a_platform_that_is_reached_while_a_try_fails_is_tried_again_at_once(
    tmp_path: Path,
) -> None:
    async with delivering(tmp_path / "gateway.db") as bench:

        async def reached_then_fail(_outbound: object) -> None:
            await anyio.lowlevel.checkpoint()
            bench.delivery.reached(bench.channel)
            raise NotConnectedError

        bench.channel.plays = [reached_then_fail]
        await bench.owe(1)
        await bench.settle()

        assert bench.channel.texts() == ["ann 1"]


async def test_a_late_reply_says_so(tmp_path: Path) -> None:
    channel = PlayedChannel(plays=[NotConnectedError()])
    async with delivering(tmp_path / "gateway.db", channel, ttl_s=120) as bench:
        await bench.owe(1)
        await bench.settle()
        channel.plays = [NotConnectedError()] * 500
        await bench.later(120)
        channel.plays.clear()
        await bench.owe(2)
        bench.delivery.reached(channel)
        await bench.settle()

        assert channel.texts() == [f"{LATE}ann 1", "ann 2"]


async def test_a_reply_in_time_to_the_last_instant_is_not_late(tmp_path: Path) -> None:
    path, clock = tmp_path / "gateway.db", FakeClock()
    async with delivering(path, clock=clock, configured=False) as bench:
        await owe(bench.database, 1)
        await owe(bench.database, 2, at=START + timedelta(seconds=0.001))
        clock.step_wall(timedelta(seconds=60))
    async with delivering(path, clock=clock, ttl_s=60) as bench:
        await bench.settle()

        assert bench.channel.texts() == [f"{LATE}ann 1", "ann 2"]


async def test_where_late_replies_are_dropped_they_die_in_time(tmp_path: Path) -> None:
    channel = PlayedChannel(plays=[NotConnectedError()] * 500)
    async with delivering(tmp_path / "gateway.db", channel, late="drop", ttl_s=100) as bench:
        for number in range(1, 4):
            await bench.owe(number)
        await bench.settle()
        await bench.later(99.999)
        before = await bench.ids(OutboxState.DEAD)
        await bench.later(0.001)

        assert before == []
        assert await bench.ids(OutboxState.DEAD) == ["ann-t1", "ann-t2", "ann-t3"]
        assert {row.error for row in await bench.rows(OutboxState.DEAD)} == {"expired"}
        assert channel.shown == []


async def test_a_reply_that_is_being_sent_when_its_time_ends_is_not_given_up(
    tmp_path: Path,
) -> None:
    channel, gate = PlayedChannel(), anyio.Event()

    async def slow(_outbound: object) -> None:
        channel.hung.set()
        await gate.wait()

    channel.plays = [slow]
    path = tmp_path / "gateway.db"
    async with delivering(path, channel, late="drop", ttl_s=10, send_timeout_s=60) as bench:
        await bench.owe(1)
        await bench.hung()
        await bench.clock.advance(9)
        await bench.owe(1, "bob")
        await bench.clock.advance(6)
        gate.set()
        await bench.settle()

        assert await bench.ids(OutboxState.SENT) == ["bob-t1", "ann-t1"]
        assert bench.delivery.statistics().given_up == 0


async def test_replies_to_no_channel_wait_to_be_seen_and_die_in_time(tmp_path: Path) -> None:
    async with delivering(tmp_path / "gateway.db", configured=False, ttl_s=100) as bench:
        await bench.owe(1)
        await bench.settle()
        await bench.later(99)
        assert await bench.ids(OutboxState.OWED) == ["ann-t1"]
        await bench.later(1)

        (dead,) = await bench.rows(OutboxState.DEAD)
        assert dead.error == "no channel: played/one is not configured"


async def test_more_replies_than_a_page_die_together(tmp_path: Path) -> None:
    path, clock = tmp_path / "gateway.db", FakeClock()
    async with delivering(path, clock=clock, configured=False, ttl_s=100) as bench:
        for number in range(250):
            await owe(bench.database, number, chat=f"chat{number % 7}")
        bench.delivery.wake(place())
        await bench.settle()
        await bench.later(100)
        with anyio.fail_after(30):
            while await bench.ids(OutboxState.OWED):
                await bench.settle()

        assert len(await bench.ids(OutboxState.DEAD)) == 250


async def test_replies_to_a_channel_that_is_there_again_are_sent(tmp_path: Path) -> None:
    path, clock = tmp_path / "gateway.db", FakeClock()
    async with delivering(path, clock=clock, configured=False) as bench:
        await bench.owe(1)
        await bench.settle()
    async with delivering(path, clock=clock) as bench:
        await bench.settle()

        assert bench.channel.texts() == ["ann 1"]


async def test_nothing_is_sent_any_more_after_thirty_days(tmp_path: Path) -> None:
    path, clock = tmp_path / "gateway.db", FakeClock()
    async with delivering(path, clock=clock, configured=False) as bench:
        await owe(bench.database, 1)
        await owe(bench.database, 2, at=START + timedelta(days=1))
        clock.step_wall(timedelta(days=KEPT_DAYS))
    async with delivering(path, clock=clock) as bench:
        await bench.settle()

        assert await bench.ids(OutboxState.DEAD) == ["ann-t1"]
        assert [one.delivery_id for one in bench.channel.shown] == ["ann-t2"]


async def test_a_wall_clock_that_is_set_back_keeps_no_chat_waiting(tmp_path: Path) -> None:
    channel, clock = PlayedChannel(plays=[busy(600)]), FakeClock()
    async with delivering(tmp_path / "gateway.db", channel, clock=clock) as bench:
        await bench.owe(1)
        await bench.settle()
        clock.step_wall(timedelta(days=-3))
        await bench.settle()

        assert channel.texts() == ["ann 1"]


async def test_a_full_disk_puts_delivery_off_and_loses_no_outcome(tmp_path: Path) -> None:
    channel, gate = PlayedChannel(), anyio.Event()

    async def slow(_outbound: object) -> None:
        channel.hung.set()
        await gate.wait()

    channel.plays = [slow]
    async with delivering(tmp_path / "gateway.db", channel, kind=Refusing) as bench:
        assert isinstance(bench.database, Refusing)
        await bench.owe(1)
        await bench.hung()
        await bench.owe(2)
        bench.database.full = True
        with capture_logs() as logs:
            gate.set()
            await bench.clock.advance(0)
        told = [line["event"] for line in logs]
        bench.database.full = False
        await bench.later(2)

        assert told == ["outbox.waiting_for_storage"]
        assert [one.delivery_id for one in channel.shown] == ["ann-t1", "ann-t2"]
        assert {one.repeat for one in channel.shown} == {False}


async def test_a_dead_reply_is_sent_when_asked_for_again(tmp_path: Path) -> None:
    channel = PlayedChannel(plays=[refusal()])
    async with delivering(tmp_path / "gateway.db", channel, late="drop") as bench:
        await bench.owe(1)
        await bench.owe(2)
        await bench.settle()
        await bench.later(7_200)
        row = await bench.delivery.retry("ann-t1")
        await bench.settle()

        assert (row.state, row.attempts, row.error) == (OutboxState.OWED, 0, "")
        assert channel.texts() == ["ann 2", f"{LATE}ann 1"]
        assert await bench.ids(OutboxState.DEAD) == []


async def test_asking_again_for_what_waits_ends_the_wait(tmp_path: Path) -> None:
    channel = PlayedChannel(plays=[busy(3_000)])
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        await bench.owe(1)
        await bench.settle()
        await bench.delivery.retry("ann-t1")
        await bench.settle()

        assert channel.texts() == ["ann 1"]


async def test_what_died_in_doubt_is_a_repeat_when_asked_for_again(tmp_path: Path) -> None:
    channel = PlayedChannel()
    channel.plays = [channel.doubtful_shown]
    async with delivering(tmp_path / "gateway.db", channel, max_attempts=1) as bench:
        await bench.owe(1)
        await bench.settle()
        assert await bench.ids(OutboxState.DEAD) == ["ann-t1"]
        await bench.delivery.retry("ann-t1")
        await bench.settle()

        assert channel.texts() == ["ann 1", f"{REPEAT}ann 1"]


async def test_a_dropped_reply_is_dead_and_dropped_again_is_gone(tmp_path: Path) -> None:
    channel = PlayedChannel(plays=[busy()])
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        await bench.owe(1)
        await bench.owe(2)
        await bench.settle()
        row = await bench.delivery.drop("ann-t1")
        await bench.settle()

        assert row is not None
        assert (row.state, row.error) == (OutboxState.DEAD, "dropped")
        assert channel.texts() == ["ann 2"]
        assert await bench.delivery.drop("ann-t1") is None
        with pytest.raises(NotFoundError):
            await bench.delivery.drop("ann-t1")


async def test_a_reply_that_is_dropped_while_it_is_shown_is_told_as_sent(tmp_path: Path) -> None:
    channel, gate = PlayedChannel(), anyio.Event()

    async def slow(_outbound: object) -> None:
        channel.hung.set()
        await gate.wait()

    channel.plays = [slow]
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        await bench.owe(1)
        await bench.hung()
        await bench.delivery.drop("ann-t1")
        gate.set()
        await bench.settle()

        assert await bench.ids(OutboxState.SENT) == ["ann-t1"]
        assert await bench.ids(OutboxState.DEAD) == []


async def test_a_reply_that_is_dropped_while_its_try_fails_stays_dead(tmp_path: Path) -> None:
    channel, gate = PlayedChannel(), anyio.Event()

    async def fail(_outbound: object) -> None:
        channel.hung.set()
        await gate.wait()
        raise SendError("no", retryable=True)

    channel.plays = [fail]
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        await bench.owe(1)
        await bench.hung()
        await bench.delivery.drop("ann-t1")
        gate.set()
        await bench.settle()
        await bench.later(3_600)

        assert channel.shown == []
        assert [row.error for row in await bench.rows(OutboxState.DEAD)] == ["dropped"]


async def test_what_was_sent_cannot_be_dropped_or_sent_again(tmp_path: Path) -> None:
    async with delivering(tmp_path / "gateway.db") as bench:
        await bench.owe(1)
        await bench.settle()
        with pytest.raises(ConflictError):
            await bench.delivery.retry("ann-t1")
        with pytest.raises(ConflictError):
            await bench.delivery.drop("ann-t1")
        with pytest.raises(NotFoundError):
            await bench.delivery.retry("nobody-t1")


async def test_settings_apply_to_what_is_owed_already(tmp_path: Path) -> None:
    channel = PlayedChannel(plays=[NotConnectedError()] * 500)
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        await bench.owe(1)
        await bench.settle()
        await bench.later(50)
        settings = bench.delivery.settings
        bench.delivery.settings = settings.model_copy(update={"ttl_s": 50.0, "late": "drop"})
        await bench.settle()

        assert await bench.ids(OutboxState.DEAD) == ["ann-t1"]


async def test_numbers_tell_what_is_owed(tmp_path: Path) -> None:
    channel = PlayedChannel(plays=[refusal(), busy(), busy()])
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        for number in (1, 2, 3):
            await bench.owe(number)
        await bench.settle()
        await bench.clock.advance(2)
        await bench.delivery.count()
        told = bench.delivery.statistics()

        assert (told.owed, told.dead, told.given_up, told.oldest_owed_s) == (2, 1, 1, 2.0)


async def test_a_stop_waits_for_what_is_due_five_seconds_at_most(tmp_path: Path) -> None:
    channel = PlayedChannel()
    channel.plays = [busy(30), channel.hang]
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        await bench.owe(1, "later")
        await bench.settle()
        await bench.owe(1, "hangs")
        await bench.hung()
        drained = anyio.Event()

        async def drain() -> None:
            await bench.delivery.drain()
            drained.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain)
            await bench.clock.advance(4.999)
            early = drained.is_set()
            await bench.clock.advance(0.001)
            with anyio.fail_after(5):
                await drained.wait()

        assert not early
