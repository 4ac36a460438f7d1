"""Laws of a request that its provider finds too large: a summary, one more try, clear words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from structlog.testing import capture_logs

from gateway.agents.base import TextDelta
from gateway.agents.scripted import Reply
from gateway.context.settings import CompactionSettings, ContextSettings
from gateway.errors import AgentError, AgentFailure
from gateway.model import Message, Role, Usage
from tests.support.loops import (
    Looped,
    calls_made,
    fails,
    is_extension,
    is_paired,
    results,
    summaries_of,
    transcript,
    users,
    wants,
)
from tests.support.toolbox import TestToolbox
from tests.support.turns import PlayedAgent, echo, running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent
    from gateway.agents.scripted import Step

TOO_LARGE = fails(AgentFailure.OVERFLOW)


def narrow(chars: int, pages: int = 0) -> Looped:
    """Return an agent whose provider takes less than the window it is configured with.

    It says `ok`, but where it is told to `read` it reads pages of 3,000 characters first.
    """

    async def page(**_: object) -> str:
        await anyio.lowlevel.checkpoint()
        return "p" * 3_000

    def step(messages: Sequence[Message]) -> Step:
        if sum(len(one.text) for one in messages) > chars:
            raise TOO_LARGE

        turn = messages[max(n for n, one in enumerate(messages) if one.role is Role.USER) :]
        if turn[0].text == "read" and len(results(turn)) < pages:
            return wants(f'page {{"no": {len(results(turn))}}}')

        return Reply(("ok",))

    return Looped(step, TestToolbox({"page": page}))


async def test_a_provider_that_has_less_room_than_was_told_is_asked_once_more_after_a_summary(
    tmp_path: Path,
) -> None:
    agent = narrow(10_000)
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        for letter in "abcd":
            await bench.say(letter * 2_400)
        with capture_logs() as logs:
            reply = await bench.say("e" * 2_400)

        assert (reply.status, reply.text, reply.fallbacks) == ("ok", "ok", ())
        assert len(agent.asked) == 1
        refused, taken = agent.sent[-2:]
        assert [text[0] for text in users(refused)] == list("abcde")
        assert "They talked." in taken[0].text
        assert users(taken)[-1] == "e" * 2_400
        (summary,) = await summaries_of(bench)
        assert reply.context.turns_left_out == summary.turns > 0
        assert [line["event"] for line in logs].count("context.compacted") == 1
        assert bench.turns.contexts.telling.compactions == {"done": 1}
        purposes = [purpose for (purpose,) in await calls_made(bench, "purpose")]
        assert purposes == [*["turn"] * 4, "compaction", "turn"]
        # Its provider is in order.
        assert bench.turns.answering.breakers.resting() == {}
        await bench.say("f")
        assert is_extension(agent.sent[-1], taken)


@pytest.mark.parametrize("completes", [True, False], ids=["fails", "cannot"])
async def test_without_a_summary_turns_are_left_out_and_it_is_asked_once_more(
    tmp_path: Path, *, completes: bool
) -> None:
    agent = narrow(10_000)
    agent.summary, agent.completes = AgentError("it is silent"), completes
    agent.__post_init__()
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        for letter in "abcd":
            await bench.say(letter * 2_400)
        reply = await bench.say("e" * 2_400)

        assert reply.status == "ok"
        assert reply.context.turns_left_out > 0
        assert await summaries_of(bench) == []
        assert users(agent.sent[-1])[-1] == "e" * 2_400


async def test_a_second_overflow_is_told(tmp_path: Path) -> None:
    agent = narrow(10_000)
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        for letter in "abcd":
            await bench.say(letter * 2_400)
        asked = len(agent.sent)
        reply = await bench.say("e" * 11_000)

        assert (reply.status, reply.text) == ("failed", "overflow!")
        assert len(agent.sent) == asked + 2
        assert len(agent.asked) <= 1
        assert (await bench.say("f")).status == "ok"


async def test_where_nothing_can_be_gained_it_is_not_asked_again(tmp_path: Path) -> None:
    agent = narrow(1_000)
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        reply = await bench.say("a" * 1_001)

        assert (reply.status, reply.text) == ("failed", "overflow!")
        assert len(agent.sent) == 1
        assert agent.asked == []
        assert (reply.fallbacks, reply.agent) == ((), "main")


async def test_after_a_part_of_an_answer_it_is_not_asked_again(tmp_path: Path) -> None:
    async def play(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        if messages[-1].text != "e":
            async for event in echo(messages):
                yield event
            return

        yield TextDelta("So ")
        raise TOO_LARGE

    agent = PlayedAgent(play, summarise=lambda _: "They talked.")
    async with running_turns(tmp_path / "state", agent) as bench:
        for letter in "abcd":
            await bench.say(letter * 2_400)
        reply = await bench.say("e")

        assert (reply.status, reply.text) == ("failed", "So \n\noverflow!")
        assert agent.asked == []
        assert len(agent.contexts) == 5


async def test_tools_that_have_run_do_not_run_again(tmp_path: Path) -> None:
    agent = narrow(17_000, pages=3)
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        bench.turns.contexts.settings = ContextSettings(compaction=CompactionSettings(keep_turns=0))
        for letter in "ab":
            await bench.say(letter * 4_500)
        reply = await bench.say("read")

        assert (reply.status, reply.text) == ("ok", "ok")
        assert isinstance(agent.tools, TestToolbox)
        assert [arguments["no"] for _, arguments in agent.tools.called] == [0, 1, 2]
        assert len(agent.asked) == 1
        assert all(is_paired(sent) for sent in agent.sent)
        assert results(agent.sent[-1]) == ["p" * 3_000] * 3


async def test_of_a_turn_that_is_too_large_alone_the_tools_results_are_cut(tmp_path: Path) -> None:
    agent = narrow(10_000, pages=4)
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        reply = await bench.say("read")

        assert (reply.status, reply.text) == ("ok", "ok")
        sent = agent.sent[-1]
        assert sum(len(one.text) for one in sent) <= 10_000
        assert len(results(sent)) == 4
        assert is_paired(sent)
        assert [len(text) for text in results(await transcript(bench))] == [3_000] * 4
        await bench.say("and now?")
        assert is_extension(agent.sent[-1], sent)
    again = narrow(10_000, pages=4)
    async with running_turns(tmp_path / "state", again.agent) as bench:
        await bench.say("and then?")
        assert is_extension(again.sent[-1], agent.sent[-1])


async def test_a_provider_that_counts_four_times_as_much_as_estimated_overflows_once_at_most(
    tmp_path: Path,
) -> None:
    def step(messages: Sequence[Message]) -> Step:
        tokens = sum(len(one.text) for one in messages)
        if tokens > 9_000:
            raise TOO_LARGE

        return Reply(("ok",), Usage(input_tokens=tokens, output_tokens=1))

    agent = Looped(step, window_tokens=10_000)
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        for letter in "abcdefghijklm":
            reply = await bench.say(letter * 1_500)
            assert reply.status == "ok"

        assert len(agent.sent) <= 13 + 1
        assert len(agent.asked) >= 1
