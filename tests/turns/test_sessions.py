"""Laws of sessions under turns: resets, pauses, prunes, and what the user is told."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import anyio

from gateway.model import Role
from gateway.sessions.settings import ResetMode, ResetSettings, SessionSettings
from tests.support.turns import Gate, PlayedAgent, echo, reply_of, running_turns

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.turns import Bench

_IDLE = SessionSettings(reset=ResetSettings(mode=ResetMode.IDLE, idle_minutes=60))
_DAILY = SessionSettings(reset=ResetSettings(mode=ResetMode.DAILY, at_hour=4))
DAY_S = 86_400


async def _pass(bench: Bench, duration_s: float) -> None:
    with anyio.fail_after(30):
        await bench.clock.advance(duration_s)


async def test_a_reset_during_a_turn_leaves_the_new_conversation_untouched(tmp_path: Path) -> None:
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        ticket = await bench.submit("hello")
        await gate.reached("hello")
        old = bench.entry()
        fresh = await bench.state.store.reset(old.session_key)
        gate.open("hello")
        reply = await reply_of(ticket)

        assert reply.session_id == old.session_id
        assert bench.entry() == fresh
        assert await bench.said(old.session_id) == [("user", "hello"), ("assistant", "re: hello")]
        assert await bench.said(fresh.session_id) == []


async def test_a_removal_during_a_turn_is_not_undone_by_its_end(tmp_path: Path) -> None:
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        ticket = await bench.submit("hello")
        await gate.reached("hello")
        await bench.state.store.remove(bench.entry().session_key)
        gate.open("hello")

        assert (await reply_of(ticket)).text == "re: hello"
        assert len(bench.state.store) == 0


async def test_a_message_whose_session_was_removed_while_it_waited_begins_a_new_one(
    tmp_path: Path,
) -> None:
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        await bench.submit("runs")
        await gate.reached("runs")
        old = bench.entry()
        waiting = await bench.submit("waits")
        await bench.state.store.remove(old.session_key)
        gate.open("runs", "waits")
        reply = await reply_of(waiting)

        assert reply.status == "ok"
        assert reply.session_id == bench.entry().session_id != old.session_id
        assert bench.entry().previous_session_id == old.session_id
        assert bench.entry().turns == 1


async def test_a_prune_keeps_sessions_whose_turn_runs_or_waits(tmp_path: Path) -> None:
    gate = Gate()
    gate.open("first", "idle")
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        await bench.say("first", "busy")
        await bench.say("idle", "idle")
        await _pass(bench, 2 * DAY_S)
        ticket = await bench.submit("runs", "busy")
        await gate.reached("runs")

        report = await bench.state.store.prune_old_entries(1)

        assert (report.pruned, report.kept_by_reason) == (1, {"busy": 1})
        gate.open("runs")
        reply = await reply_of(ticket)
        assert (reply.reset, reply.session_id) == (None, bench.entry("busy").session_id)
        assert bench.entry("busy").turns == 2


async def test_a_message_to_a_paused_session_is_answered_with_the_way_out_and_not_kept(
    tmp_path: Path,
) -> None:
    agent = PlayedAgent(echo)
    async with running_turns(tmp_path / "state", agent) as bench:
        await bench.say("hello")
        key = bench.entry().session_key
        paused = await bench.state.store.suspend(key)

        ticket = await bench.submit("are you there?", message_id="m2")
        reply = await reply_of(ticket)

        assert (reply.status, ticket.duplicate, reply.turn_id) == ("paused", False, "")
        assert reply.text.endswith("The operator can let it go on.")
        assert bench.entry() == paused
        assert (await bench.count("inbox"), await bench.count("outbox")) == (0, 1)
        assert len(await bench.said()) == 2
        assert not bench.turns.is_busy(key)
        assert bench.turns.statistics().paused == 1
        assert len(agent.contexts) == 1

        await bench.state.store.resume(key)
        resumed = await bench.say("are you there?", message_id="m2")
        assert (resumed.status, resumed.session_id) == ("ok", paused.session_id)
        assert [m.text for m in agent.contexts[-1]] == ["hello", "re: hello", "are you there?"]


async def test_a_paused_session_is_not_reset_however_idle_it_is(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state", sessions=_IDLE) as bench:
        await bench.say("hello")
        await bench.state.store.suspend(bench.entry().session_key)
        await _pass(bench, 30 * DAY_S)

        assert (await bench.say("hello?")).status == "paused"
        assert bench.entry().turns == 1


async def test_an_idle_session_starts_anew_with_the_next_message_and_says_so(
    tmp_path: Path,
) -> None:
    agent = PlayedAgent(echo)
    async with running_turns(tmp_path / "state", agent, sessions=_IDLE) as bench:
        first = await bench.say("hello")
        await _pass(bench, 3_599)
        assert (await bench.say("still there")).reset is None
        await _pass(bench, 3_600)

        reply = await bench.say("good morning")

        assert reply.session_id != first.session_id
        assert reply.reset is not None
        assert (reply.reset.reason, reply.reset.previous_session_id) == ("idle", first.session_id)
        assert reply.text.startswith("(This is a new conversation: nothing was said here")
        assert "/undo brings the earlier one back" in reply.text
        assert reply.text.endswith("re: good morning")
        assert [m.text for m in agent.contexts[-1]] == ["good morning"]
        assert (await bench.say("and now")).reset is None


async def test_an_undo_brings_the_conversation_before_the_reset_back(tmp_path: Path) -> None:
    agent = PlayedAgent(echo)
    async with running_turns(tmp_path / "state", agent, sessions=_IDLE) as bench:
        first = await bench.say("hello")
        await _pass(bench, 3_600)
        await bench.say("good morning")

        restored = await bench.state.store.undo(bench.entry().session_key)
        reply = await bench.say("where were we")

        assert reply.session_id == restored.session_id == first.session_id
        assert [m.text for m in agent.contexts[-1]] == ["hello", "re: hello", "where were we"]
        assert bench.entry().turns == 2


async def test_a_daily_reset_comes_with_the_first_message_after_the_hour(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state", sessions=_DAILY) as bench:
        await bench.say("at midnight")
        await _pass(bench, 4 * 3_600 - 1)
        assert (await bench.say("before the hour")).reset is None
        await _pass(bench, 1)

        reply = await bench.say("after the hour")

        assert reply.reset is not None
        assert reply.reset.reason == "daily"
        assert "a new day has begun" in reply.text
        assert (await bench.say("later that day")).reset is None


async def test_a_session_with_a_live_process_is_not_reset(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state", sessions=_IDLE) as bench:
        await bench.say("hello")
        bench.state.store.has_active_processes = lambda key: key == bench.entry().session_key
        await _pass(bench, 30 * DAY_S)

        assert (await bench.say("hello again")).reset is None


async def test_a_session_whose_turn_still_runs_is_not_reset_under_it(tmp_path: Path) -> None:
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play), sessions=_IDLE) as bench:
        first = await bench.submit("slow")
        await gate.reached("slow")
        bench.clock.step_wall(timedelta(days=1))
        second = await bench.submit("next")
        gate.open("slow", "next")

        assert (await reply_of(second)).reset is None
        assert (await reply_of(second)).session_id == (await reply_of(first)).session_id


async def test_who_returns_after_a_prune_is_told_and_can_undo(tmp_path: Path) -> None:
    agent = PlayedAgent(echo)
    async with running_turns(tmp_path / "state", agent) as bench:
        first = await bench.say("hello")
        await _pass(bench, 91 * DAY_S)
        assert (await bench.state.store.prune_old_entries(90)).pruned == 1

        reply = await bench.say("back again")

        assert reply.reset is not None
        assert (reply.reset.reason, reply.reset.previous_session_id) == (
            "pruned",
            first.session_id,
        )
        assert "had not been used for a long time" in reply.text
        await bench.state.store.undo(bench.entry().session_key)
        await bench.say("go on")
        assert [m.text for m in agent.contexts[-1]] == ["hello", "re: hello", "go on"]


async def test_notices_are_in_the_transcript_and_never_reach_an_agent(tmp_path: Path) -> None:
    agent = PlayedAgent(echo)
    async with running_turns(tmp_path / "state", agent, sessions=_IDLE) as bench:
        await bench.say("hello")
        await _pass(bench, 3_600)
        await bench.say("good morning")
        await bench.say("go on")

        roles = [role for role, _ in await bench.said()]
        assert roles == ["user", "notice", "assistant", "user", "assistant"]
        assert all(m.role is not Role.NOTICE for context in agent.contexts for m in context)
        sent = "".join(m.text for context in agent.contexts for m in context)
        assert "new conversation" not in sent
