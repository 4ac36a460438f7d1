"""Answers that grow in their chat, until the replies take their place."""

from __future__ import annotations

import resource
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs
from typing_extensions import override

from gateway.channels.base import LONGEST_WISH_S, NotConnectedError, SendError
from gateway.channels.running import Channels
from gateway.clock import FakeClock
from gateway.commands.following import Followers
from gateway.commands.growing import FIRST_S, PART_TIMEOUT_S, Growing, grow
from gateway.delivery.planning import NOTE_CHARS
from gateway.delivery.streams import Streams
from gateway.durable.database import Database
from gateway.transcripts import outbox_changes
from gateway.transcripts.inbox import Origin
from gateway.transcripts.outbox_rows import OutboxState
from gateway.turns.ticket import Progress, Question
from tests.support.channels import (
    DeliveryBench,
    PlayedChannel,
    asked_in,
    busy,
    delivering,
    owe,
    place,
    refusal,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from gateway.durable.batch import Transaction
    from gateway.durable.connection import Connection
    from gateway.transcripts.inbox import InboxRow

T = TypeVar("T")

EVERY_S = 2.0


def editing(**more: object) -> PlayedChannel:
    return PlayedChannel(edits=True, edit_interval_s=EVERY_S, **more)  # type: ignore[arg-type]


class Watched(Database):
    """Knows how much is asked of it: a task that waits for a thread is blocked, and goes on."""

    asked = 0

    @override
    async def read(self, query: Callable[[Connection], T]) -> T:
        self.asked += 1
        try:
            return await super().read(query)
        finally:
            self.asked -= 1

    @override
    def _hand_over(
        self, work: Callable[[Transaction], T], future: asyncio.Future[T]
    ) -> asyncio.Future[T]:
        self.asked += 1
        future.add_done_callback(self._answered)
        return super()._hand_over(work, future)

    def _answered(self, _: asyncio.Future[T]) -> None:
        self.asked -= 1


@dataclass(frozen=True)
class Scene:
    """A chat in which answers grow."""

    bench: DeliveryBench
    followers: Followers

    @property
    def channel(self) -> PlayedChannel:
        return self.bench.channel

    def begin(self, number: int = 1, chat: str = "ann", *texts: str) -> Progress:
        """Let the turn of a message begin."""
        progress = Progress()
        self.followers.follow(asked_in(place(chat), number), progress)
        for text in texts:
            progress.add_text(text)
        return progress

    async def pass_s(self, seconds: float) -> None:
        """Let time pass in small steps, and all be done that is due."""
        for _ in range(round(seconds * 4)):
            await self.bench.clock.advance(0.25)
            await self.settle()

    async def settle(self) -> None:
        """Wait until nothing goes on but by the clock."""
        database = self.bench.database
        assert isinstance(database, Watched)
        await anyio.wait_all_tasks_blocked()
        while database.asked:
            await database.ping()
            await anyio.wait_all_tasks_blocked()

    async def reply(self, number: int, text: str, progress: Progress, chat: str = "ann") -> None:
        """Commit the reply of a turn, which thereby ends."""
        await owe(self.bench.database, number, chat=chat, text=text, at=self.bench.clock.now())
        progress.fail(SendError("over", retryable=False))
        self.bench.delivery.wake(place(chat))

    async def until_sent(self, count: int) -> None:
        with anyio.fail_after(30):
            while len(await self.bench.ids(OutboxState.SENT)) < count:
                await self.pass_s(0.5)


@asynccontextmanager
async def scene(
    path: Path,
    channel: PlayedChannel,
    **settings: Any,  # noqa: ANN401 - of the delivery
) -> AsyncGenerator[Scene]:
    clock = FakeClock()
    channel.now = clock.monotonic
    async with delivering(
        path / "gateway.db", channel, clock=clock, kind=Watched, **settings
    ) as bench:
        followers = Followers(Channels([channel], clock), clock, bench.delivery)
        async with anyio.create_task_group() as tasks:
            await tasks.start(followers.run)
            yield Scene(bench, followers)
            tasks.cancel_scope.cancel()


async def test_an_answer_grows_in_one_message_and_the_reply_takes_its_place(tmp_path: Path) -> None:
    async with scene(tmp_path, editing()) as chat:
        progress = chat.begin(1, "ann", "One")
        await chat.pass_s(FIRST_S / 2)
        before = list(chat.channel.shown)
        await chat.pass_s(FIRST_S)
        progress.add_text(" two")
        await chat.pass_s(EVERY_S)
        grown = dict(chat.channel.reads)
        await chat.reply(1, "One two three.", progress)
        await chat.until_sent(1)
        row = await chat.bench.row("ann-t1")

    assert before == []
    assert grown == {"id-1": "One two"}
    assert chat.channel.reads == {"id-1": "One two three."}
    assert [one.reply_to for one in chat.channel.shown] == ["m1"]
    assert (row.platform_id, row.attempts) == ("id-1", 1)
    assert len({one.delivery_id for one in chat.channel.asked}) == len(chat.channel.asked)
    assert len(chat.bench.delivery.streams) == 0


async def test_a_short_answer_is_one_message_and_no_edit(tmp_path: Path) -> None:
    async with scene(tmp_path, editing()) as chat:
        progress = chat.begin(1, "ann", "Hi.")
        await chat.pass_s(FIRST_S / 2)
        await chat.reply(1, "Hi.", progress)
        await chat.until_sent(1)
        await chat.pass_s(3 * EVERY_S)

    assert [one.text for one in chat.channel.asked] == ["Hi."]


async def test_where_a_platform_cannot_edit_nothing_grows(tmp_path: Path) -> None:
    async with scene(tmp_path, PlayedChannel()) as chat:
        progress = chat.begin(1, "ann", "One")
        await chat.pass_s(10)
        await chat.reply(1, "One two", progress)
        await chat.until_sent(1)

    assert [one.text for one in chat.channel.asked] == ["One two"]


async def test_a_chat_is_edited_no_more_often_than_its_platform_allows(tmp_path: Path) -> None:
    async with scene(tmp_path, editing()) as chat:
        first, second = chat.begin(1, "ann", "a"), chat.begin(2, "ann", "b")
        for _ in range(40):
            first.add_text("a")
            second.add_text("b")
            await chat.pass_s(0.25)
        await chat.reply(1, "A", first)
        await chat.reply(2, "B", second)
        await chat.until_sent(2)

    at = [when for when, _, _ in chat.channel.edited]
    assert len(at) > 4
    assert all(later - earlier >= EVERY_S for earlier, later in pairwise(at))
    assert sorted(chat.channel.reads.values()) == ["A", "B"]


async def test_a_busy_platform_is_left_alone_and_the_reply_is_shown(tmp_path: Path) -> None:
    async with scene(tmp_path, editing()) as chat:
        progress = chat.begin(1, "ann", "One")
        await chat.pass_s(FIRST_S)
        chat.channel.plays = [busy(20)]
        progress.add_text(" two")
        await chat.pass_s(EVERY_S)
        asked = len(chat.channel.asked)
        refused_at = chat.bench.clock.monotonic()
        progress.add_text(" three")
        await chat.pass_s(10)
        assert len(chat.channel.asked) == asked
        await chat.reply(1, "One two three", progress)
        await chat.until_sent(1)

    assert chat.channel.reads == {"id-1": "One two three"}
    assert chat.channel.edited[-1][0] >= refused_at + 20 - EVERY_S


async def test_a_pause_that_the_first_part_is_answered_with_holds_the_reply_too(
    tmp_path: Path,
) -> None:
    channel = editing()
    async with scene(tmp_path, channel, max_parallel=1) as chat:
        channel.plays = [busy(20)]
        progress = chat.begin(1, "ann", "One")
        await chat.pass_s(FIRST_S)
        refused_at = chat.bench.clock.monotonic()
        await chat.reply(1, "One two", progress)
        await chat.settle()
        await chat.bench.owe(1, "bob")
        await chat.pass_s(10)
        meanwhile = [one.text for one in channel.asked]
        await chat.until_sent(2)
        sent_at = chat.bench.clock.monotonic()
        row = await chat.bench.row("ann-t1")

    assert meanwhile == ["One", "bob 1"]
    assert [one.text for one in channel.asked] == ["One", "bob 1", "One two"]
    assert sent_at >= refused_at + 20 - 1
    assert row.attempts == 1


async def test_a_chat_that_is_left_alone_holds_no_other_up(tmp_path: Path) -> None:
    async with scene(tmp_path, editing(), max_parallel=1) as chat:
        progress = chat.begin(1, "ann", "One")
        await chat.pass_s(FIRST_S)
        chat.channel.plays = [busy(20)]
        progress.add_text(" two")
        await chat.pass_s(EVERY_S)
        await chat.reply(1, "One two three", progress)
        await chat.settle()
        await chat.bench.owe(1, "bob")
        await chat.pass_s(1)
        assert chat.channel.texts("bob") == ["bob 1"]
        await chat.until_sent(2)

    assert chat.channel.reads == {"id-1": "One two three", "id-2": "bob 1"}


class Asked:
    """A delivery that takes long to say whether anything is owed."""

    def __init__(self, clock: FakeClock) -> None:
        self.streams = Streams(clock)
        self.asked, self.told = anyio.Event(), anyio.Event()

    async def yields(self, _channel: str) -> bool:
        return False

    async def owes(self, _chat: str) -> bool:
        self.asked.set()
        await self.told.wait()
        return False


async def test_no_part_is_shown_once_the_reply_is_on_its_way() -> None:
    channel, clock, row = editing(), FakeClock(), asked_in(place(), 1)
    delivery, growing = Asked(clock), Growing(row, 4_096)
    stream = delivery.streams.open(row.turn_id, "ann")
    growing.add("One")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(grow, channel, growing, stream, cast("Any", delivery), clock)
        await clock.advance(FIRST_S)
        with anyio.fail_after(30):
            await delivery.asked.wait()
        assert await stream.close() == ""
        delivery.told.set()

    assert channel.asked == []
    assert len(delivery.streams) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(refusal(), id="refused"),
        pytest.param(SendError("reset", retryable=True, ambiguous=True), id="in-doubt"),
        pytest.param(RuntimeError("a bug"), id="crashes"),
    ],
)
async def test_an_answer_that_cannot_grow_any_more_is_told_once_and_replied(
    tmp_path: Path, wrong: Exception
) -> None:
    async with scene(tmp_path, editing()) as chat:
        with capture_logs() as logs:
            progress = chat.begin(1, "ann", "One")
            await chat.pass_s(FIRST_S)
            chat.channel.plays = [wrong]
            for _ in range(4):
                progress.add_text(" more")
                await chat.pass_s(EVERY_S)
            await chat.reply(1, "Whole", progress)
            await chat.until_sent(1)

    assert [line["event"] for line in logs if "stream" in line["event"]] == [
        "channel.stream_stopped"
    ]
    assert chat.channel.reads == {"id-1": "Whole"}


