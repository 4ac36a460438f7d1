"""Laws of what people write on Telegram, by updates as the Bot API tells them."""

from __future__ import annotations

from typing import Any

import pytest
from aiogram.types import Update

from gateway.access.deciding import Standing, standing
from gateway.access.settings import AccessSettings, PlatformAccess
from gateway.channels.telegram.inbound import inbound_of
from gateway.commands.parsing import parse
from gateway.model import Attachment, AttachmentKind, Change, ChatType, Inbound, SessionSource
from tests.support.telegram_api import BOT_NAME, message, user

CLUB: dict[str, Any] = {"id": -100, "type": "supergroup", "title": "The\nclub"}
NEWS: dict[str, Any] = {"id": -200, "type": "channel", "title": "News"}
NOBODY: dict[str, Any] = {"from": None}
ANONYMOUS = user(1087968824, "Group", is_bot=True)


def read(update: dict[str, Any]) -> Inbound | None:
    update_of = Update.model_validate({"update_id": 1, **update})
    return inbound_of(update_of, account="main", bot_name=BOT_NAME, bot_id="123456")


def said(**more: Any) -> Inbound:  # noqa: ANN401 - fields of a message
    inbound = read({"message": message(**more)})
    assert inbound is not None
    return inbound


def source(chat: str, kind: ChatType = ChatType.DM, **more: str) -> SessionSource:
    return SessionSource("telegram", chat, kind, "main", **more)


def test_messages_of_two_bots_never_bear_one_id() -> None:
    update_of = Update.model_validate({"update_id": 1, "message": message()})
    found = [
        inbound_of(update_of, account="main", bot_name=BOT_NAME, bot_id=bot) for bot in ("1", "11")
    ]

    assert [one and one.message_id for one in found] == ["1:1", "11:1"]


def test_a_private_chat_is_direct() -> None:
    inbound = said(sender=user(last_name="Lee"))

    assert inbound.source == source("7", user_id="7", user_name="Ann Lee")
    assert (inbound.text, inbound.message_id, inbound.change) == ("hello", "123456:1", Change.NEW)
    assert inbound.typed
    assert inbound.bot_name == BOT_NAME


@pytest.mark.parametrize("kind", ["group", "supergroup"])
def test_a_group_has_its_title_and_its_senders(kind: str) -> None:
    inbound = said(chat=CLUB | {"type": kind})

    assert inbound.source == source(
        "-100", ChatType.GROUP, user_id="7", user_name="Ann", chat_name="The�club"
    )


def test_a_topic_is_a_thread_and_a_chain_of_replies_is_none() -> None:
    topic = said(chat=CLUB, message_thread_id=42, is_topic_message=True).source
    chain = said(chat=CLUB, message_thread_id=42).source

    assert (topic.chat_type, topic.thread_id) == (ChatType.THREAD, "42")
    assert (chain.chat_type, chain.thread_id) == (ChatType.GROUP, "")


def test_a_topic_of_a_private_chat_is_direct_still() -> None:
    topic = said(message_thread_id=42, is_topic_message=True).source

    assert (topic.chat_type, topic.thread_id) == (ChatType.DM, "42")


@pytest.mark.parametrize(
    ("update", "name"),
    [
        pytest.param(
            {"message": message(sender_chat=CLUB, chat=CLUB, sender=ANONYMOUS)},
            "The�club",
            id="anonymous-admin",
        ),
        pytest.param(
            {"message": message(chat=CLUB, sender_chat=NEWS, sender=ANONYMOUS)},
            "News",
            id="channel-in-a-group",
        ),
        pytest.param(
            {"channel_post": message(chat=NEWS, sender_chat=NEWS, **NOBODY)},
            "News",
            id="channel-post",
        ),
    ],
)
def test_who_speaks_as_a_chat_has_no_id_and_is_on_no_list(
    update: dict[str, Any], name: str
) -> None:
    inbound = read(update)

    assert inbound is not None
    assert (inbound.source.user_id, inbound.source.user_name) == ("", name)
    listed = PlatformAccess(allow_users=["*", "1087968824"])
    access = AccessSettings(platforms={"telegram": listed}, admins=["telegram:1087968824"])
    assert standing(inbound.source, access, is_paired=True) is Standing.STRANGER


def test_a_channel_is_one() -> None:
    inbound = read({"channel_post": message(chat=NEWS, sender_chat=NEWS, **NOBODY)})

    assert inbound is not None
    assert inbound.source.chat_type is ChatType.CHANNEL


@pytest.mark.parametrize("kind", ["edited_message", "edited_channel_post"])
def test_an_edit_is_a_change_of_the_message(kind: str) -> None:
    inbound = read({kind: message("now", edit_date=1_700_000_100)})

    assert inbound is not None
    assert (inbound.change, inbound.message_id, inbound.text) == (Change.EDITED, "123456:1", "now")


