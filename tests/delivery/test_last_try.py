"""Laws of the last try of a reply that may have been shown: not before its platform is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from gateway.channels.base import REPEAT, NotConnectedError, Probed, SendError
from gateway.delivery.planning import REPEAT_AFTER_S
from gateway.transcripts.outbox_rows import OutboxState
from tests.support.channels import PlayedChannel, busy, delivering, refusal

if TYPE_CHECKING:
    from pathlib import Path

DOUBT = SendError("Bad Gateway", retryable=True, ambiguous=True)


@dataclass
class ProbedChannel(PlayedChannel):
    """Can be asked whether its platform is there; it is, unless `answer` says otherwise."""

    answer: Exception | None = None
    probed: int = 0

    async def probe(self) -> None:
        self.probed += 1
        if self.answer is not None:
            raise self.answer


@pytest.mark.parametrize("answer", [DOUBT, NotConnectedError(), busy(1.0), OSError()])
async def test_while_a_platform_fails_what_may_have_been_shown_waits_for_it(
    tmp_path: Path, answer: Exception
) -> None:
    channel = ProbedChannel(plays=[DOUBT], answer=answer)
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        await bench.owe(1)
        await bench.settle()
        await bench.later(REPEAT_AFTER_S)
        await bench.owe(1, chat="bob")
        for _ in range(20):
            assert [one.text for one in channel.asked] == ["ann 1"]
            await bench.later(60.0)
        probed, channel.answer = channel.probed, None
        await bench.later(60.0)
        row = await bench.row("ann-t1")

    assert probed in range(15, 40)
    assert channel.texts("ann") == [f"{REPEAT}ann 1"]
    assert channel.texts("bob") == ["bob 1"]
    assert row.state is OutboxState.SENT


async def test_a_pause_that_is_asked_for_instead_is_kept_to(tmp_path: Path) -> None:
    channel = ProbedChannel(plays=[DOUBT], answer=busy(1_000.0))
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        await bench.owe(1)
        await bench.settle()
        await bench.later(REPEAT_AFTER_S)
        for _ in range(9):
            await bench.later(100.0)
        probed, channel.answer = channel.probed, None
        await bench.later(200.0)

        assert probed == 1
        assert channel.texts() == [f"{REPEAT}ann 1"]


async def test_a_platform_that_refuses_to_say_whether_it_is_there_is_there(tmp_path: Path) -> None:
    channel = ProbedChannel(plays=[DOUBT], answer=refusal())
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        await bench.owe(1)
        await bench.settle()
        await bench.later(REPEAT_AFTER_S)

        assert channel.texts() == [f"{REPEAT}ann 1"]


async def test_nothing_is_asked_before_a_try_that_is_not_the_last(tmp_path: Path) -> None:
    channel = ProbedChannel(plays=[SendError("no", retryable=True), busy(1.0)])
    async with delivering(tmp_path / "gateway.db", channel) as bench:
        await bench.owe(1)
        for _ in range(4):
            await bench.settle()
            await bench.later(60.0)

        assert channel.texts() == ["ann 1"]
    assert isinstance(channel, Probed)
    assert not channel.probed
