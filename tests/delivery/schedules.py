"""Schedules of replies, failures and crashes, and the platform that they are played on."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import anyio
from hypothesis import strategies as st
from typing_extensions import override

from gateway.channels.base import NotConnectedError, Outbound, SendError
from gateway.transcripts import outbox_rows
from gateway.transcripts.outbox import chat_of
from tests.support.channels import DeliveryBench, PlayedChannel, busy, place, refusal

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.durable.database import Database

PART = "a part"
OUTCOMES = [
    *("fine", "busy", "wait", "refused", "doubtful", "doubtful_shown"),
    *("timeout", "timeout_shown", "crash", "crash_shown", "away"),
]
STEPS = st.one_of(
    st.tuples(st.sampled_from(["owe", "grow"]), st.sampled_from(["ann", "bob"])),
    st.tuples(st.just("later"), st.sampled_from([1, 10, 100, 700])),
    st.tuples(st.just("crash"), st.none()),
    st.tuples(st.just("reached"), st.none()),
)


class Platform(PlayedChannel):
    """A channel that plays outcomes by name, and outlives the gateway."""

    def __init__(self, names: list[str], *, idempotent: bool, edits: bool) -> None:
        super().__init__(idempotent=idempotent, edits=edits, edit_interval_s=0.0)
        self.database: Database | None = None
        """Of the gateway that runs now."""
        self.tries: list[tuple[Outbound, datetime]] = []
        """With the instant at which each was noted."""
        self.uncounted: dict[str, int] = defaultdict(int)
        self.crashing = False
        self._editing: set[str] = set()
        """The deliveries whose try now is an edit."""
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
        self._editing.discard(outbound.delivery_id)
        await self._note(outbound)
        return await super().send(outbound)

    @override
    async def edit(self, outbound: Outbound, shown_id: str) -> None:
        self._editing.add(outbound.delivery_id)
        await self._note(outbound)
        try:
            await super().edit(outbound, shown_id)
        except SendError as error:
            # It is sent anew instead.
            self.uncounted[outbound.delivery_id] += not error.retryable
            raise

    @override
    def show(self, outbound: Outbound) -> None:
        if outbound.delivery_id in self._editing:
            self.reads[part_id(outbound.delivery_id)] = outbound.text
        else:
            super().show(outbound)

    def seen(self, delivery_id: str) -> list[str]:
        """Return all that people see of a reply: its messages, and what its part reads as."""
        part = self.reads.get(part_id(delivery_id), PART)
        messages = [one.text for one in self.shown if one.delivery_id == delivery_id]
        return messages if part == PART else [part, *messages]

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

    async def _note(self, outbound: Outbound) -> None:
        assert self.database is not None
        row = await self.database.read(lambda db: outbox_rows.find(db, outbound.delivery_id))
        # A try is noted before it is made. The clock may move in between, as in life.
        assert row is not None
        assert row.sending_at is not None
        self.tries.append((outbound, row.sending_at))


def part_id(delivery_id: str) -> str:
    return f"part of {delivery_id}"


async def live(
    bench: DeliveryBench,
    platform: Platform,
    left: list[tuple[str, Any]],
    committed: dict[str, datetime],
) -> bool:
    """Take steps until there are none, or a crash; return whether there are none."""
    platform.database = bench.database
    while await _settle(bench, platform) and left:
        step, value = left.pop(0)
        match step:
            case "owe" | "grow":
                number = len(committed)
                delivery_id = f"{value}-t{number}"
                if step == "grow" and platform.edits:
                    _show_part(bench, platform, value, delivery_id)
                committed[delivery_id] = bench.clock.now()
                await bench.owe(number, value)
            case "later":
                await bench.clock.advance(value)
            case "reached":
                bench.delivery.reached(platform)
            case _:
                return False
    return not (left or platform.crashing)


def _show_part(bench: DeliveryBench, platform: Platform, chat: str, delivery_id: str) -> None:
    stream = bench.delivery.streams.open(delivery_id, chat_of(place(chat)))
    stream.shown_id = part_id(delivery_id)
    platform.reads[stream.shown_id] = PART


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
