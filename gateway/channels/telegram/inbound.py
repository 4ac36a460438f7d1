"""What people write on Telegram, as the gateway has it. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gateway.channels.naming import needs_no_name
from gateway.model import (
    Attachment,
    AttachmentKind,
    Change,
    ChatType,
    Inbound,
    SessionSource,
    clean_name,
    clean_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiogram.types import Chat, Message, MessageEntity, PhotoSize, Sticker, Update

PLATFORM: Final = "telegram"
UPDATES: Final = ("message", "edited_message", "channel_post", "edited_channel_post")
"""What the platform is asked for; it tells of nobody's deletions."""
_AROUND: Final = " \t\r\n:,"
"""What may stand between our name and what is said to us."""
_CHAT_TYPES: Final = {"private": ChatType.DM, "channel": ChatType.CHANNEL}


def inbound_of(update: Update, *, account: str, bot_name: str, bot_id: str) -> Inbound | None:
    """Return the message of an update, or the change of one; None where nobody said anything.

    Args:
        update: As Telegram tells it.
        account: Our account.
        bot_name: Our name there, without `@`.
        bot_id: Our number there.
    """
    edited = update.edited_message or update.edited_channel_post
    message = update.message or update.channel_post or edited
    if message is None or _is_of_a_bot(message):
        return None

    said = message.text or message.caption or ""
    ours = [one for one in _entities(message) if _is_ours(one, said, bot_name, bot_id)]
    text = _without_name(said, ours)
    attachments = tuple(_attachments(message))
    if not text and not attachments:
        return None  # somebody joined, the title changed, ...

    inbound = Inbound(
        source=_source(message, account),
        text=text,
        message_id=message_name(bot_id, message.message_id),
        typed=_is_typed(message),
        bot_name=bot_name,
        attachments=attachments,
        change=Change.NEW if message is not edited else Change.EDITED,
    )
    named = bool(ours) or _answers(message, bot_id) or needs_no_name(inbound)
    return replace(inbound, named=named)


def message_name(bot_id: str, number: int) -> str:
    """Return what names a message: each bot has numbers of its own, which count from 1."""
    return f"{bot_id}:{number}"


def _entities(message: Message) -> list[MessageEntity]:
    return (message.entities if message.text else message.caption_entities) or []


def _is_ours(entity: MessageEntity, said: str, bot_name: str, bot_id: str) -> bool:
    """Return whether a part of a text names us: `@my_bot`, `/new@my_bot`, or our title."""
    if entity.type == "text_mention":
        return entity.user is not None and str(entity.user.id) == bot_id

    if entity.type not in {"mention", "bot_command"} or not bot_name:
        return False

    words = _units(said, entity.offset, entity.offset + entity.length)
    return words.partition("@")[2].casefold() == bot_name.casefold()


def _without_name(said: str, ours: list[MessageEntity]) -> str:
    """Return a text without our name before it; our name alone is a text as well."""
    ends = [one.length for one in ours if not one.offset and one.type != "bot_command"]
    rest = _units(said, ends[0]).lstrip(_AROUND) if ends else ""
    return clean_text(rest or said)


def _units(text: str, start: int, end: int | None = None) -> str:
    """Return a part of a text; Telegram counts in UTF-16."""
    units = text.encode("utf-16-le", "surrogatepass")
    part = units[2 * start : None if end is None else 2 * end]
    return part.decode("utf-16-le", "replace")


def _answers(message: Message, bot_id: str) -> bool:
    """Return whether a message answers one of ours."""
    answered = message.reply_to_message
    # In a topic what answers nothing names the message that the topic began with.
    if answered is None or answered.from_user is None or answered.forum_topic_created:
        return False

    return str(answered.from_user.id) == bot_id


