"""Laws of delivery over crashes: nothing is lost, nothing is shown twice without saying so."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.channels.base import REPEAT
from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.transcripts import outbox_rows
from gateway.transcripts.outbox_rows import OutboxState
from tests.support.channels import PlayedChannel, busy, delivering, owe

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("shown", [False, True], ids=["before-it-is-shown", "after-it-is-shown"])
@pytest.mark.parametrize("idempotent", [False, True], ids=["plain", "idempotent"])
async def test_a_crash_around_a_send_loses_nothing_and_repeats_openly(
    tmp_path: Path, *, shown: bool, idempotent: bool
) -> None:
    path, clock = tmp_path / "gateway.db", FakeClock()
    channel = PlayedChannel(idempotent=idempotent)
    channel.plays = [channel.hang_shown if shown else channel.hang]
    async with delivering(path, channel, clock=clock) as bench:
        await bench.owe(1)
        await bench.hung()
        await bench.owe(2)
    async with delivering(path, channel, clock=clock) as bench:
        await bench.settle()

    first = ["ann 1"] if shown or idempotent else []
    again = [] if idempotent else [f"{REPEAT}ann 1"]
    assert channel.texts() == [*first, *again, "ann 2"]
    assert [one.delivery_id for one in channel.asked] == ["ann-t1", "ann-t1", "ann-t2"]


async def test_a_second_crash_in_the_repeat_leaves_a_dead_letter(tmp_path: Path) -> None:
    path, clock, channel = tmp_path / "gateway.db", FakeClock(), PlayedChannel()
    channel.plays = [channel.hang_shown, channel.hang_shown]
    for number in (1, 2):
        async with delivering(path, channel, clock=clock) as bench:
            await bench.owe(number)
            await bench.hung()
    async with delivering(path, channel, clock=clock) as bench:
        await bench.settle()

        assert channel.texts() == ["ann 1", f"{REPEAT}ann 1", "ann 2"]
        assert await bench.ids(OutboxState.DEAD) == ["ann-t1"]


async def test_a_message_that_ends_the_gateway_each_time_is_given_up(tmp_path: Path) -> None:
    path, clock, channel = tmp_path / "gateway.db", FakeClock(), PlayedChannel(idempotent=True)
    channel.plays = [channel.hang] * 3
    for _ in range(3):
        async with delivering(path, channel, clock=clock, max_attempts=3) as bench:
            if not channel.asked:
                await bench.owe(1)
            await bench.hung()
    async with delivering(path, channel, clock=clock, max_attempts=3) as bench:
        await bench.settle()

        (dead,) = await bench.rows(OutboxState.DEAD)
        assert (dead.error, len(channel.asked)) == ("given up after 3 tries", 3)


async def test_pieces_that_were_sent_are_not_sent_again(tmp_path: Path) -> None:
    text = "".join(f"Line {n} says something.\n" for n in range(60))
    path, clock = tmp_path / "gateway.db", FakeClock()
    channel = PlayedChannel(max_text_chars=512)
    channel.plays = [None, None, channel.hang]
    async with delivering(path, channel, clock=clock) as bench:
        await bench.owe(1, text=text)
        await bench.hung()
    async with delivering(path, channel, clock=clock) as bench:
        await bench.settle()

    assert "".join(channel.texts()).replace(REPEAT, "") == text
    assert [one.repeat for one in channel.shown][:4] == [False, False, True, False]


async def test_a_pause_that_a_platform_asked_for_outlives_the_gateway(tmp_path: Path) -> None:
    path, clock, channel = tmp_path / "gateway.db", FakeClock(), PlayedChannel(plays=[busy(100)])
    async with delivering(path, channel, clock=clock) as bench:
        await bench.owe(1)
        await bench.settle()
    async with delivering(path, channel, clock=clock) as bench:
        await bench.later(99)
        early = len(channel.asked)
        await bench.later(1)

        assert (early, channel.texts()) == (1, ["ann 1"])


async def test_a_queue_that_is_lost_is_made_anew(tmp_path: Path) -> None:
    path, clock = tmp_path / "gateway.db", FakeClock()
    async with Database.open(path, clock) as database:
        for number in (1, 2):
            await owe(database, number)
        await database.write(lambda tx: tx.execute("DELETE FROM outbox_chats"))
    async with delivering(path, clock=clock) as bench:
        await bench.settle()

        assert bench.channel.texts() == ["ann 1", "ann 2"]


@pytest.mark.parametrize("point", ["before", "after"])
@pytest.mark.parametrize("kind", ["plain", "idempotent"])
async def test_a_gateway_that_is_killed_around_a_send_repeats_openly(
    tmp_path: Path, point: str, kind: str
) -> None:
    path, shown = tmp_path / "gateway.db", tmp_path / "shown"
    async with Database.open(path, FakeClock()) as database:
        for number in (1, 2):
            await owe(database, number, at=datetime.now(UTC))  # noqa: TID251 - a process of its own
    ends = [_run(path, shown, at, kind) for at in (point, "never")]

    assert ends == [-signal.SIGKILL, 0]
    marked = "ann-t1 (This may be a repeat.)"
    first = ["ann-t1 ann 1"] if kind == "idempotent" or point == "after" else []
    again = [] if kind == "idempotent" else [marked]
    assert shown.read_text().splitlines() == [*first, *again, "ann-t2 ann 2"]
    async with Database.open(path, FakeClock()) as database:
        sent = await database.read(lambda db: outbox_rows.page(db, OutboxState.SENT, limit=9))
        assert [row.delivery_id for row in sent] == ["ann-t2", "ann-t1"]


def _run(path: Path, shown: Path, point: str, kind: str) -> int:
    command = [sys.executable, "-m", "tests.delivery.killed", str(path), str(shown), point, kind]
    return subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode
