"""Settings of the access room: who is listed, by platform, and what becomes of everybody else."""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from gateway.settings import Settings

EVERYBODY: Final = "*"
OPEN_PLATFORMS: Final = frozenset({"http", "loopback", "openai", "webhook"})
"""Whoever reaches these is authorised already: by a bearer token, the mode of the socket or a
signature."""
WITHOUT_COMMANDS: Final = frozenset({"openai"})
"""What comes by these is always for the agent."""
MAX_ID_CHARS: Final = 512
"""The longest id that can match, as of the API."""

_PLATFORM: Final = r"[a-z0-9][a-z0-9_.-]{0,63}"
_ACCOUNT: Final = r"[A-Za-z0-9@][A-Za-z0-9_.@-]{0,127}"
_PLATFORM_NAME: Final = re.compile(_PLATFORM)
_ACCEPTED_TABLE: Final = (
    "a platform such as telegram, or platform/account such as telegram/my_bot: the platform 1 to "
    "64 characters a-z 0-9 _ . -, the account 1 to 128 characters A-Z a-z 0-9 _ . @ -"
)
_UNFIT: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_ABSENT: Final = frozenset({"undefined", "null", "none"})
"""What programs write in the place of an id that is not there."""


class Unknown(StrEnum):
    """What becomes of unknown people who write in a direct chat."""

    IGNORE = "ignore"
    """Silence."""
    PAIR = "pair"
    """They get a code, which somebody else has to approve."""
    REFUSE = "refuse"
    """They are told that they may not."""


def usable_id(text: str) -> str:
    """Return an id as it is compared, NFC; empty for one that can never match.

    Such are a blank one, one of more than `MAX_ID_CHARS` characters, and one with control
    characters, line separators, lone surrogates or what stands in their place, U+FFFD.
    """
    if len(text) > MAX_ID_CHARS or not text.strip():
        return ""
    if text.isascii() and text.isprintable():
        return text
    if "\ufffd" in text or _UNFIT.intersection(map(unicodedata.category, text)):
        return ""

    return unicodedata.normalize("NFC", text)


def _id(text: str) -> str:
    wrong = ""
    if not text.strip():
        wrong = "is blank"
    elif text != text.strip():
        wrong = f"{text!r} begins or ends with white space"
    elif text.lower() in _ABSENT:
        wrong = f"{text!r} stands for an id that is missing"
    elif not usable_id(text) or "Cf" in map(unicodedata.category, text):
        # Invisible ones may be part of an id; in a list they are what a copy brought along.
        wrong = f"holds control or invisible characters, or more than {MAX_ID_CHARS} characters"
    if wrong:
        raise ValueError(f"{wrong}, accepted is an id as the platform writes it")

    return usable_id(text)


def _chat(text: str) -> str:
    if text == EVERYBODY:
        raise ValueError(
            f'"{EVERYBODY}" is no chat, accepted is the id of one (allow_users = ["{EVERYBODY}"] '
            "lets everybody talk)"
        )

    return _id(text)


def _admin(text: str) -> str:
    platform, colon, user = text.partition(":")
    if not colon or not _PLATFORM_NAME.fullmatch(platform) or user == EVERYBODY:
        raise ValueError(
            f"{text!r} is no user of a platform, accepted is platform:user id such as "
            "telegram:12345, the platform 1 to 64 characters a-z 0-9 _ . -"
        )

    return f"{platform}:{_id(user)}"


UserId = Annotated[str, AfterValidator(_id)]
ChatId = Annotated[str, AfterValidator(_chat)]
Admin = Annotated[str, AfterValidator(_admin)]
TableName = Annotated[str, Field(pattern=rf"^{_PLATFORM}(/{_ACCOUNT})?$")]


class PlatformAccess(Settings):
    """Who may talk on one platform, beside admins and those who were paired."""

    allow_users: list[UserId] = Field(default_factory=list)
    """Ids of users who may talk, in groups as well; `*` is everybody."""
    allow_chats: list[ChatId] = Field(default_factory=list)
    """Ids of groups and channels in which everybody may talk, in their threads as well."""
    unknown: Annotated[Unknown, Field(strict=False)] | None = None
    """What becomes of others in direct chats: `ignore`, `pair` (they get a code that you approve)
    or `refuse`; left out: `pair` where `allow_users` is empty, else `ignore`; on `http`, `openai`,
    `loopback` and `webhook`, whose clients wait for an answer, `refuse`. In groups they are always
    ignored."""


class AccessSettings(Settings):
    """Who may talk and who may command; ids match exactly, as the platform writes them."""

    admins: list[Admin] = Field(default_factory=list)
    """People, as `platform:user id`, who may look at and command every session."""
    platforms: dict[TableName, PlatformAccess] = Field(
        default_factory=dict, json_schema_extra={"accepted_names": _ACCEPTED_TABLE}
    )
    """Tables by platform, such as `[access.platforms.telegram]`, or by account, such as
    `[access.platforms."telegram/my_bot"]`, which then counts alone. Without one, everybody may
    talk on `http`, `openai` and `webhook` (their token or secret is their right) and on `loopback`,
    elsewhere only who was paired."""

    def rules(self, platform: str, account: str) -> PlatformAccess:
        """Return the one table that counts: of the account, else of the platform, else none's."""
        tables = {name.partition("/")[::2]: rules for name, rules in self.platforms.items()}
        for place in ((platform, account), (platform, "")):
            if place in tables:
                return tables[place]

        return _OPEN if platform in OPEN_PLATFORMS else _CLOSED

    def is_admin(self, platform: str, user_id: str) -> bool:
        """Return whether a user, the id as `usable_id` gives it, is an admin."""
        named = (admin.partition(":")[::2] for admin in self.admins)
        return bool(user_id) and (platform, user_id) in named


_OPEN: Final = PlatformAccess(allow_users=[EVERYBODY])
_CLOSED: Final = PlatformAccess()
