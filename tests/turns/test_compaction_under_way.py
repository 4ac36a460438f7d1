"""Laws of compaction while things happen: tools return, the disk fills, time runs out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from typing_extensions import override

from gateway.context.settings import CompactionSettings, ContextSettings
from gateway.errors import AgentFailure, UnavailableError
from gateway.model import ContextSource, Role
from gateway.sessions.mailbox import apply_measurement
from gateway.turns.acceptance import before
from gateway.turns.live import TOO_LONG
from gateway.turns.runner import RETRY_S
from gateway.turns.ticket import Reply
from tests.support.loops import (
    Looped,
    calls_made,
    fails,
    is_extension,
    is_paired,
    results,
    says,
    summaries_of,
    transcript,
    users,
    wants,
)
from tests.support.state import key_of
from tests.support.toolbox import TestToolbox
from tests.support.turns import PlayedAgent, echo, full_disk, reply_of, running_turns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.agents.base import Completion
    from gateway.agents.scripted import Step
    from gateway.model import ContextMeasurement, Message
    from tests.support.turns import Bench

LETTERS = "abcdefghi"


async def page(**_: object) -> str:
    await anyio.lowlevel.checkpoint()
    return "p" * 2_000


def reader(pages: int, *, fails_at: int = 0) -> Looped:
    """Return an agent that reads pages where it is told to, within a window of 5,000 tokens.

    Args:
        pages: How many, one after the other.
        fails_at: With so many pages read its provider is out of order; 0: never.
    """

    def step(messages: Sequence[Message]) -> Step:
        turn = messages[max(n for n, one in enumerate(messages) if one.role is Role.USER) :]
        read = len(results(turn))
        if turn[0].text != "read":
            return says("ok", messages)
        if fails_at and read == fails_at:
            raise fails(AgentFailure.OUTAGE)

        return wants(f'page {{"no": {read}}}', messages=messages) if read < pages else says("done")

    return Looped(step, TestToolbox({"page": page}), window_tokens=5_500, reserve_tokens=500)


async def fill(bench: Bench) -> None:
    """Say what fills the window."""
    for letter in LETTERS:
        assert (await bench.say(letter * 2_098)).status == "ok"


async def test_a_turn_of_many_tool_calls_stays_whole_while_the_turns_before_it_are_summarised(
    tmp_path: Path,
) -> None:
    reading = reader(6)
    async with running_turns(tmp_path / "state", reading.agent) as bench:
        await fill(bench)
        began = len(reading.sent)
        reply = await bench.say("read")

        assert (reply.status, reply.text) == ("ok", "done")
        assert len(reading.asked) >= 1
        requests = reading.sent[began:]
        assert len(requests) == 7
        for number, sent in enumerate(requests):
            assert users(sent)[-1] == "read"
            assert results(sent) == ["p" * 2_000] * number
            assert is_paired(sent)
        assert "They talked." in requests[-1][0].text
        assert reply.context.turns_left_out >= 6
        assert [len(text) for text in results(await transcript(bench))] == [2_000] * 6
        (*_, last) = requests
        await bench.say("and now?")
        assert is_extension(reading.sent[-1], last)
    async with running_turns(tmp_path / "state", reading.agent) as bench:
        await bench.say("and then?")
        assert is_extension(reading.sent[-1], reading.sent[-2])


async def test_where_no_request_succeeds_after_a_summary_the_size_told_is_the_smaller_one(
    tmp_path: Path,
) -> None:
    reading = reader(3, fails_at=1)
    posted: list[ContextMeasurement] = []
    async with running_turns(tmp_path / "state", reading.agent) as bench:
        bench.turns.contexts.telling.post = lambda _key, _session_id, one: posted.append(one)
        for letter in LETTERS:
            await bench.say(letter * 2_098)
        reply = await bench.say("read")

        assert reply.status == "failed"
        assert len(reading.asked) == 1
        # First the count of the request before, then what is left after the summary.
        counted, told = posted
        assert (counted.source, counted.tokens > 4_500) == (ContextSource.USAGE, True)
        entry = bench.entry()
        assert entry.context_tokens == reply.context.tokens == told.tokens < 2_500
        assert entry.context_source is reply.context.source is ContextSource.ESTIMATE
        # Nothing of what the provider keeps begins as the next request will.
        assert entry.cache_touched_at is None


async def test_a_size_told_while_a_turn_ran_is_never_taken_for_newer_than_its_last_count(
    tmp_path: Path,
) -> None:
    reading = reader(6)
    posted: list[ContextMeasurement] = []
    reading.summary = "They talked. " * 100
    async with running_turns(tmp_path / "state", reading.agent) as bench:
        bench.turns.contexts.settings = ContextSettings(
            compaction=CompactionSettings(keep_turns=5, fill_ratio=0.9)
        )
        bench.turns.contexts.telling.post = lambda _key, _session_id, one: posted.append(one)
        await fill(bench)
        await bench.say("read")

        steps = [one.step for one in posted]
        assert len(steps) > 1
        assert steps == sorted(set(steps))
        counted = bench.entry()
        for late in posted:
            assert apply_measurement(counted, counted.session_id, late) is counted


class Slow(PlayedAgent):
    """Echoes, and writes a summary once it may."""

    def __init__(self, summary: str = "They talked.") -> None:
        super().__init__(
            echo,
            context_window_tokens=26_000,
            reserve_tokens=1_000,
            summarise=lambda _: summary,
        )
        self.begun = anyio.Event()
        self.goes_on = anyio.Event()

    @override
    async def complete(self, messages: Sequence[Message], *, cache_key: str = "") -> Completion:
        self.begun.set()
        await self.goes_on.wait()
        return await super().complete(messages, cache_key=cache_key)

    async def fill(self, bench: Bench) -> None:
        """Say what fills the window; the next message of such a length overflows it."""
        for letter in "abcd":
            assert (await bench.say(letter * 10_000)).context.turns_left_out == 0


async def test_no_space_for_a_summary_waits_and_stores_it_once(tmp_path: Path) -> None:
    agent = Slow("s" * 15_000)
    async with running_turns(tmp_path / "state", agent) as bench:
        bench.turns.contexts.settings = ContextSettings(
            compaction=CompactionSettings(summary_chars=20_000)
        )
        await agent.fill(bench)
        calls = len(await calls_made(bench, "purpose"))
        ticket = await bench.submit("e" * 20_000, message_id="m1")
        with anyio.fail_after(30):
            await agent.begun.wait()
        async with full_disk(bench.state.database):
            agent.goes_on.set()
            with pytest.raises(UnavailableError, match="send the same message id again"):
                await reply_of(ticket)
            assert await summaries_of(bench) == []
            assert len(agent.contexts) == 4  # nothing is sent before it is stored

        await bench.clock.advance(RETRY_S)
        with anyio.fail_after(30):
            await bench.turns.drain()
        (summary,) = await summaries_of(bench)
        assert summary.text == "s" * 15_000
        assert len(agent.asked) == 1
        purposes = [purpose for (purpose,) in await calls_made(bench, "purpose")][calls:]
        assert purposes == ["compaction", "turn"]
        assert bench.entry().input_tokens == 7
        reply = await bench.state.database.read(lambda conn: before(conn, key_of(), "m1"))
        assert isinstance(reply, Reply)
        assert (reply.status, reply.context.turns_left_out) == ("ok", summary.turns)


async def test_a_stop_in_the_middle_of_a_summary_harms_nothing(tmp_path: Path) -> None:
    agent = Slow()
    async with running_turns(tmp_path / "state", agent) as bench:
        await agent.fill(bench)
        await bench.submit("e" * 20_000, message_id="m1")
        with anyio.fail_after(30):
            await agent.begun.wait()

    agent.goes_on.set()
    async with running_turns(tmp_path / "state", agent) as bench:
        reply = await bench.say("e" * 20_000, message_id="m1")
        assert (reply.status, reply.text[:5]) == ("ok", "re: e")
        assert len(await summaries_of(bench)) == 1


async def test_a_stop_after_a_summary_goes_on_with_it(tmp_path: Path) -> None:
    asked = anyio.Event()

    async def hang(**_: object) -> str:
        asked.set()
        await anyio.sleep_forever()
        return ""

    reading = reader(1)
    reading.tools = TestToolbox({"page": hang})
    reading.__post_init__()
    async with running_turns(tmp_path / "state", reading.agent) as bench:
        for letter in LETTERS:
            await bench.say(letter * 2_220)
        await bench.submit("read", message_id="m1")
        with anyio.fail_after(30):
            await asked.wait()
        assert len(await summaries_of(bench)) == 1

    again = reader(1)
    async with running_turns(tmp_path / "state", again.agent) as bench:
        reply = await bench.say("read", message_id="m1")
        assert reply.text == "done"
        assert again.asked == []
        first, _ = again.sent
        assert first == reading.sent[-1]
        assert len(await summaries_of(bench)) == 1


async def test_a_summary_and_a_large_message_never_overflow_the_window_together(
    tmp_path: Path,
) -> None:
    agent = PlayedAgent(
        echo, context_window_tokens=5_500, reserve_tokens=500, summarise=lambda _: "s" * 900
    )
    async with running_turns(tmp_path / "state", agent) as bench:
        bench.turns.contexts.settings = ContextSettings(compaction=CompactionSettings(keep_turns=0))
        for letter in "abc":
            await bench.say(letter * 4_000)
        assert len(agent.asked) == 1

        for chars in (11_000, 15_000, 18_500, 19_500, 20_000):
            reply = await bench.say("x" * chars)
            assert (reply.status == "ok") is (chars <= 18_500), chars
            if reply.status != "ok":
                assert reply.text == TOO_LONG
            assert sum(len(one.text) for one in agent.contexts[-1]) <= 20_000
            # The conversation so far is never given up for a message.
            assert agent.contexts[-1][0].text.count("s" * 900) == 1
        assert (await bench.say("short")).status == "ok"


async def test_a_summary_is_made_shorter_where_a_large_message_leaves_it_less_room(
    tmp_path: Path,
) -> None:
    summaries = iter(["long " * 800, "short " * 80])
    agent = PlayedAgent(
        echo, context_window_tokens=5_500, reserve_tokens=500, summarise=lambda _: next(summaries)
    )
    async with running_turns(tmp_path / "state", agent) as bench:
        bench.turns.contexts.settings = ContextSettings(compaction=CompactionSettings(keep_turns=0))
        for letter in "abc":
            await bench.say(letter * 3_000)
        await bench.turns.compact(key_of())
        reply = await bench.say("x" * 16_500)

        assert reply.status == "ok"
        lead, message = agent.contexts[-1]
        assert "short short" in lead.text
        assert message.text == "x" * 16_500
        first, second = await summaries_of(bench)
        assert (first.turns, second.turns) == (3, 3)
        assert first.through_turn == second.through_turn
        assert len(agent.asked[-1]) == 2