@pytest.mark.parametrize(
    ("more", "typed"),
    [
        pytest.param({}, True, id="own-words"),
        pytest.param({"quote": {"text": "/stop", "position": 0}}, True, id="beside-a-quotation"),
        pytest.param(
            {"forward_origin": {"type": "hidden_user", "sender_user_name": "B", "date": 1}},
            False,
            id="forwarded",
        ),
        pytest.param({"is_automatic_forward": True}, False, id="forwarded-by-the-platform"),
        pytest.param({"via_bot": user(9, "B", is_bot=True)}, False, id="by-a-bot"),
        pytest.param(
            {
                "text": None,
                "caption": "/stop",
                "voice": {"file_id": "v", "duration": 1} | {"file_unique_id": "v"},
            },
            False,
            id="caption",
        ),
    ],
)
def test_only_what_the_sender_wrote_as_a_message_may_be_a_command(
    more: dict[str, Any], *, typed: bool
) -> None:
    inbound = said(**{"text": "/stop", **more})

    assert inbound.text == "/stop"
    assert inbound.typed is typed


@pytest.mark.parametrize(("text", "ours"), [(f"/stop@{BOT_NAME}", True), ("/stop@other", False)])
def test_a_command_may_name_the_bot(text: str, *, ours: bool) -> None:
    assert (parse(said(text=text, chat=CLUB)) is not None) is ours


OTHERS = user(9, "Bob")
BOT = user(123456, "G", is_bot=True)
AT_US = f"@{BOT_NAME}"


def part(kind: str, offset: int, length: int, **more: object) -> dict[str, Any]:
    """Return that a part of a text is something."""
    return {"type": kind, "offset": offset, "length": length, **more}


def mention(offset: int = 0, name: str = BOT_NAME) -> list[dict[str, Any]]:
    return [part("mention", offset, len(name) + 1)]


def answer(sender: dict[str, Any], **more: object) -> dict[str, Any]:
    return {"reply_to_message": message("said before", 2, chat=CLUB, sender=sender, **more)}


FACE = "\U0001f600"


@pytest.mark.parametrize(
    ("more", "text"),
    [
        pytest.param(
            {"text": f"{AT_US} what?", "entities": mention()}, "what?", id="mentioned-first"
        ),
        pytest.param(
            {"text": f"{AT_US.upper()}, what?", "entities": mention()}, "what?", id="in-any-case"
        ),
        pytest.param(
            {"text": f"hey {AT_US}!", "entities": mention(4)}, f"hey {AT_US}!", id="mentioned-later"
        ),
        pytest.param(
            {"text": f"{FACE} {AT_US}", "entities": mention(3)}, f"{FACE} {AT_US}", id="utf-16"
        ),
        pytest.param({"text": AT_US, "entities": mention()}, AT_US, id="nothing-but-our-name"),
        pytest.param(
            {"text": f"The {FACE} bot: hi", "entities": [part("text_mention", 0, 10, user=BOT)]},
            "hi",
            id="our-title",
        ),
        pytest.param(
            {"text": f"try /new{AT_US}", "entities": [part("bot_command", 4, 4 + len(AT_US))]},
            f"try /new{AT_US}",
            id="a-command-of-ours",
        ),
        pytest.param({"text": "/new"}, "/new", id="a-command-to-nobody"),
        pytest.param(
            {"text": f"/bg{AT_US} ls", "entities": [part("bot_command", 0, 3 + len(AT_US))]},
            f"/bg{AT_US} ls",
            id="a-command-to-us",
        ),
        pytest.param({"text": "why?", **answer(BOT)}, "why?", id="an-answer"),
        pytest.param(
            {"text": None, "caption": f"{AT_US} look", "caption_entities": mention()}
            | {"voice": {"file_id": "v", "duration": 1, "file_unique_id": "v"}},
            "look",
            id="a-caption",
        ),
    ],
)
def test_in_a_group_these_name_us(more: dict[str, Any], text: str) -> None:
    inbound = said(chat=CLUB, **more)

    assert (inbound.named, inbound.text) == (True, text)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"text": "hello"}, id="nobody"),
        pytest.param({"text": "@bob hi", "entities": mention(0, "bob")}, id="somebody-else"),
        pytest.param(
            {"text": f"{AT_US}2 hi", "entities": mention(0, f"{BOT_NAME}2")}, id="like-us"
        ),
        pytest.param(
            {"text": "Bob: hi", "entities": [part("text_mention", 0, 3, user=OTHERS)]},
            id="the-title-of-somebody-else",
        ),
        pytest.param(
            {"text": "/new@other_bot", "entities": [part("bot_command", 0, 14)]},
            id="a-command-to-another",
        ),
        pytest.param(
            {"text": "see /etc", "entities": [part("bot_command", 4, 4)]}, id="what-looks-like-one"
        ),
        pytest.param({"text": "/new", "is_automatic_forward": True}, id="a-forwarded-command"),
        pytest.param({"text": "why?", **answer(OTHERS)}, id="an-answer-to-somebody-else"),
        pytest.param(
            {"text": "hi", "message_thread_id": 42, "is_topic_message": True}
            | answer(BOT, forum_topic_created={"name": "t", "icon_color": 1}),
            id="a-topic-that-we-made",
        ),
        pytest.param({"text": "x", "entities": [part("mention", 40, 9)]}, id="beyond-the-text"),
    ],
)
def test_in_a_group_these_do_not(more: dict[str, Any]) -> None:
    inbound = said(chat=CLUB, **more)

    assert (inbound.named, inbound.text) == (False, more["text"])


