"""What the gateway makes of events on Matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.channels.base import Outbound
from gateway.channels.fields import MAX_ID_CHARS
from gateway.channels.matrix.content import edit, message
from gateway.channels.matrix.inbound import Origin, Where, changed_id, inbound_of, origin_of
from gateway.channels.matrix.rooms import WELCOME_MS, counts, joining, since_invited
from gateway.model import Attachment, AttachmentKind, Change, ChatType, Inbound, SessionSource

ANN = "@ann:matrix.test"
HERE = Where("work", "@gateway:matrix.test", "!room", "plans", direct=True, names={ANN: "Ann\n"})


def event(content: dict[str, Any], **more: object) -> dict[str, Any]:
    made = {"event_id": "$1", "type": "m.room.message", "sender": ANN, "content": content}
    return made | more


def read(content: dict[str, Any], where: Where = HERE, **more: object) -> Inbound:
    inbound = inbound_of(event(content, **more), where, None)
    assert inbound is not None
    return inbound


def test_a_message_names_its_sender_its_room_and_itself() -> None:
    inbound = read({"msgtype": "m.text", "body": "hello"})

    assert (inbound.text, inbound.message_id, inbound.typed) == ("hello", "$1", True)
    assert (inbound.source.chat_id, inbound.source.user_id) == ("!room", ANN)
    assert (inbound.source.user_name, inbound.source.chat_name) == ("Ann�", "plans")
    assert inbound.source.chat_type is ChatType.DM
    assert inbound.bot_name == "gateway"


def test_what_an_emote_says_is_no_command() -> None:
    assert not read({"msgtype": "m.emote", "body": "/new"}).typed


QUOTE = "> <@bob:matrix.test> two\n> lines\n\nyes"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(QUOTE, "yes", id="quoted"),
        pytest.param("> * <@bob:x> waves\n\nyes", "yes", id="emote"),
        pytest.param("> <@bob:x> one\n\n> mine\n\nyes", "> mine\n\nyes", id="own-quotation-after"),
        pytest.param("> I quote\n\nyes", "> I quote\n\nyes", id="own-quotation"),
        pytest.param("yes\n> <@bob:x> no", "yes\n> <@bob:x> no", id="further-down"),
        pytest.param("yes", "yes", id="none"),
    ],
)
def test_the_quotation_of_an_answer_is_left_out(body: str, text: str) -> None:
    relation = {"m.in_reply_to": {"event_id": "$0"}}

    assert read({"msgtype": "m.text", "body": body, "m.relates_to": relation}).text == text


def test_what_is_no_answer_keeps_its_quotation() -> None:
    assert read({"msgtype": "m.text", "body": QUOTE}).text == QUOTE


INFO = {"mimetype": "image/png", "size": 12}


@pytest.mark.parametrize(
    ("content", "text", "attachment"),
    [
        pytest.param(
            {"msgtype": "m.image", "body": "cat.png", "info": INFO},
            "",
            Attachment(AttachmentKind.IMAGE, "image/png", "cat.png", 12),
            id="image",
        ),
        pytest.param(
            {"msgtype": "m.image", "body": "my cat", "filename": "cat.png", "info": INFO},
            "my cat",
            Attachment(AttachmentKind.IMAGE, "image/png", "cat.png", 12),
            id="caption",
        ),
        pytest.param(
            {"msgtype": "m.file", "body": "a.pdf", "filename": "a.pdf"},
            "",
            Attachment(AttachmentKind.FILE, name="a.pdf"),
            id="file",
        ),
        pytest.param(
            {"msgtype": "m.audio", "body": "a.ogg", "info": {"size": -1}},
            "",
            Attachment(AttachmentKind.AUDIO, name="a.ogg"),
            id="audio",
        ),
        pytest.param(
            {"msgtype": "m.audio", "body": "a.ogg", "org.matrix.msc3245.voice": {}},
            "",
            Attachment(AttachmentKind.VOICE, name="a.ogg"),
            id="voice",
        ),
        pytest.param(
            {"msgtype": "m.video", "body": "a.mp4", "info": {"size": True, "mimetype": 7}},
            "",
            Attachment(AttachmentKind.VIDEO, name="a.mp4"),
            id="video",
        ),
        pytest.param(
            {"msgtype": "m.location", "body": "here", "geo_uri": "geo:1,2"},
            "",
            Attachment(AttachmentKind.OTHER, name="location here geo:1,2"),
            id="location",
        ),
    ],
)
def test_files_are_described(content: dict[str, Any], text: str, attachment: Attachment) -> None:
    inbound = read({**content, "url": "mxc://matrix.test/x"})

    assert (inbound.text, inbound.attachments, inbound.typed) == (text, (attachment,), False)


def test_a_sticker_is_described() -> None:
    inbound = read({"body": "hi", "info": INFO}, type="m.sticker")

    assert inbound.attachments == (Attachment(AttachmentKind.STICKER, "image/png", "hi", 12),)


def test_a_thread_of_a_group_is_one() -> None:
    relation = {"rel_type": "m.thread", "event_id": "$root"}
    content = {"msgtype": "m.text", "body": "x", "m.relates_to": relation}
    source = read(content, replace(HERE, direct=False)).source

    assert (source.chat_type, source.thread_id) == (ChatType.THREAD, "$root")
    assert read({"msgtype": "m.text", "body": "x"}, replace(HERE, direct=False)).source == replace(
        source, chat_type=ChatType.GROUP, thread_id=""
    )


def test_an_edit_reads_as_it_reads_now_in_the_thread_of_the_message() -> None:
    said = event(
        {
            "msgtype": "m.text",
            "body": "* new",
            "m.new_content": {"msgtype": "m.text", "body": "new"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": "$0"},
        }
    )
    inbound = inbound_of(said, HERE, Origin("@bob:matrix.test", "$root"))

    assert inbound is not None
    assert (inbound.change, inbound.text, inbound.message_id) == (Change.EDITED, "new", "$0")
    # Whoever edits another's message is not that other one.
    assert (inbound.source.user_id, inbound.source.thread_id) == (ANN, "$root")


@pytest.mark.parametrize("place", ["content", "event"], ids=["now", "before-room-version-11"])
def test_a_redaction_takes_back_what_it_names(place: str) -> None:
    named = {"redacts": "$0"}
    said = event(named if place == "content" else {}, type="m.room.redaction")
    said |= {} if place == "content" else named
    inbound = inbound_of(said, HERE, None)

    assert changed_id(said) == "$0"
    assert inbound is not None
    assert (inbound.change, inbound.text, inbound.message_id) == (Change.RETRACTED, "", "$0")


def test_what_we_wrote_is_not_taken_back_by_anybody() -> None:
    said = event({"redacts": "$0"}, type="m.room.redaction")

    assert inbound_of(said, HERE, Origin(HERE.user_id)) is None


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(event({"msgtype": "m.text", "body": "x"}, sender=HERE.user_id), id="own"),
        pytest.param(event({"msgtype": "m.notice", "body": "x"}), id="notice"),
        pytest.param(event({"msgtype": "m.server_notice", "body": "x"}), id="server"),
        pytest.param(event({"msgtype": "m.text", "body": ""}), id="nothing"),
        pytest.param(event({}), id="redacted"),
        pytest.param(event({"msgtype": "m.text", "body": "x"}, type="m.reaction"), id="reaction"),
        pytest.param(event({"msgtype": "m.text", "body": "x"}, event_id=None), id="no-id"),
        pytest.param(event({"msgtype": "m.text", "body": "x"}, sender=None), id="nobody"),
    ],
)
def test_what_nobody_said_is_no_message(said: dict[str, Any]) -> None:
    assert inbound_of(said, HERE, None) is None


def test_the_origin_of_what_is_odd_is_nobody() -> None:
    assert origin_of({"content": {"m.relates_to": []}, "sender": 7}) == Origin("")


def membership(
    what: str, at_ms: int = 0, before: str = "", state_key: str = HERE.user_id
) -> dict[str, Any]:
    unsigned = {"prev_content": {"membership": before}} if before else {}
    return {
        "type": "m.room.member",
        "state_key": state_key,
        "content": {"membership": what},
        "unsigned": unsigned,
        "origin_server_ts": at_ms,
    }


def at(at_ms: int) -> dict[str, Any]:
    return {"type": "m.room.message", "origin_server_ts": at_ms}


def test_nothing_from_before_an_invitation_is_for_who_was_invited() -> None:
    invite, join = membership("invite", 2), membership("join", 4, "invite")
    events = (at(1), invite, at(3), join, at(5))

    assert joining(events, HERE.user_id) == 3
    assert since_invited(events, HERE.user_id, 3) == (invite, at(3), join, at(5))


def test_nor_what_is_long_past_when_the_invitation_is_accepted() -> None:
    late = WELCOME_MS + 10
    join = membership("join", late, "invite")
    events = (membership("invite", 0), at(9), at(10), join)

    assert since_invited(events, HERE.user_id, 3) == (at(10), join)


def test_without_an_invitation_what_counts_begins_with_the_joining() -> None:
    events = (at(1), membership("join", 2), at(3))

    assert since_invited(events, HERE.user_id, 1) == events[1:]


def test_a_new_name_is_no_joining() -> None:
    assert joining((membership("join", 1, "join"),), HERE.user_id) is None


def test_what_a_gateway_writes_no_gateway_takes_for_a_message() -> None:
    outbound = Outbound(SessionSource("matrix", "!room"), "**hi**", "d-1")

    for content in (message(outbound), edit(outbound, "$1")):
        assert inbound_of(event(content, sender="@bot:elsewhere.test"), HERE, None) is None


def test_a_change_is_of_the_kind_of_room_that_the_message_was_in() -> None:
    content = {
        "m.new_content": {"msgtype": "m.text", "body": "x"},
        "m.relates_to": {"rel_type": "m.replace", "event_id": "$0"},
    }
    origin, later = Origin(ANN, "$root", direct=True), replace(HERE, direct=False)
    edited = inbound_of(event(content), later, origin)
    taken_back = inbound_of(event({"redacts": "$0"}, type="m.room.redaction"), later, origin)

    for one in (edited, taken_back):
        assert one is not None
        assert (one.source.chat_type, one.source.thread_id) == (ChatType.DM, "$root")


CAME = membership("join", 1, "leave", state_key="@bob:x")
CHANGED = membership("join", 1, "join", state_key="@bob:x")
LEFT = membership("leave", 1, "join", state_key="@bob:x")
DECLINED = membership("leave", 1, "invite", state_key="@bob:x")
INVITED = membership("invite", 1, state_key="@bob:x")
BANNED = membership("ban", 1, state_key="@bob:x")
SAID = event({"msgtype": "m.text", "body": "x"})


@pytest.mark.parametrize(
    ("events", "found"),
    [
        pytest.param([SAID], [3], id="nobody-moved"),
        pytest.param([SAID, CAME, SAID], [2, 3, 3], id="somebody-came"),
        pytest.param([SAID, LEFT, SAID], [4, 3, 3], id="somebody-left"),
        pytest.param([SAID, CHANGED, SAID], [3, 3, 3], id="a-new-name"),
        pytest.param([SAID, INVITED, SAID, DECLINED], [3, 3, 3, 3], id="an-invitation"),
        pytest.param([INVITED, CAME, LEFT, CAME], [2, 3, 2, 3], id="came-and-went"),
        pytest.param([SAID, BANNED], [4, 3], id="banned"),
        pytest.param([SAID, membership("join", 1)], [3, 3], id="we-came"),
        pytest.param([membership("join", 1, state_key="@bob:x"), SAID], [3, 3], id="untold"),
    ],
)
def test_how_many_were_in_a_room_is_counted_back(
    events: list[dict[str, Any]], found: list[int]
) -> None:
    assert counts(tuple(events), HERE.user_id, 3) == found


def test_where_nobody_knows_how_many_there_are_nobody_knows_how_many_there_were() -> None:
    assert counts((SAID, CAME), HERE.user_id, None) == [None, None]


LONG = "x" * MAX_ID_CHARS


@pytest.mark.parametrize(
    ("more", "thread_id"),
    [
        pytest.param({"event_id": f"${LONG}"}, "$root", id="long-message"),
        pytest.param({"event_id": "$\n"}, "$root", id="message-with-a-control"),
        pytest.param({"sender": f"@{LONG}"}, "$root", id="long-user"),
        pytest.param({}, f"${LONG}", id="long-thread"),
        pytest.param({}, "$\x00", id="thread-with-a-control"),
    ],
)
def test_ids_that_are_none_are_refused(more: dict[str, str], thread_id: str) -> None:
    relation = {"rel_type": "m.thread", "event_id": thread_id}
    content = {"msgtype": "m.text", "body": "x", "m.relates_to": relation}

    assert inbound_of(event(content, **more), HERE, None) is None
