"""Replies that are owed to channels live through a salvage; damaged ones are told and given up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from gateway.clock import FakeClock
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from tests.support.channels import delivering, place
from tests.support.upkeep import change, found, used_state
from tests.upkeep.salvaging import salvaged

if TYPE_CHECKING:
    from pathlib import Path


async def with_owed(path: Path) -> Path:
    """Give a state in which the replies to two messages are owed to a channel."""
    await used_state(path)
    owed = (
        "platform = 'played', channel = 'played/one', chat = 'c', owed_since = created_at, "
        f"sent_at = NULL, source = '{orjson.dumps(place()).decode()}'"
    )
    change(
        path,
        f"UPDATE outbox SET {owed} WHERE message_id IN ('m0', 'last')",  # noqa: S608 - a text of ours
        "INSERT INTO outbox_chats (chat, channel, due_at) VALUES ('c', 'played/one', '')",
    )
    return path


async def test_what_is_owed_is_sent_after_a_salvage(tmp_path: Path) -> None:
    path = await with_owed(tmp_path / "state")

    made = await salvaged(path, tmp_path / "new")

    assert (made.rows["outbox"], made.rows["outbox_chats"]) == (6, 1)
    async with delivering(tmp_path / "new" / "gateway.db", clock=FakeClock()) as bench:
        await bench.settle()
        assert bench.channel.texts() == ["re: hello 0", "re: last"]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("source = '{'", id="source-no-json"),
        pytest.param("""source = '{"platform":"x"}'""", id="source-without-chat"),
        pytest.param("source = NULL", id="no-source"),
        pytest.param("chat = NULL", id="no-chat"),
        pytest.param("reply = '[]'", id="reply-without-text"),
        pytest.param("created_at = 'today'", id="no-instant"),
    ],
)
async def test_a_damaged_owed_reply_is_told_and_given_up(tmp_path: Path, damage: str) -> None:
    path = await with_owed(tmp_path / "state")
    change(path, f"UPDATE outbox SET {damage} WHERE message_id = 'm0'")  # noqa: S608 - a text of ours

    told = found(check_store(path), Level.WRONG)
    made = await salvaged(path, tmp_path / "new")

    assert [line for line in told if "1 stored replies cannot be read" in line]
    assert [loss.place for loss in made.given_up] == ["gateway.db: outbox"]
    async with delivering(tmp_path / "new" / "gateway.db", clock=FakeClock()) as bench:
        await bench.settle()
        assert bench.channel.texts() == ["re: last"]