def test_in_a_direct_chat_nobody_needs_to_name_us() -> None:
    assert said(text="hello").named
    assert said(text="hello", message_thread_id=42, is_topic_message=True).named
    assert said(text=f"{AT_US} /stop", entities=mention()).text == "/stop"


def test_a_post_in_a_channel_is_for_us_where_it_names_us() -> None:
    of_news: dict[str, Any] = {"chat": NEWS, "sender_chat": NEWS, **NOBODY}
    bare = read({"channel_post": message("news", **of_news)})
    named = read({"channel_post": message(f"{AT_US} news", entities=mention(), **of_news)})

    assert bare is not None
    assert named is not None
    assert [(one.named, one.text) for one in (bare, named)] == [(False, "news"), (True, "news")]


def test_a_command_behind_our_name_is_one() -> None:
    assert parse(said(text=f"{AT_US} /stop", entities=mention(), chat=CLUB)) is not None


def test_an_edit_counts_by_the_message_that_it_changes() -> None:
    edit = read({"edited_message": message("now", chat=CLUB, edit_date=1_700_000_100)})

    assert edit is not None
    assert edit.named


FILE = {"file_id": "f", "file_unique_id": "f", "file_size": 10}
SIZED = FILE | {"width": 10, "height": 10}
PLACE = {"latitude": 52.5, "longitude": 13.25}


@pytest.mark.parametrize(
    ("more", "attachment"),
    [
        (
            {"photo": [SIZED, SIZED | {"width": 99, "file_size": 999}, SIZED]},
            Attachment(AttachmentKind.IMAGE, "image/jpeg", "", 999),
        ),
        (
            {"document": FILE | {"file_name": "a.pdf", "mime_type": "application/pdf"}},
            Attachment(AttachmentKind.FILE, "application/pdf", "a.pdf", 10),
        ),
        (
            {"audio": FILE | {"duration": 1, "file_name": "a.mp3", "mime_type": "audio/mpeg"}},
            Attachment(AttachmentKind.AUDIO, "audio/mpeg", "a.mp3", 10),
        ),
        (
            {"voice": FILE | {"duration": 1, "mime_type": "audio/ogg"}},
            Attachment(AttachmentKind.VOICE, "audio/ogg", "", 10),
        ),
        (
            {"video": SIZED | {"duration": 1, "mime_type": "video/mp4", "file_name": "v.mp4"}},
            Attachment(AttachmentKind.VIDEO, "video/mp4", "v.mp4", 10),
        ),
        (
            {"animation": SIZED | {"duration": 1, "mime_type": "video/mp4"}, "document": FILE},
            Attachment(AttachmentKind.VIDEO, "video/mp4", "", 10),
        ),
        (
            {"video_note": FILE | {"length": 1, "duration": 1}},
            Attachment(AttachmentKind.VIDEO, "video/mp4", "", 10),
        ),
        (
            {
                "sticker": SIZED
                | {"type": "regular", "is_animated": False, "is_video": False, "emoji": "😀"}
            },
            Attachment(AttachmentKind.STICKER, "image/webp", "😀", 10),
        ),
        ({"location": PLACE}, Attachment(AttachmentKind.OTHER, name="location 52.50000, 13.25000")),
        (
            {"venue": {"location": PLACE, "title": "Bar", "address": "1 Way"}, "location": PLACE},
            Attachment(AttachmentKind.OTHER, name="location Bar, 1 Way 52.50000, 13.25000"),
        ),
        (
            {"contact": {"phone_number": "+49 1", "first_name": "B", "last_name": "C"}},
            Attachment(AttachmentKind.OTHER, name="contact B C +49 1"),
        ),
        (
            {"dice": {"emoji": "🎲", "value": 4}},
            Attachment(AttachmentKind.OTHER, name="dice 🎲 4"),
        ),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
def test_what_is_sent_beside_a_text_is_described(
    more: dict[str, Any], attachment: Attachment
) -> None:
    assert said(text=None, **more).attachments == (attachment,)
    assert said(text=None, caption="look", **more).text == "look"


@pytest.mark.parametrize(
    "update",
    [
        pytest.param({"message": message(None, new_chat_title="x")}, id="the-chat-changed"),
        pytest.param({"message": message(None, left_chat_member=user())}, id="somebody-left"),
        pytest.param({"message": message(sender=user(9, "B", is_bot=True))}, id="a-bot"),
        pytest.param({"news_of_tomorrow": {}}, id="not-known"),
    ],
)
def test_what_nobody_said_is_no_message(update: dict[str, Any]) -> None:
    assert read(update) is None


def test_text_that_no_store_takes_is_cleaned() -> None:
    assert said(text="a\0b").text == "ab"
