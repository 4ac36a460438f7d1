"""What is meant for the account in rooms of several people, at a real homeserver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.channels.base import Outbound
from tests.support import synapse
from tests.support.matrix import Meeting, running
from tests.support.played_matrix import BOT, PlayedHomeserver, event, said

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.synapse import Client, Synapse


@pytest.fixture
def server() -> Synapse:
    return synapse.shared()


def club(server: Synapse) -> tuple[Meeting, Client]:
    """Return a room of three: the channel's user, Ann, and somebody else."""
    met, bob = Meeting.at(server), server.client(server.register("bob"))
    met.ann.ask("POST", f"/rooms/{met.room}/invite", user_id=bob.user.user_id)
    bob.join(met.room)
    return met, bob


def answering(answered: str) -> dict[str, Any]:
    return {"m.relates_to": {"m.in_reply_to": {"event_id": answered}}, "m.mentions": {}}


def within(root: str, last: str) -> dict[str, Any]:
    """Return what a message in a thread bears, as clients write it."""
    relation = answering(last)["m.relates_to"]
    thread = {"rel_type": "m.thread", "event_id": root, "is_falling_back": True}
    return {"m.relates_to": relation | thread}


async def test_who_answers_us_means_us_and_who_answers_others_does_not(
    tmp_path: Path, server: Synapse
) -> None:
    met, bob = club(server)
    bot = server.client(met.bot)
    old = bot.say(met.room, "of another life")
    other = bob.say(met.room, "of bob")
    async with running(tmp_path, server.url, met.bot) as run:
        met.ann.say(met.room, "a", **answering(old))
        met.ann.say(met.room, "b", **answering(other))
        met.ann.say(met.room, "c", **answering("$gone"))
        met.ann.say(met.room, "d", **within(old, other))
        met.ann.say(met.room, "e", **within(other, old))
        await run.until(lambda: len(run.received) == 5)
        target = run.received[0].source
        new = await run.channel.send(Outbound(target, "now", "d-1"))
        met.ann.say(met.room, "f", **answering(new))
        await run.until(lambda: len(run.received) == 6)

    assert [one.text for one in run.received if one.named] == ["a", "d", "f"]


async def test_the_name_that_people_see_is_one(tmp_path: Path, server: Synapse) -> None:
    met, _ = club(server)
    bot = server.client(met.bot)
    path = f"/profile/{met.bot.user_id}/displayname"
    bot.ask("PUT", path, displayname="Dr. Know")
    async with running(tmp_path, server.url, met.bot) as run:
        for text in ("Dr. Know: why?", "@dr. know why?", "Dr X Know: why?", "Dr. Know is late"):
            met.ann.say(met.room, text)
        await run.until(lambda: len(run.received) == 4)

    assert [one.named for one in run.received] == [True, True, False, False]
    assert run.texts == ["why?", "why?", "Dr X Know: why?", "Dr. Know is late"]


async def test_where_all_is_answered_all_is_meant_for_us(tmp_path: Path, server: Synapse) -> None:
    met, bob = club(server)
    async with running(tmp_path, server.url, met.bot, answer_in_groups="all") as run:
        bob.say(met.room, "hello")
        met.ann.say(met.room, f"{met.bot.user_id} hello")
        await run.until(lambda: len(run.received) == 2)

    assert [(one.named, one.text) for one in run.received] == [(True, "hello")] * 2


async def test_who_is_alone_with_us_means_us(tmp_path: Path, server: Synapse) -> None:
    met, bob = club(server)
    async with running(tmp_path, server.url, met.bot) as run:
        met.ann.say(met.room, "we three")
        await run.until(lambda: len(run.received) == 1)
        met.ann.ask("POST", f"/rooms/{met.room}/leave")
        bob.say(met.room, "we two")
        await run.until(lambda: len(run.received) == 2)

    assert [one.named for one in run.received] == [False, True]


@pytest.mark.parametrize("answer", [(403, {}), (404, {}), (429, {}), (502, b"bad gateway")])
async def test_without_a_name_the_channel_runs(tmp_path: Path, answer: Any) -> None:  # noqa: ANN401 - as it is played
    server = PlayedHomeserver(BOT)
    server.answers["displayname"] = [answer]
    async with server.serving(), running(tmp_path, server.url, BOT) as run:
        server.push(said("s1", event(1, "bot: hi"), event(2, "None: hi"), members=3))
        await run.until(lambda: len(run.received) == 2)

    assert [one.named for one in run.received] == [True, False]
