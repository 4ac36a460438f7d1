"""Laws of approval: the user says yes in the chat, nothing runs before, and nobody else can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.agents.scripted import Reply as Says
from gateway.model import ChatType, Inbound, SessionSource
from gateway.turns.settings import TurnSettings
from tests.support.approving import REFUSED, Mailer, question_of, whole
from tests.support.loops import results, wants
from tests.support.turns import reply_of, running_turns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.agents.scripted import Step
    from gateway.model import Message
    from gateway.turns.ticket import Reply, Ticket
    from tests.support.turns import Bench


async def test_a_tool_runs_once_its_user_has_said_yes_and_all_of_it_is_in_the_reply(
    tmp_path: Path,
) -> None:
    mailer = Mailer(['send {"to": "bob"}'])
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        question = await question_of(ticket)
        assert question == (
            'The agent wants to use the tool send with {"to": "bob"}\n'
            "Answer yes or no within 120 seconds; nothing runs before."
        )
        assert mailer.ran == []
        answered = await bench.say("yes", message_id="a1")
        reply = await whole(ticket)

        assert (answered.status, answered.text) == ("answered", "Yes: the turn goes on with it.")
        assert answered.turn_id != reply.turn_id
        assert (reply.status, mailer.ran) == ("ok", ["send"])
        assert reply.text == f"{question}\n\nsend may be used.\n\nre: mail"
        # The model sees a call and its result, and nothing of the question.
        assert [one.role for one in mailer.looped.sent[-1]] == ["user", "assistant", "tool"]
        assert await bench.said() == [
            ("user", "mail"),
            ("assistant", ""),
            ("notice", question),
            ("notice", "send may be used."),
            ("tool", "yes"),
            ("assistant", "re: mail"),
        ]
        assert bench.entry().turns == 1
        assert await bench.unfinished() == []


@pytest.mark.parametrize("word", ["yes", "Y", " Yes. ", "OK!", "allow", "/approve", "/YES"])
async def test_a_yes_has_many_words(tmp_path: Path, word: str) -> None:
    mailer = Mailer()
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        await question_of(ticket)
        await bench.say(word)

        assert (await whole(ticket)).status == "ok"
        assert mailer.ran == ["send"]


@pytest.mark.parametrize("word", ["no", "N.", "NO!", "deny", "stop", "/no", "/deny"])
async def test_after_a_no_nothing_runs_and_the_model_is_told(tmp_path: Path, word: str) -> None:
    mailer = Mailer()
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        await question_of(ticket)
        answered = await bench.say(word)
        reply = await whole(ticket)

        assert (answered.status, answered.text) == (
            "answered",
            "No: the turn goes on without it.",
        )
        assert reply.text.endswith("\n\nsend was not used.\n\nre: mail")
        assert results(mailer.looped.sent[-1]) == [REFUSED]
        assert mailer.ran == []


async def test_a_message_that_is_no_answer_waits_for_its_turn(tmp_path: Path) -> None:
    mailer = Mailer()
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        await question_of(ticket)
        waiting = [await bench.submit(text) for text in ("why?", "yes, but to carl", "yes yes")]
        assert mailer.ran == []
        assert bench.turns.statistics().waiting == 3
        await bench.say("yes")

        assert (await whole(ticket)).status == "ok"
        assert mailer.ran == ["send"]
        assert [(await reply_of(one)).text for one in waiting] == [
            "re: why?",
            "re: yes, but to carl",
            "re: yes yes",
        ]


async def test_without_an_answer_in_time_nothing_runs_and_a_late_yes_is_a_message(
    tmp_path: Path,
) -> None:
    mailer = Mailer()
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        await question_of(ticket)
        await bench.clock.advance(119)
        assert len(bench.turns.approvals) == 1
        await bench.clock.advance(1)
        reply = await whole(ticket)

        assert reply.status == "ok"
        assert "\n\nNo answer came in time: send was not used.\n\n" in reply.text
        assert results(mailer.looped.sent[-1]) == [REFUSED]
        late = await bench.say("yes")
        assert (late.status, late.text) == ("ok", "re: yes")
        assert (mailer.ran, len(bench.turns.approvals)) == ([], 0)


async def test_the_deadline_counts_on_while_the_user_thinks(tmp_path: Path) -> None:
    mailer = Mailer(["send", "erase"])
    settings = TurnSettings(turn_deadline_s=300, approval_timeout_s=200)
    async with running_turns(tmp_path / "state", mailer.looped.agent, settings=settings) as bench:
        ticket = await bench.submit("mail")
        await question_of(ticket)
        await bench.clock.advance(199)
        await bench.say("yes")
        await question_of(ticket, 2)
        await bench.clock.advance(101)
        reply = await whole(ticket)

        assert reply.status == "deadline"
        assert (mailer.ran, len(bench.turns.approvals)) == ([], 0)
        after = await bench.say("yes")
        assert (after.status, after.text) == ("ok", "re: yes")
        # The calls have results in what is sent, so that the next request is taken.
        assert len(results(mailer.looped.sent[-1])) == 2


def member(user: str) -> SessionSource:
    """Return somebody in a thread that many share."""
    return SessionSource("http", "team", ChatType.THREAD, thread_id="7", user_id=user)


async def say_as(bench: Bench, user: str, text: str) -> Ticket:
    with anyio.fail_after(5):
        return await bench.turns.submit(Inbound(member(user), text))


async def test_only_the_user_whose_turn_it_is_can_answer(tmp_path: Path) -> None:
    mailer = Mailer()
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await say_as(bench, "ann", "mail")
        await question_of(ticket)
        others = await say_as(bench, "bob", "yes")
        elsewhere = await bench.say("yes")
        assert elsewhere.text == "re: yes"
        assert (mailer.ran, len(bench.turns.approvals)) == ([], 1)
        answer = await say_as(bench, "ann", "no")

        assert (await reply_of(answer)).status == "answered"
        assert "send was not used." in (await whole(ticket)).text
        assert (await reply_of(others)).text == "re: yes"
        assert mailer.ran == []


async def test_what_tools_and_models_say_is_never_an_answer(tmp_path: Path) -> None:
    # Each tool here returns `yes`; `look` needs no approval and runs with the others.
    mailer = Mailer(["look", "send"])
    asked = wants("look", "send", text="yes\n\nyes")

    def step(messages: Sequence[Message]) -> Step:
        if not results(messages):
            return wants("look", text="yes")
        if len(results(messages)) == 1:
            return asked

        return Says(("done",))

    mailer.looped.step = step
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        await question_of(ticket)

        # Not even what needs no approval runs before the question is settled.
        assert mailer.ran == ["look"]
        assert len(bench.turns.approvals) == 1
        await bench.clock.advance(120)
        await whole(ticket)
        assert mailer.ran == ["look", "look"]


async def test_two_questions_are_asked_one_after_the_other(tmp_path: Path) -> None:
    mailer = Mailer(["send", "erase", "look"])
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        assert "the tool send" in await question_of(ticket)
        await bench.say("yes")
        assert "the tool erase" in await question_of(ticket, 2)
        assert mailer.ran == []
        await bench.say("no")
        reply = await whole(ticket)

        assert sorted(mailer.ran) == ["look", "send"]
        order = ["the tool send", "send may be", "the tool erase", "erase was not", "re: mail"]
        places = [reply.text.index(text) for text in order]
        assert places == sorted(places)


async def test_an_answer_that_comes_twice_counts_once(tmp_path: Path) -> None:
    mailer = Mailer(["send", "erase"])
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail", message_id="m1")
        await question_of(ticket)
        first = await bench.say("yes", message_id="a1")
        await question_of(ticket, 2)
        again = await bench.submit("yes", message_id="a1")
        assert (again.duplicate, await reply_of(again)) == (True, first)
        # The question itself, sent again as an answer, is still the message it was.
        same = await bench.submit("yes", message_id="m1")
        assert (same.duplicate, same.turn_id) == (True, ticket.turn_id)
        assert len(bench.turns.approvals) == 1
        await bench.say("no", message_id="a2")

        assert (await whole(ticket)).status == "ok"
        assert mailer.ran == ["send"]
        assert await bench.say("yes", message_id="a1") == first
        assert bench.turns.statistics().duplicates == 3
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        assert await bench.say("yes", message_id="a1") == first


async def test_answers_that_come_at_once_are_all_told_what_counts(tmp_path: Path) -> None:
    mailer = Mailer(["send", "erase"])
    replies: list[Reply] = []
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        await question_of(ticket)

        async def say(text: str) -> None:
            replies.append(await reply_of(await bench.submit(text)))

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                for text in ("no", "yes", "no", "yes"):
                    group.start_soon(say, text)
        # None of them is an answer to the question that comes next.
        assert "the tool erase" in await question_of(ticket, 2)
        assert len(bench.turns.approvals) == 1
        assert {(one.status, one.text) for one in replies} == {
            ("answered", "No: the turn goes on without it.")
        }
        await bench.say("no")
        assert "send was not used." in (await whole(ticket)).text
        assert mailer.ran == []


async def test_a_restart_in_the_middle_asks_again(tmp_path: Path) -> None:
    mailer = Mailer()
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail", message_id="m1")
        await question_of(ticket)

    again = Mailer()
    async with running_turns(tmp_path / "state", again.looped.agent) as bench:
        ticket = await bench.submit("mail", message_id="m1")
        assert ticket.duplicate
        await question_of(ticket)
        assert again.ran == []
        await bench.say("yes")
        assert (await whole(ticket)).status == "ok"
    assert (mailer.ran, again.ran) == ([], ["send"])


async def test_a_yes_from_before_a_restart_is_not_one_to_what_is_asked_after_it(
    tmp_path: Path,
) -> None:
    mailer = Mailer(["send", "erase"])
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail", message_id="m1")
        await question_of(ticket)
        await bench.say("yes", message_id="a1")
        await question_of(ticket, 2)

    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail", message_id="m1")
        assert "the tool send" in await question_of(ticket)
        assert (await bench.submit("yes", message_id="a1")).duplicate
        assert len(bench.turns.approvals) == 1
        await bench.clock.advance(120)
        await question_of(ticket, 2)
        await bench.clock.advance(120)
        assert (await whole(ticket)).status == "ok"
    assert mailer.ran == []


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        pytest.param("{}", "with {}\n", id="none"),
        pytest.param('{"to":\n\n   "bob"}', 'with {"to": "bob"}\n', id="on-one-line"),
        pytest.param(f'{{"x": "{"y" * 991}"}}', f'{"y" * 991}"}}\n', id="just-whole"),
        pytest.param(
            f'{{"x": "{"y" * 5_000}"}}',
            f'with {{"x": "{"y" * 993} ... (4009 more characters)\n',
            id="long",
        ),
    ],
)
async def test_a_question_shows_what_the_tool_would_be_called_with_as_far_as_is_readable(
    tmp_path: Path, arguments: str, shown: str
) -> None:
    mailer = Mailer([f"send {arguments}"])
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        question = await question_of(ticket)

        assert shown in question
        assert len(question) < 1_250
        await bench.say("no")
        await whole(ticket)


async def test_a_stop_withdraws_the_question(tmp_path: Path) -> None:
    mailer = Mailer()
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        await question_of(ticket)
        bench.turns.stop()
        with anyio.fail_after(5):
            await ticket.progress.ended()
        await anyio.wait_all_tasks_blocked()

        assert len(bench.turns.approvals) == 0
        assert [row.text for row in await bench.unfinished()] == ["mail"]
    assert mailer.ran == []
