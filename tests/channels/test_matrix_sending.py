"""Laws of what the channel to Matrix sends, at a real homeserver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from gateway.channels.base import Outbound, Receipt, SendError
from gateway.channels.matrix.channel import TYPING_S
from gateway.channels.matrix.content import MAX_TEXT_CHARS
from gateway.channels.matrix.inbound import MARK
from gateway.model import SessionSource
from tests.support import synapse
from tests.support.matrix import PATIENCE_S, Meeting, channel_of, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.synapse import Synapse


@pytest.fixture
def server() -> Synapse:
    return synapse.shared()


def source(room: str) -> SessionSource:
    return SessionSource("matrix", room, account="work")


def outbound(room: str, text: str = "hi", delivery_id: str = "d-1", **more: Any) -> Outbound:  # noqa: ANN401
    return Outbound(source(room), text, delivery_id, **more)


async def test_the_longest_text_is_taken_whatever_it_is_made_of(
    tmp_path: Path, server: Synapse
) -> None:
    met = Meeting.at(server)
    parts = ("a", "😀", "\x01", '"', "<", "&", "- a\n", "*", "`")
    texts = [(part * MAX_TEXT_CHARS)[: MAX_TEXT_CHARS - 1] + "." for part in parts]
    async with running(tmp_path, server.url, met.bot) as run:
        for number, text in enumerate(texts):
            made = outbound(met.room, text, f"d-{number}", reply_to="$" + "e" * 43)
            shown_id = await run.channel.send(made)
            await run.channel.edit(outbound(met.room, text, f"e-{number}"), shown_id)
    contents = [one["content"] for one in met.ann.messages(met.room)]

    assert [one["body"] for one in contents[::2]] == texts
    assert [one["m.new_content"]["body"] for one in contents[1::2]] == texts
    assert all(one["m.mentions"] == {} for one in contents)
    assert all(one["m.new_content"]["m.mentions"] == {} for one in contents[1::2])


async def test_what_was_sent_is_not_shown_again_under_the_same_id(
    tmp_path: Path, server: Synapse
) -> None:
    met = Meeting.at(server)
    async with running(tmp_path, server.url, met.bot) as run:
        first = await run.channel.send(outbound(met.room))
    async with running(tmp_path, server.url, met.bot) as run:
        second = await run.channel.send(outbound(met.room))

    assert first == second
    assert [one["body"] for one in met.ann.of(met.room, met.bot.user_id)] == ["hi"]


async def test_people_see_that_an_answer_is_made_until_it_is_there(
    tmp_path: Path, server: Synapse
) -> None:
    met = Meeting.at(server)

    def typing() -> list[str]:
        rooms = met.ann.ask("GET", "/sync")["rooms"]["join"]
        events = rooms[met.room]["ephemeral"]["events"]
        return [
            user
            for one in events
            if one["type"] == "m.typing"
            for user in one["content"]["user_ids"]
        ]

    async with running(tmp_path, server.url, met.bot) as run:
        await run.channel.show_typing(source(met.room))
        during = await anyio.to_thread.run_sync(typing)
        await run.channel.send(outbound(met.room))
        after = await anyio.to_thread.run_sync(typing)
        silent = channel_of(tmp_path, server.url, met.bot, typing=False).channel
        await silent.show_typing(source(met.room))

    assert (during, after) == ([met.bot.user_id], [])
    assert (run.channel.typing_s, silent.typing_s) == (TYPING_S, 0.0)


async def test_what_a_sender_is_told_at_once_is_a_notice(tmp_path: Path, server: Synapse) -> None:
    met = Meeting.at(server)
    async with running(tmp_path, server.url, met.bot) as run:
        run.receipts = [Receipt(accepted=False, text="not *you*")]
        said = met.ann.say(met.room, "hello")
        with anyio.fail_after(PATIENCE_S):
            while not (
                told := await anyio.to_thread.run_sync(met.ann.of, met.room, met.bot.user_id)
            ):
                pass

    assert told == [
        {
            "msgtype": "m.notice",
            "body": "not *you*",
            "m.mentions": {},
            MARK: True,
            "m.relates_to": {"m.in_reply_to": {"event_id": said}},
        }
    ]


@pytest.mark.parametrize("room", ["", "#alias:matrix.test", "!gone"])
async def test_a_room_that_is_none_or_not_ours_is_refused_for_good(
    tmp_path: Path, server: Synapse, room: str
) -> None:
    met = Meeting.at(server)
    async with running(tmp_path, server.url, met.bot) as run:
        with pytest.raises(SendError) as caught:
            await run.channel.send(outbound(room, "a secret"))

    assert not caught.value.retryable
    assert "secret" not in str(caught.value)
