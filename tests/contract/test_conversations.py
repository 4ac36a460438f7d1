"""What people of every platform may rely on, with the whole way of a message behind the channel."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from gateway.access.settings import PlatformAccess, Unknown
from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.model import Attachment, AttachmentKind, Change, Message, ModelCall, Role
from tests.contract.base import Ability, Written
from tests.contract.running import acknowledged, alone, joined, until, whole
from tests.support.state import START
from tests.support.turns import Gate, PlayedAgent, echo

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent
    from gateway.channels.base import Outbound
    from tests.contract.base import Platform


class Speaker:
    """Says an answer piece by piece, each when it is let."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces
        self.said = 0
        self._may: list[anyio.Event] = [anyio.Event() for _ in range(len(pieces) + 1)]

    def let(self, number: int) -> None:
        self._may[number].set()

    async def play(self, _messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        for number, piece in enumerate(self.pieces):
            await self._may[number].wait()
            yield TextDelta(piece)
            self.said += 1
        await self._may[-1].wait()
        yield ModelCallFinished(ModelCall("played", START, None))
        yield MessageFinished(Message(Role.ASSISTANT, "".join(self.pieces)))


def says(text: str) -> PlayedAgent:
    speaker = Speaker(text)
    speaker.let(0)
    speaker.let(1)
    return PlayedAgent(speaker.play)


async def test_everybody_is_answered_once_in_order_and_in_the_own_chat(
    platform: Platform, tmp_path: Path
) -> None:
    people = platform.people
    async with whole(platform, tmp_path / "s", PlayedAgent(echo)):
        for number in range(3):
            for person in ("ann", "bob"):
                await platform.write(Written(f"{person}-{number}", f"{number}", person))
        await until(platform, lambda: len(people.shown) == 6)

    for person in ("ann", "bob"):
        assert people.at(person) == ["re: 0", "re: 1", "re: 2"]
        mine = [one.answers for one in people.shown if one.place == person]
        assert mine == [f"{person}-{number}" for number in range(3)]


async def test_a_message_handed_over_again_is_one_turn(platform: Platform, tmp_path: Path) -> None:
    async with whole(platform, tmp_path / "s", PlayedAgent(echo)) as bench:
        await platform.write(Written("m1", "one"))
        await until(platform, lambda: len(platform.people.shown) == 1)
        await platform.repeat("m1")
        await acknowledged(platform, 2)
        await platform.write(Written("m2", "two"))
        await until(platform, lambda: len(platform.people.shown) == 2)
        turns = bench.turns.turns.statistics()

    assert platform.people.at("ann") == ["re: one", "re: two"]
    assert (turns.completed, turns.duplicates) == (2, 1)


async def test_a_message_that_comes_again_after_a_restart_is_one_turn(
    platform: Platform, tmp_path: Path
) -> None:
    async with whole(platform, tmp_path / "s", PlayedAgent(echo)):
        await platform.write(Written("m1", "one"))
        await until(platform, lambda: len(platform.people.shown) == 1)
    async with whole(platform, tmp_path / "s", PlayedAgent(echo)) as bench:
        await platform.repeat("m1")
        await acknowledged(platform, 2)
        await platform.write(Written("m2", "two"))
        await until(platform, lambda: len(platform.people.shown) == 2)
        turns = bench.turns.turns.statistics()

    assert platform.people.at("ann") == ["re: one", "re: two"]
    assert (turns.completed, turns.duplicates) == (1, 1)


async def test_a_stranger_is_not_answered(platform: Platform, tmp_path: Path) -> None:
    agent = PlayedAgent(echo)
    ann = platform.source(Written("m")).user_id
    listed = PlatformAccess(allow_users=[ann], unknown=Unknown.IGNORE)
    async with whole(platform, tmp_path / "s", agent, access=listed):
        await platform.write(Written("m1", "let me in", person="bob"))
        await platform.write(Written("m2", "hello"))
        await until(platform, lambda: bool(platform.people.shown))
        await acknowledged(platform, 2)

    assert [(one.place, one.text) for one in platform.people.shown] == [("ann", "re: hello")]
    assert [context[-1].text for context in agent.contexts] == ["hello"]


@pytest.mark.needs(Ability.ATTACHMENTS)
async def test_the_agent_is_told_of_attachments_and_nothing_is_fetched(
    platform: Platform, tmp_path: Path
) -> None:
    agent = PlayedAgent(echo)
    file = Attachment(AttachmentKind.FILE, "application/pdf", "plan.pdf", 2_345)
    async with whole(platform, tmp_path / "s", agent):
        await platform.write(Written("m1", "look", attachments=(file,)))
        await until(platform, lambda: bool(platform.people.shown))

    told = '[file: "plan.pdf", application/pdf, 2.3 kB; not fetched]'
    assert [context[-1].text for context in agent.contexts] == [f"look\n\n{told}"]
    assert platform.people.fetched == []


@pytest.mark.needs(Ability.BUSY)
async def test_a_busy_platform_is_left_alone_for_as_long_as_it_asks(
    platform: Platform, tmp_path: Path
) -> None:
    people, clock = platform.people, platform.clock
    async with whole(platform, tmp_path / "s", PlayedAgent(echo)) as bench:
        people.next_answers = ["busy"]
        began = clock.monotonic()
        await platform.write(Written("m1", "one"))
        stored = bench.turns.state.database.ping
        await until(platform, lambda: bool(people.shown), stored=stored)
        took_s = clock.monotonic() - began
        await platform.pass_s(30)

    assert people.at("ann") == ["re: one"]
    assert 7 <= took_s < 15


@pytest.mark.needs(Ability.THREADS)
async def test_a_reply_goes_to_the_thread_it_was_asked_in(
    platform: Platform, tmp_path: Path
) -> None:
    async with whole(platform, tmp_path / "s", PlayedAgent(echo)):
        for thread in ("t1", "t2"):
            await platform.write(Written(f"m-{thread}", thread, chat="club", thread=thread))
        await until(platform, lambda: len(platform.people.shown) == 2)

    assert platform.people.at("club/t1") == ["re: t1"]
    assert platform.people.at("club/t2") == ["re: t2"]


@pytest.mark.needs(Ability.GROUPS)
@pytest.mark.needs(Ability.NAMES)
@pytest.mark.parametrize("thread", ["", "t1"], ids=["group", "thread"])
async def test_in_a_group_only_what_names_us_is_answered(
    platform: Platform, tmp_path: Path, thread: str
) -> None:
    agent, people = PlayedAgent(echo), platform.people
    place = f"club/{thread}" if thread else "club"
    async with whole(platform, tmp_path / "s", agent) as bench:
        for number in range(4):
            text, named = f"{number}", number % 2 == 1
            await platform.write(Written(f"m{number}", text, "ann", "club", thread, named=named))
        await platform.write(Written("bob", "4", "bob", "club", thread, named=False))
        await platform.write(Written("direct", "5"))
        await until(platform, lambda: len(people.shown) == 3)
        await acknowledged(platform, 6)
        keys = [entry.session_key for entry in bench.turns.state.store.entries()]
        passed = bench.access.statistics().strangers

    assert people.at(place) == ["re: 1", "re: 3"]
    assert people.at("ann") == ["re: 5"]
    assert {one.text for context in agent.contexts for one in context if one.role is Role.USER} == {
        *"135"
    }
    assert len(keys) == 2
    assert passed == {"not_named": 3}


@pytest.mark.needs(Ability.GROUPS)
@pytest.mark.needs(Ability.NAMES)
async def test_in_a_group_an_answer_to_us_names_us_also_after_a_restart(
    platform: Platform, tmp_path: Path
) -> None:
    shown = platform.people.shown
    async with whole(platform, tmp_path / "s", PlayedAgent(echo)):
        await platform.write(Written("m0", "0", chat="club"))
        await until(platform, lambda: len(shown) == 1)
        answer = Written("m1", "1", chat="club", named=False, answers=shown[0].shown_id)
        await platform.write(answer)
        await until(platform, lambda: len(shown) == 2)
    async with whole(platform, tmp_path / "s", PlayedAgent(echo)):
        await platform.write(replace(answer, name="m2", text="2"))
        await until(platform, lambda: len(shown) == 3)

    assert platform.people.at("club") == ["re: 0", "re: 1", "re: 2"]


@pytest.mark.needs(Ability.GROUPS)
@pytest.mark.needs(Ability.NAMES)
@pytest.mark.parametrize("named", [True, False])
async def test_in_a_group_a_command_is_one_with_our_name_and_without(
    platform: Platform, tmp_path: Path, *, named: bool
) -> None:
    agent = PlayedAgent(echo)
    async with whole(platform, tmp_path / "s", agent):
        await platform.write(Written("m0", "/help", chat="club", named=named))
        await until(platform, lambda: bool(platform.people.shown))

    assert platform.people.at("club")[0].startswith("Commands:")
    assert agent.contexts == []


@pytest.mark.needs(Ability.GROUPS)
@pytest.mark.needs(Ability.NAMES)
@pytest.mark.needs(Ability.EDITED)
async def test_in_a_group_an_edit_makes_no_message_of_one_that_was_not_taken(
    platform: Platform, tmp_path: Path
) -> None:
    gate = Gate()
    async with whole(platform, tmp_path / "s", PlayedAgent(gate.play)):
        await platform.write(Written("m0", "zero", chat="club"))
        await gate.reached("zero")
        chatter, meant = Written("m1", "one", chat="club", named=False), Written("m2", "two")
        meant = replace(meant, chat="club")
        await platform.write(chatter)
        await platform.write(replace(chatter, named=True, change=Change.EDITED))
        await platform.write(meant)
        edited = replace(meant, text="second", named=False, change=Change.EDITED)
        await platform.write(edited)
        await acknowledged(platform, 5)
        gate.open("zero", "one", "two", "second")
        await until(platform, lambda: "re: second" in platform.people.at("club"))

    assert gate.began == ["zero", "second"]


async def test_a_long_reply_comes_in_pieces_and_no_block_of_code_is_broken(
    platform: Platform, tmp_path: Path
) -> None:
    longest = platform.channel.max_text_chars
    lines = [f"value_{number:05} = {number}" for number in range(longest // 8)]
    text = "Look:\n\n```python\n" + "\n".join(lines) + "\n```\n\nThat is all."
    async with whole(platform, tmp_path / "s", says(text)):
        await platform.write(Written("m1"))
        await until(
            platform, lambda: any("That is all." in one.text for one in platform.people.shown)
        )

    shown = platform.people.at("ann")
    assert len(shown) > 1
    assert all(len(one) <= longest for one in shown)
    assert re.findall(r"^value_.*$", "\n".join(shown), re.MULTILINE) == lines
    for one in shown:
        # Where marks are rendered there is none to be left open.
        assert one.count("```") % 2 == 0


@pytest.mark.needs(Ability.GROWS)
async def test_an_answer_grows_in_one_message_that_becomes_the_reply(
    platform: Platform, tmp_path: Path
) -> None:
    speaker, shown = Speaker("One", " two", " three."), platform.people.shown
    async with whole(platform, tmp_path / "s", PlayedAgent(speaker.play)):
        await platform.write(Written("m1"))
        speaker.let(0)
        await until(platform, lambda: bool(shown))
        speaker.let(1)
        await until(platform, lambda: shown[0].text == "One two")
        speaker.let(2)
        speaker.let(3)
        await until(platform, lambda: shown[0].text == "One two three.")
        await platform.pass_s(2 * platform.channel.edit_interval_s)

    assert [one.text for one in shown] == ["One two three."]
    assert shown[0].read[:2] == ["One", "One two"]
    assert shown[0].answers == "m1"


@pytest.mark.needs(Ability.GROWS)
async def test_an_answer_grows_no_faster_than_the_channel_takes_edits(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"word{number} " for number in range(5)]
    speaker, shown, edited = Speaker(*words), platform.people.shown, list[float]()
    edit = platform.channel.edit

    def shows(word: str) -> bool:
        return bool(shown) and word in shown[0].text

    async def noted(outbound: Outbound, shown_id: str) -> None:
        edited.append(platform.clock.monotonic())
        await edit(outbound, shown_id)

    monkeypatch.setattr(platform.channel, "edit", noted)
    async with whole(platform, tmp_path / "s", PlayedAgent(speaker.play)):
        await platform.write(Written("m1"))
        for number, word in enumerate(words):
            speaker.let(number)
            await until(platform, partial(shows, word.strip()))
        speaker.let(len(words))

    pauses_s = [later - earlier for earlier, later in pairwise(edited)]
    assert len(pauses_s) >= len(words) - 2
    assert min(pauses_s) >= platform.channel.edit_interval_s - 0.001
    assert len(shown) == 1


@pytest.mark.needs(Ability.GROWS)
@pytest.mark.needs(Ability.BUSY)
async def test_a_busy_platform_costs_an_answer_that_grows_nothing(
    platform: Platform, tmp_path: Path
) -> None:
    speaker, shown = Speaker("One", " two"), platform.people.shown
    async with whole(platform, tmp_path / "s", PlayedAgent(speaker.play)):
        await platform.write(Written("m1"))
        speaker.let(0)
        await until(platform, lambda: bool(shown))
        platform.people.next_answers = ["busy"]
        speaker.let(1)
        speaker.let(2)
        await until(platform, lambda: shown[0].text == "One two")

    assert [one.text for one in shown] == ["One two"]
    assert platform.people.next_answers == []


@pytest.mark.needs(Ability.TYPING)
async def test_that_an_answer_is_made_is_shown_while_it_is(
    platform: Platform, tmp_path: Path
) -> None:
    gate = Gate()
    async with whole(platform, tmp_path / "s", PlayedAgent(gate.play)):
        await platform.write(Written("m1", "one"))
        await until(platform, lambda: len(platform.people.typing) > 1)
        gate.open("one")
        await until(platform, lambda: bool(platform.people.shown))

    assert set(platform.people.typing) == {"ann"}


@pytest.mark.needs(Ability.EDITED)
async def test_a_message_that_waits_is_answered_as_it_was_edited(
    platform: Platform, tmp_path: Path
) -> None:
    gate = Gate()
    async with whole(platform, tmp_path / "s", PlayedAgent(gate.play)):
        await platform.write(Written("m1", "one"))
        await gate.reached("one")
        await platform.write(Written("m2", "two"))
        await platform.write(Written("m2", "second", change=Change.EDITED))
        await platform.write(Written("m1", "first", change=Change.EDITED))
        await acknowledged(platform, 4)
        gate.open("one", "second")
        await until(platform, lambda: len(platform.people.shown) >= 2)

    assert gate.began == ["one", "second"]
    assert platform.people.at("ann")[-2:] == ["re: one", "re: second"]


@pytest.mark.needs(Ability.RETRACTED)
async def test_a_message_that_is_taken_back_in_time_is_not_answered(
    platform: Platform, tmp_path: Path
) -> None:
    gate = Gate()
    async with whole(platform, tmp_path / "s", PlayedAgent(gate.play)):
        await platform.write(Written("m1", "one"))
        await gate.reached("one")
        await platform.write(Written("m2", "two"))
        await platform.write(Written("m2", change=Change.RETRACTED))
        await acknowledged(platform, 3)
        await platform.write(Written("m3", "three"))
        await acknowledged(platform, 4)
        gate.open("one", "two", "three")
        await until(platform, lambda: "re: three" in platform.people.at("ann"))

    assert gate.began == ["one", "three"]
    said = [text for text in platform.people.at("ann") if text.startswith("re: ")]
    assert said == ["re: one", "re: three"]
    assert all(text.strip() for text in platform.people.at("ann"))


@pytest.mark.needs(Ability.OUTAGES)
async def test_a_platform_that_goes_away_and_comes_back_costs_nobody_anything(
    platform: Platform, tmp_path: Path
) -> None:
    gate, people = Gate(), platform.people
    gate.open("one", "two")
    async with alone(platform, tmp_path / "s", PlayedAgent(gate.play)) as (_, channels):
        async with platform.server(), joined(platform, channels):
            await platform.write(Written("m1", "one"))
            await until(platform, lambda: people.at("ann") == ["re: one"])
            await platform.write(Written("m2", "asked"))
            await gate.reached("asked")
        gate.open("asked")
        await platform.pass_s(30)
        async with platform.server(), joined(platform, channels):
            await until(platform, lambda: len(people.shown) == 2)
            await platform.write(Written("m3", "two"))
            await until(platform, lambda: len(people.shown) == 3)

    assert people.at("ann") == ["re: one", "re: asked", "re: two"]
    assert gate.began == ["one", "asked", "two"]


async def test_what_is_answered_while_people_are_away_reaches_them_later(
    platform: Platform, tmp_path: Path
) -> None:
    gate = Gate()
    async with whole(platform, tmp_path / "s", PlayedAgent(gate.play)):
        await platform.write(Written("m1", "one"))
        await gate.reached("one")
    gate.open("one")
    async with whole(platform, tmp_path / "s", PlayedAgent(gate.play)):
        await until(platform, lambda: "re: one" in platform.people.at("ann"))

    assert platform.people.at("ann") == ["re: one"]
