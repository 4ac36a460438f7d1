"""Laws of message ids: one id in one session is one turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from gateway.model import Usage
from tests.support.turns import Gate, PlayedAgent, answer, echo, reply_of, running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent
    from gateway.model import Message


async def _counted(_messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
    for event in answer("counted", Usage(10, 2, 3, 4)):
        yield event


async def test_an_answered_message_that_comes_again_gets_its_stored_reply(tmp_path: Path) -> None:
    agent = PlayedAgent(_counted)
    async with running_turns(tmp_path / "state", agent) as bench:
        first = await bench.say("hello", message_id="m1")
        again = await bench.submit("hello", message_id="m1")

        assert again.duplicate
        assert await reply_of(again) == first
        assert [text async for text in again.progress.deltas()] == [first.text]
        assert len(agent.contexts) == 1
        assert bench.entry().turns == 1
        assert len(await bench.said()) == 2
        assert bench.turns.statistics().duplicates == 1


async def test_the_stored_reply_is_there_after_a_restart(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state", PlayedAgent(_counted)) as bench:
        first = await bench.say("hello", message_id="m1")

    agent = PlayedAgent(echo)
    async with running_turns(tmp_path / "state", agent) as bench:
        again = await bench.submit("hello", message_id="m1")

        assert again.duplicate
        assert await reply_of(again) == first
        assert agent.contexts == []


async def test_a_running_message_that_comes_again_gets_the_result_of_its_turn(
    tmp_path: Path,
) -> None:
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        first = await bench.submit("hello", message_id="m1")
        await gate.reached("hello")
        again = await bench.submit("hello", message_id="m1")
        assert (first.duplicate, again.duplicate) == (False, True)
        assert again.turn_id == first.turn_id

        gate.open("hello")
        assert await reply_of(again) == await reply_of(first)

        assert gate.began == ["hello"]
        assert len(await bench.said()) == 2
        assert not bench.turns.is_busy(bench.entry().session_key)


async def test_one_id_sent_many_times_at_once_is_one_turn(tmp_path: Path) -> None:
    replies = []
    async with running_turns(tmp_path / "state") as bench:

        async def send() -> None:
            replies.append(await bench.say("hello", message_id="m1"))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(send)

        assert {reply.turn_id for reply in replies} == {replies[0].turn_id}
        assert len(replies) == 20
        assert bench.entry().turns == 1
        assert bench.turns.statistics().waiting == 0


async def test_the_same_id_in_another_session_is_another_turn(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        alice = await bench.say("hello", "alice", message_id="m1")
        bob = await bench.say("hello", "bob", message_id="m1")

        assert alice.turn_id != bob.turn_id
        assert bench.turns.statistics().duplicates == 0


async def test_messages_without_an_id_are_never_duplicates(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        for _ in range(2):
            await bench.say("hello")

        assert bench.entry().turns == 2


async def test_a_duplicate_is_known_after_a_reset_as_well(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        first = await bench.say("hello", message_id="m1")
        await bench.state.store.reset(bench.entry().session_key)

        again = await bench.say("hello", message_id="m1")

        assert again == first
        assert bench.entry().turns == 0
