"""Laws of turns that somebody ends: they are committed once, told, and never run again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.errors import BusyError
from gateway.model import Inbound
from gateway.transcripts.inbox import Ending, Origin
from gateway.turns.settings import Busy, TurnSettings
from tests.support.state import key_of, source
from tests.support.turns import Gate, PlayedAgent, echo, reply_of, running_turns

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.batch import Transaction
    from gateway.model import TurnId
    from tests.support.turns import Bench

KEY = key_of()
STOPPED = "Not answered: this conversation was stopped."
LEFT = "Not answered: this conversation was left for another one."
OTHER_CAME = "Not answered: another message came."


async def _end(bench: Bench, why: Ending, *, reset: bool = False) -> None:
    """Do what a command does: store that turns end, and then end them."""

    def work(transaction: Transaction) -> list[TurnId]:
        ended = bench.turns.stage_end(transaction, KEY, why)
        if reset:
            bench.state.store.lifecycle.reset(transaction, KEY)
        return ended

    bench.turns.end(KEY, await bench.state.database.write(work), why)


async def test_a_stop_ends_the_turn_that_runs_and_all_that_wait(tmp_path: Path) -> None:
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        tickets = [await bench.submit(text) for text in ("one", "two", "three")]
        await gate.reached("one")
        assert [ticket.ahead for ticket in tickets] == [0, 1, 2]

        await _end(bench, Ending.STOP)

        replies = [await reply_of(ticket) for ticket in tickets]
        assert {(reply.status, reply.text) for reply in replies} == {("interrupted", STOPPED)}
        assert gate.began == ["one"]
        assert await bench.said() == [
            line
            for text in ("one", "two", "three")
            for line in (("user", text), ("notice", STOPPED))
        ]
        assert await bench.unfinished() == []
        assert bench.turns.statistics().interrupted == 3
        assert not bench.turns.is_busy(KEY)

        gate.open("four")
        assert (await bench.say("four")).text == "re: four"


async def test_what_was_ended_is_not_run_by_a_restart_either(tmp_path: Path) -> None:
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        for text in ("one", "two"):
            await bench.submit(text, message_id=text)
        await gate.reached("one")
        # Stored, and then the machine is gone.
        await bench.state.database.write(
            lambda transaction: bench.turns.stage_end(transaction, KEY, Ending.STOP)
        )

    agent = PlayedAgent(echo)
    async with running_turns(tmp_path / "state", agent) as bench:
        replies = [await bench.say(text, message_id=text) for text in ("one", "two")]
        assert [reply.text for reply in replies] == [STOPPED, STOPPED]
        assert agent.contexts == []


async def test_what_waits_when_its_conversation_is_left_stays_in_that_one(tmp_path: Path) -> None:
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        gate.open("hello")
        first = await bench.say("hello")
        tickets = [await bench.submit(text) for text in ("one", "two")]
        await gate.reached("one")

        await _end(bench, Ending.NEW, reset=True)

        assert [(await reply_of(ticket)).text for ticket in tickets] == [LEFT, LEFT]
        texts = [text for _, text in await bench.said(first.session_id)]
        assert texts == ["hello", "re: hello", "one", LEFT, "two", LEFT]
        assert bench.entry().session_id != first.session_id
        assert bench.entry().turns == 0
        assert await bench.said() == []


async def test_what_was_said_before_an_interruption_stays(tmp_path: Path) -> None:
    gate = Gate()

    async def half(messages):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        first = True
        async for event in gate.play(messages):
            yield event
            if first:
                first = False
                await anyio.sleep_forever()

    gate.open("one")
    async with running_turns(tmp_path / "state", PlayedAgent(half)) as bench:
        ticket = await bench.submit("one")
        async for piece in ticket.progress.deltas():
            assert piece == "re: one"
            break

        await _end(bench, Ending.STOP)

        reply = await reply_of(ticket)
        assert (reply.status, reply.text[:7]) == ("interrupted", "re: one")
        assert await bench.said() == [
            ("user", "one"),
            ("assistant", "re: one"),
            ("notice", "Not answered to its end: this conversation was stopped."),
        ]


async def test_a_message_interrupts_what_came_before_it_where_it_is_to(tmp_path: Path) -> None:
    gate, settings = Gate(), TurnSettings(busy=Busy.INTERRUPT)
    agent = PlayedAgent(gate.play)
    async with running_turns(tmp_path / "state", agent, settings=settings) as bench:
        one = await bench.submit("one")
        await gate.reached("one")
        two = await bench.submit("two", message_id="m2")
        await gate.reached("two")
        assert (await reply_of(one)).text == OTHER_CAME
        again = await bench.submit("two", message_id="m2")
        assert again.duplicate, "the same message again must not interrupt itself"

        gate.open("two")
        assert (await reply_of(two)).text == "re: two"
        # The agent reads what it has not answered.
        assert [message.text for message in agent.contexts[-1]] == ["one", "two"]


async def test_a_message_is_refused_while_a_turn_runs_where_it_is_to(tmp_path: Path) -> None:
    gate, settings = Gate(), TurnSettings(busy=Busy.REFUSE)
    async with running_turns(
        tmp_path / "state", PlayedAgent(gate.play), settings=settings
    ) as bench:
        one = await bench.submit("one", message_id="m1")
        await gate.reached("one")

        with pytest.raises(BusyError, match="An answer is being made"):
            await bench.submit("two")
        assert (await bench.submit("one", message_id="m1")).duplicate
        assert [row.text for row in await bench.unfinished()] == ["one"]
        assert (await bench.submit("else", "bob")).ahead == 0

        gate.open("one", "two")
        await reply_of(one)
        assert (await bench.say("two")).text == "re: two"


async def test_one_user_may_not_take_all_by_writing_in_many_places(tmp_path: Path) -> None:
    settings = TurnSettings(messages_per_minute_per_user=2)
    async with running_turns(tmp_path / "state", settings=settings) as bench:

        async def say(chat: str, user: str) -> str:
            sender = replace(source(chat), user_id=user)
            return (await reply_of(await bench.turns.submit(Inbound(sender, "hello")))).text

        await say("a", "ann")
        await say("b", "ann")
        with pytest.raises(BusyError, match="More than 2 messages a minute"):
            await say("c", "ann")
        assert await say("c", "bob") == "re: hello"
        assert await bench.count("inbox") == 0

        await bench.clock.advance(30)
        assert await say("c", "ann") == "re: hello"


async def test_a_summary_takes_its_turn_is_told_and_leaves_no_trace_in_what_was_said(
    tmp_path: Path,
) -> None:
    agent = PlayedAgent(echo, summarise=lambda _: "They greeted each other.")
    async with running_turns(tmp_path / "state", agent) as bench:
        for text in [letter * 2_000 for letter in "abcde"]:
            await bench.say(text)
        said, entry = await bench.said(), bench.entry()

        async def compact() -> str:
            asked = Inbound(source(), "/compact", "m9")
            ticket = await bench.turns.submit(asked, origin=Origin.COMPACT)
            return (await reply_of(ticket)).text

        text = await compact()

        assert text.startswith("2 turns are summarised: about ")
        assert await compact() == text, "the same message again has the same answer"
        assert len(agent.asked) == 1
        assert await bench.said() == said
        assert bench.entry().turns == entry.turns
        await bench.say("hello")
        assert [message.text[-1] for message in agent.contexts[-1]][1:] == [*"ccddee", "o"]
