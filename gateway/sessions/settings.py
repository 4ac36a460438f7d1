"""Settings of the sessions room: the store, session keys, reset policies."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field

from gateway.model import ChatType
from gateway.settings import Settings


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
