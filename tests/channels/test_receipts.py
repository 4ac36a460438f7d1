"""Laws of what senders are told at once: shown soon, tried once more, and never without end."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import pytest
from structlog.testing import capture_logs

from gateway.channels.base import REPEAT, NotConnectedError, Outbound, Receipt, SendError
from gateway.channels.receipts import AGAIN_S, LONGEST_WAIT_S, MAX_TELLING, Receipts
from gateway.clock import FakeClock
from gateway.model import ChatType, Inbound, SessionSource

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import TaskGroup

ANN = SessionSource("played", "7", ChatType.DM, "main", user_id="7")
BUSY = SendError("too many requests", retryable=True, retry_after_s=30)
DOUBT = SendError("no answer", retryable=True, ambiguous=True)


@dataclass
class Chat:
    """What senders see, and what becomes of it."""

    clock: FakeClock = field(default_factory=FakeClock)
    failures: list[SendError] = field(default_factory=list)
    """Of the next tries."""
    hangs: bool = False
    idempotent: bool = False
    shown: list[Outbound] = field(default_factory=list)
    tries: int = 0

    def __post_init__(self) -> None:
        self.receipts = Receipts(
            "played", "main", self.clock, self.show, idempotent=self.idempotent
        )

    async def show(self, outbound: Outbound) -> None:
        self.tries += 1
        if self.hangs:
            await anyio.sleep_forever()
        if self.failures:
            raise self.failures.pop(0)
        self.shown.append(outbound)

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[TaskGroup]:
        """Run as a channel does, until it is lost."""
        async with anyio.create_task_group() as tasks:
            self.receipts.resume(tasks)
            yield tasks
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    async def tell(self, tasks: TaskGroup, text: str = "Your code is 4711.") -> None:
        inbound = Inbound(ANN, "hello", message_id="m1")
        self.receipts.tell(tasks, inbound, Receipt(accepted=False, text=text))
        await anyio.wait_all_tasks_blocked()


async def test_what_is_told_answers_the_message_and_is_shown_as_it_stands() -> None:
    chat = Chat()
    async with chat.run() as tasks:
        await chat.tell(tasks)
        await chat.tell(tasks, "")

    (shown,) = chat.shown
    assert (shown.target, shown.text, shown.reply_to) == (ANN, "Your code is 4711.", "m1")
    assert shown.plain


@pytest.mark.parametrize(
    ("failure", "after_s", "repeat"),
    [
        pytest.param(BUSY, 30, False, id="a-pause"),
        pytest.param(NotConnectedError(), AGAIN_S, False, id="not-there"),
        pytest.param(DOUBT, AGAIN_S, True, id="outage"),
    ],
)
@pytest.mark.parametrize("idempotent", [True, False])
async def test_what_could_not_be_shown_is_tried_once_more_and_says_so_where_it_may_have_been(
    failure: SendError, after_s: float, *, repeat: bool, idempotent: bool
) -> None:
    chat = Chat(failures=[failure], idempotent=idempotent)
    async with chat.run() as tasks:
        await chat.tell(tasks)
        await chat.clock.advance(after_s - 0.01)
        early = chat.tries
        await chat.clock.advance(0.01)

    note = REPEAT if repeat and not idempotent else ""
    assert early == 1
    assert [one.text for one in chat.shown] == [f"{note}Your code is 4711."]


@pytest.mark.parametrize(
    ("failures", "tries"),
    [
        pytest.param([BUSY, BUSY], 2, id="twice"),
        pytest.param([SendError("blocked", retryable=False)], 1, id="for-good"),
        pytest.param(
            [SendError("busy", retryable=True, retry_after_s=LONGEST_WAIT_S + 1)], 1, id="for-long"
        ),
    ],
)
async def test_what_cannot_be_shown_is_logged_without_its_text(
    failures: list[SendError], tries: int
) -> None:
    chat = Chat(failures=list(failures))
    with capture_logs() as logs:
        async with chat.run() as tasks:
            await chat.tell(tasks)
            await chat.clock.advance(10 * LONGEST_WAIT_S)

    assert (chat.tries, chat.shown) == (tries, [])
    (line,) = logs
    assert (line["event"], line["reason"]) == ("channel.receipt_not_shown", str(failures[-1]))
    assert "4711" not in str(line)


@pytest.mark.parametrize("hangs", [True, False])
async def test_what_a_lost_channel_leaves_is_shown_in_its_next_run(*, hangs: bool) -> None:
    chat = Chat(failures=[NotConnectedError()], hangs=hangs)
    async with chat.run() as tasks:
        await chat.tell(tasks)
    chat.hangs, chat.failures = False, []
    async with chat.run():
        pass
    async with chat.run():
        pass

    assert len(chat.shown) == 1


async def test_what_a_long_absence_made_wrong_is_not_shown_after_it() -> None:
    chat = Chat(failures=[NotConnectedError()])
    with capture_logs() as logs:
        async with chat.run() as tasks:
            await chat.tell(tasks)
        await chat.clock.advance(LONGEST_WAIT_S + 1)
        async with chat.run():
            pass

    assert chat.shown == []
    assert [line["reason"] for line in logs] == ["the channel was lost"]


async def test_what_two_runs_could_not_show_is_given_up() -> None:
    chat = Chat(hangs=True)
    with capture_logs() as logs:
        async with chat.run() as tasks:
            await chat.tell(tasks)
        for _ in range(3):
            async with chat.run():
                pass

    assert chat.tries == 2
    assert [line["reason"] for line in logs] == ["the channel was lost"]


async def test_beyond_a_bound_nothing_more_is_told_and_that_is_logged() -> None:
    chat = Chat(hangs=True)
    with capture_logs() as logs:
        async with chat.run() as tasks:
            for _ in range(MAX_TELLING + 2):
                await chat.tell(tasks)

    assert chat.tries == MAX_TELLING
    assert [line["reason"] for line in logs] == ["too many wait"] * 2
