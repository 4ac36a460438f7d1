"""Laws of budgets in running turns: beyond one nothing is asked, and the user is told why."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.agents.scripted import Reply as Says
from gateway.clock import FakeClock
from gateway.context.settings import ContextSettings
from gateway.model import AgentId, Inbound, SessionSource, Usage
from gateway.turns.budgets import BudgetSettings
from tests.support.loops import (
    Looped,
    calls_made,
    fall_back,
    results,
    summaries_of,
    users,
    wants,
)
from tests.support.toolbox import TestToolbox
from tests.support.turns import PlayedAgent, echo, reply_of, running_turns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.agents.base import Agent
    from gateway.agents.scripted import Step
    from gateway.model import Message
    from gateway.turns.ticket import Reply
    from tests.support.turns import Bench

USED = Usage(input_tokens=60, output_tokens=20, cache_read_tokens=15, cache_write_tokens=5)
"""A hundred tokens."""


def spender(clock: FakeClock | None = None, *, calls: int = 0) -> Looped:
    """Return an agent whose every request uses a hundred tokens.

    Args:
        clock: Of its calls.
        calls: So many requests call a tool where it is told to `look`, before it answers.
    """

    async def look(**_: object) -> str:
        await anyio.lowlevel.checkpoint()
        return "seen"

    def step(messages: Sequence[Message]) -> Step:
        seen = len(results(messages))
        if users(messages)[-1] != "look" or seen == calls:
            return Says(("ok",), USED)

        wanted = wants(f'look {{"no": {seen}}}')
        return Says((f"look {seen}",), USED, wanted.calls)

    return Looped(step, TestToolbox({"look": look}), clock=clock or FakeClock())


def limit(bench: Bench, **limits: float) -> None:
    bench.turns.budgets.settings = BudgetSettings.model_validate(limits)


async def say_as(bench: Bench, user: str, chat: str) -> Reply:
    source = SessionSource("http", chat, user_id=user)
    return await reply_of(await bench.turns.submit(Inbound(source, "hello", agent=AgentId("main"))))


async def test_beyond_the_budget_of_a_conversation_nothing_is_asked_and_it_is_told(
    tmp_path: Path,
) -> None:
    agent = spender()
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        limit(bench, session_tokens=200)
        replies = [await bench.say("hello") for _ in range(3)]

        assert [one.status for one in replies] == ["ok", "ok", "failed"]
        told = replies[-1].text
        assert told == "This conversation has used 200 of 200 tokens. Please start a new one."
        assert len(agent.sent) == 2
        assert (await bench.said())[-2:] == [("user", "hello"), ("notice", told)]
        assert (await bench.say("hello", "bob")).status == "ok"
        await bench.state.store.reset(bench.entry().session_key)
        assert (await bench.say("hello")).status == "ok"


async def test_a_budget_is_looked_at_between_the_steps_of_a_turn(tmp_path: Path) -> None:
    agent = spender(calls=10)
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        limit(bench, session_tokens=300)
        reply = await bench.say("look")

        assert reply.status == "failed"
        assert reply.text == (
            "look 0\n\nlook 1\n\nlook 2\n\n"
            "This conversation has used 300 of 300 tokens. Please start a new one."
        )
        assert len(agent.sent) == 3
        assert reply.usage is not None
        assert reply.usage.total_tokens == 300
        assert bench.entry().total_tokens == 300
        # What was used is counted once.
        limit(bench, session_tokens=400)
        assert (await bench.say("hello")).status == "ok"


async def test_the_budget_of_a_user_ends_with_the_day_and_is_nobody_elses(tmp_path: Path) -> None:
    clock = FakeClock()
    agent = spender(clock)
    async with running_turns(tmp_path / "state", agent.agent, clock=clock) as bench:
        limit(bench, user_tokens_per_day=100)
        assert (await say_as(bench, "ann", "one")).status == "ok"
        for chat in ("one", "two"):
            told = await say_as(bench, "ann", chat)
            assert told.text == (
                "Today you have used 100 of 100 tokens. You can go on from 2026-01-02 00:00 UTC."
            )
        assert (await say_as(bench, "bob", "one of bob's")).status == "ok"
        clock.step_wall(timedelta(days=1))
        assert (await say_as(bench, "ann", "two")).status == "ok"
        assert (await say_as(bench, "ann", "two")).status == "failed"


async def test_the_budget_of_the_day_is_everybodys(tmp_path: Path) -> None:
    clock = FakeClock()
    agent = spender(clock)
    async with running_turns(tmp_path / "state", agent.agent, clock=clock) as bench:
        limit(bench, tokens_per_day=200)
        for user in ("ann", "bob"):
            assert (await say_as(bench, user, user)).status == "ok"
        told = await say_as(bench, "carl", "carl")
        assert (told.status, told.text) == (
            "failed",
            "All of the 200 tokens for today are used up. It goes on from 2026-01-02 00:00 UTC.",
        )
        clock.step_wall(timedelta(days=1))
        assert (await say_as(bench, "carl", "carl")).status == "ok"


async def test_a_limit_in_dollars_counts_what_the_turn_has_cost_so_far(tmp_path: Path) -> None:
    agent = spender(calls=10)
    prices = {"input_usd_per_mtok": 1_000.0, "output_usd_per_mtok": 1_000.0}
    same = {"write_multiplier": 1.0, "read_multiplier": 1.0}
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        bench.turns.contexts.settings = ContextSettings.model_validate({"cache": [prices | same]})
        limit(bench, usd_per_day=0.25)
        reply = await bench.say("look")

        assert reply.status == "failed"
        assert "0.25 US dollars for today are used up" in reply.text
        assert len(agent.sent) == 3
        assert [usd for (usd,) in await calls_made(bench, "usd")] == [pytest.approx(0.1)] * 3


async def test_a_budget_is_no_failure_that_another_agent_could_mend(tmp_path: Path) -> None:
    other = PlayedAgent(echo)
    agents: dict[str, Agent] = {"main": spender().agent, "second": other}
    async with running_turns(tmp_path / "state", agents) as bench:
        limit(bench, session_tokens=100)
        fall_back(bench, "second")
        await bench.say("hello")
        reply = await bench.say("hello")

        assert (reply.status, reply.fallbacks) == ("failed", ())
        assert other.contexts == []


async def test_beyond_a_budget_no_summary_is_asked_for_and_nothing_leaves(tmp_path: Path) -> None:
    agent = spender()
    agent.window_tokens = 6_000
    agent.__post_init__()
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        for letter in "abcd":
            await bench.say(letter * 7_000)
        limit(bench, session_tokens=1)
        reply = await bench.say("e" * 7_000)

        assert (reply.status, agent.asked) == ("failed", [])
        assert reply.context.turns_left_out == 0
        limit(bench)
        reply = await bench.say("f")
        assert reply.status == "ok"
        assert len(await summaries_of(bench)) == 1
        # What the summary has used is used up as well, and counted once.
        limit(bench, session_tokens=510)
        told = (await bench.say("g")).text
        assert told == "This conversation has used 510 of 510 tokens. Please start a new one."