async def test_a_message_that_can_be_edited_no_more_is_followed_by_the_reply(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, editing()) as chat:
        progress = chat.begin(1, "ann", "One")
        await chat.pass_s(FIRST_S + EVERY_S)
        chat.channel.plays = [refusal()]
        await chat.reply(1, "One two", progress)
        await chat.until_sent(1)
        row = await chat.bench.row("ann-t1")

    assert chat.channel.reads == {"id-1": "One", "id-2": "One two"}
    assert (row.platform_id, row.attempts) == ("id-2", 1)


async def test_an_edit_in_doubt_is_made_again_and_says_nothing_of_a_repeat(tmp_path: Path) -> None:
    doubt = SendError("reset", retryable=True, ambiguous=True)
    async with scene(tmp_path, editing()) as chat:
        progress = chat.begin(1, "ann", "One")
        await chat.pass_s(FIRST_S + EVERY_S)
        chat.channel.plays = [doubt, doubt, doubt]
        await chat.reply(1, "One two", progress)
        await chat.until_sent(1)

    assert chat.channel.reads == {"id-1": "One two"}


async def test_a_reply_that_is_given_up_is_grown_no_more(tmp_path: Path) -> None:
    async with scene(tmp_path, editing(), max_attempts=1) as chat:
        progress = chat.begin(1, "ann", "One")
        await chat.pass_s(FIRST_S + EVERY_S)
        chat.channel.plays = [busy()]
        await chat.reply(1, "One two", progress)
        with anyio.fail_after(30):
            while not await chat.bench.ids(OutboxState.DEAD):
                await chat.pass_s(0.5)

    assert chat.channel.reads == {"id-1": "One"}
    assert len(chat.bench.delivery.streams) == 0


