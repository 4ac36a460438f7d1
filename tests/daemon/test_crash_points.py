"""Laws of messages over a channel whose gateway is killed between any two steps of theirs.

Receive, store, acknowledge, run, commit, send, mark: a real platform at the loopback socket and a
client of the HTTP API, commands and a queue among what they write. Every accepted message has
exactly one committed turn, every committed reply is shown in order, and a repeat only where nobody
could know.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from tests.torture.chat_laws import Chats, check_look, check_quiet
from tests.torture.chat_ordeal import ALL, STEPS, chat_ordeal
from tests.torture.chatting import CONFIG, FETCHED, WAITS
from tests.torture.diary import Shown, Written
from tests.torture.laws import Law, laws_of
from tests.torture.planted_chats import BUGS, PLACES, plant
from tests.torture.sampling import spread
from tests.torture.stored import Owed
from tests.torture.tracing import needs_strace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.torture.chat_ordeal import ChatOrdeal
    from tests.torture.diary import Event

Count = Callable[[str, int], None]
IDEMPOTENT: Final = CONFIG.replace('"loopback"', '"loopback"\nidempotent = true')
AT_ONCE: Final = 2
"""How many ordeals there are beside each other."""
STEPS_THERE_ARE: Final = 72
"""The scenario makes a few more calls of `STEPS`; the test of all of them demands it."""
BLOCK: Final = 50
LAST_BLOCK: Final = 651
"""The scenario makes fewer calls of `ALL`; the test of the last block demands it."""


async def _hit_once(ordeal: ChatOrdeal, kill_at: int, calls: str = STEPS) -> bool:
    """Kill a gateway at a call, and see it through; return whether there was such a call."""
    at = await ordeal.hit(kill_at, calls)
    if at.killed:
        assert ordeal.violations() == []
        assert await ordeal.survive() == []
    else:
        assert ordeal.violations(quiet=True) == []
        assert at.stops > 0.95 * at.calls, "calls went by unseen"
    return at.killed


async def _hit_each(
    places: Iterable[int],
    count: Count,
    name: str = "gateways killed between two steps of a message",
    hit: Callable[[ChatOrdeal, int], Awaitable[bool]] = _hit_once,
    config: str = CONFIG,
) -> list[int]:
    """Hit a gateway at each place; return the places that there were, in order."""
    there: list[int] = []
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def one(place: int) -> None:
        async with limiter:
            with chat_ordeal(config) as ordeal:
                if await hit(ordeal, place):
                    there.append(place)

    async with anyio.create_task_group() as group:
        for place in places:
            group.start_soon(one, place)
    count(name, len(there))
    return sorted(there)


@needs_strace
@pytest.mark.parametrize("part", range(4))
async def test_a_gateway_killed_between_two_steps_keeps_what_it_told_a_platform(
    part: int, torture_count: Count
) -> None:
    places = spread(STEPS_THERE_ARE, 32, seed=6)[part::4]
    assert await _hit_each(places, torture_count) == places


@needs_strace
async def test_a_platform_that_knows_its_deliveries_is_told_no_repeat(torture_count: Count) -> None:
    places = spread(STEPS_THERE_ARE, 3, seed=7)
    there = await _hit_each(places, torture_count, config=IDEMPOTENT)
    assert there == places


@needs_strace
@pytest.mark.torture
async def test_after_any_step_a_platform_that_knows_its_deliveries_is_told_no_repeat(
    torture_count: Count,
) -> None:
    there = await _hit_each(range(1, 2 * STEPS_THERE_ARE), torture_count, config=IDEMPOTENT)
    assert STEPS_THERE_ARE <= len(there) < 1.5 * STEPS_THERE_ARE


@needs_strace
@pytest.mark.torture
@pytest.mark.parametrize("first", range(1, LAST_BLOCK + 1, BLOCK))
async def test_a_gateway_killed_after_any_call_keeps_what_it_told_a_platform(
    first: int, torture_count: Count
) -> None:
    async def hit(ordeal: ChatOrdeal, place: int) -> bool:
        return await _hit_once(ordeal, place, ALL)

    there = await _hit_each(range(first, first + BLOCK), torture_count, hit=hit)
    assert first < LAST_BLOCK or not there, "the scenario has more calls: raise LAST_BLOCK"
    assert first > LAST_BLOCK // 2 or len(there) == BLOCK


async def _hit_twice(ordeal: ChatOrdeal, place: int, again: int) -> bool:
    """Kill a gateway, and the next one at a call counted from its start."""
    assert (await ordeal.hit(place)).killed
    assert ordeal.violations() == []
    second = await ordeal.hit(again, starting=True)
    if second.killed:
        assert ordeal.violations() == []
        assert await ordeal.survive() == []
    else:
        assert ordeal.violations(quiet=True) == []
    return second.killed


@needs_strace
@pytest.mark.parametrize(("place", "again"), [(15, 6), (30, 17)])
async def test_a_gateway_killed_again_while_it_recovers_keeps_what_it_told_a_platform(
    place: int, again: int, torture_count: Count
) -> None:
    with chat_ordeal() as ordeal:
        assert await _hit_twice(ordeal, place, again)
    torture_count("gateways killed again after a recovery", 1)


@needs_strace
@pytest.mark.torture
@pytest.mark.parametrize("place", [3, 9, 15, 21, 24, 30, 40, 60])
async def test_a_gateway_killed_again_at_any_step_keeps_what_it_told_a_platform(
    place: int, torture_count: Count
) -> None:
    async def hit(ordeal: ChatOrdeal, again: int) -> bool:
        return await _hit_twice(ordeal, place, again)

    name = "gateways killed again after a recovery"
    there = await _hit_each(range(1, 60, 3), torture_count, name, hit)
    assert len(there) > 10


async def test_a_stop_amid_a_turn_that_outlives_the_grace_loses_nothing() -> None:
    with chat_ordeal(CONFIG.replace("grace_s = 1", "grace_s = 0.2")) as ordeal:
        assert await ordeal.run(stop_at=WAITS) == 0
        assert b'"gateway.stopping","running":1,"waiting":3' in ordeal.log
        assert ordeal.violations() == []
        assert len(ordeal.ends[-1].look.stored.inbox) == 4
        assert await ordeal.survive() == []


async def _hit_amid_the_stop(ordeal: ChatOrdeal, kill_at: int) -> bool:
    at = await ordeal.hit(kill_at, stop_at=WAITS)
    assert ordeal.violations() == []
    assert await ordeal.survive() == []
    return at.killed


@needs_strace
async def test_a_gateway_killed_amid_its_stop_loses_nothing(torture_count: Count) -> None:
    places = [1, 8]
    name = "gateways killed amid a stop"
    there = await _hit_each(places, torture_count, name, _hit_amid_the_stop)
    assert there == places


@needs_strace
@pytest.mark.torture
async def test_a_gateway_killed_anywhere_amid_its_stop_loses_nothing(torture_count: Count) -> None:
    name = "gateways killed amid a stop"
    there = await _hit_each(range(1, 80), torture_count, name, _hit_amid_the_stop)
    assert 30 < len(there) < 79


@pytest.mark.parametrize("place", PLACES)
async def test_a_gateway_that_dies_at_a_place_breaks_no_law(place: str) -> None:
    with chat_ordeal() as ordeal:
        assert await ordeal.run(plant=plant(place)) == -signal.SIGKILL
        assert ordeal.violations() == []
        assert await ordeal.survive(plant=plant(place)) == []
        repeats = [one for one in ordeal.diary.events if isinstance(one, Shown) and one.repeat]
        assert repeats or not place.endswith("the_send")


@pytest.mark.parametrize("bug", BUGS)
async def test_a_gateway_with_a_bug_is_found_out(bug: str) -> None:
    _, law = BUGS[bug]
    with chat_ordeal() as ordeal:
        assert await ordeal.run(plant=plant(bug)) == -signal.SIGKILL
        found = laws_of(ordeal.violations())
        if law not in found:
            found |= laws_of(await ordeal.survive(plant=plant(bug)))
    assert law in found


async def test_what_a_platform_saw_otherwise_than_it_is_stored_is_found_out() -> None:
    with chat_ordeal() as ordeal:
        assert await ordeal.survive() == []
        events, look = ordeal.diary.events, ordeal.ends[-1].look
    first, second = [one for one in events if isinstance(one, Shown) and one.chat == "ann"][:2]

    def found(
        *, instead: dict[Event, Event] | None = None, without: Event | None = None
    ) -> set[Law]:
        seen = [(instead or {}).get(one, one) for one in events if one != without]
        return laws_of(check_look(seen, look))

    assert found() == set()
    assert found(without=second) == {Law.UNSHOWN, Law.ORDER}
    assert found(instead={first: second, second: first}) == {Law.ORDER}
    assert found(instead={first: replace(first, text="other")}) == {Law.REPLY}
    assert found(instead={first: replace(first, chat="bob")}) == {Law.REPLY}
    assert Law.UNCOMMITTED in found(instead={first: replace(first, delivery_id="t-0")})
    assert Law.UNATTEMPTED in found(without=FETCHED)
    assert found(instead={FETCHED: replace(FETCHED, chat="dora")}) == {Law.UNATTEMPTED}

    owed = Owed(1, "key", "m", "t", "text")
    stored = replace(look.stored, inbox=(owed,))
    assert laws_of(check_quiet(events, replace(look, stored=stored), Chats())) == {Law.OWED}
    later = Written("b9", "bob", "never stored")
    assert laws_of(check_quiet([*events, later], look, Chats())) == {Law.LOST}
