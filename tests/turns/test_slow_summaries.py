"""Laws of summaries that take too long or break: the session goes on, and all costs are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from gateway.agents.scripted import Hang, Reply
from gateway.model import Role, ToolCall, Usage
from gateway.turns.compacting import Compacted, summary_time_s
from gateway.turns.settings import TurnSettings
from tests.support.loops import (
    Looped,
    calls_made,
    is_extension,
    results,
    says,
    summaries_of,
    users,
    wants,
)
from tests.support.state import key_of
from tests.support.toolbox import TestToolbox
from tests.support.turns import reply_of, running_turns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.agents.scripted import Step
    from gateway.model import Message
    from tests.support.turns import Bench

TOLD = "context.compaction_failed"


class Rested:
    """An agent with room for 5,000 tokens; told to `read` it reads a page once it may."""

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.reads = anyio.Event()
        self.agent = Looped(
            self._step, TestToolbox({"page": self._page}), window_tokens=5_500, reserve_tokens=500
        )

    def _step(self, messages: Sequence[Message]) -> Step:
        turn = messages[max(n for n, one in enumerate(messages) if one.role is Role.USER) :]
        if turn[0].text == "read" and not results(turn):
            return wants("page", messages=messages)

        return says("ok", messages)

    async def _page(self, **_: object) -> str:
        self.asked.set()
        await self.reads.wait()
        return "p" * 2_000

    async def fill(self, bench: Bench) -> None:
        """Say nine letters of 2,100 characters each, after which no tenth has room."""
        for letter in "abcdefghi":
            assert (await bench.say(letter * 2_098)).context.turns_left_out == 0


async def is_asked(agent: Looped, times: int = 1) -> None:
    """Wait until a summary was asked for so often."""
    with anyio.fail_after(30):
        while len(agent.asked) < times:
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("deadline_s", "left_s", "summary_s"),
    [
        pytest.param(300, 300, 100, id="at-the-beginning"),
        pytest.param(300, 150, 50, id="in-the-middle"),
        pytest.param(300, 30, 30, id="near-the-end"),
        pytest.param(300, 0, 30, id="at-the-end"),
        pytest.param(6, 6, 2, id="short"),
    ],
)
def test_a_summary_has_a_third_of_what_is_left_and_a_tenth_of_all_at_least(
    deadline_s: float, left_s: float, summary_s: float
) -> None:
    assert summary_time_s(deadline_s, left_s) == pytest.approx(summary_s)


@pytest.mark.parametrize(("deadline_s", "summary_s"), [(300.0, 100), (3.0, 1)])
async def test_a_summary_that_takes_too_long_has_failed_and_the_turn_is_answered(
    tmp_path: Path, deadline_s: float, summary_s: int
) -> None:
    rested = Rested()
    agent, settings = rested.agent, TurnSettings(turn_deadline_s=deadline_s)
    async with running_turns(tmp_path / "state", agent.agent, settings=settings) as bench:
        await rested.fill(bench)
        agent.summary = Hang()
        with capture_logs() as logs:
            ticket = await bench.submit("j" * 2_098)
            await is_asked(agent)
            await bench.clock.advance(summary_s - 0.01)
            assert TOLD not in {line["event"] for line in logs}
            await bench.clock.advance(0.01)
            reply = await reply_of(ticket)

        # As with any other that failed, turns are left out: the next one would be as slow.
        assert (reply.status, reply.context.turns_left_out) == ("ok", 3)
        assert [text[0] for text in users(agent.sent[-1])] == list("defghij")
        (told,) = [line for line in logs if line["event"] == TOLD]
        assert told["reason"] == f"it took longer than {summary_s} seconds"
        assert bench.turns.contexts.telling.compactions == {"failed": 1}
        assert bench.turns.answering.breakers.resting() == {}
        before = agent.sent[-1]
        assert (await bench.say("k")).status == "ok"
        assert is_extension(agent.sent[-1], before)
        assert len(agent.asked) == 1
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        await bench.say("l")
        assert is_extension(agent.sent[-1], before)


async def test_a_turn_that_has_no_time_left_for_a_summary_ends_and_the_next_one_has(
    tmp_path: Path,
) -> None:
    rested = Rested()
    agent = rested.agent
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        await rested.fill(bench)
        agent.summary = Hang()
        ticket = await bench.submit("read")
        with anyio.fail_after(30):
            await rested.asked.wait()
        await bench.clock.advance(280)
        rested.reads.set()
        await is_asked(agent)
        await bench.clock.advance(20)
        reply = await reply_of(ticket)

        # What leaves would leave for good, and it was not the summary that was slow.
        assert reply.status == "deadline"
        assert await summaries_of(bench) == []
        assert await bench.count("projections") == 0
        assert bench.turns.contexts.telling.compactions == {}
        agent.summary = "They talked."
        after = await bench.say("and now?")
        (summary,) = await summaries_of(bench)
        assert (after.status, after.context.turns_left_out) == ("ok", summary.turns)
        assert results(agent.sent[-1]) == ["p" * 2_000]


async def test_one_by_hand_has_the_whole_time_of_a_turn(tmp_path: Path) -> None:
    rested = Rested()
    agent, done = rested.agent, list[Compacted]()
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        await rested.fill(bench)
        agent.summary = Hang()

        async def compact() -> None:
            done.append(await bench.turns.compact(key_of()))

        async with anyio.create_task_group() as group:
            group.start_soon(compact)
            await is_asked(agent)
            await bench.clock.advance(299)
            assert done == []
            await bench.clock.advance(1)

        (one,) = done
        assert (one.summary, one.calls) == (None, ())
        assert one.reason == "it took longer than 300 seconds"
        assert (await bench.say("j")).status == "ok"


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError])
async def test_an_agent_that_breaks_over_a_summary_costs_nobody_an_answer(
    tmp_path: Path, error: type[Exception]
) -> None:
    rested = Rested()
    agent = rested.agent
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        await rested.fill(bench)
        agent.summary = error("what anybody wrote")
        with capture_logs() as logs:
            reply = await bench.say("j" * 2_098)

        assert (reply.status, reply.context.turns_left_out) == ("ok", 3)
        (told,) = [line for line in logs if line["event"] == TOLD]
        assert told["reason"] == f"the agent broke: {error.__name__}"
        assert "what anybody wrote" not in str(logs)
        assert (await bench.turns.compact(key_of())).reason == told["reason"]


@pytest.mark.parametrize("by_hand", [False, True])
async def test_what_a_summary_cost_that_called_tools_is_counted(
    tmp_path: Path, *, by_hand: bool
) -> None:
    rested = Rested()
    agent = rested.agent
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        await rested.fill(bench)
        before = bench.entry()
        agent.summary = Reply(("No.",), Usage(70, 3), (ToolCall("c", "page", "{}"),))
        with capture_logs() as logs:
            if by_hand:
                assert len((await bench.turns.compact(key_of())).calls) == 1
            else:
                assert (await bench.say("j" * 2_098)).status == "ok"

        (told,) = [line for line in logs if line["event"] == TOLD]
        assert told["model_calls"] == 1
        assert "not offered" in told["reason"]
        assert await summaries_of(bench) == []
        rows = await calls_made(bench, "purpose", "input_tokens", "output_tokens")
        assert [row for row in rows if row[0] == "compaction"] == [("compaction", 70, 3)]
        used = sum(int(row[1]) for row in rows)
        assert bench.entry().input_tokens == used
        assert bench.entry().input_tokens - before.input_tokens >= 70
        sums = await bench.state.database.read(
            lambda conn: conn.execute("SELECT sum(calls), sum(input_tokens) FROM usage").fetchall()
        )
        assert sums == [(len(rows), used)]
