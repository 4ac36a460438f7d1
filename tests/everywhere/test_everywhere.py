"""One daemon, people on all sides at once, and whatever dies meanwhile: nothing lost or twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.everywhere.matrix import MatrixSide
from tests.everywhere.openai_clients import OpenAISide
from tests.everywhere.telegram import TelegramSide
from tests.everywhere.trial import Trial, grown_bytes
from tests.everywhere.webhook import WebhookSide
from tests.support.synapse import shared

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MOST_GROWTH_BYTES: Final = 1_000_000
"""By how much the memory of a daemon may grow in a third of its last life."""


@pytest.mark.parametrize(
    ("users", "seconds"),
    [
        pytest.param(10, 20, id="short"),
        pytest.param(50, 120, marks=pytest.mark.torture, id="two-minutes"),
    ],
)
async def test_every_message_is_answered_once_in_order_and_in_its_session(
    tmp_path: Path, torture_count: Callable[[str, int], None], users: int, seconds: int
) -> None:
    shared()  # Where there is none, this says so.
    telegram, webhook = TelegramSide(tmp_path), WebhookSide(tmp_path)
    sides = [telegram, MatrixSide(tmp_path, users), webhook, OpenAISide()]
    trial = Trial(tmp_path, sides, users=users, seconds=seconds, pause_s=seconds / 10)
    await trial.run()
    report = trial.report
    torture_count("messages of people everywhere", report.said)
    torture_count("daemons that were killed or stopped amid them", report.lives - 1)
    torture_count("events told by webhook", sum(webhook.events.values()))
    torture_count("answers marked as a repeat", telegram.book.repeats())

    for side in sides:
        for user in range(users):
            turns = len(side.book.accepted[side.chat_of(user)])
            if webhook.turns[side.key_of(user)] != turns:
                told = webhook.turns[side.key_of(user)]
                report.violations.append(f"{side.key_of(user)}: told of {told} of {turns} turns")

    assert report.violations == []
    assert report.lives == 4 + len(sides)
    assert webhook.unsigned == 0
    assert grown_bytes(report.memory) <= MOST_GROWTH_BYTES, report.memory
