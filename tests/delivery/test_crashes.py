"""Laws of delivery over crashes: nothing is lost, nothing is shown twice without saying so."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from gateway.channels.base import NotConnectedError, Outbound
from gateway.clock import FakeClock
from gateway.delivery.planning import REPEAT
from gateway.durable.database import Database
from gateway.transcripts import outbox_rows
from gateway.transcripts.outbox import chat_of
from gateway.transcripts.outbox_rows import OutboxState
from tests.support.channels import (
    DeliveryBench,
    PlayedChannel,
    busy,
    delivering,
    owe,
    place,
    refusal,
)

ROOT = Path(__file__).parents[2]
TTL_S = 600.0
MAX_ATTEMPTS = 4


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


async def _grown(bench: DeliveryBench, channel: PlayedChannel) -> None:
    """Let a part of the first reply be shown."""
    stream = bench.delivery.streams.open("ann-t1", chat_of(place()))
    stream.shown_id = await channel.send(Outbound(place(), "One", "a-part"))


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


class Platform(PlayedChannel):
    """A channel that plays outcomes by name, and outlives the gateway."""

    def __init__(self, names: list[str], *, idempotent: bool) -> None:
        super().__init__(idempotent=idempotent)
        self.database: Database | None = None
        """Of the gateway that runs now."""
        self.tries: list[tuple[Outbound, datetime]] = []
        """With the instant at which each was noted."""
        self.uncounted: dict[str, int] = defaultdict(int)
        self.crashing = False
        outcomes: dict[str, Any] = {
            "fine": None,
            "busy": busy(),
            "wait": self.wait,
            "refused": refusal(),
            "doubtful": self.doubtful,
            "doubtful_shown": self.doubtful_shown,
            "timeout": self.hang,
            "timeout_shown": self.hang_shown,
            "crash": self.crash,
            "crash_shown": self.crash_shown,
            "away": self.away,
        }
        self.plays = [outcomes[name] for name in names]

    @override
    async def send(self, outbound: Outbound) -> str:
        assert self.database is not None
        row = await self.database.read(lambda db: outbox_rows.find(db, outbound.delivery_id))
        # A try is noted before it is made. The clock may move in between, as in life.
        assert row is not None
        assert row.sending_at is not None
        self.tries.append((outbound, row.sending_at))
        return await super().send(outbound)

    async def crash(self, outbound: Outbound) -> None:
        self.crashing = True
        await self.hang(outbound)

    async def crash_shown(self, outbound: Outbound) -> None:
        self.show(outbound)
        await self.crash(outbound)

    async def wait(self, outbound: Outbound) -> None:
        self.uncounted[outbound.delivery_id] += 1
        raise busy(50)

    async def away(self, outbound: Outbound) -> None:
        self.uncounted[outbound.delivery_id] += 1
        raise NotConnectedError


OUTCOMES = [
    *("fine", "busy", "wait", "refused", "doubtful", "doubtful_shown"),
    *("timeout", "timeout_shown", "crash", "crash_shown", "away"),
]
STEPS = st.one_of(
    st.tuples(st.just("owe"), st.sampled_from(["ann", "bob"])),
    st.tuples(st.just("later"), st.sampled_from([1, 10, 100, 700])),
    st.tuples(st.just("crash"), st.none()),
    st.tuples(st.just("reached"), st.none()),
)


@settings(max_examples=50)
@given(
    steps=st.lists(STEPS, max_size=20),
    outcomes=st.lists(st.sampled_from(OUTCOMES), max_size=20),
    idempotent=st.booleans(),
    late=st.sampled_from(["note", "drop"]),
)
async def test_any_schedule_of_failures_and_crashes_keeps_the_promises(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, Any]],
    outcomes: list[str],
    idempotent: bool,  # noqa: FBT001 - drawn
    late: Literal["note", "drop"],
) -> None:
    clock = FakeClock()
    platform = Platform(outcomes, idempotent=idempotent)
    committed: dict[str, datetime] = {}
    path = tmp_path_factory.mktemp("schedule") / "gateway.db"
    # An hour is more than all tries take together.
    left = [*steps, ("reached", None), *[("later", 900)] * 8]
    over = False
    while not over:
        platform.crashing = False
        life = delivering(
            path, platform, clock=clock, late=late, ttl_s=TTL_S, max_attempts=MAX_ATTEMPTS
        )
        async with life as bench:
            platform.database = bench.database
            over = await _live(bench, platform, left, committed)

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
    shown = defaultdict(list)
    for one in platform.shown:
        shown[one.delivery_id].append(one)
    for delivery_id, state in ended.items():
        assert shown[delivery_id] or state is OutboxState.DEAD
        _check_repeats(shown[delivery_id], idempotent=idempotent)
        tries = [one for one in platform.asked if one.delivery_id == delivery_id]
        assert len(tries) - platform.uncounted[delivery_id] <= MAX_ATTEMPTS
    _check_order(platform.asked)
    for outbound, at in platform.tries:
        is_late = at >= committed[outbound.delivery_id] + timedelta(seconds=TTL_S)
        assert outbound.text.startswith("(Late: ") == is_late
        assert not (is_late and late == "drop")


async def _live(
    bench: DeliveryBench,
    platform: Platform,
    left: list[tuple[str, Any]],
    committed: dict[str, datetime],
) -> bool:
    """Take steps until there are none, or a crash; return whether there are none."""
    while await _settle(bench, platform) and left:
        step, value = left.pop(0)
        match step:
            case "owe":
                number = len(committed)
                committed[f"{value}-t{number}"] = bench.clock.now()
                await bench.owe(number, value)
            case "later":
                await bench.clock.advance(value)
            case "reached":
                bench.delivery.reached(platform)
            case _:
                return False
    return not (left or platform.crashing)


async def _settle(bench: DeliveryBench, platform: Platform) -> bool:
    """Wait until all that is due is done, time limits of a platform that hangs among it.

    Returns False where it was a crash instead.
    """
    while not platform.crashing:
        if await _drained(bench, platform):
            return True
        if not platform.crashing:
            await bench.clock.advance(60)
    return False


async def _drained(bench: DeliveryBench, platform: Platform) -> bool:
    """Wait until all that is due is done, or the platform hangs; return whether it is done."""
    done = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def drain() -> None:
            await bench.settle()
            done.set()
            tasks.cancel_scope.cancel()

        tasks.start_soon(drain)
        with anyio.fail_after(20):
            await platform.hung.wait()
        tasks.cancel_scope.cancel()
    return done.is_set()


def _check_repeats(shown: list[Outbound], *, idempotent: bool) -> None:
    unmarked = [one for one in shown if REPEAT not in one.text]
    assert len(unmarked) <= 1
    assert len(shown) <= (1 if idempotent else 2)
    assert not idempotent or len(unmarked) == len(shown)


def _check_order(asked: list[Outbound]) -> None:
    """Check that of one chat nothing is tried again once a later reply was tried."""
    for chat in ("ann", "bob"):
        of_chat = [one for one in asked if one.target.chat_id == chat]
        numbers = [int(one.delivery_id.rpartition("t")[2]) for one in of_chat]
        assert numbers == sorted(numbers)
