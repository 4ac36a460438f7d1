"""Laws of approval: the user says yes in the chat, nothing runs before, and nobody else can."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import anyio
import pytest
from structlog.testing import capture_logs

from gateway.agents.scripted import Reply as Says
from gateway.errors import BusyError
from gateway.model import ChatType, Inbound, SessionSource
from gateway.turns.settings import TurnSettings
from tests.support.approving import REFUSED, Mailer, question_of, whole, yes_to
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
            f'Answer "yes {question.number}" or "no" within 120 seconds; nothing runs before.'
        )
        assert re.fullmatch(r"[1-9][0-9]{3}", question.number)
        assert mailer.ran == []
        answered = await bench.say(f"yes {question.number}", message_id="a1")
        reply = await whole(ticket)

        assert (answered.status, answered.text) == ("answered", "Yes: the turn goes on with it.")
        assert answered.turn_id != reply.turn_id
        assert (reply.status, mailer.ran) == ("ok", ["send"])
        assert reply.text == f"{question}\n\nsend may be used (allowed by alice).\n\nre: mail"
        # The model sees a call and its result, and nothing of the question.
        assert [one.role for one in mailer.looped.sent[-1]] == ["user", "assistant", "tool"]
        assert await bench.said() == [
            ("user", "mail"),
            ("assistant", ""),
            ("notice", question),
            ("notice", "send may be used (allowed by alice)."),
            ("tool", "yes"),
            ("assistant", "re: mail"),
        ]
        assert bench.entry().turns == 1
        assert await bench.unfinished() == []


@pytest.mark.parametrize(
    "words",
    ["yes {}", "Y {}", " Yes  {}. ", "OK, {}!", "allow {}", "/approve {}", "/YES {}", '"yes {}"'],
)
async def test_a_yes_has_many_words(tmp_path: Path, words: str) -> None:
    mailer = Mailer()
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        await bench.say(words.format((await question_of(ticket)).number))

        assert (await whole(ticket)).status == "ok"
        assert mailer.ran == ["send"]


@pytest.mark.parametrize(
    "words", ["no", "N.", "NO!", "deny", "stop", "/no", "/deny", "no {}", "Deny: {}."]
)
async def test_after_a_no_nothing_runs_and_the_model_is_told(tmp_path: Path, words: str) -> None:
    mailer = Mailer()
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        answered = await bench.say(words.format((await question_of(ticket)).number))
        reply = await whole(ticket)

        assert (answered.status, answered.text) == (
            "answered",
            "No: the turn goes on without it.",
        )
        assert reply.text.endswith("\n\nsend was not used (refused by alice).\n\nre: mail")
        assert results(mailer.looped.sent[-1]) == [REFUSED]
        assert mailer.ran == []


async def test_a_message_that_is_no_answer_waits_for_its_turn(tmp_path: Path) -> None:
    mailer = Mailer()
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        yes = await yes_to(ticket)
        texts = ("why?", "yes, but to carl", "yes yes", yes.removeprefix("yes "), f"{yes} now")
        waiting = [await bench.submit(text) for text in texts]
        assert mailer.ran == []
        assert bench.turns.statistics().waiting == 5
        await bench.say(yes)

        assert (await whole(ticket)).status == "ok"
        assert mailer.ran == ["send"]
        assert [(await reply_of(one)).text for one in waiting] == [f"re: {text}" for text in texts]


async def test_without_an_answer_in_time_nothing_runs_and_a_late_yes_is_a_message(
    tmp_path: Path,
) -> None:
    mailer = Mailer()
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        yes = await yes_to(ticket)
        await bench.clock.advance(119)
        assert len(bench.turns.approvals) == 1
        await bench.clock.advance(1)
        reply = await whole(ticket)

        assert reply.status == "ok"
        assert "\n\nNo answer came in time: send was not used.\n\n" in reply.text
        assert results(mailer.looped.sent[-1]) == [REFUSED]
        late = await bench.say(yes)
        assert (late.status, late.text) == ("ok", f"re: {yes}")
        assert (mailer.ran, len(bench.turns.approvals)) == ([], 0)


async def test_the_deadline_counts_on_while_the_user_thinks(tmp_path: Path) -> None:
    mailer = Mailer(["send", "erase"])
    settings = TurnSettings(turn_deadline_s=300, approval_timeout_s=200)
    async with running_turns(tmp_path / "state", mailer.looped.agent, settings=settings) as bench:
        ticket = await bench.submit("mail")
        yes = await yes_to(ticket)
        await bench.clock.advance(199)
        await bench.say(yes)
        second = await yes_to(ticket, 2)
        await bench.clock.advance(101)
        reply = await whole(ticket)

        assert reply.status == "deadline"
        assert (mailer.ran, len(bench.turns.approvals)) == ([], 0)
        after = await bench.say(second)
        assert (after.status, after.text) == ("ok", f"re: {second}")
        # The calls have results in what is sent, so that the next request is taken.
        assert len(results(mailer.looped.sent[-1])) == 2


def member(user: str) -> SessionSource:
    """Return somebody in a thread that many share."""
    return SessionSource("http", "team", ChatType.THREAD, thread_id="7", user_id=user)


async def say_as(bench: Bench, user: str, text: str) -> Ticket:
    with anyio.fail_after(30):
        return await bench.turns.submit(Inbound(member(user), text))


async def test_only_the_user_whose_turn_it_is_can_answer(tmp_path: Path) -> None:
    mailer = Mailer()
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await say_as(bench, "ann", "mail")
        yes = await yes_to(ticket)
        others = await say_as(bench, "bob", yes)
        elsewhere = await bench.say(yes)
        assert elsewhere.text == f"re: {yes}"
        assert (mailer.ran, len(bench.turns.approvals)) == ([], 1)
        answer = await say_as(bench, "ann", "no")

        assert (await reply_of(answer)).status == "answered"
        assert "send was not used (refused by ann)." in (await whole(ticket)).text
        assert (await reply_of(others)).text == f"re: {yes}"
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
        await bench.say(await yes_to(ticket))
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
        yes = await yes_to(ticket)
        first = await bench.say(yes, message_id="a1")
        await question_of(ticket, 2)
        again = await bench.submit(yes, message_id="a1")
        assert (again.duplicate, await reply_of(again)) == (True, first)
        # The question itself, sent again as an answer, is still the message it was.
        same = await bench.submit(await yes_to(ticket, 2), message_id="m1")
        assert (same.duplicate, same.turn_id) == (True, ticket.turn_id)
        assert len(bench.turns.approvals) == 1
        await bench.say("no", message_id="a2")

        assert (await whole(ticket)).status == "ok"
        assert mailer.ran == ["send"]
        assert await bench.say(yes, message_id="a1") == first
        assert bench.turns.statistics().duplicates == 3
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        assert await bench.say(yes, message_id="a1") == first


async def test_a_double_tap_does_not_answer_the_question_that_comes_next(tmp_path: Path) -> None:
    mailer = Mailer(["send", "erase"])
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        yes = await yes_to(ticket)
        await bench.say(yes)
        asked = await question_of(ticket, 2)
        again = await bench.say(yes)

        # They are told what is asked now, and nothing is settled.
        assert (again.status, again.text) == ("answered", asked.strip())
        assert len(bench.turns.approvals) == 1
        await bench.clock.advance(120)
        assert "No answer came in time: erase was not used." in (await whole(ticket)).text
        assert mailer.ran == ["send"]


@pytest.mark.parametrize("words", ["yes", "OK!", "/approve", "yes {}", "no {}"])
async def test_an_answer_without_the_number_of_the_question_settles_nothing_and_is_asked_again(
    tmp_path: Path, words: str
) -> None:
    mailer = Mailer(['send {"to": "bob"}'])
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        asked = await question_of(ticket)
        other = "1000" if asked.number != "1000" else "1001"
        await bench.clock.advance(30.5)
        told = await bench.say(words.format(other), message_id="a1")
        await bench.clock.advance(10)

        # The time is what was left when they were told.
        assert told.status == "answered"
        assert told.text == asked.replace("within 120 seconds", "within 89 seconds")
        assert await bench.say(words.format(other), message_id="a1") == told
        assert (mailer.ran, len(bench.turns.approvals)) == ([], 1)
        await bench.say(f"yes {asked.number}")
        assert (await whole(ticket)).status == "ok"
        assert (mailer.ran, mailer.looped.sent[-1][0].text) == (["send"], "mail")
        assert ("user", words.format(other)) not in await bench.said()


async def test_to_be_asked_again_counts_as_a_message_of_the_minute(tmp_path: Path) -> None:
    mailer = Mailer()
    settings = TurnSettings(messages_per_minute=2)
    async with running_turns(tmp_path / "state", mailer.looped.agent, settings=settings) as bench:
        ticket = await bench.submit("mail")
        yes = await yes_to(ticket)
        told = await bench.say("yes", message_id="a1")
        with pytest.raises(BusyError):
            await bench.submit("yes")

        assert await bench.say("yes", message_id="a1") == told
        # What settles the question is always taken.
        assert (await bench.say(yes)).text == "Yes: the turn goes on with it."
        assert (await whole(ticket)).status == "ok"
        assert mailer.ran == ["send"]


async def test_answers_that_come_at_once_are_all_told_what_counts(tmp_path: Path) -> None:
    mailer = Mailer(["send", "erase"])
    replies: list[Reply] = []
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        yes = await yes_to(ticket)

        async def say(text: str) -> None:
            replies.append(await reply_of(await bench.submit(text)))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for text in ("no", yes, "no", yes):
                    group.start_soon(say, text)
        # None of them is an answer to the question that comes next.
        assert "the tool erase" in await question_of(ticket, 2)
        assert len(bench.turns.approvals) == 1
        assert {(one.status, one.text) for one in replies} == {
            ("answered", "No: the turn goes on without it.")
        }
        await bench.say("no")
        assert "send was not used (refused by alice)." in (await whole(ticket)).text
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
        yes = await yes_to(ticket)
        assert again.ran == []
        await bench.say(yes)
        assert (await whole(ticket)).status == "ok"
    assert (mailer.ran, again.ran) == ([], ["send"])


async def test_a_yes_from_before_a_restart_is_not_one_to_what_is_asked_after_it(
    tmp_path: Path,
) -> None:
    mailer = Mailer(["send", "erase"])
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail", message_id="m1")
        yes = await yes_to(ticket)
        await bench.say(yes, message_id="a1")
        late = await yes_to(ticket, 2)

    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail", message_id="m1")
        asked = await question_of(ticket)
        assert "the tool send" in asked
        assert (await bench.submit(yes, message_id="a1")).duplicate
        # One in 9,000 times the number is the same: it is not remembered over a restart.
        if not late.endswith(asked.number):
            assert (await bench.say(late)).text == asked
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


async def test_a_drain_closes_the_question_and_the_turn_ends_at_once(tmp_path: Path) -> None:
    mailer = Mailer(["send", "erase"])
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        await question_of(ticket)
        with anyio.fail_after(30):
            await bench.turns.drain()
        reply = await whole(ticket)

        assert reply.status == "ok"
        # The second one is not even asked.
        assert reply.text.endswith(
            "\n\nThe gateway is stopping: send was not used."
            "\n\nThe gateway is stopping: erase was not used.\n\nre: mail"
        )
        assert await bench.unfinished() == []
    assert mailer.ran == []


async def test_a_question_keeps_no_other_session_from_being_answered(tmp_path: Path) -> None:
    mailer = Mailer()
    settings = TurnSettings(max_running=1)
    async with running_turns(tmp_path / "state", mailer.looped.agent, settings=settings) as bench:
        ticket = await bench.submit("mail")
        yes = await yes_to(ticket)
        assert (await bench.say("hello", "bob")).text == "re: hello"
        more = [await bench.submit("mail", chat) for chat in ("bob", "carl")]
        answers = [await yes_to(one) for one in more]
        assert bench.turns.statistics().asking == 3

        await bench.say(yes)
        assert (await whole(ticket)).status == "ok"
        for chat, one, answer in zip(("bob", "carl"), more, answers, strict=True):
            await bench.say(answer, chat)
            assert (await whole(one)).status == "ok"
        assert mailer.ran == ["send"] * 3


async def test_turns_that_wait_for_their_users_are_bounded_as_messages_that_wait(
    tmp_path: Path,
) -> None:
    mailer = Mailer()
    settings = TurnSettings(max_running=1, max_waiting=2)
    async with running_turns(tmp_path / "state", mailer.looped.agent, settings=settings) as bench:
        tickets = [await bench.submit("mail", chat) for chat in ("ann", "bob")]
        answers = [await yes_to(ticket) for ticket in tickets]
        with pytest.raises(BusyError):
            await bench.submit("mail", "carl")

        await bench.say(answers[0], "ann")
        assert (await whole(tickets[0])).status == "ok"
        assert (await bench.say("hello", "carl")).text == "re: hello"


@pytest.mark.parametrize(
    ("source", "by"),
    [
        pytest.param(SessionSource("http", "c", user_id="7", user_name="Ann\n"), "Ann�", id="name"),
        pytest.param(SessionSource("http", "c", user_id="7"), "7", id="id"),
        pytest.param(SessionSource("http", "c"), "c", id="chat"),
    ],
)
async def test_the_transcript_names_who_allowed_it(
    tmp_path: Path, source: SessionSource, by: str
) -> None:
    mailer = Mailer()
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.turns.submit(Inbound(source, "mail"))
        await bench.turns.submit(Inbound(source, await yes_to(ticket)))

        reply = await whole(ticket)
        notices = [text for role, text in await bench.said(reply.session_id) if role == "notice"]
        assert notices[1] == f"send may be used (allowed by {by})."


async def test_each_question_leaves_a_line_in_the_log_without_its_arguments(
    tmp_path: Path,
) -> None:
    mailer = Mailer(["send {}", 'erase {"all": "secrets"}', "send"])
    settings = TurnSettings(turn_deadline_s=300)
    with capture_logs() as logs:
        async with running_turns(
            tmp_path / "state", mailer.looped.agent, settings=settings
        ) as bench:
            ticket = await bench.submit("mail")
            yes = await yes_to(ticket)
            await bench.clock.advance(2.5)
            await bench.say(yes)
            await question_of(ticket, 2)
            await bench.say("no")
            await question_of(ticket, 3)
            await bench.clock.advance(120)
            await whole(ticket)
    lines = [line for line in logs if line["event"] == "tool.approval"]
    told = {"event": "tool.approval", "log_level": "info", "turn_id": ticket.turn_id}
    assert lines == [
        told | {"tool": "send", "outcome": "allowed", "waited_s": 2.5},
        told | {"tool": "erase", "outcome": "refused", "waited_s": 0.0},
        told | {"tool": "send", "outcome": "unanswered", "waited_s": 120.0},
    ]


async def test_a_stop_withdraws_the_question(tmp_path: Path) -> None:
    mailer = Mailer()
    async with running_turns(tmp_path / "state", mailer.looped.agent) as bench:
        ticket = await bench.submit("mail")
        await question_of(ticket)
        bench.turns.stop()
        with anyio.fail_after(30):
            await ticket.progress.ended()
        await anyio.wait_all_tasks_blocked()

        assert len(bench.turns.approvals) == 0
        assert [row.text for row in await bench.unfinished()] == ["mail"]
    assert mailer.ran == []
