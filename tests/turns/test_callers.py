"""Laws of callers: who goes away cancels nothing, and everybody sees the whole reply grow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from gateway.agents.base import MessageFinished, TextDelta
from gateway.agents.scripted import Reply
from gateway.model import Message, Role
from tests.support.turns import Gate, PlayedAgent, reply_of, running_turns, scripted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent


async def test_a_caller_that_stops_waiting_does_not_stop_the_turn(tmp_path: Path) -> None:
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        ticket = await bench.submit("hello")
        with anyio.fail_after(30):
            async with anyio.create_task_group() as caller:
                caller.start_soon(ticket.progress.reply)
                await gate.reached("hello")
                caller.cancel_scope.cancel()

        gate.open("hello")

        assert (await reply_of(ticket)).text == "re: hello"
        assert len(await bench.said()) == 2


async def test_a_caller_that_leaves_while_its_message_is_stored_is_answered_all_the_same(
    tmp_path: Path,
) -> None:
    async with running_turns(tmp_path / "state") as bench:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as caller:
                caller.start_soon(bench.submit, "hello")
                await anyio.lowlevel.checkpoint()
                caller.cancel_scope.cancel()

        # The next message waits behind it, so its reply proves that the first one is answered.
        await bench.say("again")

        said = [("user", "hello"), ("assistant", "re: hello"), ("user", "again")]
        assert (await bench.said())[:3] == said
        assert await bench.unfinished() == []
        assert bench.turns.statistics().waiting == 0


async def test_a_caller_that_leaves_before_its_message_is_stored_leaves_no_trace(
    tmp_path: Path,
) -> None:
    async with running_turns(tmp_path / "state") as bench:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
            await bench.submit("never")

        assert len(bench.state.store) == 0
        assert bench.turns.statistics().waiting == 0


async def test_deltas_together_are_the_reply(tmp_path: Path) -> None:
    agent = scripted(Reply(("One", ", two", ", three.")))
    async with running_turns(tmp_path / "state", agent) as bench:
        ticket = await bench.submit("count")
        deltas = [delta async for delta in ticket.progress.deltas()]

        assert deltas == ["One", ", two", ", three."]
        assert (await reply_of(ticket)).text == "One, two, three."


async def test_deltas_come_while_the_turn_runs_and_whole_to_who_comes_later(
    tmp_path: Path,
) -> None:
    said, go_on = anyio.Event(), anyio.Event()

    async def play(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        yield TextDelta("first ")
        said.set()
        await go_on.wait()
        yield TextDelta("last")
        yield MessageFinished(Message(Role.ASSISTANT, "first last"))

    async with running_turns(tmp_path / "state", PlayedAgent(play)) as bench:
        ticket = await bench.submit("hello", message_id="m1")
        with anyio.fail_after(30):
            early = ticket.progress.deltas()
            assert await anext(early) == "first "
            await said.wait()
            late = (await bench.submit("hello", message_id="m1")).progress.deltas()
            go_on.set()
            assert [delta async for delta in early] == ["last"]
            assert [delta async for delta in late] == ["first ", "last"]


async def test_the_notice_of_a_new_conversation_is_part_of_the_deltas(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        await bench.say("hello")
        await bench.state.store.remove(bench.entry().session_key)

        ticket = await bench.submit("back again")
        deltas = [delta async for delta in ticket.progress.deltas()]
        reply = await reply_of(ticket)

        assert "".join(deltas) == reply.text
        assert reply.text.startswith("(This is a new conversation: the old one was removed.")
        assert reply.text.endswith("re: back again")
