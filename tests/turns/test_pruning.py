"""Laws of pruning in running turns: when a round is done, what is stored first, who is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.clock import FakeClock
from gateway.context.estimate import estimate_context_chars
from gateway.context.settings import ContextSettings, PruningMode, PruningSettings
from gateway.errors import AgentError
from gateway.events import ContextPruned
from gateway.model import ContextSource, Message, ModelCall, Role, SessionId, ToolCall, Usage
from gateway.transcripts import accounts, projections
from gateway.transcripts.reading import messages_after
from tests.support.state import power_cut
from tests.support.turns import PlayedAgent, running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent
    from gateway.durable.connection import Connection
    from gateway.model import ContextMeasurement, SessionKey
    from tests.support.turns import Bench

OVERHEAD_TOKENS = 700
"""What the provider counts beside the messages: its own prompt and the tools."""
TTL_S = 300


@dataclass
class Provider:
    """Answers `read N` with a tool result of N characters, and counts what it is sent."""

    clock: FakeClock
    counted: list[int] = field(default_factory=list)

    async def play(self, messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        word, _, number = messages[-1].text.partition(" ")
        started_at = self.clock.now()
        if word == "fail":
            raise AgentError("asked to", user_text="no")

        if word == "read":
            call = ToolCall("call", "read_file", "{}")
            result = "x" * int(number)
            yield MessageFinished(Message(Role.ASSISTANT, "", (call,)))
            yield MessageFinished(Message(Role.TOOL, result, (), "call", "read_file"))
        yield TextDelta("ok")
        yield ModelCallFinished(ModelCall("played", started_at, None))
        yield MessageFinished(Message(Role.ASSISTANT, "ok"))

    def count(self, sent: Sequence[Message]) -> Usage:
        self.counted.append(estimate_context_chars(sent) // 4 + OVERHEAD_TOKENS)
        return Usage(self.counted[-1], 1)


def agent_of(provider: Provider, model: str = "played") -> PlayedAgent:
    return PlayedAgent(
        provider.play,
        context_window_tokens=300_000,
        reserve_tokens=10_000,
        model=model,
        count=provider.count,
    )


async def read_forty(bench: Bench) -> None:
    """Make a session with 40 tool results of 20,000 characters."""
    for _ in range(40):
        await bench.say("read 20000")


def is_extension(longer: Sequence[Message], shorter: Sequence[Message]) -> bool:
    return list(longer[: len(shorter)]) == list(shorter)


async def transcript(bench: Bench) -> list[Message]:
    session_id = bench.entry().session_id
    return await bench.state.database.read(lambda conn: list(messages_after(conn, session_id, 0)))


async def test_a_round_is_done_once_the_cache_has_run_out_and_stays(tmp_path: Path) -> None:
    clock = FakeClock()
    provider = Provider(clock)
    agent = agent_of(provider)
    posted: list[tuple[SessionKey, SessionId, ContextMeasurement]] = []
    async with running_turns(tmp_path / "state", agent, clock=clock) as bench:
        bench.turns.contexts.telling.post = lambda *one: posted.append(one)
        await read_forty(bench)
        whole = agent.contexts[-1]
        await clock.advance(TTL_S - 1)
        await bench.say("still warm")
        assert is_extension(agent.contexts[-1], whole)
        assert (posted, await bench.count("projections")) == ([], 0)

        await clock.advance(TTL_S)  # exactly the time to live: that counts as expired
        reply = await bench.say("cold")
        pruned = agent.contexts[-1]
        results = [m for m in pruned if m.role is Role.TOOL]
        kept = [m for m in results if len(m.text) == 20_000]
        assert len(results) == 40
        assert len(kept) == 1  # the last three assistants: two answers, one with its call
        assert reply.context.tokens == provider.counted[-1]
        ((key, session_id, measured),) = posted
        assert (key, session_id) == (bench.entry().session_key, bench.entry().session_id)
        assert measured.source is ContextSource.ESTIMATE
        assert abs(measured.tokens - provider.counted[-1]) < 0.1 * provider.counted[-1]

        for text in ("warm again", "read 20000", "and again"):
            before = agent.contexts[-1]
            await bench.say(text)
            assert is_extension(agent.contexts[-1], before)
        assert len(posted) == 1
        said = [len(m.text) for m in await transcript(bench) if m.role is Role.TOOL]
        assert said == [20_000] * 41
        killed = power_cut(bench.state, tmp_path / "killed")

    before = agent.contexts[-1]
    for path in (tmp_path / "state", killed):
        async with running_turns(path, agent, clock=clock) as bench:
            await bench.say("after the restart")
            assert is_extension(agent.contexts[-1], before)


async def test_projections_are_stored_before_the_request_that_uses_them(tmp_path: Path) -> None:
    clock = FakeClock()
    provider = Provider(clock)
    seen: list[int] = []

    async def play(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        seen.append(await bench.count("projections"))
        async for event in provider.play(messages):
            yield event

    agent = PlayedAgent(play, context_window_tokens=300_000, reserve_tokens=10_000)
    async with running_turns(tmp_path / "state", agent, clock=clock) as bench:
        await read_forty(bench)
        assert set(seen) == {0}
        await clock.advance(TTL_S)
        await bench.say("cold")
        assert seen[-1] > 30


async def test_a_failed_request_does_not_move_the_clock(tmp_path: Path) -> None:
    clock = FakeClock()
    provider = Provider(clock)
    agent = agent_of(provider)
    async with running_turns(tmp_path / "state", agent, clock=clock) as bench:
        await read_forty(bench)
        touched_at = bench.entry().cache_touched_at
        await clock.advance(TTL_S - 1)
        assert (await bench.say("fail")).status == "failed"
        assert bench.entry().cache_touched_at == touched_at
        await clock.advance(1)
        await bench.say("cold")

        assert await bench.count("projections") > 30
        assert bench.entry().cache_touched_at == clock.now()


async def test_another_model_and_an_unknown_clock_are_cold(tmp_path: Path) -> None:
    clock = FakeClock()
    provider = Provider(clock)
    async with running_turns(tmp_path / "state", agent_of(provider), clock=clock) as bench:
        await read_forty(bench)

    other = agent_of(provider, "other")
    async with running_turns(tmp_path / "state", other, clock=clock) as bench:
        await bench.say("hello")
        assert await bench.count("projections") > 30


async def test_off_does_no_round_and_replays_those_before(tmp_path: Path) -> None:
    clock = FakeClock()
    provider = Provider(clock)
    agent = agent_of(provider)
    async with running_turns(tmp_path / "state", agent, clock=clock) as bench:
        await read_forty(bench)
        await clock.advance(TTL_S)
        await bench.say("cold")
        bench.turns.contexts.settings = ContextSettings(
            pruning=PruningSettings(mode=PruningMode.OFF)
        )
        rows = await bench.count("projections")
        for _ in range(5):
            await clock.advance(TTL_S)
            before = agent.contexts[-1]
            await bench.say("read 20000")
            assert is_extension(agent.contexts[-1], before)
        assert await bench.count("projections") == rows


async def test_a_reset_after_a_round_leaves_the_new_session_untouched(tmp_path: Path) -> None:
    clock = FakeClock()
    provider = Provider(clock)
    posted: list[tuple[SessionKey, SessionId, ContextMeasurement]] = []

    async def play(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        if messages[-1].text == "cold":
            await bench.state.store.reset(bench.entry().session_key)
        async for event in provider.play(messages):
            yield event

    agent = PlayedAgent(play, context_window_tokens=300_000, reserve_tokens=10_000)
    async with running_turns(tmp_path / "state", agent, clock=clock) as bench:
        bench.turns.contexts.telling.post = lambda *one: posted.append(one)
        await read_forty(bench)
        old = bench.entry().session_id
        await clock.advance(TTL_S)
        await bench.say("cold")

        assert [one[1] for one in posted] == [old]
        entry = bench.entry()
        assert entry.session_id != old
        assert (entry.context_tokens, entry.total_tokens, entry.turns) == (0, 0, 0)
        await bench.say("hello")
        assert [m.text for m in agent.contexts[-1]] == ["hello"]


async def test_subscribers_are_told_of_a_round_and_one_that_fails_harms_nothing(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    provider = Provider(clock)
    told: list[ContextPruned] = []

    def fail(_: ContextPruned) -> None:
        raise RuntimeError("broken")

    async with running_turns(tmp_path / "state", agent_of(provider), clock=clock) as bench:
        bench.turns.contexts.telling.events.subscribe(ContextPruned, fail)
        leave = bench.turns.contexts.telling.events.subscribe(ContextPruned, told.append)
        await read_forty(bench)
        await clock.advance(TTL_S)
        assert (await bench.say("cold")).status == "ok"
        (event,) = told
        assert event.trimmed + event.cleared == 39
        assert event.tool_names == ("read_file",)
        assert event.tokens_before > 4 * event.tokens_after
        assert event.session_id == bench.entry().session_id
        leave()


async def test_the_account_tells_what_was_saved_and_what_became_of_each_call(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    provider = Provider(clock)
    async with running_turns(tmp_path / "state", agent_of(provider), clock=clock) as bench:
        bench.turns.contexts.settings = ContextSettings.model_validate(
            {"cache": [{"input_usd_per_mtok": 3.0}]}
        )
        await read_forty(bench)
        await clock.advance(TTL_S)
        await bench.say("cold")
        session_id = bench.entry().session_id

        def look(connection: Connection) -> tuple[accounts.ContextAccount, int, list[str]]:
            verdicts = connection.execute("SELECT cache_verdict FROM model_calls").fetchall()
            made = projections.read(connection, session_id)
            return accounts.read(connection, session_id), len(made), [str(v) for (v,) in verdicts]

        account, made, verdicts = await bench.state.database.read(look)
        assert (account.rounds, account.trimmed + account.cleared) == (1, made)
        assert abs(account.overhead_tokens - OVERHEAD_TOKENS) <= 1
        assert account.request_tokens == provider.counted[-1]
        assert account.saved_usd is not None
        assert abs(account.saved_usd - account.saved_tokens * 3 / 1e6) < 1e-9
        assert (verdicts[0], verdicts[-1]) == ("cold_start", "ttl_expiry")
        assert set(verdicts[1:-1]) == {"prefix_change"}  # this provider has no cache
        assert bench.turns.contexts.telling.verdicts["ttl_expiry"] == 1
        assert account.cache_verdict == "ttl_expiry"


async def test_before_turns_are_left_out_of_a_warm_context_results_are_pruned(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    provider = Provider(clock)
    agent = PlayedAgent(
        provider.play, context_window_tokens=60_000, reserve_tokens=12_000, count=provider.count
    )
    async with running_turns(tmp_path / "state", agent, clock=clock) as bench:
        for _ in range(20):
            reply = await bench.say("read 20000")
            assert reply.context.turns_left_out == 0
        assert await bench.count("projections") > 5
