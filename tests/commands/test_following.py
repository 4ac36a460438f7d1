"""Questions of turns, shown in the chat they are answered in."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from gateway.channels.base import Outbound, SendError
from gateway.channels.running import Channels
from gateway.clock import FakeClock
from gateway.commands.following import SEND_TIMEOUT_S, Followers
from gateway.turns.ticket import Progress, Question
from tests.support.channels import PLATFORM, PlayedChannel, asked_in, delivering
from tests.support.commands import source_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

ANN = source_of(platform=PLATFORM, account="one")


ROW = asked_in(ANN, 1)


@asynccontextmanager
async def following(
    path: Path, channel: PlayedChannel, clock: FakeClock
) -> AsyncGenerator[Followers]:
    async with delivering(path / "gateway.db", channel, clock=clock) as bench:
        followers = Followers(Channels([channel], clock), clock, bench.delivery)
        async with anyio.create_task_group() as tasks:
            await tasks.start(followers.run)
            yield followers
            tasks.cancel_scope.cancel()


async def _shown(channel: PlayedChannel, count: int) -> list[str]:
    with anyio.fail_after(30):
        while len(channel.shown) < count:
            await anyio.lowlevel.checkpoint()
    return [one.text for one in channel.shown]


async def test_only_questions_are_shown_each_as_an_answer_to_the_message(tmp_path: Path) -> None:
    channel, clock, progress = PlayedChannel(), FakeClock(), Progress()
    async with following(tmp_path, channel, clock) as followers:
        progress.add_text("Let me see.")
        progress.add_text(Question("\n\nMay I?", "1234"))
        followers.follow(ROW, progress)
        assert await _shown(channel, 1) == ["May I?"]
        progress.add_text("Yes.")
        progress.add_text(Question("\n\nAnd that?", "1235"))
        assert await _shown(channel, 2) == ["May I?", "And that?"]

    assert {one.reply_to for one in channel.shown} == {"m1"}
    assert len({one.delivery_id for one in channel.shown}) == 2
    assert {one.target for one in channel.shown} == {ANN}


@pytest.mark.parametrize("wrong", [SendError("no", retryable=True), RuntimeError("a bug")])
async def test_a_question_that_cannot_be_shown_harms_nothing(
    tmp_path: Path, wrong: Exception
) -> None:
    channel, clock, progress = PlayedChannel(plays=[wrong]), FakeClock(), Progress()
    with capture_logs() as logs:
        async with following(tmp_path, channel, clock) as followers:
            followers.follow(ROW, progress)
            progress.add_text(Question("May I?", "1234"))
            progress.add_text(Question("And that?", "1235"))
            assert await _shown(channel, 1) == ["And that?"]
    assert [line["event"] for line in logs] == ["channel.question_not_shown"]


async def test_a_channel_that_hangs_keeps_no_question_for_ever(tmp_path: Path) -> None:
    hangs, clock, progress = anyio.Event(), FakeClock(), Progress()

    async def hang(_: Outbound) -> None:
        hangs.set()
        await anyio.sleep_forever()

    channel = PlayedChannel(plays=[hang])
    with capture_logs() as logs:
        async with following(tmp_path, channel, clock) as followers:
            followers.follow(ROW, progress)
            progress.add_text(Question("May I?", "1234"))
            progress.add_text(Question("And that?", "1235"))
            with anyio.fail_after(30):
                await hangs.wait()
            await clock.advance(SEND_TIMEOUT_S)
            assert await _shown(channel, 1) == ["And that?"]
    assert [line["reason"] for line in logs] == ["it took longer than 30 seconds"]


async def test_turns_of_other_platforms_are_not_followed(tmp_path: Path) -> None:
    channel, clock, progress = PlayedChannel(), FakeClock(), Progress()
    async with following(tmp_path, channel, clock) as followers:
        followers.follow(asked_in(source_of(), 1), progress)
        progress.add_text(Question("May I?", "1234"))
        await clock.advance(0)
    assert channel.asked == []


@pytest.mark.parametrize("char", ["x", "\U0001f469\u200d\U0001f4bb"], ids=["letters", "joined"])
async def test_a_question_that_a_channel_does_not_take_keeps_how_it_is_answered(
    tmp_path: Path, char: str
) -> None:
    channel, clock, progress = PlayedChannel(max_text_chars=256), FakeClock(), Progress()
    how = 'Answer "yes 1234" or "no" within 300 seconds; nothing runs before.'
    wish = "The agent wants to use the tool box with " + char * 900
    async with following(tmp_path, channel, clock) as followers:
        followers.follow(ROW, progress)
        progress.add_text(Question(f"\n\n{wish}\n{how}", "1234"))
        (shown,) = await _shown(channel, 1)

    began, _, last = shown.rpartition("\n")
    cut, _, more = began.rpartition(" ... ")
    assert len(shown) <= 256
    assert last == how
    assert cut
    assert wish.startswith(cut + char), "cut between two characters"
    assert more == f"({len(wish)} characters)"
