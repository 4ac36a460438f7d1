"""What is meant for the bot in groups, over the Bot API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.telegram_api import BOT_NAME
from tests.support.telegram_runs import running

if TYPE_CHECKING:
    from pathlib import Path

CLUB: Final[dict[str, Any]] = {"id": -100, "type": "supergroup", "title": "club"}


@pytest.mark.parametrize(("setting", "named"), [("named", False), ("all", True)])
async def test_what_names_nobody_is_meant_for_the_bot_where_all_is(
    tmp_path: Path, setting: str, *, named: bool
) -> None:
    mention = {"type": "mention", "offset": 0, "length": len(BOT_NAME) + 1}
    async with running(tmp_path, answer_in_groups=setting) as run:
        await run.say("hello", 1, chat=CLUB)
        await run.say(f"@{BOT_NAME} hello", 2, chat=CLUB, entities=[mention])
        await run.say("hello", 3)

    assert [one.named for one in run.received] == [named, True, True]
    assert [one.text for one in run.received] == ["hello"] * 3


async def test_unless_the_operator_says_otherwise_only_what_names_the_bot_is(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as run:
        await run.say("hello", 1, chat=CLUB)

    assert [one.named for one in run.received] == [False]