async def test_a_crash_has_the_reply_sent_anew(tmp_path: Path) -> None:
    channel = editing()
    async with scene(tmp_path, channel) as chat:
        chat.begin(1, "ann", "One")
        await chat.pass_s(FIRST_S)
        await owe(chat.bench.database, 1, text="One two")
    async with scene(tmp_path, channel) as chat:
        await chat.until_sent(1)

    assert channel.reads == {"id-1": "One", "id-2": "One two"}


async def test_a_crash_amid_the_last_edit_has_that_made_again(tmp_path: Path) -> None:
    channel = editing()
    async with scene(tmp_path, channel) as chat:
        progress = chat.begin(1, "ann", "One")
        await chat.pass_s(FIRST_S + EVERY_S)
        channel.plays = [channel.hang]
        await chat.reply(1, "One two", progress)
        await chat.bench.hung()
    async with scene(tmp_path, channel) as chat:
        await chat.until_sent(1)

    assert channel.reads == {"id-1": "One two"}


async def test_of_a_long_answer_the_first_piece_grows_and_the_rest_follows(tmp_path: Path) -> None:
    text = " ".join(f"word{n}" for n in range(200))
    async with scene(tmp_path, editing(max_text_chars=400)) as chat:
        progress = chat.begin(1, "ann", *(f"{word} " for word in text.split()))
        await chat.pass_s(FIRST_S + 3 * EVERY_S)
        grown = dict(chat.channel.reads)
        await chat.reply(1, text, progress)
        await chat.until_sent(1)

    assert len(grown) == 1
    assert "".join(chat.channel.reads.values()) == text
    assert chat.channel.reads["id-1"] == grown["id-1"]


