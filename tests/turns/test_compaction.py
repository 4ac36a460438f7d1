"""Laws of compaction: at the window a summary takes the place of the oldest turns, for good."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.clock import FakeClock
from gateway.context.settings import CompactionSettings, ContextSettings
from gateway.errors import AgentError
from gateway.events import ContextPruned
from gateway.model import ContextSource, Message, ModelCall, Role, ToolCall, Usage
from gateway.transcripts import accounts, projections
from tests.support.loops import (
    calls_made,
    counted,
    is_extension,
    is_paired,
    summaries_of,
    transcript,
    users,
)
from tests.support.state import power_cut
from tests.support.turns import PlayedAgent, running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from gateway.agents.base import AgentEvent
    from gateway.model import ContextMeasurement
    from tests.support.turns import Bench

ROOM_CHARS = 20_000
SUMMARY = "They talked of letters."


@dataclass
class Letters:
    """Answers `ok`, or as it is told, within a window of 5,000 tokens; summarises as it is told."""

    clock: FakeClock = field(default_factory=FakeClock)
    summary: Callable[[Sequence[Message]], str] = lambda _: SUMMARY
    count: Callable[[Sequence[Message]], Usage | None] = counted
    completes: bool = True

    def __post_init__(self) -> None:
        self.agent = PlayedAgent(
            self.play,
            context_window_tokens=5_500,
            reserve_tokens=500,
            count=self._count,
            summarise=self._summarise if self.completes else None,
        )

    def _count(self, sent: Sequence[Message]) -> Usage | None:
        return self.count(sent)

    def _summarise(self, asked: Sequence[Message]) -> str:
        return self.summary(asked)

    async def play(self, messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        word, _, number = messages[-1].text.partition(" ")
        started_at = self.clock.now()
        if word == "fail":
            raise AgentError("asked to", user_text="no")

        if word == "read":
            call = ToolCall(f"call-{messages[-1].turn_id}", "read_file", "{}")
            yield MessageFinished(Message(Role.ASSISTANT, "", (call,)))
            text = "x" * int(number)
            yield MessageFinished(Message(Role.TOOL, text, (), call.call_id, "read_file"))
        yield TextDelta("ok")
        yield ModelCallFinished(ModelCall("played", started_at, None))
        yield MessageFinished(Message(Role.ASSISTANT, "ok"))

    async def fill(self, bench: Bench, letters: str = "abcdefghi") -> None:
        """Say nine letters of 2,100 characters each, after which no tenth has room."""
        for letter in letters:
            reply = await bench.say(letter * 2_098)
            assert (reply.status, reply.context.turns_left_out) == ("ok", 0)


def fail(_: Sequence[Message]) -> str:
    raise AgentError("the endpoint was silent")


async def test_at_the_window_the_oldest_turns_give_way_to_a_summary(tmp_path: Path) -> None:
    letters = Letters()
    agent = letters.agent
    async with running_turns(tmp_path / "state", agent) as bench:
        await letters.fill(bench)
        assert agent.asked == []
        whole = agent.contexts[-1]
        with capture_logs() as logs:
            reply = await bench.say("j" * 2_098)

        (asked,) = agent.asked
        # Asked as the context was sent, so that its provider's prompt cache is read once more.
        assert is_extension(whole, asked[:-1])
        assert asked[-1].text.startswith("Write a summary of this conversation so far.")
        lead, *rest = agent.contexts[-1]
        assert (lead.role, SUMMARY in lead.text) == (Role.USER, True)
        # Half of the room is left, the longest summary included; the last turns stay whole.
        assert [text[0] for text in users(rest)] == ["g", "h", "i", "j"]
        assert [one.text for one in rest][1::2] == ["ok", "ok", "ok"]
        assert reply.context.turns_left_out == 6
        assert reply.status == "ok"
        said = await bench.said()
        assert [text[0] for role, text in said if role == "user"] == list("abcdefghij")
        assert [len(text) for role, text in said if role == "user"] == [2_098] * 10

        (summary,) = await summaries_of(bench)
        turn_ids = list(dict.fromkeys(one.turn_id for one in await transcript(bench)))
        assert (summary.turns, summary.through_turn) == (6, turn_ids[5])
        assert (summary.text, summary.agent, summary.model) == (SUMMARY, "main", "played")
        assert summary.tokens_before > 5_000 > 2 * summary.tokens_after
        assert summary.tokens_after == reply.context.tokens
        assert bench.turns.contexts.telling.compactions == {"done": 1}
        (told,) = [line for line in logs if line["event"] == "context.compacted"]
        assert (told["turns"], told["tokens_after"]) == (6, summary.tokens_after)
        assert SUMMARY not in str(logs)


async def test_what_follows_a_summary_begins_as_before_also_after_a_restart(
    tmp_path: Path,
) -> None:
    letters = Letters()
    agent = letters.agent
    async with running_turns(tmp_path / "state", agent) as bench:
        await letters.fill(bench)
        await bench.say("j" * 2_098)
        for letter in "kl":
            await bench.say(letter)
            assert is_extension(agent.contexts[-1], agent.contexts[-2])
        killed = power_cut(bench.state, tmp_path / "killed")

    before = agent.contexts[-1]
    for path in (tmp_path / "state", killed):
        async with running_turns(path, agent) as bench:
            reply = await bench.say("after the restart")
            assert is_extension(agent.contexts[-1], before)
            assert reply.context.turns_left_out == 6
    assert len(agent.asked) == 1


async def test_a_second_summary_covers_the_first(tmp_path: Path) -> None:
    letters = Letters()
    agent = letters.agent
    async with running_turns(tmp_path / "state", agent) as bench:
        await letters.fill(bench)
        letters.summary = lambda asked: f"{len(users(asked)) - 1} were told of"
        for letter in "jklmnopq":
            await bench.say(letter * 2_098)

        first, second = agent.asked
        (lead,) = [one for one in second if "were told of" in one.text]
        assert lead == second[0]
        assert (len(users(first)), len(users(second))) == (6 + 1, 1 + 6 + 1)
        one, other = await summaries_of(bench)
        assert (one.turns, other.turns) == (6, 12)
        assert (one.text, other.text) == ("6 were told of", "7 were told of")
        sent = users(agent.contexts[-1])
        assert "7 were told of" in sent[0]
        assert [text[0] for text in sent[1:]] == list("mnopq")
        assert [text[0] for _, text in await bench.said() if text != "ok"] == list(
            "abcdefghijklmnopq"
        )


@pytest.mark.parametrize(
    ("summary", "reason", "calls"),
    [
        pytest.param(fail, "the endpoint was silent", 0, id="fails"),
        pytest.param(lambda _: " \n\0", "the summary is empty", 1, id="empty"),
        pytest.param(lambda _: "x" * 8_001, "the summary has 8001 characters", 1, id="too-long"),
    ],
)
async def test_a_summary_that_is_none_changes_nothing_says_so_and_costs_nobody_an_answer(
    tmp_path: Path, summary: Callable[[Sequence[Message]], str], reason: str, calls: int
) -> None:
    letters = Letters(summary=summary)
    agent = letters.agent
    async with running_turns(tmp_path / "state", agent) as bench:
        await letters.fill(bench)
        with capture_logs() as logs:
            reply = await bench.say("j" * 2_098)

        # As without a summary: a quarter of the room is cleared, and the rest stays as it is.
        assert (reply.status, reply.context.turns_left_out) == ("ok", 3)
        assert [text[0] for text in users(agent.contexts[-1])] == list("defghij")
        assert await summaries_of(bench) == []
        assert bench.turns.contexts.telling.compactions == {"failed": 1}
        (told,) = [line for line in logs if line["event"] == "context.compaction_failed"]
        assert told["reason"].startswith(reason)
        assert told["model_calls"] == calls
        # What it cost is counted all the same.
        purposes = [purpose for (purpose,) in await calls_made(bench, "purpose")]
        assert purposes.count("compaction") == calls
        before = agent.contexts[-1]
        letters.summary = lambda _: SUMMARY
        assert (await bench.say("k")).status == "ok"
        assert is_extension(agent.contexts[-1], before)
    async with running_turns(tmp_path / "state", agent) as bench:
        await bench.say("l")
        assert is_extension(agent.contexts[-1], before)


async def test_a_window_too_small_to_ask_for_a_summary_leaves_turns_out(tmp_path: Path) -> None:
    letters = Letters()
    agent = PlayedAgent(
        letters.play,
        context_window_tokens=600,
        reserve_tokens=100,
        summarise=lambda _: SUMMARY,
    )
    async with running_turns(tmp_path / "state", agent) as bench:
        with capture_logs() as logs:
            replies = [await bench.say(letter * 600) for letter in "abcd"]

        assert [one.status for one in replies] == ["ok"] * 4
        assert replies[-1].context.turns_left_out == 2
        assert agent.asked == []
        assert bench.turns.contexts.telling.compactions == {"failed": 1}
        (told,) = [line for line in logs if line["event"] == "context.compaction_failed"]
        assert told["reason"].startswith("the summary has no room: a request for it takes")


@pytest.mark.parametrize("completes", [True, False], ids=["switched-off", "cannot"])
async def test_where_nothing_is_summarised_turns_are_left_out(
    tmp_path: Path, *, completes: bool
) -> None:
    letters = Letters(completes=completes)
    async with running_turns(tmp_path / "state", letters.agent) as bench:
        off = CompactionSettings(enabled=not completes)
        bench.turns.contexts.settings = ContextSettings(compaction=off)
        await letters.fill(bench)
        reply = await bench.say("j" * 2_098)

        assert (reply.status, reply.context.turns_left_out) == ("ok", 3)
        assert letters.agent.asked == []
        assert bench.turns.contexts.telling.compactions == {}


async def test_what_a_summary_costs_is_counted_and_never_the_size_of_the_context(
    tmp_path: Path,
) -> None:
    letters = Letters()
    posted: list[ContextMeasurement] = []
    async with running_turns(tmp_path / "state", letters.agent) as bench:
        bench.turns.contexts.telling.post = lambda _key, _session_id, one: posted.append(one)
        await letters.fill(bench)
        before, rows = bench.entry(), len(await calls_made(bench, "purpose"))
        bench.turns.contexts.settings = ContextSettings.model_validate(
            {"cache": [{"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 10.0}]}
        )
        reply = await bench.say("j" * 2_098)

        after, usage = bench.entry(), reply.usage
        assert usage is not None
        assert usage == counted(letters.agent.contexts[-1])
        # The test's agent counts 7 tokens in and 3 out of each summary.
        assert after.input_tokens - before.input_tokens == 7 + usage.input_tokens
        assert after.output_tokens - before.output_tokens == 3 + usage.output_tokens
        assert after.total_tokens - before.total_tokens == 10 + usage.total_tokens
        assert after.context_tokens == reply.context.tokens == usage.context_tokens
        assert after.context_source is ContextSource.USAGE
        made = (await calls_made(bench, "purpose", "agent", "input_tokens", "turn_id", "usd"))[
            rows:
        ]
        assert made[0] == ("compaction", "main", 7, reply.turn_id, pytest.approx(37e-6))
        assert [row[:3] for row in made[1:]] == [("turn", "main", usage.input_tokens)]
        # What is sent begins anew: that its provider found nothing of it is nobody's mistake.
        verdicts = [verdict for (verdict,) in await calls_made(bench, "cache_verdict")]
        assert verdicts[rows:] == ["unknown", "cold_start"]
        session_id = bench.entry().session_id
        account = await bench.state.database.read(lambda conn: accounts.read(conn, session_id))
        assert account.request_tokens == usage.context_tokens
        spent = await bench.state.database.read(
            lambda conn: conn.execute("SELECT sum(calls), sum(input_tokens) FROM usage").fetchall()
        )
        assert spent == [(11, after.input_tokens)]
        # Dashboards are told ahead of the request, which then confirms it.
        (told,) = posted
        assert (told.source, told.step) == (ContextSource.ESTIMATE, before.context_step + 1)
        assert told.tokens == reply.context.tokens
        assert after.context_step > told.step


async def test_after_a_summary_the_cache_is_cold_until_a_request_succeeds(tmp_path: Path) -> None:
    clock, touched = FakeClock(), []
    letters = Letters(clock)

    def count(sent: Sequence[Message]) -> Usage:
        touched.append(bench.entry().cache_touched_at)
        return counted(sent)

    async with running_turns(tmp_path / "state", letters.agent, clock=clock) as bench:
        await letters.fill(bench)
        letters.count = count
        assert bench.entry().cache_touched_at is not None
        await clock.advance(1)
        assert (await bench.say("fail " + "j" * 2_090)).status == "failed"
        assert len(letters.agent.asked) == 1
        assert bench.entry().cache_touched_at is None

        await clock.advance(1)
        await bench.say("k")
        await bench.say("l")
        assert touched == [None, clock.now()]
        assert bench.entry().cache_touched_at == clock.now()
        verdicts = [verdict for (verdict,) in await calls_made(bench, "cache_verdict")]
        assert verdicts[-3:] == ["unknown", "cold_start", "prefix_change"]


async def test_a_summary_takes_the_projections_of_its_turns_with_it(tmp_path: Path) -> None:
    letters = Letters()
    rounds: list[ContextPruned] = []
    values = {
        "soft_trim_ratio": 0.1,
        "hard_clear_ratio": 0.3,
        "min_prunable_tool_chars": 0,
        "min_saving_tokens": 0,
        "soft_trim": {"max_chars": 1_000, "head_chars": 300, "tail_chars": 300},
    }
    async with running_turns(tmp_path / "state", letters.agent) as bench:
        bench.turns.contexts.settings = ContextSettings.model_validate({"pruning": values})
        bench.turns.contexts.telling.events.subscribe(ContextPruned, rounds.append)
        for _ in range(4):
            await bench.say("read 3000")
        await bench.clock.advance(300)
        await bench.say("cold")
        assert (len(rounds), await bench.count("projections")) == (1, 3)
        for letter in "abcdefgh":
            await bench.say(letter * 2_098)
        await bench.say("read 3000")

        (summary,) = await summaries_of(bench)
        assert summary.turns >= 5
        assert await bench.count("projections") == 0
        assert is_paired(letters.agent.contexts[-1])
        assert [len(one.text) for one in await transcript(bench) if one.role is Role.TOOL] == [
            3_000
        ] * 5
        session_id = bench.entry().session_id
        left = await bench.state.database.read(lambda conn: projections.read(conn, session_id))
        assert left == []
