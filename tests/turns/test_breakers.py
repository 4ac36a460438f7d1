"""Laws of the circuit breaker: who failed rests, is passed over meanwhile, and then tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import FakeClock
from gateway.errors import AgentFailure
from gateway.model import AgentId
from gateway.turns.candidates import RESTING, Breakers, in_order
from gateway.turns.ticket import Fallback
from tests.support.loops import fails, fall_back
from tests.support.turns import PlayedAgent, answer, echo, running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent
    from gateway.model import Message

MAIN, SECOND = AgentId("main"), AgentId("second")
OUTAGE = fails(AgentFailure.OUTAGE)


class Provider:
    """Answers with its name while it works."""

    def __init__(self, name: str, *, works: bool = False) -> None:
        self.works = works
        self.asked = 0
        self.agent = PlayedAgent(self._play)
        self._name = name

    async def _play(self, _: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        self.asked += 1
        if not self.works:
            raise OUTAGE

        for event in answer(self._name):
            yield event


async def test_a_rest_doubles_with_each_failure_to_five_minutes() -> None:
    clock = FakeClock()
    breakers = Breakers(clock)
    rests = []
    for _ in range(9):
        breakers.failed(MAIN, OUTAGE)
        rests.append(breakers.rest_s(MAIN))
        await clock.advance(rests[-1])
        assert breakers.rest_s(MAIN) == 0

    assert rests == [5, 10, 20, 40, 80, 160, 300, 300, 300]


@pytest.mark.parametrize(
    ("retry_after_s", "rest_s"),
    [
        pytest.param(None, 5, id="none"),
        pytest.param(1.0, 5, id="shorter"),
        pytest.param(42.0, 42, id="longer"),
        pytest.param(86_400.0, 300, id="longest"),
    ],
)
async def test_a_provider_that_asks_for_a_pause_is_given_it(
    retry_after_s: float | None, rest_s: float
) -> None:
    breakers = Breakers(FakeClock())
    breakers.failed(MAIN, fails(AgentFailure.RATE_LIMIT, retry_after_s=retry_after_s))

    assert breakers.resting() == {MAIN: rest_s}


async def test_many_turns_that_fail_at_once_are_one_failure() -> None:
    clock = FakeClock()
    breakers = Breakers(clock)
    for _ in range(20):
        breakers.failed(MAIN, OUTAGE)
    assert breakers.rest_s(MAIN) == 5

    await clock.advance(4)
    breakers.failed(MAIN, OUTAGE)
    assert breakers.rest_s(MAIN) == 1
    # But what a provider asks for is heeded at any time.
    breakers.failed(MAIN, fails(AgentFailure.RATE_LIMIT, retry_after_s=30.0))
    assert breakers.rest_s(MAIN) == 30


@pytest.mark.parametrize("failure", [AgentFailure.OTHER, AgentFailure.OVERFLOW])
async def test_a_failure_that_is_no_providers_lets_nobody_rest(failure: AgentFailure) -> None:
    breakers = Breakers(FakeClock())
    breakers.failed(MAIN, fails(failure, retry_after_s=60.0))

    assert breakers.resting() == {}


async def test_an_answer_makes_the_next_rest_short_again() -> None:
    clock = FakeClock()
    breakers = Breakers(clock)
    for _ in range(4):
        breakers.failed(MAIN, OUTAGE)
        await clock.advance(300)
    breakers.answered(MAIN)
    breakers.failed(MAIN, OUTAGE)

    assert breakers.rest_s(MAIN) == 5


NAMES = st.lists(st.sampled_from("abcdefgh"), max_size=10)


@given(others=NAMES, known=st.sets(st.sampled_from("abcdefgh")), data=st.data())
def test_everybody_known_is_asked_once_and_the_ready_ones_first(
    others: list[str], known: set[str], data: st.DataObject
) -> None:
    known |= {"a"}
    resting = data.draw(st.sets(st.sampled_from(sorted(known))))
    breakers = Breakers(FakeClock())
    for name in resting:
        breakers.failed(AgentId(name), OUTAGE)
    agents = {AgentId(name): PlayedAgent(echo) for name in known}
    told: list[tuple[str, str]] = []

    fallbacks = {AgentId("a"): [AgentId(one) for one in others]}
    order = in_order(AgentId("a"), agents, fallbacks, breakers, lambda *one: told.append(one))
    asked = list(order)

    named = [one for one in dict.fromkeys(["a", *others]) if one in known]
    later = [one for one in named if one in resting] if len(named) > 1 else []
    ready = [one for one in named if one not in later]
    assert asked == [*ready, *later]
    assert dict(told) == dict.fromkeys(later, RESTING)


async def test_who_rests_is_passed_over_tried_again_and_forgiven(tmp_path: Path) -> None:
    main, second = Provider("first"), Provider("second", works=True)
    agents = {"main": main.agent, "second": second.agent}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "second")

        async def answered_by() -> tuple[str, tuple[Fallback, ...]]:
            reply = await bench.say("hello")
            assert reply.status == "ok"
            return reply.agent, reply.fallbacks

        assert await answered_by() == ("second", (Fallback("main", "outage"),))
        for chat in ("alice", "bob"):
            # Its provider is the same one for all sessions.
            reply = await bench.say("hello", chat)
            assert reply.fallbacks == (Fallback("main", "resting"),)
        assert main.asked == 1

        await bench.clock.advance(5)
        assert await answered_by() == ("second", (Fallback("main", "outage"),))
        await bench.clock.advance(9)
        assert await answered_by() == ("second", (Fallback("main", "resting"),))
        assert main.asked == 2

        main.works = True
        await bench.clock.advance(1)
        assert await answered_by() == ("main", ())
        main.works = False
        await answered_by()
        assert bench.turns.answering.breakers.resting() == {MAIN: 5}


async def test_where_everybody_rests_they_are_asked_all_the_same(tmp_path: Path) -> None:
    main, second = Provider("first"), Provider("second")
    agents = {"main": main.agent, "second": second.agent}
    async with running_turns(tmp_path / "state", agents) as bench:
        fall_back(bench, "second")
        reply = await bench.say("hello")
        assert (reply.status, reply.agent) == ("failed", "second")
        assert set(bench.turns.answering.breakers.resting()) == {MAIN, SECOND}

        second.works = True
        reply = await bench.say("hello")
        assert (reply.status, reply.text) == ("ok", "second")
        assert (main.asked, second.asked) == (2, 2)
        resting = (Fallback("main", "resting"), Fallback("second", "resting"))
        assert reply.fallbacks == (*resting, Fallback("main", "outage"))


async def test_an_agent_without_others_is_asked_while_it_rests(tmp_path: Path) -> None:
    main = Provider("first")
    async with running_turns(tmp_path / "state", main.agent) as bench:
        await bench.say("hello")
        main.works = True
        for others in ([], ["gone"], ["main"]):
            fall_back(bench, *others)
            bench.turns.answering.breakers.failed(MAIN, OUTAGE)
            reply = await bench.say("hello")
            assert (reply.text, reply.fallbacks) == ("first", ())