async def test_nothing_grows_while_an_earlier_reply_waits(tmp_path: Path) -> None:
    channel = editing(plays=[busy()])
    async with scene(tmp_path, channel) as chat:
        await chat.bench.owe(1, text="first")
        await chat.settle()
        progress = chat.begin(2, "ann", "second")
        await chat.pass_s(2.5)
        early = dict(channel.reads)
        await chat.pass_s(8)
        await chat.reply(2, "second, whole", progress)
        await chat.until_sent(2)

    assert early == {}
    assert list(channel.reads.values()) == ["first", "second, whole"]


async def test_answers_grow_no_further_while_a_busy_platform_owes_replies(tmp_path: Path) -> None:
    channel = editing()
    async with scene(tmp_path, channel) as chat:
        progress = chat.begin(1, "ann", "One")
        await chat.pass_s(FIRST_S)
        channel.plays = [busy(20)]
        await chat.bench.owe(1, "bob")
        await chat.bench.settle()
        progress.add_text(" two")
        await chat.pass_s(18)
        while_owed = dict(channel.reads)
        await chat.pass_s(6)

    assert while_owed == {"id-1": "One"}
    assert channel.reads == {"id-1": "One two", "id-2": "bob 1"}
    assert [one.text for one in channel.asked] == ["One", "bob 1", "bob 1", "One two"]


