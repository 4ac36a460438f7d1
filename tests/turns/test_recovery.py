"""Laws of restarts: an accepted message is owed one turn, and no stop takes it away."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.agents.scripted import Hang
from gateway.clock import FakeClock
from gateway.errors import UnavailableError
from gateway.turns.owed import STOPPING
from gateway.turns.running import GIVEN_UP
from tests.support.state import START, key_of
from tests.support.turns import Gate, PlayedAgent, echo, reply_of, running_turns, scripted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.agents.base import Agent
    from gateway.model import Message
    from gateway.turns.ticket import Reply, Ticket
    from tests.support.turns import Bench


class Stuck:
    """An agent that never answers, and tells when it was asked."""

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.agent = scripted(self._step)

    def _step(self, _: Sequence[Message]) -> Hang:
        self.asked.set()
        return Hang()

    async def reached(self) -> None:
        with anyio.fail_after(30):
            await self.asked.wait()


async def _cut_off(path: Path, *texts: str, message_id: str = "") -> list[Ticket]:
    """Accept messages, and stop while the first one's turn hangs."""
    stuck = Stuck()
    async with running_turns(path, stuck.agent) as bench:
        tickets = [await bench.submit(text, message_id=message_id) for text in texts]
        await stuck.reached()
    return tickets


async def _recovered(bench: Bench) -> None:
    """Wait until what the restart found is answered, by standing in line behind it."""
    await bench.say("and now?")


async def test_a_turn_that_was_cut_off_runs_once_after_the_restart(tmp_path: Path) -> None:
    await _cut_off(tmp_path / "state", "hello", message_id="m1")

    async with running_turns(tmp_path / "state") as bench:
        again = await bench.submit("hello", message_id="m1")
        assert again.duplicate
        assert (await reply_of(again)).text == "re: hello"
        assert bench.turns.statistics().recovered == 1
        assert await bench.said() == [("user", "hello"), ("assistant", "re: hello")]
        assert await bench.unfinished() == []

    async with running_turns(tmp_path / "state") as bench:
        assert bench.turns.statistics().recovered == 0
        assert bench.entry().turns == 1


async def test_a_whole_queue_is_answered_in_its_order_and_before_what_comes_later(
    tmp_path: Path,
) -> None:
    await _cut_off(tmp_path / "state", "one", "two", "three")

    async with running_turns(tmp_path / "state") as bench:
        assert bench.turns.statistics().recovered == 3
        await _recovered(bench)
        users = [text for role, text in await bench.said() if role == "user"]
        assert users == ["one", "two", "three", "and now?"]


async def test_a_session_with_an_unanswered_message_is_busy_before_its_turn_begins(
    tmp_path: Path,
) -> None:
    await _cut_off(tmp_path / "state", "hello")

    clock = FakeClock(START + timedelta(days=100))
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play), clock=clock) as bench:
        assert bench.turns.is_busy(key_of())
        report = await bench.state.store.prune_old_entries(90)
        assert (report.pruned, report.kept_by_reason) == (0, {"busy": 1})


async def test_a_message_whose_turn_is_cut_off_twice_is_given_up_in_words(tmp_path: Path) -> None:
    await _cut_off(tmp_path / "state", "hello", message_id="m1")
    stuck = Stuck()
    async with running_turns(tmp_path / "state", stuck.agent) as bench:
        await stuck.reached()
        (row,) = await bench.unfinished()
        assert row.recoveries == 1

    agent = PlayedAgent(echo)
    async with running_turns(tmp_path / "state", agent) as bench:
        reply = await bench.say("hello", message_id="m1")
        assert (reply.status, reply.text) == ("failed", GIVEN_UP)
        assert agent.contexts == []
        assert await bench.said() == [("user", "hello"), ("notice", GIVEN_UP)]
        assert (await bench.say("next")).text == "re: next"


