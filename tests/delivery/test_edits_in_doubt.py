"""Laws of the last edit of a message: where nobody knows of one, what follows says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.channels.base import REPEAT, NotConnectedError, Outbound, SendError
from gateway.clock import FakeClock
from gateway.transcripts.outbox import chat_of
from gateway.transcripts.outbox_rows import OutboxState
from tests.support.channels import PlayedChannel, busy, delivering, place, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.support.channels import DeliveryBench


@pytest.mark.parametrize("idempotent", [False, True], ids=["plain", "idempotent"])
async def test_an_edit_that_the_platform_took_is_made_again_after_a_crash(
    tmp_path: Path, *, idempotent: bool
) -> None:
    path, clock = tmp_path / "gateway.db", FakeClock()
    channel = PlayedChannel(idempotent=idempotent, edits=True)

    async def shown_and_killed(outbound: Outbound) -> None:
        channel.reads["id-1"] = outbound.text
        await channel.hang(outbound)

    async with delivering(path, channel, clock=clock) as bench:
        await _grown(bench, channel)
        channel.plays = [shown_and_killed]
        await bench.owe(1, text="One two")
        await bench.hung()
    for _ in range(2):
        async with delivering(path, channel, clock=clock) as bench:
            await bench.settle()

            assert channel.reads == {"id-1": "One two"}
            assert await bench.ids(OutboxState.SENT) == ["ann-t1"]


async def test_an_edit_in_doubt_that_cannot_be_made_again_is_followed_by_an_open_repeat(
    tmp_path: Path,
) -> None:
    path, clock, channel = tmp_path / "gateway.db", FakeClock(), PlayedChannel(edits=True)
    async with delivering(path, channel, clock=clock) as bench:
        await _grown(bench, channel)
        channel.plays = [channel.hang, refusal()]
        await bench.owe(1, text="One two")
        await bench.hung()
    async with delivering(path, channel, clock=clock) as bench:
        await bench.settle()

    assert channel.reads == {"id-1": "One", "id-2": f"{REPEAT}One two"}


async def test_a_channel_that_edits_no_more_after_a_crash_repeats_openly(tmp_path: Path) -> None:
    path, clock, channel = tmp_path / "gateway.db", FakeClock(), PlayedChannel(edits=True)
    async with delivering(path, channel, clock=clock) as bench:
        await _grown(bench, channel)
        channel.plays = [channel.hang]
        await bench.owe(1, text="One two")
        await bench.hung()
    channel.edits = False
    async with delivering(path, channel, clock=clock) as bench:
        await bench.settle()

    assert channel.reads == {"id-1": "One", "id-2": f"{REPEAT}One two"}


@pytest.mark.parametrize("kind", ["plain", "idempotent"])
@pytest.mark.parametrize(
    "second",
    [
        pytest.param(NotConnectedError(), id="cannot-be-reached"),
        pytest.param(busy(5), id="asks-for-a-pause"),
        pytest.param(busy(), id="fails"),
    ],
)
async def test_a_doubt_about_an_edit_outlasts_a_try_that_surely_failed(
    tmp_path: Path, second: SendError, kind: str
) -> None:
    clock, channel = FakeClock(), PlayedChannel(edits=True, idempotent=kind == "idempotent")
    async with delivering(tmp_path / "gateway.db", channel, clock=clock) as bench:
        await _grown(bench, channel)
        channel.plays = [_taken(channel), second, refusal()]
        await bench.owe(1, text="One two")
        for _ in range(5):
            await bench.later(60)

    assert channel.reads == {"id-1": "One two", "id-2": f"{REPEAT}One two"}


@pytest.mark.parametrize("kind", ["plain", "idempotent"])
async def test_an_edit_in_doubt_that_is_refused_then_is_followed_by_an_open_repeat(
    tmp_path: Path, kind: str
) -> None:
    clock, channel = FakeClock(), PlayedChannel(edits=True, idempotent=kind == "idempotent")
    async with delivering(tmp_path / "gateway.db", channel, clock=clock) as bench:
        await _grown(bench, channel)
        channel.plays = [_taken(channel), refusal(), busy(5)]
        await bench.owe(1, text="One two")
        for _ in range(3):
            await bench.later(60)

    assert channel.reads == {"id-1": "One two", "id-2": f"{REPEAT}One two"}


@pytest.mark.parametrize("kind", ["plain", "idempotent"])
async def test_a_dead_letter_that_an_edit_may_have_shown_is_revived_as_a_repeat(
    tmp_path: Path, kind: str
) -> None:
    clock, channel = FakeClock(), PlayedChannel(edits=True, idempotent=kind == "idempotent")
    path = tmp_path / "gateway.db"
    for plays in ([_taken(channel), busy()], [busy(), _taken(channel)]):
        channel.reads.clear()
        channel.shown.clear()
        path.unlink(missing_ok=True)
        async with delivering(path, channel, clock=clock, max_attempts=2) as bench:
            await _grown(bench, channel)
            channel.plays = list(plays)
            await bench.owe(1, text="One two")
            for _ in range(3):
                await bench.later(60)
            assert await bench.ids(OutboxState.DEAD) == ["ann-t1"]
            await bench.delivery.retry("ann-t1")
            await bench.settle()

        assert channel.reads == {"id-1": "One two", "id-2": f"{REPEAT}One two"}


async def test_edits_in_doubt_do_not_use_up_the_one_repeat_of_a_message(tmp_path: Path) -> None:
    path, clock, channel = tmp_path / "gateway.db", FakeClock(), PlayedChannel(edits=True)
    async with delivering(path, channel, clock=clock) as bench:
        await _grown(bench, channel)
        channel.plays = [channel.doubtful] * 9
        await bench.owe(1, text="One two")
        await bench.later(10)
        await bench.later(10)
        assert len(channel.asked) > 2
    channel.edits, channel.plays = False, []
    async with delivering(path, channel, clock=clock) as bench:
        await bench.later(300)

    assert channel.reads == {"id-1": "One", "id-2": f"{REPEAT}One two"}


def _taken(channel: PlayedChannel) -> Callable[[Outbound], Awaitable[None]]:
    """Return a play in which the platform takes an edit, and its answer is lost."""

    async def take(outbound: Outbound) -> None:
        channel.reads["id-1"] = outbound.text
        raise SendError("connection reset", retryable=True, ambiguous=True)

    return take


async def _grown(bench: DeliveryBench, channel: PlayedChannel) -> None:
    """Let a part of the first reply be shown."""
    stream = bench.delivery.streams.open("ann-t1", chat_of(place()))
    stream.shown_id = await channel.send(Outbound(place(), "One", "a-part"))