def _source(message: Message, account: str) -> SessionSource:
    chat, user = message.chat, message.from_user
    # An anonymous admin, or a channel that speaks in a group, bears the id of a bot that is
    # everybody's: nobody must be allowed by that.
    speaks_as = message.sender_chat
    if speaks_as is not None or user is None:
        user_id, user_name = "", _title(speaks_as or chat)
    else:
        user_id, user_name = str(user.id), user.full_name
    return SessionSource(
        platform=PLATFORM,
        account=account,
        chat_id=str(chat.id),
        chat_type=_chat_type(message),
        thread_id=_topic(message),
        user_id=user_id,
        user_name=clean_name(user_name),
        chat_name=clean_name(chat.title or ""),
    )


def _chat_type(message: Message) -> ChatType:
    kind = _CHAT_TYPES.get(message.chat.type, ChatType.GROUP)
    # Topics of a direct chat are direct still: who may talk there goes by that.
    return ChatType.THREAD if kind is ChatType.GROUP and _topic(message) else kind


def _topic(message: Message) -> str:
    # Without the mark it is a mere chain of replies.
    if not message.is_topic_message or message.message_thread_id is None:
        return ""

    return str(message.message_thread_id)


def _title(chat: Chat) -> str:
    return chat.title or chat.full_name or ""


def _is_of_a_bot(message: Message) -> bool:
    user = message.from_user
    return user is not None and user.is_bot and message.sender_chat is None


def _is_typed(message: Message) -> bool:
    """Return whether the sender wrote the text as a message: no command stands in a caption."""
    others = (message.forward_origin, message.is_automatic_forward, message.via_bot)
    return bool(message.text) and not any(others)


def _attachments(message: Message) -> Iterator[Attachment]:
    if message.photo:
        yield _photo(message.photo)
    if message.sticker:
        yield _sticker(message.sticker)
    for kind, file in (
        (AttachmentKind.AUDIO, message.audio),
        (AttachmentKind.VOICE, message.voice),
        (AttachmentKind.VIDEO, message.video),
        (AttachmentKind.VIDEO, message.animation),
        # An animation comes as a file once more.
        (AttachmentKind.FILE, None if message.animation else message.document),
    ):
        if file is not None:
            name = getattr(file, "file_name", None) or ""
            yield Attachment(kind, file.mime_type or "", name, file.file_size)
    if message.video_note:
        yield Attachment(AttachmentKind.VIDEO, "video/mp4", "", message.video_note.file_size)
    for said in filter(None, (_place(message), _contact(message), *_others(message))):
        yield Attachment(AttachmentKind.OTHER, name=said)


def _photo(sizes: list[PhotoSize]) -> Attachment:
    largest = max(sizes, key=lambda one: one.width * one.height)
    return Attachment(AttachmentKind.IMAGE, "image/jpeg", "", largest.file_size)


def _sticker(sticker: Sticker) -> Attachment:
    media_type = "image/webp"
    if sticker.is_animated:
        media_type = "application/x-tgsticker"
    elif sticker.is_video:
        media_type = "video/webm"
    return Attachment(AttachmentKind.STICKER, media_type, sticker.emoji or "", sticker.file_size)


def _place(message: Message) -> str:
    venue, location = message.venue, message.location
    if venue is not None:
        # A venue brings its location once more.
        name, location = f" {venue.title}, {venue.address}", venue.location
    else:
        name = ""
    if location is None:
        return ""

    return f"location{name} {location.latitude:.5f}, {location.longitude:.5f}"


def _contact(message: Message) -> str:
    contact = message.contact
    if contact is None:
        return ""

    name = " ".join(filter(None, (contact.first_name, contact.last_name)))
    return f"contact {name} {contact.phone_number}"


def _others(message: Message) -> Iterator[str]:
    if message.poll:
        yield f"poll {message.poll.question}"
    if message.dice:
        yield f"dice {message.dice.emoji} {message.dice.value}"
    if message.story:
        yield "story"
    if message.checklist:
        yield f"checklist {message.checklist.title}"
    if message.game:
        yield f"game {message.game.title}"
    if message.paid_media:
        yield "paid media"
