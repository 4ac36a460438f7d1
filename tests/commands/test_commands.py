"""What each command does, and that it does it once."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from gateway.clock import FakeClock
from gateway.errors import UnavailableError
from gateway.model import Usage
from gateway.processes.settings import ProcessSettings
from gateway.sessions.settings import ResetMode, ResetSettings, SessionSettings
from gateway.turns.settings import TurnSettings
from tests.support.commands import ADMIN, open_door
from tests.support.state import START, key_of
from tests.support.turns import Gate, PlayedAgent, answer, echo, reply_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent
    from gateway.model import Message

KEY = key_of()
NEW = "A new conversation begins. /undo brings the earlier one back."
STOPPED = "Stopped. This conversation is paused; /resume lets it go on."


@pytest.mark.parametrize("text", ["/new", "/reset"])
async def test_new_begins_a_conversation_and_undo_brings_the_old_one_back(
    tmp_path: Path, text: str
) -> None:
    agent = PlayedAgent(echo)
    async with open_door(tmp_path / "state", agent) as bench:
        first = await bench.say("hello")

        reply = await bench.say(text)

        assert (reply.status, reply.text) == ("command", NEW)
        assert bench.turns.entry().session_id == reply.session_id != first.session_id
        assert len(agent.contexts) == 1, "a command is no matter of the agent"
        fresh = await bench.say("hello again")
        assert [message.text for message in agent.contexts[-1]] == ["hello again"]
        assert fresh.session_id == reply.session_id

        back = await bench.say("/undo")
        assert back.text == "Back in the conversation of 2026-01-01 00:00 UTC."
        assert bench.turns.entry().session_id == first.session_id
        await bench.say("where were we?")
        assert [m.text for m in agent.contexts[-1]] == ["hello", "re: hello", "where were we?"]


async def test_what_cannot_be_brought_back_is_told_in_a_sentence(tmp_path: Path) -> None:
    async with open_door(tmp_path / "state") as bench:
        await bench.say("hello")

        back = await bench.say("/undo")

        assert back.text == "There is no earlier conversation to bring back."


async def test_an_admin_is_told_whose_session_something_was_done_to(tmp_path: Path) -> None:
    async with open_door(tmp_path / "state") as bench:
        first = await bench.say("hello")

        reply = await bench.say(f"/new {KEY}", chat_id=ADMIN, user_id=ADMIN)
        told = await bench.say(f"/status {KEY}", chat_id=ADMIN, user_id=ADMIN)

        assert reply.text == f"{KEY}\n{NEW}"
        assert told.text.startswith(f"{KEY}\nConversation ")
        assert bench.turns.entry().session_id != first.session_id


@pytest.mark.parametrize("text", ["/new", "/stop", "/status", "/compact", "/resume", "/sessions"])
async def test_without_a_conversation_there_is_nothing_to_command(
    tmp_path: Path, text: str
) -> None:
    async with open_door(tmp_path / "state") as bench:
        reply = await bench.say(text)

        assert reply.text == "There is no conversation yet; your next message begins one."
        assert len(bench.turns.state.store) == 0


async def test_a_command_that_comes_again_is_not_done_again(tmp_path: Path) -> None:
    async with open_door(tmp_path / "state") as bench:
        await bench.say("hello")
        first = await bench.say("/new", message_id="m1")

        again = await bench.submit("/new", message_id="m1")

        assert again.duplicate
        assert await reply_of(again) == first
        assert bench.turns.entry().session_id == first.session_id

    async with open_door(tmp_path / "state") as bench:
        again = await bench.submit("/new", message_id="m1")
        assert again.duplicate
        assert await reply_of(again) == first


async def test_the_same_command_twice_at_once_is_done_once(tmp_path: Path) -> None:
    async with open_door(tmp_path / "state") as bench:
        await bench.say("hello")
        replies = []

        async def say() -> None:
            replies.append(await bench.say("/new", message_id="m1"))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(say)

        assert len({reply.session_id for reply in replies}) == 1
        assert await bench.turns.count("sessions") == 2


async def test_the_same_summary_twice_at_once_is_made_once(tmp_path: Path) -> None:
    agent = PlayedAgent(echo, summarise=lambda _: "They talked.")
    async with open_door(tmp_path / "state", agent) as bench:
        for letter in "abcde":
            await bench.say(letter * 2_000)
        texts = []

        async def say() -> None:
            texts.append((await bench.say("/compact", message_id="m1")).text)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(say)

        assert len(set(texts)) == len(agent.asked) == 1
        assert texts[0].startswith("2 turns are summarised")


async def test_stop_works_while_a_turn_runs_and_pauses(tmp_path: Path) -> None:
    gate = Gate()
    async with open_door(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        running, waiting = await bench.submit("one"), await bench.submit("two")
        await gate.reached("one")

        assert (await bench.say("/stop")).text == STOPPED

        for ticket in (running, waiting):
            assert (await reply_of(ticket)).status == "interrupted"
        entry = bench.turns.entry()
        assert (entry.suspended_at, entry.suspended_by) == (START, "user")
        paused = await bench.say("three")
        assert paused.status == "paused"
        assert paused.text.endswith("your message was not kept. /resume lets it go on.")

        assert (await bench.say("/resume")).text == "It goes on."
        gate.open("three")
        assert (await bench.say("three")).text == "re: three"
        assert (await bench.say("/resume")).text == "This conversation is not paused."


async def test_the_next_message_resumes_where_that_is_configured(tmp_path: Path) -> None:
    settings = SessionSettings(message_resumes=True)
    async with open_door(tmp_path / "state", sessions=settings) as bench:
        first = await bench.say("hello")
        await bench.say("/stop")

        reply = await bench.say("on we go")

        assert (reply.text, reply.session_id) == ("re: on we go", first.session_id)
        assert bench.turns.entry().suspended_at is None


async def test_what_an_operator_paused_no_user_resumes(tmp_path: Path) -> None:
    async with open_door(
        tmp_path / "state", sessions=SessionSettings(message_resumes=True)
    ) as bench:
        await bench.say("hello")
        await bench.turns.state.store.suspend(KEY)
        held = "It is paused by the operator; an admin can let it go on."

        assert (await bench.say("/resume")).text == held
        assert (await bench.say("/new")).text == f"{NEW} {held}"
        assert (await bench.say("hello")).status == "paused"
        assert (await bench.say("/stop")).text.endswith(
            "The operator has paused this conversation."
        )
        assert bench.turns.entry().suspended_by == "operator"


async def test_a_new_conversation_ends_the_users_own_pause(tmp_path: Path) -> None:
    async with open_door(tmp_path / "state") as bench:
        await bench.say("hello")
        await bench.say("/stop")

        assert (await bench.say("/new")).text == NEW
        assert (await bench.say("hello")).text == "re: hello"


async def test_a_paused_conversation_is_kept_by_reset_and_prune(tmp_path: Path) -> None:
    idle = SessionSettings(reset=ResetSettings(mode=ResetMode.IDLE, idle_minutes=60))
    clock = FakeClock()
    async with open_door(tmp_path / "state", sessions=idle, clock=clock) as bench:
        first = await bench.say("hello")
        await bench.say("/stop")
        await clock.advance(timedelta(days=200).total_seconds())

        report = await bench.turns.state.store.prune_old_entries(90)
        assert (report.pruned, report.kept_by_reason) == (0, {"suspended": 1})
        assert (await bench.say("hello?")).status == "paused"
        assert bench.turns.entry().session_id == first.session_id


async def test_sessions_lists_the_conversations_and_resume_goes_on_with_one(
    tmp_path: Path,
) -> None:
    agent, clock = PlayedAgent(echo), FakeClock()
    async with open_door(tmp_path / "state", agent, clock=clock) as bench:
        first = await bench.say("hello")
        await clock.advance(120)
        second = await bench.say("/new")

        assert (await bench.say("/sessions")).text.splitlines() == [
            f"{second.session_id}: since 2026-01-01 00:02 UTC, this one",
            f'{first.session_id}: since 2026-01-01 00:00 UTC, left for a new one: "hello"',
            "/resume with the last characters of an id goes on with it.",
        ]
        back = await bench.say(f"/resume {first.session_id[-6:]}")
        assert back.text.startswith("Back in the conversation of 2026-01-01 00:00 UTC.")
        await bench.say("again")
        assert [m.text for m in agent.contexts[-1]] == ["hello", "re: hello", "again"]

        assert "goes on here" in (await bench.say(f"/resume {first.session_id}")).text
        assert "no conversation here" in (await bench.say("/resume abcdefgh")).text
        await bench.say("/undo")
        assert bench.turns.entry().session_id == second.session_id


async def test_nobody_resumes_the_conversation_of_somebody_else(tmp_path: Path) -> None:
    async with open_door(tmp_path / "state") as bench:
        await bench.say("hello")
        theirs = await bench.say("secret", chat_id="bob")
        await bench.say("/new", chat_id="bob")

        reply = await bench.say(f"/resume {theirs.session_id}")

        assert "no conversation here" in reply.text
        assert theirs.session_id not in (await bench.say("/sessions")).text


async def test_status_tells_what_was_measured_when_and_how(tmp_path: Path) -> None:
    clock = FakeClock()

    async def counted(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        usage = Usage(input_tokens=20_000, output_tokens=500, cache_read_tokens=10_000)
        for event in answer(f"re: {messages[-1].text}", usage):
            yield event

    idle = SessionSettings(reset=ResetSettings(mode=ResetMode.IDLE, idle_minutes=60))
    agent = PlayedAgent(counted)
    async with open_door(tmp_path / "state", agent, sessions=idle, clock=clock) as bench:
        first = await bench.say("hello")
        await bench.idle(KEY)
        await clock.advance(180)

        since = "1 turn since 2026-01-01 00:00 UTC, agent main (played)"
        assert (await bench.say("/status")).text.splitlines() == [
            f"Conversation {first.session_id}: {since}",
            "Context: 30,000 of 200,000 tokens (15 %), counted by the provider 3 min ago",
            "Used: 30,500 tokens (1 request without a price)",
            "Cache: warm for 2 min",
            "Running: nothing",
            "Next reset: with a message after 2026-01-01 01:00 UTC",
        ]
        await clock.advance(3_600)
        told = (await bench.say("/status")).text
        assert "counted by the provider 1 h ago" in told
        assert "Cache: cold" in told
        assert "Next reset: with the next message" in told


async def test_status_works_while_a_turn_runs_and_tells_so(tmp_path: Path) -> None:
    gate = Gate()
    async with open_door(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        tickets = [await bench.submit(text) for text in ("one", "two")]
        await gate.reached("one")

        told = (await bench.say("/status")).text

        assert "Running: an answer is being made, 1 message waiting" in told
        assert "Context: not measured yet" in told
        gate.open("one", "two")
        for ticket in tickets:
            await reply_of(ticket)


async def test_what_is_not_understood_is_answered_with_how_it_is_used(tmp_path: Path) -> None:
    async with open_door(tmp_path / "state") as bench:
        first = await bench.say("hello")

        assert (await bench.say("/new please")).text == (
            "Not understood. It is used like this: /new"
        )
        assert bench.turns.entry().session_id == first.session_id


async def test_commands_count_against_the_rates(tmp_path: Path) -> None:
    settings = TurnSettings(messages_per_minute=2)
    async with open_door(tmp_path / "state", settings=settings) as bench:
        await bench.say("/help")
        await bench.say("/help", message_id="m2")
        with pytest.raises(Exception, match="More than 2 messages a minute"):
            await bench.say("/help")
        assert (await bench.submit("/help", message_id="m2")).duplicate


async def test_while_the_gateway_stops_nothing_is_commanded(tmp_path: Path) -> None:
    async with open_door(tmp_path / "state") as bench:
        first = await bench.say("hello")
        await bench.turns.turns.drain()

        with pytest.raises(UnavailableError):
            await bench.say("/new")
        assert bench.turns.entry().session_id == first.session_id


@pytest.mark.parametrize("steps", range(12))
async def test_a_caller_that_leaves_takes_half_of_nothing_back(tmp_path: Path, steps: int) -> None:
    gate = Gate()
    async with open_door(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        running = await bench.submit("one")
        await gate.reached("one")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bench.submit, "/stop")
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

        stopped = bench.turns.entry().suspended_at is not None
        if not stopped:
            gate.open("one")
        assert (await reply_of(running)).status == ("interrupted" if stopped else "ok")


async def test_bg_starts_a_process_ps_shows_it_and_it_keeps_the_session(tmp_path: Path) -> None:
    settings = ProcessSettings(enabled=True, bg="everybody", shell=["/bin/sh", "-c"])  # noqa: S604 - what is tested
    async with open_door(tmp_path / "state", processes=settings) as bench:
        await bench.say("hello")
        assert (await bench.say("/ps")).text.startswith("Nothing runs in the background")

        started = await bench.say("/bg cat; echo done", message_id="m1")

        assert started.text.startswith("Started as p-")
        assert (await bench.submit("/bg cat; echo done", message_id="m1")).duplicate
        (record,) = await bench.processes.list()
        told = (await bench.say("/ps")).text
        assert told.startswith(f"{record.process_id}: runs for ")
        assert "keeps this conversation" in told
        assert "1 process in the background" in (await bench.say("/status")).text
        assert "/bg COMMAND" in (await bench.say("/help")).text
        assert record.process_id not in (await bench.say("/ps", chat_id="bob")).text
        elsewhere = await bench.say(f"/ps stop {record.process_id}", chat_id="bob")
        assert elsewhere.text == "There is no process with this id."
        assert (await bench.say("/ps end")).text.startswith("Not understood.")
        stopped = await bench.say(f"/ps stop {record.process_id}")
        assert stopped.text == f"{record.process_id} was stopped."
        assert "was stopped" in (await bench.say("/ps")).text


async def test_bg_is_for_admins_alone_unless_everybody_may(tmp_path: Path) -> None:
    settings = ProcessSettings(enabled=True)
    async with open_door(tmp_path / "state", processes=settings) as bench:
        await bench.say("hello")

        assert (await bench.say("/bg true")).text == "Only admins may start commands here."
        assert await bench.processes.list() == ()


async def test_bg_is_off_unless_configured(tmp_path: Path) -> None:
    async with open_door(tmp_path / "state", processes=ProcessSettings(bg="everybody")) as bench:
        await bench.say("hello")

        assert "are off" in (await bench.say("/bg true")).text
        assert "are off" in (await bench.say("/ps")).text
        assert "Cache: unknown" in (await bench.say("/status")).text
        assert "Used: nothing was counted" in (await bench.say("/status")).text
        assert "/bg" not in (await bench.say("/help")).text
