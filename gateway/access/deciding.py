"""What the settings mean for one message: may its sender talk, and command what.

Pure. Users and chats match exactly, by NFC; an id that is empty matches nothing. What a user may do
goes by the place as well: a pairing is a matter of direct chats and gives nothing in a group.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from gateway.access.settings import (
    EVERYBODY,
    OPEN_PLATFORMS,
    WITHOUT_COMMANDS,
    Unknown,
    usable_id,
)
from gateway.model import ChatType

if TYPE_CHECKING:
    from gateway.access.settings import AccessSettings
    from gateway.model import Inbound, SessionSource


class Standing(StrEnum):
    """What somebody is, where they write."""

    ADMIN = "admin"
    ALLOWED = "allowed"
    STRANGER = "stranger"


class CommandScope(StrEnum):
    """Whose session a command is about."""

    OWN = "own"
    """The one that the sender's messages here go to; whoever shares it may command it."""
    ANY = "any"
    """Another one, or all."""


def standing(source: SessionSource, settings: AccessSettings, *, is_paired: bool) -> Standing:
    """Return what the sender of a message is there.

    Args:
        source: Where the message comes from.
        settings: Who is listed.
        is_paired: Whether the user was paired with this account of the platform.
    """
    user = usable_id(source.user_id)
    if settings.is_admin(source.platform, user):
        return Standing.ADMIN

    rules = settings.rules(source.platform, source.account)
    everybody = EVERYBODY in rules.allow_users and _is_known(source)
    listed = bool(user) and user in rules.allow_users
    if everybody or listed or (is_direct(source) and bool(user) and is_paired):
        return Standing.ALLOWED

    chat = usable_id(source.chat_id)
    if not is_direct(source) and chat and chat in rules.allow_chats:
        return Standing.ALLOWED

    return Standing.STRANGER


def reception(source: SessionSource, settings: AccessSettings) -> Unknown:
    """Return what becomes of a stranger's message."""
    if not is_direct(source):
        return Unknown.IGNORE

    rules = settings.rules(source.platform, source.account)
    unknown = rules.unknown
    if unknown is None and source.platform in OPEN_PLATFORMS:
        unknown = Unknown.REFUSE
    if unknown is None:
        unknown = Unknown.IGNORE if rules.allow_users else Unknown.PAIR
    # Whoever has no id can be neither paired nor told apart.
    return Unknown.IGNORE if unknown is Unknown.PAIR and not usable_id(source.user_id) else unknown


def commands_allowed(inbound: Inbound, standing: Standing) -> bool:
    """Return whether a command in the text is one: the sender typed it and is known.

    In a chat where everybody may talk, a sender without an id may talk and not command.
    """
    if not inbound.typed or inbound.source.platform in WITHOUT_COMMANDS:
        return False

    return standing is not Standing.STRANGER and _is_known(inbound.source)


def may_command(standing: Standing, surface: ChatType, scope: CommandScope) -> bool:
    """Return whether a sender of that standing may use a command on such a session there.

    What a command shows of others' sessions, all others in a group would read: there an admin
    commands the own session, as everybody else.
    """
    if scope is CommandScope.ANY:
        return standing is Standing.ADMIN and surface is ChatType.DM

    return standing is not Standing.STRANGER


def is_direct(source: SessionSource) -> bool:
    """Return whether a message comes from a direct chat."""
    return source.chat_type is ChatType.DM


def _is_known(source: SessionSource) -> bool:
    """Return whether a sender has an id, or needs none because the way in is guarded itself."""
    if source.user_id:
        return bool(usable_id(source.user_id))

    return source.platform in OPEN_PLATFORMS
