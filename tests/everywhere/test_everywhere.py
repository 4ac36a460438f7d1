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
        pytest.param(10, 20, marks=pytest.mark.alone, id="short"),
        pytest.param(50, 120, marks=pytest.mark.torture, id="two-minutes"),
    ],
)
async def test_every_message_is_answered_once_in_order_and_in_its_session(
    tmp_path: Path, torture_count: Callable[[str, int], None], users: int, seconds: int
) -> None:
    shared()  # Where there is none, this says so.
    telegram, matrix = TelegramSide(tmp_path, users), MatrixSide(tmp_path, users)
    webhook = WebhookSide(tmp_path)
    sides = [telegram, matrix, webhook, OpenAISide()]
    trial = Trial(tmp_path, sides, users=users, seconds=seconds, pause_s=seconds / 10)
    await trial.run()
    report = trial.report
    bots = (telegram.polling, telegram.called)
    grown = {side.name: side.book.grown() for side in sides}
    pauses, calls = sum(bot.pauses for bot in bots), telegram.called.answers
    torture_count("messages of people everywhere", report.said)
    torture_count(
        "messages of strangers and to others", sum(len(side.book.refused) for side in sides)
    )
    torture_count("daemons that were killed or stopped amid them", report.lives - 1)
    torture_count("events told by webhook", sum(webhook.events.values()))
    torture_count("calls of Telegram that failed and came again", sum(one >= 300 for one in calls))
    torture_count("pauses that Telegram asked for", pauses)
    torture_count("replies that were sent again", report.sent_again)
    torture_count("answers that grew", sum(grown.values()))
    torture_count("answers marked as a repeat", telegram.book.repeats())
    torture_count("parts left behind by a kill", sum(side.book.left() for side in sides))
    torture_count("replies dead after a second doubt", len(telegram.book.dead))
    torture_count("messages given up", sum(side.book.given_up() for side in sides))

    for side in sides:
        for place, texts in side.book.texts().items():
            told = webhook.turns[side.key_of(place)]
            if told != len(texts):
                report.violations.append(f"{place}: told of {told} of {len(texts)} turns")

    if set(telegram.called.unproven) != {401}:
        answers = sorted(telegram.called.unproven)
        report.violations.append(f"telegram: calls without the secret were answered {answers}")

    assert not report.violations, "\n".join(report.violations)
    assert report.lives == 4 + len(sides)
    assert webhook.unsigned == 0
    assert min(pauses, grown["telegram"], grown["matrix"]) > 0, (pauses, grown)
    assert grown_bytes(report.memory) <= MOST_GROWTH_BYTES, report.memory