@pytest.mark.parametrize("wish_s", [3_700.0, 1e300])
async def test_a_pause_without_measure_ends_nothing_and_asks_the_storage_for_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish_s: float
) -> None:
    put_off: list[object] = []
    noted = outbox_changes.put_off

    def counted(*args: Any, **more: Any) -> None:  # noqa: ANN401 - whatever it takes
        put_off.append(args)
        noted(*args, **more)

    monkeypatch.setattr(outbox_changes, "put_off", counted)
    channel = editing()
    async with scene(tmp_path, channel) as chat:
        progress = chat.begin(1, "ann", "One")
        await chat.pass_s(FIRST_S + EVERY_S)
        channel.plays = [busy(wish_s)]
        progress.add_text(" two")
        await chat.pass_s(EVERY_S)
        await chat.reply(1, "One two three", progress)
        await chat.pass_s(EVERY_S)
        await chat.bench.clock.advance(LONGEST_WISH_S)
        await chat.until_sent(1)

    assert len(put_off) == 1
    assert len(channel.reads) == 1
    assert channel.reads["id-1"].endswith("One two three")


async def test_a_platform_that_is_away_gets_the_answer_once_it_is_there(tmp_path: Path) -> None:
    async with scene(tmp_path, editing(plays=[NotConnectedError(), NotConnectedError()])) as chat:
        chat.begin(1, "ann", "One")
        await chat.pass_s(FIRST_S + 2 * EVERY_S)

    assert chat.channel.reads == {"id-1": "One"}


async def test_a_platform_that_hangs_holds_the_reply_up_for_a_while_only(tmp_path: Path) -> None:
    channel = editing()
    async with scene(tmp_path, channel) as chat:
        channel.plays = [channel.hang]
        progress = chat.begin(1, "ann", "One")
        await chat.pass_s(FIRST_S)
        await chat.bench.hung()
        await chat.reply(1, "One two", progress)
        await chat.pass_s(PART_TIMEOUT_S + 1)
        await chat.until_sent(1)

    assert list(channel.reads.values()) == ["One two"]


async def test_questions_are_messages_of_their_own_in_plain_text(tmp_path: Path) -> None:
    async with scene(tmp_path, editing()) as chat:
        progress = chat.begin(1, "ann", "Let me see.")
        progress.add_text(Question("\n\nMay I use *it*?", "1234"))
        await chat.pass_s(FIRST_S)
        progress.add_text(" Done.")
        await chat.pass_s(EVERY_S)

    assert sorted(chat.channel.reads.values()) == ["Let me see. Done.", "May I use *it*?"]
    assert [one.plain for one in chat.channel.shown if "May" in one.text] == [True]


async def test_that_an_answer_is_made_is_shown_until_it_is(tmp_path: Path) -> None:
    async with scene(tmp_path, PlayedChannel(typing_s=5.0)) as chat:
        progress = chat.begin()
        await chat.pass_s(9)
        assert chat.channel.typed == [place()] * 3
        await chat.reply(1, "Hi", progress)
        await chat.pass_s(9)

    assert len(chat.channel.typed) == 3


async def test_a_turn_that_nobody_wrote_for_answers_no_message(tmp_path: Path) -> None:
    row: InboxRow = asked_in(place(), 1)
    reported = type(row)(
        **{
            **{name: getattr(row, name) for name in row.__slots__},
            "origin": Origin.PROCESS,
            "message_id": "\x1fprocess:p-1",
        }
    )
    async with scene(tmp_path, editing()) as chat:
        progress = Progress()
        chat.followers.follow(reported, progress)
        progress.add_text("It ended.")
        await chat.pass_s(FIRST_S)

    assert [one.reply_to for one in chat.channel.asked] == [""]


@pytest.mark.parametrize("over", [0, 4_000_000], ids=["within-the-room", "far-beyond-it"])
def test_a_long_answer_that_grows_is_not_read_as_a_whole_at_each_edit(over: int) -> None:
    growing = Growing(asked_in(place(), 1), 100_000)
    paragraph = "Some *words* of an answer, `code` in it.\n\n```py\nx = 1\n```\n\n"
    growing.add(paragraph * (99_000 // len(paragraph)))
    piece, texts = "x" + paragraph * (over // len(paragraph)), []
    began_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    for _ in range(40):
        growing.add(piece)
        texts.append(growing.text())

    text = texts[-1]
    assert text.startswith(paragraph)
    assert len(text) <= 100_000 - NOTE_CHARS
    # To read it once takes some 3 ms.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - began_s < 0.05
