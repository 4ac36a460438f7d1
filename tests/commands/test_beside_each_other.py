"""Laws of commands and turns beside each other: other people's sessions, rates, what is told."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from gateway.access.settings import AccessSettings
from gateway.clock import FakeClock
from gateway.errors import AgentError, BusyError
from gateway.model import Inbound, Usage
from gateway.processes.settings import ProcessSettings
from gateway.retention.erasing import erase
from gateway.sessions.key import session_key
from gateway.sessions.settings import ResetMode, ResetSettings, SessionSettings
from gateway.turns.budgets import BudgetSettings
from gateway.turns.reports import MAX_UNASKED
from gateway.turns.settings import Busy, Interrupted, TurnSettings
from tests.support.commands import open_door, source_of
from tests.support.state import key_of
from tests.support.turns import MAIN, Gate, PlayedAgent, answer, echo, reply_of, running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent
    from gateway.model import Message, SessionKey, SessionSource
    from tests.support.commands import DoorBench

KEY = key_of()
DAY_S = timedelta(days=1).total_seconds()
HOURLY = SessionSettings(reset=ResetSettings(mode=ResetMode.IDLE, idle_minutes=60))
CHAT = AccessSettings.model_validate(
    {"admins": ["chat:root"], "platforms": {"chat": {"allow_users": ["*"]}}}
)
EVERYBODY = ProcessSettings(enabled=True, bg="everybody")


def _dm(user: str) -> SessionSource:
    return source_of(platform="chat", chat_id=user, user_id=user, user_name=user.title())


def _key(source: SessionSource) -> SessionKey:
    return session_key(source, MAIN, SessionSettings())


async def _say(bench: DoorBench, user: str, text: str, message_id: str = "") -> str:
    ticket = await bench.door.submit(Inbound(_dm(user), text, message_id))
    return (await reply_of(ticket)).text


async def _reported(bench: DoorBench, process_id: str) -> None:
    with anyio.fail_after(30):
        while (await bench.processes.get(process_id)).reported_at is None:
            await anyio.lowlevel.checkpoint()


async def test_an_admins_summary_of_another_session_touches_nothing_else_of_it(
    tmp_path: Path,
) -> None:
    agent = PlayedAgent(echo, summarise=lambda _: "They talked.")
    clock = FakeClock()
    async with open_door(
        tmp_path / "state", agent, access=CHAT, sessions=HOURLY, clock=clock
    ) as bench:
        for letter in "abcde":
            await _say(bench, "ann", letter * 2_000, f"m-{letter}")
        key = _key(_dm("ann"))
        before = bench.turns.state.store.get(key)
        assert before is not None
        await clock.advance(3 * DAY_S)

        told = await _say(bench, "root", f"/compact {key}", "m-a")

        # Its own answer, though ann has a message of that id, and no reset though one is due.
        assert told.startswith("2 turns are summarised")
        after = bench.turns.state.store.get(key)
        assert after is not None
        same = ("session_id", "source", "display_name", "updated_at", "turns")
        assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
        # And a message of ann with the admin's id is one of hers.
        assert (await _say(bench, "root", f"/compact {key}", "m-z")).startswith("Nothing")
        assert (await _say(bench, "ann", "hello", "m-z")).endswith("re: hello")


async def test_stop_is_never_refused_for_having_written_too_much(tmp_path: Path) -> None:
    gate, settings = Gate(), TurnSettings(messages_per_minute=3)
    async with open_door(tmp_path / "state", PlayedAgent(gate.play), settings=settings) as bench:
        tickets = [await bench.submit(text) for text in ("one", "two", "three")]
        await gate.reached("one")
        with pytest.raises(BusyError):
            await bench.say("/status")

        assert (await bench.say("/stop")).text.startswith("Stopped.")
        assert {(await reply_of(ticket)).status for ticket in tickets} == {"interrupted"}


async def test_a_summary_counts_once_against_the_rates(tmp_path: Path) -> None:
    agent, settings = PlayedAgent(echo), TurnSettings(messages_per_minute=2)
    async with open_door(tmp_path / "state", agent, settings=settings) as bench:
        await bench.say("hello")

        assert (await bench.say("/compact")).status == "command"
        with pytest.raises(BusyError):
            await bench.say("hello")


async def test_a_user_whose_budget_is_used_up_gets_no_summary(tmp_path: Path) -> None:
    async def counted(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        for event in answer(f"re: {messages[-1].text}", Usage(input_tokens=100)):
            yield event

    agent = PlayedAgent(counted, summarise=lambda _: "short")
    async with open_door(tmp_path / "state", agent) as bench:
        for letter in "abcde":
            await bench.say(letter * 2_000)
        bench.turns.turns.budgets.settings = BudgetSettings(session_tokens=100)

        assert "Please start a new one" in (await bench.say("/compact")).text
        assert agent.asked == []


async def test_whoever_resumes_goes_on_where_they_were(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_door(tmp_path / "state", sessions=HOURLY, clock=clock) as bench:
        first = await bench.say("hello")
        await bench.say("/stop")
        await clock.advance(100 * DAY_S)
        assert "Next reset: not while it is paused" in (await bench.say("/status")).text

        assert (await bench.say("/resume")).text == "It goes on."

        assert (await bench.turns.state.store.prune_old_entries(90)).pruned == 0
        again = await bench.say("where were we?")
        assert (again.session_id, again.reset) == (first.session_id, None)


async def test_messages_to_a_paused_session_count_against_the_rates(tmp_path: Path) -> None:
    settings = TurnSettings(messages_per_minute=2)
    async with open_door(tmp_path / "state", settings=settings) as bench:
        await bench.say("hello")
        await bench.turns.state.store.suspend(KEY)
        assert (await bench.say("hello?")).status == "paused"

        with pytest.raises(BusyError):
            await bench.say("hello??")


async def test_who_interrupts_is_not_told_to_wait(tmp_path: Path) -> None:
    gate, settings = Gate(), TurnSettings(busy=Busy.INTERRUPT)
    async with open_door(tmp_path / "state", PlayedAgent(gate.play), settings=settings) as bench:
        await bench.submit("one")
        await gate.reached("one")

        receipt = await bench.door.receive(Inbound(source_of(), "two"))

        assert (receipt.accepted, receipt.text) == (True, "")


@pytest.mark.parametrize("busy", [Busy.REFUSE, Busy.INTERRUPT])
async def test_messages_at_the_same_instant_keep_to_busy(tmp_path: Path, busy: Busy) -> None:
    gate, settings = Gate(), TurnSettings(busy=busy)
    refused, tickets = [], []
    async with open_door(tmp_path / "state", PlayedAgent(gate.play), settings=settings) as bench:

        async def send(text: str) -> None:
            try:
                tickets.append(await bench.submit(text))
            except BusyError:
                refused.append(text)

        async with anyio.create_task_group() as tasks:
            for text in "abcde":
                tasks.start_soon(send, text)
        gate.open(*"abcde")

        statuses = [(await reply_of(ticket)).status for ticket in tickets]
        if busy is Busy.REFUSE:
            assert (len(refused), statuses) == (4, ["ok"])
        else:
            assert sorted(statuses) == ["interrupted"] * 4 + ["ok"]


async def test_only_what_has_begun_counts_as_begun(tmp_path: Path) -> None:
    tell, gate = TurnSettings(interrupted=Interrupted.TELL), Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play), settings=tell) as bench:
        async with anyio.create_task_group() as tasks:
            for text in "abcde":
                tasks.start_soon(bench.submit, text)
        while not gate.began:
            await anyio.lowlevel.checkpoint()
        assert sum(row.begun for row in await bench.unfinished()) <= 1
        (first,) = gate.began

    agent = PlayedAgent(echo)
    async with running_turns(tmp_path / "state", agent, settings=tell) as bench:
        await bench.say("and now?")
        asked = [messages[-1].text for messages in agent.contexts]
        assert sorted(asked) == sorted([*(set("abcde") - {first}), "and now?"])


async def test_over_all_sessions_only_as_many_have_begun_as_can_run(tmp_path: Path) -> None:
    gate, settings = Gate(), TurnSettings(max_running=2)
    async with running_turns(
        tmp_path / "state", PlayedAgent(gate.play), settings=settings
    ) as bench:
        async with anyio.create_task_group() as tasks:
            for chat in "abcde":
                tasks.start_soon(bench.submit, chat, chat)
        while len(gate.began) < 2:
            await anyio.lowlevel.checkpoint()

        assert sorted(row.text for row in await bench.unfinished() if row.begun) == sorted(
            gate.began
        )


async def test_bg_that_cannot_start_says_so_also_when_it_is_asked_again(tmp_path: Path) -> None:
    settings = ProcessSettings(enabled=True, bg="everybody", runner=tmp_path / "no-runner")
    async with open_door(tmp_path / "state", processes=settings) as bench:
        await bench.say("hello")

        receipt = await bench.door.receive(Inbound(source_of(), "/bg true", "m1"))

        assert receipt.accepted, "it is settled: the platform must not hand it over again"
        told = (await bench.say("/bg true", message_id="m1")).text
        assert told.startswith("It could not be started: ")


@pytest.mark.parametrize("ending", ["fails", "stopped", "interrupted"])
async def test_a_result_reaches_its_user_also_where_no_agent_tells_it(
    tmp_path: Path, ending: str
) -> None:
    gate = Gate()

    async def fails_later(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        if "[Background process" in messages[-1].text:
            gate.began.append("it")
            if ending == "fails":
                raise AgentError("no")

            await anyio.sleep_forever()
        for event in answer("fine"):
            yield event

    replies = []
    settings = TurnSettings(busy=Busy.INTERRUPT)
    async with open_door(
        tmp_path / "state", PlayedAgent(fails_later), processes=EVERYBODY, settings=settings
    ) as bench:
        await bench.say("hello")
        bench.turns.turns.hooks.on_begun = lambda _row, progress: replies.append(progress)
        await bench.say("/bg echo the-result")
        with anyio.fail_after(30):
            while not gate.began:
                await anyio.lowlevel.checkpoint()
            if ending == "stopped":
                await bench.say("/stop")
            elif ending == "interrupted":
                await bench.say("something else")
            reply = await replies[0].reply()

        assert reply.status == ("failed" if ending == "fails" else "interrupted")
        assert reply.text.startswith("[Background process p-")
        assert "the-result" in reply.text


async def test_a_result_for_a_session_that_is_gone_is_sent_all_the_same(tmp_path: Path) -> None:
    async with open_door(tmp_path / "state", processes=EVERYBODY, access=CHAT) as bench:
        await _say(bench, "ann", "hello")
        await _say(bench, "ann", "/bg cat")
        (record,) = await bench.processes.list()
        await bench.turns.state.store.remove(_key(_dm("ann")))

        await bench.processes.write(record.process_id, "done\n", last=True)
        await _reported(bench, record.process_id)

        owed = await bench.turns.state.database.read(
            lambda conn: conn.execute(
                "SELECT reply FROM outbox WHERE message_id LIKE '%process:%'"
            ).fetchall()
        )
        assert len(owed) == 1
        assert "done" in str(owed[0])


async def test_a_result_is_no_turn_of_a_conversation_that_knows_nothing_of_it(
    tmp_path: Path,
) -> None:
    agent = PlayedAgent(echo)
    async with open_door(tmp_path / "state", agent, processes=EVERYBODY) as bench:
        first = await bench.say("hello")
        await bench.say("/bg cat")
        (record,) = await bench.processes.list()
        await bench.say("/new")

        await bench.processes.write(record.process_id, "done\n", last=True)
        await _reported(bench, record.process_id)

        assert len(agent.contexts) == 1
        assert (await bench.turns.said(first.session_id))[-1][0] == "notice"
        assert await bench.turns.said() == []


async def test_processes_that_start_each_other_keep_no_agent_busy_without_end(
    tmp_path: Path,
) -> None:
    agent, settings = PlayedAgent(echo), TurnSettings(messages_per_minute=3)
    async with open_door(
        tmp_path / "state", agent, processes=EVERYBODY, settings=settings
    ) as bench:
        await bench.say("hello")
        for number in range(4):
            caller = bench.caller(KEY)
            record = await bench.processes.start(caller, ["echo", str(number)])
            await _reported(bench, record.process_id)
        await bench.idle(KEY)

        assert len(agent.contexts) == 3, "one message and two results in a minute"
        told = [text for role, text in await bench.turns.said() if role == "notice"]
        assert len(told) == 2


async def test_five_results_in_a_row_are_turns_and_no_more_until_the_user_writes(
    tmp_path: Path,
) -> None:
    agent = PlayedAgent(echo)
    async with open_door(tmp_path / "state", agent, processes=EVERYBODY) as bench:
        await bench.say("hello")

        async def ends() -> None:
            record = await bench.processes.start(bench.caller(KEY), ["true"])
            await _reported(bench, record.process_id)

        for _ in range(MAX_UNASKED + 2):
            await ends()
        await bench.idle(KEY)
        assert len(agent.contexts) == 1 + MAX_UNASKED
        assert [role for role, _ in await bench.turns.said()].count("notice") == 2

        await bench.say("go on")
        await ends()
        await bench.idle(KEY)
        assert len(agent.contexts) == 3 + MAX_UNASKED


async def test_what_was_counted_in_a_turn_that_was_left_is_there_after_the_way_back(
    tmp_path: Path,
) -> None:
    gate = Gate()

    async def counted(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        for event in answer("fine", Usage(input_tokens=1_000)):
            yield event
        if messages[-1].text == "two":
            gate.began.append("two")
            await anyio.sleep_forever()

    async with open_door(tmp_path / "state", PlayedAgent(counted)) as bench:
        await bench.say("one")
        two = await bench.submit("two")
        while not gate.began:
            await anyio.lowlevel.checkpoint()
        await bench.say("/new")
        assert (await reply_of(two)).status == "interrupted"

        await bench.say("/undo")

        entry = bench.turns.entry()
        assert (entry.turns, entry.total_tokens) == (2, 2_000)


async def test_an_erased_session_is_in_no_table(tmp_path: Path) -> None:
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        await bench.submit("one")
        await gate.reached("one")
    async with running_turns(tmp_path / "state") as bench:
        assert await bench.count("broken_starts") == 1
        await bench.state.store.remove(KEY)
        await erase(bench.state.database, bench.state.store, KEY)
        assert await bench.count("broken_starts") == 0


async def test_help_offers_what_one_may_and_no_more(tmp_path: Path) -> None:
    settings = ProcessSettings(enabled=True)
    async with open_door(tmp_path / "state", processes=settings) as bench:
        told = (await bench.say("/help")).text
        assert "/bg" not in told
        assert "/ps" in told
        assert (await bench.say("/new now")).text.endswith("It is used like this: /new")
        admins = (await bench.say("/help", chat_id="root", user_id="root")).text
        assert "/bg COMMAND" in admins
