"""The promises of delivery, over any schedule of failures and crashes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.channels.base import REPEAT
from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.transcripts import outbox_rows
from gateway.transcripts.outbox_rows import OutboxState
from tests.delivery.schedules import OUTCOMES, STEPS, Platform, live
from tests.support.channels import delivering

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import pytest

    from gateway.channels.base import Outbound

TTL_S = 600.0
MAX_ATTEMPTS = 4
AROUND_EDITS = ["busy", "wait", "refused", "doubtful_shown", "crash_shown", "away"]


@settings(max_examples=50)
@given(
    steps=st.lists(STEPS, max_size=20),
    outcomes=st.lists(st.sampled_from(OUTCOMES), max_size=20),
    idempotent=st.booleans(),
    edits=st.booleans(),
    late=st.sampled_from(["note", "drop"]),
)
async def test_any_schedule_of_failures_and_crashes_keeps_the_promises(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, Any]],
    outcomes: list[str],
    idempotent: bool,  # noqa: FBT001 - drawn
    edits: bool,  # noqa: FBT001 - drawn
    late: Literal["note", "drop"],
) -> None:
    path = tmp_path_factory.mktemp("schedule") / "gateway.db"
    await _play(path, Platform(outcomes, idempotent=idempotent, edits=edits), steps, late)


@settings(max_examples=60)
@given(
    outcomes=st.lists(st.sampled_from(AROUND_EDITS), min_size=3, max_size=5),
    idempotent=st.booleans(),
)
async def test_whatever_becomes_of_edits_keeps_the_promises(
    tmp_path_factory: pytest.TempPathFactory,
    outcomes: list[str],
    idempotent: bool,  # noqa: FBT001 - drawn
) -> None:
    path = tmp_path_factory.mktemp("schedule") / "gateway.db"
    platform = Platform(outcomes, idempotent=idempotent, edits=True)
    await _play(path, platform, [("grow", "ann"), ("later", 100), ("reached", None)], "note")


async def _play(
    path: Path, platform: Platform, steps: list[tuple[str, Any]], late: Literal["note", "drop"]
) -> None:
    """Take all steps, over as many lives as there are crashes, and check what became of it."""
    clock, edits, idempotent = FakeClock(), platform.edits, platform.idempotent
    committed: dict[str, datetime] = {}
    # An hour is more than all tries take together.
    left = [*steps, ("reached", None), *[("later", 900)] * 8]
    over = False
    while not over:
        platform.crashing = False
        life = delivering(
            path, platform, clock=clock, late=late, ttl_s=TTL_S, max_attempts=MAX_ATTEMPTS
        )
        async with life as bench:
            over = await live(bench, platform, left, committed)

    async with Database.open(path, clock) as database:
        rows = {
            state: await database.read(
                lambda db, state=state: outbox_rows.page(db, state, limit=999)  # type: ignore[misc]
            )
            for state in OutboxState
        }
    assert rows[OutboxState.OWED] == []
    ended = {row.delivery_id: row.state for state in OutboxState for row in rows[state]}
    assert ended.keys() == committed.keys()
    for delivery_id, state in ended.items():
        seen = platform.seen(delivery_id)
        assert seen or state is OutboxState.DEAD
        unmarked = [text for text in seen if REPEAT not in text]
        assert len(unmarked) <= 1
        assert len(seen) <= 2
        assert edits or not idempotent or len(unmarked) == len(seen)
        tries = [one for one in platform.asked if one.delivery_id == delivery_id]
        assert len(tries) - platform.uncounted[delivery_id] <= MAX_ATTEMPTS
    _check_order(platform.asked)
    for outbound, at in platform.tries:
        is_late = at >= committed[outbound.delivery_id] + timedelta(seconds=TTL_S)
        assert outbound.text.startswith("(Late: ") == is_late
        assert not (is_late and late == "drop")


def _check_order(asked: list[Outbound]) -> None:
    """Check that of one chat nothing is tried again once a later reply was tried."""
    for chat in ("ann", "bob"):
        of_chat = [one for one in asked if one.target.chat_id == chat]
        numbers = [int(one.delivery_id.rpartition("t")[2]) for one in of_chat]
        assert numbers == sorted(numbers)
