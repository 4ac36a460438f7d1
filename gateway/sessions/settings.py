"""Settings of the sessions room: the store, session keys, reset policies."""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from gateway.model import ChatType
from gateway.settings import Settings, broken_rules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.model import SessionSource

IDENTITY: Final = "identity"
"""Stands in a session key in place of a platform; no channel is called so."""
_MEMBER: Final = re.compile(
    r"([a-z0-9][a-z0-9_.-]{0,63})/([A-Za-z0-9@][A-Za-z0-9_.@-]{0,127})/(.+)"
)
_ABSENT: Final = frozenset({"*", "undefined", "null", "none"})
"""What is nobody's id, though programs write it in the place of one."""
MAX_USER_ID_CHARS: Final = 512


class ResetMode(StrEnum):
    """When an inbound message starts a new conversation by itself."""

    NONE = "none"
    IDLE = "idle"
    """After a time without a message."""
    DAILY = "daily"
    """With the first message after an hour of the day."""
    BOTH = "both"
    """When idle or daily holds."""
    ALL = "all"
    """When idle and daily both hold."""


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"{name!r} is unknown, accepted is an IANA time zone such as UTC or Europe/Berlin"
        ) from None

    return name


ModeField = Annotated[ResetMode, Field(strict=False)]
ZoneField = Annotated[str, AfterValidator(_known_zone)]
IdleField = Annotated[int, Field(ge=1, le=5_256_000)]
HourField = Annotated[int, Field(ge=0, le=23)]


class ResetOverride(Settings):
    """The fields of a reset policy that a platform or a chat type changes."""

    mode: ModeField | None = None
    idle_minutes: IdleField | None = None
    at_hour: HourField | None = None
    timezone: ZoneField | None = None


class ResetSettings(Settings):
    """When sessions start anew, in general and by place.

    A platform's field wins over a chat type's, a chat type's over the general one.
    """

    mode: ModeField = ResetMode.NONE
    """`none`, `idle`, `daily`, `both` (one is enough) or `all` (both must hold)."""
    idle_minutes: IdleField = 1440
    """For `idle`: minutes without a message."""
    at_hour: HourField = 4
    """For `daily`: the hour of the day, 0 to 23."""
    timezone: ZoneField = "UTC"
    """For `daily`: the IANA time zone of `at_hour`."""
    by_platform: dict[str, ResetOverride] = Field(default_factory=dict)
    """Tables by platform, such as `[sessions.reset.by_platform.telegram]`."""
    by_chat_type: dict[Annotated[ChatType, Field(strict=False)], ResetOverride] = Field(
        default_factory=dict
    )
    """Tables by chat type: `dm`, `group`, `channel`, `thread`."""


def _member(text: str) -> str:
    found = _MEMBER.fullmatch(text)
    user = found[3] if found else ""
    unfit = not user.isprintable() or user != user.strip() or len(user) > MAX_USER_ID_CHARS
    if found is None or unfit or user.lower() in _ABSENT:
        raise ValueError(
            f"{text[:64]!r} is nobody, accepted is platform/account/user id such as "
            '"telegram/main/12345": the platform and the name of a [channels] table, and the id as '
            "the platform writes it"
        )

    return unicodedata.normalize("NFC", text)


class IdentitySettings(Settings):
    """One person on several platforms: their direct chats with an agent are one session."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$",
            json_schema_extra={
                "accepted": "a name of 1 to 64 characters a-z 0-9 _ . - that begins with a-z or 0-9"
            },
        ),
    ]
    """What the person is called in the key of the session."""
    members: Annotated[list[Annotated[str, AfterValidator(_member)]], Field(min_length=1)]
    """Who they are, as `platform/account/user id`; ids match exactly. In groups they are who they
    are there, and who may talk goes by the platform that a message comes from."""


class SessionSettings(Settings):
    """Who shares a session with whom, and when it starts anew."""

    share_groups: bool = False
    """True: one session for all of a group or channel; false: one for each user in it."""
    share_threads: bool = True
    """True: one session for all of a thread; false: one for each user in it."""
    message_resumes: bool = False
    """True: the next message ends a pause that its user asked for with `/stop`; false: `/resume`
    does."""
    reset: ResetSettings = Field(default_factory=ResetSettings)
    identities: list[IdentitySettings] = Field(default_factory=list)
    """Tables `[[sessions.identities]]`: people who are the same on several platforms. Changes apply
    at the next start: from then on who is linked has another session."""
    _names: dict[str, str] = PrivateAttr(default_factory=dict)
    """Of each member the name."""

    @model_validator(mode="after")
    def _knows_everybody_once(self) -> Self:
        found = list(self._named_twice())
        if found:
            raise broken_rules(found)

        self._names.update((who, one.name) for one in self.identities for who in one.members)
        return self

    def identity_of(self, source: SessionSource) -> str:
        """Return the name of whom a direct chat is with; empty where it is linked to no other."""
        if not self._names or source.chat_type is not ChatType.DM or not source.user_id:
            return ""

        member = f"{source.platform}/{source.account}/{source.user_id}"
        return self._names.get(unicodedata.normalize("NFC", member), "")

    def _named_twice(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        names, members = set[str](), set[str]()
        for index, one in enumerate(self.identities):
            if one.name in names:
                text = f'"{one.name}" is a second table of this name, accepted is one for each'
                yield ("identities", index, "name"), text
            names.add(one.name)
            for place, who in enumerate(one.members):
                if who in members:
                    text = "is named twice, accepted is each member in one place"
                    yield ("identities", index, "members", place), text
                members.add(who)


class StoreSettings(Settings):
    """How `sessions.json` is written."""

    snapshot_interval_s: Annotated[float, Field(ge=0.05, le=3600)] = 1.0
    """Shortest time between two snapshots, in seconds; a large store takes longer by itself."""
    snapshot_budget_bytes_per_s: Annotated[int, Field(ge=0)] = 1_000_000
    """What snapshots may write on average, in bytes a second; 0 is no limit."""
    snapshot_burst_bytes: Annotated[int, Field(ge=0)] = 128_000_000
    """What may be written at once before the average counts, in bytes."""
    dashboard_group: str = ""
    """A Unix group that may read `sessions.json`; empty: nobody else may."""
