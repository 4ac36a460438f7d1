"""Laws of the counts of a turn's requests: each is stored once, whatever ends the turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio.lowlevel
import pytest

from gateway.agents.scripted import Reply as Says
from gateway.clock import FakeClock
from gateway.context.settings import ContextSettings
from gateway.errors import AgentFailure, StorageFullError
from gateway.model import Usage
from gateway.transcripts import accounts, usage
from gateway.turns.budgets import BudgetSettings
from tests.support.loops import Looped, calls_made, fails, fall_back, results, users, wants
from tests.support.state import START, key_of, power_cut
from tests.support.toolbox import TestToolbox
from tests.support.turns import PlayedAgent, echo, running_turns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.agents.base import Agent
    from gateway.agents.scripted import Step
    from gateway.model import Message
    from gateway.turns.ticket import Reply
    from tests.support.turns import Bench

USED = Usage(input_tokens=1_960, output_tokens=40)
"""Two thousand tokens."""
PRICES = ContextSettings.model_validate(
    {"cache": [{"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 10.0, "ttl_s": 300}]}
)
LOOKS = 3
"""How many requests of a turn call a tool before the last one answers it."""


@dataclass
class Looking:
    """An agent that looks three times where it is told to `look`; a request is 2,000 tokens."""

    clock: FakeClock = field(default_factory=FakeClock)
    seen: Callable[[int], Awaitable[None]] | None = None
    """Called by the tool, with how often it was called before."""
    fails_at: int = -1
    """With so many results its provider is out of order; -1: never."""
    model: str = "looked"

    def __post_init__(self) -> None:
        tools = TestToolbox({"look": self._look})
        self.looped = Looped(self._step, tools, clock=self.clock, model=self.model)
        self.agent = self.looped.agent

    async def _look(self, no: int) -> str:
        await anyio.lowlevel.checkpoint()
        if self.seen is not None:
            await self.seen(no)
        return "seen"

    def _step(self, messages: Sequence[Message]) -> Step:
        number = len(results(messages[messages.index(last_user(messages)) :]))
        if number == self.fails_at:
            raise fails(AgentFailure.OUTAGE)

        if users(messages)[-1] != "look" or number == LOOKS:
            return Says(("ok",), USED)

        return Says((), USED, wants(f'look {{"no": {number}}}').calls)


def last_user(messages: Sequence[Message]) -> Message:
    return next(one for one in reversed(messages) if one.role.value == "user")


async def sums(bench: Bench) -> tuple[int, int, float]:
    """Return calls, tokens and dollars that were used in all, as budgets and people are told."""
    total = await bench.state.database.read(usage.total)
    session_id = bench.entry().session_id
    spent = await bench.state.database.read(lambda conn: usage.spent_by_session(conn, session_id))
    assert spent.tokens == total.total_tokens
    assert spent.usd == pytest.approx(total.usd)
    return total.calls, total.total_tokens, total.usd


async def check(bench: Bench, requests: int) -> None:
    """Check that so many requests were counted, each once and in every place."""
    rows = await calls_made(bench, "input_tokens", "output_tokens", "purpose", "usd")
    assert [row[:3] for row in rows] == [(1_960, 40, "turn")] * requests
    entry = bench.entry()
    assert (entry.input_tokens, entry.output_tokens) == (1_960 * requests, 40 * requests)
    assert entry.total_tokens == 2_000 * requests
    calls, tokens, usd = await sums(bench)
    assert (calls, tokens) == (requests, 2_000 * requests)
    assert usd == pytest.approx(sum(row[3] or 0.0 for row in rows))


async def cut_off(tmp_path: Path, clock: FakeClock, at: int = LOOKS - 1) -> Path:
    """Kill the daemon while the tool is called so often in a turn; return what is left."""
    killed = tmp_path / "killed"

    async def seen(no: int) -> None:
        await clock.advance(10)
        if no == at:
            power_cut(bench.state, killed)

    looking = Looking(clock, seen)
    async with running_turns(tmp_path / "state", looking.agent, clock=clock) as bench:
        bench.turns.contexts.settings = PRICES
        await bench.say("look", message_id="m1")
    return killed


@pytest.mark.parametrize("at", range(LOOKS))
async def test_a_kill_loses_the_count_of_the_last_finished_request_at_most(
    tmp_path: Path, at: int
) -> None:
    clock = FakeClock()
    killed = await cut_off(tmp_path, clock, at)
    async with running_turns(killed, Looking(clock).agent, clock=clock, recover=False) as bench:
        await check(bench, at)
        entry = bench.entry()
        assert entry.turns == 0
        if at:
            assert (entry.cache_agent, entry.model) == ("main", "looked")
            assert entry.cache_touched_at is not None
            assert (entry.cache_touched_at - START).total_seconds() == 10 * (at - 1)
            session_id = entry.session_id
            account = await bench.state.database.read(lambda conn: accounts.read(conn, session_id))
            assert account.request_tokens == 1_960


async def test_after_a_kill_the_turn_runs_again_and_every_request_is_counted_once(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    killed = await cut_off(tmp_path, clock)
    async with running_turns(killed, Looking(clock).agent, clock=clock) as bench:
        bench.turns.contexts.settings = PRICES
        reply = await bench.say("look", message_id="m1")

        assert reply.status == "ok"
        # The reply tells of its own run alone.
        assert reply.usage is not None
        assert reply.usage.total_tokens == 2_000 * (LOOKS + 1)
        await check(bench, 2 + LOOKS + 1)
        assert bench.entry().turns == 1
        turns = {turn_id for (turn_id,) in await calls_made(bench, "turn_id")}
        assert turns == {reply.turn_id}
        # The provider's cache was known to be warm.
        (_, _, first, *_) = [one for (one,) in await calls_made(bench, "cache_verdict")]
        assert first == "prefix_change"
        assert (await bench.say("and now?")).status == "ok"
        await check(bench, 2 + LOOKS + 1 + 1)


async def test_budgets_see_what_a_turn_had_used_that_was_cut_off(tmp_path: Path) -> None:
    clock = FakeClock()
    killed = await cut_off(tmp_path, clock)
    looking = Looking(clock)
    async with running_turns(killed, looking.agent, clock=clock, recover=False) as bench:
        bench.turns.budgets.settings = BudgetSettings(session_tokens=4_000)
        told = await bench.say("hello", message_id="m2")

        assert told.status == "failed"
        assert told.text.startswith("This conversation has used 4,000 of 4,000 tokens.")
        assert looking.looped.sent == []


@pytest.mark.parametrize("limit", [4_000, 6_000])
async def test_a_budget_counts_what_is_stored_and_what_is_not_once_each(
    tmp_path: Path, limit: int
) -> None:
    looking = Looking()
    async with running_turns(tmp_path / "state", looking.agent) as bench:
        bench.turns.contexts.settings = PRICES
        bench.turns.budgets.settings = BudgetSettings(
            session_tokens=limit, user_usd_per_day=limit * 0.0025
        )
        reply = await bench.say("look")

        assert reply.status == "failed"
        assert f"{limit:,} of {limit:,} tokens" in reply.text
        await check(bench, limit // 2_000)


async def test_a_turn_of_one_request_pays_nothing_and_others_a_write_for_each_further_one(
    tmp_path: Path,
) -> None:
    looking = Looking()
    agents: dict[str, Agent] = {"main": looking.agent, "plain": PlayedAgent(echo)}
    async with running_turns(tmp_path / "state", agents) as bench:

        async def writes(text: str, agent: str = "main") -> int:
            before = bench.state.database.statistics().transactions
            assert (await bench.say(text, agent=agent)).status == "ok"
            return bench.state.database.statistics().transactions - before

        await bench.say("hello")
        await bench.say("hello", agent="plain")
        nothing, one, many = (
            await writes("hello", "plain"),
            await writes("hello"),
            await writes("look"),
        )

        assert one == nothing
        assert many - one == LOOKS


async def test_where_the_disk_is_full_a_turn_goes_on_and_its_commit_has_every_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = Looking()
    async with running_turns(tmp_path / "state", looking.agent) as bench:
        database, refused = bench.state.database, list[int]()
        write_through = database.write_through

        async def seen(no: int) -> None:
            monkeypatch.setattr(database, "write_through", full if no < 2 else write_through)
            await anyio.lowlevel.checkpoint()

        async def full(_: object) -> Any:  # noqa: ANN401 - it returns nothing
            refused.append(len(await calls_made(bench, "turn_id")))
            raise StorageFullError

        looking.seen = seen
        reply = await bench.say("look")

        assert reply.status == "ok"
        assert refused == [0, 0]
        await check(bench, LOOKS + 1)


async def test_what_an_agent_used_before_another_stood_in_is_its_own(tmp_path: Path) -> None:
    clock = FakeClock()
    agents = {"main": Looking(clock, fails_at=2), "second": Looking(clock, model="other")}
    named = {name: one.agent for name, one in agents.items()}
    async with running_turns(tmp_path / "state", named, clock=clock) as bench:
        fall_back(bench, "second")
        reply = await bench.say("look")

        assert (reply.status, reply.agent) == ("ok", "second")
        assert await calls_made(bench, "agent", "model") == [
            ("main", "looked"),
            ("main", "looked"),
            ("second", "other"),
            ("second", "other"),
        ]
        await check(bench, 4)
        assert (bench.entry().cache_agent, bench.entry().model) == ("second", "other")


async def test_a_reset_in_the_middle_leaves_the_counts_with_the_old_conversation(
    tmp_path: Path,
) -> None:
    looking = Looking()
    async with running_turns(tmp_path / "state", looking.agent) as bench:

        async def seen(no: int) -> None:
            if no == 1:
                await bench.state.store.reset(key_of())

        looking.seen = seen
        reply: Reply = await bench.say("look")

        entry = bench.entry()
        assert entry.session_id != reply.session_id
        assert (entry.total_tokens, entry.cache_touched_at) == (0, None)
        assert await calls_made(bench, "session_id") == [(reply.session_id,)] * (LOOKS + 1)
        total = await bench.state.database.read(usage.total)
        assert (total.calls, total.total_tokens) == (LOOKS + 1, 2_000 * (LOOKS + 1))
