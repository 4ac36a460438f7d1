"""Laws of the bounds: they are asked before anything is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.context.settings import ContextSettings
from gateway.errors import BadRequestError, BusyError, UnavailableError
from gateway.sessions.settings import SessionSettings
from gateway.turns.settings import TurnSettings
from tests.support.state import key_of
from tests.support.turns import MAIN, Gate, PlayedAgent, reply_of, running_turns

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.turns import Bench


async def _refused(bench: Bench, text: str, chat: str = "alice") -> BusyError:
    """Send a message that must be refused, and check that nothing of it was stored."""
    before = await bench.count("inbox"), await bench.count("sessions"), len(bench.state.store)
    with pytest.raises(BusyError) as caught:
        await bench.submit(text, chat)
    assert (
        await bench.count("inbox"),
        await bench.count("sessions"),
        len(bench.state.store),
    ) == before
    return caught.value


async def test_a_full_queue_of_a_session_refuses_and_others_are_taken(tmp_path: Path) -> None:
    gate = Gate()
    settings = TurnSettings(max_waiting_per_session=2)
    async with running_turns(
        tmp_path / "state", PlayedAgent(gate.play), settings=settings
    ) as bench:
        tickets = [await bench.submit("runs")]
        await gate.reached("runs")
        tickets += [await bench.submit(text) for text in ("one", "two")]

        error = await _refused(bench, "three")

        assert error.caller_limit
        gate.open("runs", "one", "two", "other")
        assert (await bench.say("other", "bob")).text == "re: other"
        assert [(await reply_of(ticket)).status for ticket in tickets] == ["ok"] * 3
        assert bench.turns.statistics().refused == 1


async def test_a_full_gateway_refuses_also_where_each_session_has_one_message(
    tmp_path: Path,
) -> None:
    gate = Gate()
    settings = TurnSettings(max_running=1, max_waiting=2)
    async with running_turns(
        tmp_path / "state", PlayedAgent(gate.play), settings=settings
    ) as bench:
        await bench.submit("runs", "chat-0")
        await gate.reached("runs")
        tickets = [await bench.submit("waits", f"chat-{number}") for number in (1, 2)]

        error = await _refused(bench, "one too many", "chat-3")

        assert not error.caller_limit
        assert not bench.turns.is_busy(key_of("chat-3"))
        gate.open("runs", "waits", "now")
        for ticket in tickets:
            await reply_of(ticket)
        assert (await bench.say("now", "chat-3")).text == "re: now"


async def test_more_messages_a_minute_than_configured_are_refused(tmp_path: Path) -> None:
    settings = TurnSettings(messages_per_minute=2)
    async with running_turns(tmp_path / "state", settings=settings) as bench:
        await bench.say("one")
        await bench.say("two")

        error = await _refused(bench, "three")

        assert error.retry_after_s == pytest.approx(30)
        await bench.say("another session", "bob")
        with anyio.fail_after(30):
            await bench.clock.advance(30)
        assert (await bench.say("three")).text == "re: three"


async def test_a_first_message_that_is_refused_makes_no_session(tmp_path: Path) -> None:
    settings = TurnSettings(max_text_chars=5)
    async with running_turns(tmp_path / "state", settings=settings) as bench:
        for text in ("", "   ", "\0", "sixsix"):
            with pytest.raises(BadRequestError):
                await bench.submit(text)
        with pytest.raises(BadRequestError, match=r"'nobody'.*main"):
            await bench.submit("hi", agent="nobody")

        assert len(bench.state.store) == 0
        assert await bench.count("inbox") == 0
        assert not bench.turns.is_busy(key_of())
        assert (await bench.say("fiver")).text == "re: fiver"


async def test_new_bounds_hold_from_the_next_message_on(tmp_path: Path) -> None:
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        await bench.submit("runs")
        await gate.reached("runs")
        await bench.submit("waits")

        tighter = TurnSettings(max_waiting_per_session=1)
        bench.turns.configure(tighter, SessionSettings(), ContextSettings(), lambda _: MAIN)

        await _refused(bench, "one too many")


async def test_who_drains_takes_no_message(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        await bench.say("hello")
        with anyio.fail_after(30):
            await bench.turns.drain()

        with pytest.raises(UnavailableError):
            await bench.submit("too late")

        assert await bench.count("inbox") == 0
