"""Laws of turns beside a storage that refuses for a time, and beside an operator who resets."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import apsw
import pytest

from gateway.errors import BusyError, StorageBusyError
from gateway.turns.settings import TurnSettings
from tests.support.state import key_of
from tests.support.turns import Gate, PlayedAgent, echo, reply_of, running_turns

if TYPE_CHECKING:
    from pathlib import Path


async def test_another_programs_lock_refuses_a_message_and_harms_nothing(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        database = bench.state.database
        await database.write(lambda tx: tx.connection.set_busy_timeout(1))
        other = apsw.Connection(str(database.path), flags=apsw.SQLITE_OPEN_READWRITE)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageBusyError):
            await bench.submit("hello", message_id="m1")
        other.close()

        assert (await bench.say("hello", message_id="m1")).text == "re: hello"
        assert (await bench.count("inbox"), await bench.count("outbox")) == (0, 1)


async def test_a_late_answer_does_not_move_the_last_use_back(tmp_path: Path) -> None:
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        waiting = await bench.submit("slow")
        await gate.reached("slow")
        await bench.clock.advance(60)
        used_at = bench.clock.now()
        await bench.state.store.update(key_of(), lambda one: one.changed(updated_at=used_at))
        gate.open("slow")
        await reply_of(waiting)
        assert bench.entry().updated_at == used_at


async def test_a_stamp_in_the_future_is_mended_by_the_next_use(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        await bench.say("hello")
        wrong = bench.clock.now() + timedelta(days=36_500)
        await bench.state.store.update(key_of(), lambda one: one.changed(updated_at=wrong))
        await bench.say("again")
        assert bench.entry().updated_at == bench.clock.now()


async def test_what_was_accepted_before_is_not_refused_by_a_bound(tmp_path: Path) -> None:
    settings = TurnSettings(messages_per_minute=1)
    async with running_turns(tmp_path / "state", settings=settings) as bench:
        first = await bench.say("hello", message_id="m1")
        with pytest.raises(BusyError):
            await bench.submit("more", message_id="m2")

        again = await bench.submit("hello", message_id="m1")
        assert again.duplicate
        assert await reply_of(again) == first
        assert bench.turns.statistics().refused == 1


async def test_a_reset_by_the_operator_is_told_with_the_next_reply_only(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        await bench.say("hello")
        before = bench.entry().session_id
        await bench.state.store.reset(key_of())

        reply = await bench.say("are you there?")
        assert reply.reset is not None
        assert (reply.reset.reason, reply.reset.previous_session_id) == ("manual", before)
        assert reply.text.startswith("(This is a new conversation")
        assert (await bench.say("and now?")).reset is None


async def test_a_long_session_is_read_and_sent_by_its_newest_turns(tmp_path: Path) -> None:
    agent = PlayedAgent(echo, context_window_tokens=2_000, reserve_tokens=500)
    path = tmp_path / "state"
    async with running_turns(path, agent) as bench:
        for number in range(20):
            reply = await bench.say(f"{number:02}" + "x" * 498)
            turns_sent = len(agent.contexts[-1]) // 2 + 1
            assert reply.context.turns_left_out == number + 1 - turns_sent
            assert turns_sent < 10

    async with running_turns(path, agent) as bench:
        before, reply = agent.contexts[-1], await bench.say("20" + "x" * 498)
        turns_sent = len(agent.contexts[-1]) // 2 + 1
        assert 1 < turns_sent < 10
        assert reply.context.turns_left_out == 21 - turns_sent
        assert agent.contexts[-1][0] in before
        assert len(await bench.said()) == 42