async def test_a_message_that_only_waited_through_two_stops_is_not_given_up(
    tmp_path: Path,
) -> None:
    await _cut_off(tmp_path / "state", "hangs", "waits")
    stuck = Stuck()
    async with running_turns(tmp_path / "state", stuck.agent) as bench:
        await stuck.reached()
        assert [row.recoveries for row in await bench.unfinished()] == [1, 0]

    async with running_turns(tmp_path / "state") as bench:
        await _recovered(bench)
        assert (await bench.said())[:4] == [
            ("user", "hangs"),
            ("notice", GIVEN_UP),
            ("user", "waits"),
            ("assistant", "re: waits"),
        ]


async def test_a_message_for_an_agent_that_is_gone_is_answered_with_that(tmp_path: Path) -> None:
    stuck = Stuck()
    agents: dict[str, Agent] = {"main": PlayedAgent(echo), "old": stuck.agent}
    async with running_turns(tmp_path / "state", agents) as bench:
        await bench.submit("hello", message_id="m1", agent="old")
        await stuck.reached()

    async with running_turns(tmp_path / "state") as bench:
        with anyio.fail_after(30):
            await bench.turns.drain()
        said = await bench.said(bench.entry(agent="old").session_id)
        assert said == [("user", "hello"), ("notice", "There is no agent 'old' any more.")]
        assert await bench.unfinished() == []


async def test_the_counters_are_right_after_a_turn_that_ran_again(tmp_path: Path) -> None:
    await _cut_off(tmp_path / "state", "hello")

    clock = FakeClock(START + timedelta(hours=5))
    async with running_turns(tmp_path / "state", clock=clock) as bench:
        with anyio.fail_after(30):
            await bench.turns.drain()
        assert bench.entry().turns == 1
        assert bench.entry().updated_at == START


async def test_callers_of_turns_that_are_cut_off_are_told_that_the_message_is_kept(
    tmp_path: Path,
) -> None:
    tickets = await _cut_off(tmp_path / "state", "runs", "waits")

    for ticket in tickets:
        with pytest.raises(UnavailableError, match="kept") as caught:
            await reply_of(ticket)
        assert str(caught.value) == STOPPING


async def test_draining_lets_running_and_waiting_turns_end(tmp_path: Path) -> None:
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        tickets = [await bench.submit(text) for text in ("one", "two")]
        await gate.reached("one")
        replies: list[Reply] = []

        async def drain() -> None:
            await bench.turns.drain()
            replies.extend([await ticket.progress.reply() for ticket in tickets])

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(drain)
                await anyio.wait_all_tasks_blocked()
                assert replies == []
                with pytest.raises(UnavailableError):
                    await bench.submit("late")
                gate.open("one", "two")

        assert [reply.text for reply in replies] == ["re: one", "re: two"]


async def test_a_stop_ends_a_drain_at_once_also_where_messages_still_wait(tmp_path: Path) -> None:
    stuck = Stuck()
    async with running_turns(tmp_path / "state", stuck.agent) as bench:
        tickets = [await bench.submit(text) for text in ("hangs", "waits", "waits too")]
        await stuck.reached()
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(bench.turns.drain)
                await anyio.wait_all_tasks_blocked()
                bench.turns.stop()

        assert len(await bench.unfinished()) == 3
        for ticket in tickets:
            with pytest.raises(UnavailableError):
                await reply_of(ticket)


async def test_a_message_that_is_being_stored_when_the_turns_stop_is_kept_and_told(
    tmp_path: Path,
) -> None:
    async with running_turns(tmp_path / "state") as bench:
        told: list[str] = []

        async def send() -> None:
            try:
                await reply_of(await bench.submit("hello"))
            except UnavailableError as error:
                told.append(str(error))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(send)
                await anyio.lowlevel.checkpoint()
                bench.turns.stop()

        assert told == [STOPPING]
        assert [row.text for row in await bench.unfinished()] == ["hello"]
    async with running_turns(tmp_path / "state") as bench:
        await _recovered(bench)
        assert (await bench.said())[:2] == [("user", "hello"), ("assistant", "re: hello")]
