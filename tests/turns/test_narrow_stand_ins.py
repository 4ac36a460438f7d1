"""Laws of agents with a small window that stand in: skipped, or their turn's results cut, for now.

Nothing of what is done for them is stored: the session's own agent finds all as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio.lowlevel
from structlog.testing import capture_logs

from gateway.context.estimate import estimate_context_chars
from gateway.errors import AgentFailure
from gateway.model import AgentId, Role
from gateway.turns.ticket import Fallback
from tests.support.loops import (
    Looped,
    fails,
    fall_back,
    is_extension,
    is_paired,
    results,
    says,
    users,
    wants,
)
from tests.support.toolbox import TestToolbox
from tests.support.turns import PlayedAgent, echo, running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import Agent, AgentEvent
    from gateway.agents.scripted import ReplyTo, Step
    from gateway.model import Message

NO_EVENTS: tuple[AgentEvent, ...] = ()


def ok(messages: Sequence[Message]) -> Step:
    return says("ok", messages)


def narrow() -> Looped:
    """Return an agent with room for 5,000 tokens."""
    return Looped(ok, window_tokens=5_500, reserve_tokens=500)


async def big(**_: object) -> str:
    await anyio.lowlevel.checkpoint()
    return "b" * 12_000


def reads(pages: int, *, fails_at: int = -1) -> ReplyTo:
    """Return what reads so many pages where it is told to, and is out of order amid that."""

    def step(messages: Sequence[Message]) -> Step:
        turn = messages[max(n for n, one in enumerate(messages) if one.role is Role.USER) :]
        number = len(results(turn))
        if number == fails_at and users(messages)[-1] == "read":
            raise fails(AgentFailure.OUTAGE)

        if users(messages)[-1] == "read" and number < pages:
            return wants(f'big {{"no": {number}}}', messages=messages)

        return says("ok", messages)

    return step


async def test_who_stands_in_has_the_turns_own_results_shortened_and_nothing_of_it_stays(
    tmp_path: Path,
) -> None:
    main = Looped(reads(4, fails_at=1), TestToolbox({"big": big}))
    second = narrow()
    second.step, second.tools, second.model = reads(4), TestToolbox({"big": big}), "second"
    second.__post_init__()
    async with running_turns(
        tmp_path / "state", {"main": main.agent, "second": second.agent}
    ) as bench:
        fall_back(bench, "second")
        await bench.say("hello")
        with capture_logs() as logs:
            reply = await bench.say("read")

        assert (reply.status, reply.agent) == ("ok", "second")
        assert reply.fallbacks == (Fallback("main", "outage"),)
        for sent in second.sent:
            assert estimate_context_chars(sent) <= 20_000
            assert is_paired(sent)
        # What it has seen once it sees again: what was cleared stays so.
        *_, before, last = (results(sent) for sent in second.sent)
        cleared = [text for text in before if len(text) < 100]
        assert cleared
        assert last[: len(cleared)] == cleared
        told = [line for line in logs if line["event"] == "context.turn_shortened"]
        assert {line["agent"] for line in told} == {"second"}
        assert await bench.count("projections") == 0

        await bench.clock.advance(300)
        main.step = ok
        again = await bench.say("and now?")
        assert again.agent == "main"
        assert [len(text) for text in results(main.sent[-1])] == [12_000] * 4
    async with running_turns(tmp_path / "state", {"main": main.agent}) as bench:
        await bench.say("and then?")
        assert is_extension(main.sent[-1], main.sent[-2])


async def test_what_was_shortened_for_who_stands_in_stays_so_while_its_turn_goes_on(
    tmp_path: Path,
) -> None:
    async def page(chars: int) -> str:
        await anyio.lowlevel.checkpoint()
        return "p" * chars

    def step(messages: Sequence[Message]) -> Step:
        pages = len(results(messages))
        if not pages:
            return wants('page {"chars": 12000}', 'page {"chars": 12001}', messages=messages)

        return wants('page {"chars": 100}', messages=messages) if pages == 2 else says("done")

    def out_of_order(_: Sequence[Message]) -> Step:
        raise fails(AgentFailure.OUTAGE)

    main = Looped(out_of_order)
    second = narrow()
    second.step, second.tools = step, TestToolbox({"page": page})
    second.__post_init__()
    agents = {"main": main.agent, "second": second.agent}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "second")
        reply = await bench.say("read")

        assert (reply.text, reply.agent) == ("done", "second")
        _, cut, last = second.sent
        assert all(2_000 < len(text) < 12_000 for text in results(cut))
        assert is_extension(last, cut)
        assert await bench.count("projections") == 0


async def test_what_was_shortened_for_one_is_whole_for_the_next(tmp_path: Path) -> None:
    main = Looped(reads(4, fails_at=1), TestToolbox({"big": big}))
    second = narrow()
    second.step, second.tools, second.model = reads(4, fails_at=2), main.tools, "second"
    second.__post_init__()
    third = Looped(reads(4), main.tools, model="third")
    agents = {"main": main.agent, "second": second.agent, "third": third.agent}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "second", "third")
        reply = await bench.say("read")

        assert (reply.status, reply.agent) == ("ok", "third")
        assert [len(text) for text in results(second.sent[-1])] != [12_000] * 2
        assert [len(text) for text in results(third.sent[0])] == [12_000] * 2
        assert await bench.count("projections") == 0


async def test_one_whose_window_is_too_small_is_passed_over_and_the_reply_says_why(
    tmp_path: Path,
) -> None:
    main = PlayedAgent(echo)
    second, third = narrow(), Looped(ok, model="third")
    agents: dict[str, Agent] = {"main": main, "second": second.agent, "third": third.agent}
    async with running_turns(tmp_path / "state", agents) as bench:
        for letter in "abcdefghijk":
            await bench.say(letter * 2_098)
        before = main.contexts[-1]

        async def out_of_order(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
            for event in NO_EVENTS:
                yield event
            raise fails(AgentFailure.OUTAGE)

        agents["main"] = broken = PlayedAgent(out_of_order)
        bench.turns.answering.agents = {AgentId(name): one for name, one in agents.items()}
        fall_back(bench, "second", "third")
        reply = await bench.say("l")

        assert (reply.status, reply.agent) == ("ok", "third")
        assert reply.fallbacks == (Fallback("main", "outage"), Fallback("second", "overflow"))
        assert second.sent == []
        assert is_extension(third.sent[-1], before)
        assert len(broken.contexts) == 1
        assert await bench.count("projections") == 0
