"""What a run says it freed is what the audit adds up to, and what the tables have really lost."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway.model import Image, Message, Role, ToolCall
from gateway.pruning import ItemSummary
from gateway.retention.pruning import ItemPruning
from gateway.retention.settings import ItemPruningSettings
from gateway.sessions.history import stamp
from gateway.transcripts import pruned
from tests.retention.telling import NOW, Stored, stored

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.pruning import PrunableItem

RULES: Final = [
    ("long", {"type": "size", "max_size": "600B"}, {"type": "compact", "ratio": 0.3}),
    ("wordy", {"type": "tokens", "max_tokens": 90}, {"type": "summarize", "target_tokens": 20}),
    ("many", {"type": "count", "max_count": 20}, {"type": "archive"}),
    ("much", {"type": "total_size", "max_total_size": "3kB"}, {"type": "delete"}),
]
SETTINGS: Final = ItemPruningSettings.model_validate(
    {
        "max_share": 1.0,
        "removed_sessions_keep": "10d",
        "protections": {"keep_newest": 0, "min_age": "0s", "settle": "0s"},
        "budgets": {"max_items": 25, "max_summaries": 5},
        "rules": [
            {"id": name, "name": name, "priority": place, "conditions": [when], "action": action}
            for place, (name, when, action) in enumerate(reversed(RULES))
        ],
    }
)
TEXTS: Final = ("", "yes", "größer \U0001f600 ", '{"a":"\\n"} ', "word ")


class Words:
    """Writes summaries of any length, some of them longer than what they tell of."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def summarize(
        self, item: PrunableItem, *, target_tokens: int | None, reason: str
    ) -> ItemSummary:
        return ItemSummary(f"{item.id} ü " * self._chance.randrange(1, 90), target_tokens)


def _turn(chance: random.Random, number: int) -> list[Message]:
    def text() -> str:
        return chance.choice(TEXTS) * chance.choice([1, 9, 60, 200])

    images = (Image("image/png", "aGk="),) if chance.random() < 0.2 else ()
    said = [Message(Role.USER, text(), images=images), Message(Role.ASSISTANT, text())]
    if chance.random() < 0.5:
        call = f"c{number}"
        calls = (ToolCall(call, "look", '{"at":"ä"}'),)
        said[1:1] = [
            Message(Role.ASSISTANT, text(), calls),
            Message(Role.TOOL, text(), tool_call_id=call, tool_name="look"),
        ]
    return said + [Message(Role.NOTICE, text())] * (chance.random() < 0.1)


async def _sizes(one: Stored) -> tuple[int, int]:
    """Return bytes and tokens of all messages, as their rows have them and as the sums have."""
    ((size, tokens),) = await one.rows("SELECT total(size_bytes), total(tokens) FROM messages")
    ((told, told_tokens),) = await one.rows(
        "SELECT total(size_bytes), total(tokens) FROM item_totals"
    )
    assert (size, tokens) == (told, told_tokens)
    return int(size), int(tokens)


async def _audited(one: Stored, run_id: str) -> tuple[int, int, int]:
    return await one.database.read(lambda place: pruned.sums_of_run(place, run_id))


@pytest.mark.parametrize("seed", range(4))
async def test_what_runs_freed_is_what_the_audit_and_the_tables_say(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    seen: dict[str, int] = {}
    async with stored(tmp_path) as one:
        pruning = ItemPruning(
            one.database, one.clock, SETTINGS, tmp_path / "archive", summarizer=Words(chance)
        )
        for number in range(70):
            name, at = f"s{chance.randrange(3)}", 9_000.0 - 100 * number
            await one.tell(*_turn(chance, number), session=name, turn=f"t{number}", age_s=at)
        more = True
        while more:
            before = await _sizes(one)
            result = await pruning.prune()
            after = await _sizes(one)

            lost = before[0] - after[0], before[1] - after[1]
            stats = result.stats
            assert result.success
            assert (stats.freed_bytes, stats.freed_tokens) == lost
            assert await _audited(one, result.id) == (stats.pruned_count, *lost)
            assert lost == (
                sum(item.freed_bytes for item in result.pruned_items),
                sum(item.freed_tokens for item in result.pruned_items),
            )
            more = bool(result.pruned_items)
            if more:
                (row,) = await pruning.runs(limit=1)
                assert (row.pruned, row.freed_bytes, row.freed_tokens) == (
                    stats.pruned_count,
                    *lost,
                )
            for action, tally in stats.by_action.items():
                seen[action] = seen.get(action, 0) + tally.count

    assert set(seen) == {"compact", "summarize", "archive", "delete"}, seen


async def test_what_left_with_an_ended_conversation_is_counted_alike(tmp_path: Path) -> None:
    chance = random.Random(7)
    told: list[tuple[str, Any]] = []
    async with stored(tmp_path) as one:
        settings = SETTINGS.model_copy(update={"rules": []})
        pruning = ItemPruning(one.database, one.clock, settings, tmp_path / "archive")
        for number in range(60):
            await one.tell(*_turn(chance, number), session=f"s{number % 2}", turn=f"t{number}")
        await one.run(
            "INSERT INTO sessions (session_id, session_key, started_at, ended_at) "
            "VALUES ('s0', 'agent:main:http::dm:ann::', ?1, ?1)",
            stamp(NOW - timedelta(days=11)),
        )
        before = await _sizes(one)

        async def between() -> None:
            told.extend((row.status, row.cause) for row in await pruning.runs(limit=5))

        await pruning.work(between)
        after = await _sizes(one)
        (row,) = await pruning.runs(limit=5)
        audited = await _audited(one, row.run_id)

    assert (row.cause, row.status) == ("retention", "ok")
    assert 0 < row.pruned < 120
    assert audited == (row.pruned, row.freed_bytes, row.freed_tokens)
    assert (row.freed_bytes, row.freed_tokens) == (before[0] - after[0], before[1] - after[1])
    # While it goes on it is not told as one that was cut off.
    assert set(told) == {("running", "retention")}
