"""Laws of the channel to Matrix beyond the contract, at a real homeserver."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest
from structlog.testing import capture_logs

from gateway.channels.base import NotConnectedError, Outbound, SendError
from gateway.channels.matrix.api import PAGE
from gateway.errors import StorageBusyError
from gateway.model import AgentId, Change, ChatType, SessionSource
from gateway.sessions.key import session_key
from gateway.sessions.settings import SessionSettings
from tests.support import synapse
from tests.support.matrix import Meeting, channel_of, running
from tests.support.synapse import Synapse, User

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def server() -> Synapse:
    return synapse.shared()


def outbound(room: str) -> Outbound:
    return Outbound(SessionSource("matrix", room, account="work"), "hi", "d-1")


async def test_what_was_written_before_the_first_start_is_not_answered(
    tmp_path: Path, server: Synapse
) -> None:
    met = Meeting.at(server)
    met.ann.say(met.room, "before")
    async with running(tmp_path, server.url, met.bot) as run:
        event = met.ann.say(met.room, "after")
        await run.until(lambda: run.received)

    assert [(one.text, one.message_id) for one in run.received] == [("after", event)]


async def test_what_is_written_during_an_absence_is_read_later(
    tmp_path: Path, server: Synapse
) -> None:
    met = Meeting.at(server)
    async with running(tmp_path, server.url, met.bot):
        pass
    events = [met.ann.say(met.room, f"{number}") for number in range(3)]
    async with running(tmp_path, server.url, met.bot) as run:
        await run.until(lambda: len(run.received) == 3)

    assert [one.message_id for one in run.received] == events


async def test_after_a_long_absence_what_a_sync_leaves_out_is_fetched(
    tmp_path: Path, server: Synapse
) -> None:
    met = Meeting.at(server)
    async with running(tmp_path, server.url, met.bot):
        pass
    for number in range(PAGE + 10):
        met.ann.say(met.room, f"{number}")
    with capture_logs() as logs:
        async with running(tmp_path, server.url, met.bot) as run:
            await run.until(lambda: len(run.received) == PAGE + 10)
            met.ann.say(met.room, "last")
            await run.until(lambda: len(run.received) > PAGE + 10)

    assert run.texts == [*map(str, range(PAGE + 10)), "last"]
    assert {one.source.user_name for one in run.received} == {"ann"}
    (gap,) = [one for one in logs if one["event"] == "matrix.gap_filled"]
    assert gap["events"] == 10


async def test_the_place_moves_only_past_what_is_stored(tmp_path: Path, server: Synapse) -> None:
    met = Meeting.at(server)
    async with running(tmp_path, server.url, met.bot) as run:
        begun = run.place.read_bytes()
        run.receipts = [StorageBusyError(), StorageBusyError()]
        event = met.ann.say(met.room, "one")
        await run.until(lambda: len(run.receipts) == 1)
    # It ended between two tries, as by a kill.
    kept = run.place.read_bytes()
    async with running(tmp_path, server.url, met.bot) as again:
        await again.until(lambda: again.received)

    assert run.received == []
    assert kept == begun
    assert [(one.text, one.message_id) for one in again.received] == [("one", event)]


async def test_an_end_between_a_message_and_its_place_gives_it_again_with_the_same_id(
    tmp_path: Path, server: Synapse
) -> None:
    met = Meeting.at(server)
    async with running(tmp_path, server.url, met.bot) as run:
        before = run.place.read_bytes()
        event = met.ann.say(met.room, "one")
        await run.until(lambda: run.received)
        await run.stored()
    run.place.write_bytes(before)
    async with running(tmp_path, server.url, met.bot) as again:
        await again.until(lambda: again.received)

    assert [one.message_id for one in (*run.received, *again.received)] == [event, event]
    assert run.received[0].source == again.received[0].source


async def test_the_place_is_that_of_one_user(tmp_path: Path, server: Synapse) -> None:
    met, other = Meeting.at(server), Meeting.at(server)
    async with running(tmp_path, server.url, met.bot):
        pass
    other.ann.say(other.room, "before")
    with capture_logs() as logs:
        async with running(tmp_path, server.url, other.bot) as run:
            other.ann.say(other.room, "after")
            await run.until(lambda: run.received)

    assert run.texts == ["after"]
    assert [one["reason"] for one in logs if one["event"] == "matrix.begun"] == ["another user"]
    assert orjson.loads(run.place.read_bytes())["user_id"] == other.bot.user_id


async def test_a_place_that_cannot_be_read_is_no_first_start(
    tmp_path: Path, server: Synapse
) -> None:
    met = Meeting.at(server)
    run = channel_of(tmp_path, server.url, met.bot)
    run.place.write_text('{"version": 1, "since": 7}')
    await run.run()

    assert run.lost.startswith(f"{run.place} does not say how far was read")
    assert run.place.read_text() == '{"version": 1, "since": 7}'


async def test_a_token_that_is_refused_is_told_as_such(tmp_path: Path, server: Synapse) -> None:
    stranger = User("@x:matrix.test", "", "no-such-token", "D")
    run = channel_of(tmp_path, server.url, stranger)
    await run.run()
    with pytest.raises(NotConnectedError):
        await run.channel.send(outbound("!r"))

    assert run.lost == (
        "the homeserver refuses the token; the account's owner is told a new one by it "
        "(401 M_UNKNOWN_TOKEN)"
    )


async def test_own_messages_and_those_of_bots_are_passed_over(
    tmp_path: Path, server: Synapse
) -> None:
    met = Meeting.at(server)
    async with running(tmp_path, server.url, met.bot) as run:
        server.client(met.bot).say(met.room, "mine")
        met.ann.say(met.room, "by a bot", msgtype="m.notice")
        met.ann.send(met.room, {"m.relates_to": {"rel_type": "m.annotation"}}, "m.reaction")
        met.ann.send(met.room, {"body": "x", "msgtype": "m.unknown"})
        met.ann.send(met.room, {"body": "x"}, "org.example.bridged")
        met.ann.say(met.room, "by ann")
        await run.until(lambda: run.received)

    assert run.texts == ["by ann"]


async def test_a_third_person_makes_a_direct_chat_a_group(tmp_path: Path, server: Synapse) -> None:
    met, bob = Meeting.at(server, name="plans"), server.client(server.register("bob"))
    async with running(tmp_path, server.url, met.bot) as run:
        met.ann.say(met.room, "we two")
        await run.until(lambda: len(run.received) == 1)
        met.ann.ask("POST", f"/rooms/{met.room}/invite", user_id=bob.user.user_id)
        bob.join(met.room)
        bob.say(met.room, "we three")
        await run.until(lambda: len(run.received) == 2)

    assert [one.source.chat_type for one in run.received] == [ChatType.DM, ChatType.GROUP]
    assert {one.source.chat_name for one in run.received} == {"plans"}
    assert [one.source.user_name for one in run.received] == ["ann", "bob"]


async def test_a_room_of_three_is_a_group_though_the_account_marks_it_as_direct(
    tmp_path: Path, server: Synapse
) -> None:
    met, bob = Meeting.at(server), server.client(server.register("bob"))
    met.ann.ask("POST", f"/rooms/{met.room}/invite", user_id=bob.user.user_id)
    bob.join(met.room)
    path = f"/user/{met.bot.user_id}/account_data/m.direct"
    async with running(tmp_path, server.url, met.bot) as run:
        met.ann.say(met.room, "a group")
        await run.until(lambda: len(run.received) == 1)
        server.client(met.bot).ask("PUT", path, **{met.ann.user.user_id: [met.room]})
        met.ann.say(met.room, "still")
        await run.until(lambda: len(run.received) == 2)

    assert {one.source.chat_type for one in run.received} == {ChatType.GROUP}


async def test_who_takes_anothers_place_in_a_direct_room_is_not_in_that_session(
    tmp_path: Path, server: Synapse
) -> None:
    """Nor once we were removed and invited again, nor where nobody knows any more who was there."""
    met, bob = Meeting.at(server), server.client(server.register("bob"))
    us, them = met.bot.user_id, bob.user.user_id
    async with running(tmp_path, server.url, met.bot, join=[them]) as run:
        met.ann.say(met.room, "a secret")
        await run.until(lambda: len(run.received) == 1)
        met.ann.ask("POST", f"/rooms/{met.room}/invite", user_id=them)
        bob.join(met.room)
        levels = met.ann.ask("GET", f"/rooms/{met.room}/state/m.room.power_levels")
        levels["users"][them] = 50
        met.ann.ask("PUT", f"/rooms/{met.room}/state/m.room.power_levels", **levels)
        met.ann.ask("POST", f"/rooms/{met.room}/leave")
        bob.say(met.room, "what was it?")
        await run.until(lambda: len(run.received) == 2)
        bob.ask("POST", f"/rooms/{met.room}/kick", user_id=us)
        bob.ask("POST", f"/rooms/{met.room}/invite", user_id=us)
        bob.say(met.room, "what?")
        await run.until(lambda: len(run.received) == 3)
    run.place.unlink()
    async with running(tmp_path, server.url, met.bot) as again:
        bob.say(met.room, "say")
        await again.until(lambda: again.received)

    sources = [one.source for one in (*run.received, *again.received)]
    anns, *bobs = [session_key(one, AgentId("main"), SessionSettings()) for one in sources]
    assert {one.chat_type for one in sources} == {ChatType.DM}
    assert {one.chat_id for one in sources} == {met.room}
    assert len(set(bobs)) == 1
    assert anns not in bobs


async def test_a_thread_is_answered_in_it_also_in_a_direct_chat(
    tmp_path: Path, server: Synapse
) -> None:
    met = Meeting.at(server)
    root = met.ann.say(met.room, "what we speak of")
    relation = {"rel_type": "m.thread", "event_id": root, "is_falling_back": True}
    async with running(tmp_path, server.url, met.bot) as run:
        said = met.ann.say(met.room, "in it", **{"m.relates_to": relation})
        await run.until(lambda: run.received)
        (asked,) = run.received
        await run.channel.send(Outbound(asked.source, "answer", "d-1", reply_to=said))
        await run.channel.send(Outbound(asked.source, "more", "d-2"))
    answer, more = met.ann.of(met.room, met.bot.user_id)

    assert (asked.source.chat_type, asked.source.thread_id) == (ChatType.DM, root)
    thread = {"rel_type": "m.thread", "event_id": root}
    assert answer["m.relates_to"] == {
        **thread, "is_falling_back": False, "m.in_reply_to": {"event_id": said},
    }  # fmt: skip
    assert more["m.relates_to"] == {
        **thread, "is_falling_back": True, "m.in_reply_to": {"event_id": root},
    }  # fmt: skip


async def test_an_edit_in_a_thread_is_of_that_thread_also_after_a_restart(
    tmp_path: Path, server: Synapse
) -> None:
    met = Meeting.at(server)
    relation = {"rel_type": "m.thread", "event_id": met.ann.say(met.room, "root")}
    async with running(tmp_path, server.url, met.bot) as run:
        said = met.ann.say(met.room, "one", **{"m.relates_to": relation})
        met.ann.edit(met.room, said, "two")
        await run.until(lambda: len(run.received) == 2)
        await run.stored()
    async with running(tmp_path, server.url, met.bot) as again:
        met.ann.edit(met.room, said, "three")
        await again.until(lambda: again.received)

    first, *edits = *run.received, *again.received
    assert [(one.text, one.change) for one in edits] == [
        ("two", Change.EDITED),
        ("three", Change.EDITED),
    ]
    assert all((one.source, one.message_id) == (first.source, said) for one in edits)


async def test_what_a_moderator_takes_back_counts_as_taken_back_by_its_sender(
    tmp_path: Path, server: Synapse
) -> None:
    met, bob = Meeting.at(server), server.client(server.register("bob"))
    met.ann.ask("POST", f"/rooms/{met.room}/invite", user_id=bob.user.user_id)
    bob.join(met.room)
    async with running(tmp_path, server.url, met.bot) as run:
        said = bob.say(met.room, "rude")
        await run.until(lambda: len(run.received) == 1)
        met.ann.redact(met.room, said)
        await run.until(lambda: len(run.received) == 2)

    rude, retraction = run.received
    assert (retraction.change, retraction.message_id) == (Change.RETRACTED, said)
    assert (retraction.source.user_id, retraction.text) == (rude.source.user_id, "")


async def test_in_an_encrypted_room_nothing_is_answered_which_is_said_once(
    tmp_path: Path, server: Synapse
) -> None:
    met = Meeting.at(server)
    algorithm = {"algorithm": "m.megolm.v1.aes-sha2"}
    with capture_logs() as logs:
        async with running(tmp_path, server.url, met.bot) as run:
            closed = met.ann.create(met.bot)
            server.client(met.bot).join(closed)
            met.ann.ask("PUT", f"/rooms/{closed}/state/m.room.encryption", **algorithm)
            for _ in range(2):
                met.ann.send(closed, {**algorithm, "ciphertext": "?"}, "m.room.encrypted")
            met.ann.say(closed, "in the clear")
            met.ann.say(met.room, "elsewhere")
            await run.until(lambda: run.received)
            await run.stored()
            with pytest.raises(SendError) as caught:
                await run.channel.send(outbound(closed))
    async with running(tmp_path, server.url, met.bot) as again:
        with pytest.raises(SendError):
            await again.channel.send(outbound(closed))

    assert run.texts == ["elsewhere"]
    assert not caught.value.retryable
    assert [one["room_id"] for one in logs if one["event"] == "matrix.room_encrypted"] == [closed]
    assert met.ann.of(closed, met.bot.user_id) == []


async def test_a_room_that_is_encrypted_before_the_first_start_is_known_as_such(
    tmp_path: Path, server: Synapse
) -> None:
    met = Meeting.at(server)
    algorithm = {"algorithm": "m.megolm.v1.aes-sha2"}
    met.ann.ask("PUT", f"/rooms/{met.room}/state/m.room.encryption", **algorithm)
    met.ann.say(met.room, "last")
    async with running(tmp_path, server.url, met.bot) as run:
        with pytest.raises(SendError) as caught:
            await run.channel.send(outbound(met.room))

    assert (caught.value.retryable, "encrypted" in str(caught.value)) == (False, True)


async def test_a_room_that_was_made_encrypted_is_known_as_such_and_so_is_its_name(
    tmp_path: Path, server: Synapse
) -> None:
    """What a room is was said before the invitation, as by clients that make direct chats."""
    met = Meeting.at(server)
    content = {"algorithm": "m.megolm.v1.aes-sha2"}
    encryption = {"type": "m.room.encryption", "state_key": "", "content": content}
    async with running(tmp_path, server.url, met.bot) as run:
        closed = met.ann.create(met.bot, initial_state=[encryption])
        named = met.ann.create(met.bot, name="Team")
        for room in (closed, named):
            server.client(met.bot).join(room)
            met.ann.say(room, f"in {room}")
        await run.until(lambda: run.received)
        with pytest.raises(SendError) as caught:
            await run.channel.send(outbound(closed))

    assert not caught.value.retryable
    assert [one.source.chat_name for one in run.received] == ["Team"]
    assert met.ann.of(closed, met.bot.user_id) == []


async def test_invitations_of_those_who_are_listed_are_accepted_and_what_they_said_is_answered(
    tmp_path: Path, server: Synapse
) -> None:
    met, bob = Meeting.at(server), server.client(server.register("bob"))
    early = met.ann.create(met.bot)
    with capture_logs() as logs:
        join = [met.ann.user.user_id, "elsewhere.test"]
        async with running(tmp_path, server.url, met.bot, join=join) as run:
            theirs = bob.create(met.bot)
            ours = met.ann.create(name="ours")
            met.ann.say(ours, "before the invitation")
            met.ann.ask("POST", f"/rooms/{ours}/invite", user_id=met.bot.user_id)
            met.ann.say(ours, "after the invitation")
            await run.until(lambda: len(run.received) == 1)
            met.ann.say(early, "early")
            await run.until(lambda: len(run.received) == 2)

    assert run.texts == ["after the invitation", "early"]
    joined = {one["room_id"] for one in logs if one["event"] == "matrix.joined"}
    assert joined == {early, ours}
    (ignored,) = [one for one in logs if one["event"] == "matrix.invite_ignored"]
    assert (ignored["room_id"], ignored["inviter"]) == (theirs, bob.user.user_id)


async def test_nobodys_invitation_is_accepted_by_default(tmp_path: Path, server: Synapse) -> None:
    met = Meeting.at(server)
    async with running(tmp_path, server.url, met.bot) as run:
        room = met.ann.create(met.bot)
        met.ann.say(met.room, "one")
        await run.until(lambda: run.received)
    members = met.ann.ask("GET", f"/rooms/{room}/joined_members")["joined"]

    assert set(members) == {met.ann.user.user_id}
