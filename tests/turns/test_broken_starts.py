"""Laws of sessions whose turns break the gateway, and of turns a restart does not run again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import anyio.lowlevel
import pytest

from gateway.clock import FakeClock
from gateway.sessions.settings import ResetMode, ResetSettings, SessionSettings
from gateway.turns.running import CUT_OFF
from gateway.turns.settings import Interrupted, TurnSettings
from tests.support.state import START, key_of
from tests.support.turns import Gate, PlayedAgent, echo, running_turns

if TYPE_CHECKING:
    from pathlib import Path

PAUSED = "the gateway stopped three times while it answered here"
TELL = TurnSettings(interrupted=Interrupted.TELL)


async def test_a_session_that_breaks_three_starts_in_a_row_is_paused_and_told(
    tmp_path: Path,
) -> None:
    path, gate = tmp_path / "state", Gate()
    async with running_turns(path, PlayedAgent(gate.play)) as bench:
        await bench.submit("one", message_id="m1")
        await bench.submit("two", message_id="m2")
        await bench.submit("other", "bob", message_id="m3")
        await gate.reached("one")
    # The first start afterwards runs it again, the second gives it up and runs the next one.
    for expected in ("one", "two"):
        gate = Gate()
        gate.open("other")
        async with running_turns(path, PlayedAgent(gate.play)) as bench:
            assert (await bench.say("other", "bob", message_id="m3")).text == "re: other"
            await gate.reached(expected)
            assert bench.entry().suspended_at is None

    agent, clock = PlayedAgent(echo), FakeClock(START + timedelta(hours=1))
    async with running_turns(path, agent, clock=clock) as bench:
        reply = await bench.say("two", message_id="m2")
        assert reply.status == "interrupted"
        assert PAUSED in reply.text
        assert agent.contexts == []
        assert (bench.entry().suspended_at, bench.entry().suspended_by) == (clock.now(), "restarts")
        assert (await bench.say("and now?")).text.endswith("/resume lets it go on.")
        assert bench.entry("bob").suspended_at is None

        await bench.state.store.resume(key_of())
        assert (await bench.say("again")).text == "re: again"


async def test_an_answer_in_between_begins_the_count_anew(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for number in range(4):
        gate = Gate()
        gate.open("fine")
        async with running_turns(path, PlayedAgent(gate.play)) as bench:
            for row in await bench.unfinished():
                gate.open(row.text)
            assert (await bench.say("fine")).text == "re: fine"
            await bench.submit(f"breaks {number}")
            await gate.reached(f"breaks {number}")
            assert bench.entry().suspended_at is None


async def test_what_only_waited_breaks_no_start(tmp_path: Path) -> None:
    path, settings = tmp_path / "state", TurnSettings(max_running=1)
    gate = Gate()
    async with running_turns(path, PlayedAgent(gate.play), settings=settings) as bench:
        await bench.submit("one")
        await bench.submit("waits", "bob")
        await gate.reached("one")
        assert [row.begun for row in await bench.unfinished()] == [True, False]
    gate = Gate()
    async with running_turns(path, PlayedAgent(gate.play), settings=settings) as bench:
        await gate.reached("one")
        assert await bench.count("broken_starts") == 1

    async with running_turns(path, settings=settings) as bench:
        assert (await bench.say("and now?", "bob")).text == "re: and now?"
        assert ("assistant", "re: waits") in await bench.said(chat="bob")


async def test_a_turn_that_was_cut_off_once_and_waits_since_breaks_no_start(tmp_path: Path) -> None:
    path, gate = tmp_path / "state", Gate()
    async with running_turns(path, PlayedAgent(gate.play)) as bench:
        for number, chat in enumerate(("ann", "bob", "cy"), 1):
            await bench.submit(f"of {chat}", chat, message_id=f"m{number}")
            await gate.reached(f"of {chat}")
    # Each start runs one of them, and is cut off amid it; Cy's waits all the time.
    settings = TurnSettings(max_running=1)
    for expected in ("of ann", "of bob"):
        gate = Gate()
        async with running_turns(path, PlayedAgent(gate.play), settings=settings) as bench:
            await gate.reached(expected)

    async with running_turns(path, settings=settings) as bench:
        assert bench.entry("cy").suspended_at is None
        assert (await bench.say("of cy", "cy", message_id="m3")).text == "re: of cy"
        assert (await bench.say("and now?", "cy")).text == "re: and now?"


async def test_a_count_outlasts_a_start_that_runs_nothing_of_its_session(tmp_path: Path) -> None:
    path, gate = tmp_path / "state", Gate()
    async with running_turns(path, PlayedAgent(gate.play)) as bench:
        await bench.submit("of ann", "ann")
        await bench.submit("first", "bob")
        await bench.submit("second", "bob", message_id="m3")
        await gate.reached("of ann")
        await gate.reached("first")
    settings = TurnSettings(max_running=1)
    for expected in ("of ann", "first", "second"):
        gate = Gate()
        async with running_turns(path, PlayedAgent(gate.play), settings=settings) as bench:
            await gate.reached(expected)
            assert bench.entry("bob").suspended_at is None

    async with running_turns(path, settings=settings) as bench:
        assert PAUSED in (await bench.say("second", "bob", message_id="m3")).text
        assert bench.entry("ann").suspended_at is None


async def test_a_turn_that_breaks_before_its_agent_is_asked_is_counted(tmp_path: Path) -> None:
    path, gate = tmp_path / "state", Gate()
    async with running_turns(path, PlayedAgent(gate.play)) as bench:
        await bench.submit("one", message_id="m1")
        await gate.reached("one")

    def breaks(*_: object) -> None:
        raise RuntimeError("broken")

    for _ in range(2):
        async with running_turns(path, recover=False) as bench:
            bench.turns.hooks.on_begun = breaks
            await bench.turns.recover()
            with anyio.fail_after(30):
                while not bench.turns.statistics().lost_commits:
                    await anyio.lowlevel.checkpoint()

    async with running_turns(path) as bench:
        assert PAUSED in (await bench.say("one", message_id="m1")).text


async def test_a_cut_off_turn_is_told_and_not_run_again_where_that_is_wanted(
    tmp_path: Path,
) -> None:
    path, gate = tmp_path / "state", Gate()
    async with running_turns(path, PlayedAgent(gate.play), settings=TELL) as bench:
        await bench.submit("one", message_id="m1")
        await bench.submit("two", message_id="m2")
        await gate.reached("one")

    agent = PlayedAgent(echo)
    async with running_turns(path, agent, settings=TELL) as bench:
        one = await bench.say("one", message_id="m1")
        assert (one.status, one.text) == ("interrupted", CUT_OFF)
        # What had no turn gets one.
        assert (await bench.say("two", message_id="m2")).text == "re: two"
        assert len(agent.contexts) == 1


@pytest.mark.parametrize("interrupted", Interrupted)
async def test_a_recovered_message_does_not_revive_a_session_that_its_policy_has_ended(
    tmp_path: Path, interrupted: Interrupted
) -> None:
    idle = SessionSettings(reset=ResetSettings(mode=ResetMode.IDLE, idle_minutes=60))
    path, gate = tmp_path / "state", Gate()
    settings = TurnSettings(interrupted=interrupted)
    async with running_turns(
        path, PlayedAgent(gate.play), sessions=idle, settings=settings
    ) as bench:
        await bench.submit("one", message_id="m1")
        await gate.reached("one")

    clock = FakeClock(START + timedelta(hours=9))
    async with running_turns(path, sessions=idle, settings=settings, clock=clock) as bench:
        late = await bench.say("one", message_id="m1")
        while bench.turns.is_busy(key_of()):
            await anyio.lowlevel.checkpoint()
        assert bench.entry().session_id == late.session_id
        assert bench.entry().updated_at == START

        fresh = await bench.say("good morning")
        assert fresh.session_id != late.session_id
        assert fresh.reset is not None
        assert fresh.reset.reason == "idle"
