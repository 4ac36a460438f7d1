"""When a session goes on, starts anew or stays paused. Pure: no I/O, no clock.

The same function serves inbound messages, recovery and dry runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from gateway.model import SessionKey
from gateway.sessions.settings import ResetMode, ResetOverride

if TYPE_CHECKING:
    from gateway.model import SessionSource
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.settings import SessionSettings

Guard = Callable[[SessionKey], bool]
"""Tells whether a session has live work; one that raises counts as active."""


class Action(StrEnum):
    """What happens with a message's session."""

    NEW = "new"
    """There is no entry: a first conversation, or the return after a prune."""
    CONTINUE = "continue"
    RESET = "reset"
    RESUME = "resume"
    """It was paused by its user, and goes on."""
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Decision:
    """An action, and for a reset its reason: `idle` or `daily`."""

    action: Action
    reason: str | None = None


OPERATOR: Final = "operator"
USER: Final = "user"
RESTARTS: Final = "restarts"
"""Who paused a session; see `SessionEntry.suspended_by`."""
_UTC = ZoneInfo("UTC")


@dataclass(frozen=True, slots=True)
class ResetPolicy:
    """When one session starts anew; the settings with their overrides applied."""

    mode: ResetMode = ResetMode.NONE
    idle: timedelta = timedelta(days=1)
    at_hour: int = 4
    zone: ZoneInfo = _UTC
    message_resumes: bool = False
    """Whether a message ends a pause that a user asked for."""


def policy_for(sessions: SessionSettings, source: SessionSource) -> ResetPolicy:
    """Return the policy of a source: general, then by chat type, then by platform, by field."""
    settings, none = sessions.reset, ResetOverride()
    layers = (
        settings.by_platform.get(source.platform, none),
        settings.by_chat_type.get(source.chat_type, none),
        settings,
    )

    def first(name: str) -> object:
        return next(value for layer in layers if (value := getattr(layer, name)) is not None)

    return ResetPolicy(
        mode=ResetMode(str(first("mode"))),
        idle=timedelta(minutes=int(str(first("idle_minutes")))),
        at_hour=int(str(first("at_hour"))),
        zone=ZoneInfo(str(first("timezone"))),
        message_resumes=sessions.message_resumes,
    )


def decide(
    entry: SessionEntry | None, policy: ResetPolicy, now: datetime, guard: Guard
) -> Decision:
    """Decide what a message now does with a session.

    A paused session is never reset, nor is one that this message resumes. A session whose guard
    says active, or raises, goes on. An `updated_at` in the future counts as now.
    """
    if entry is None:
        return Decision(Action.NEW)

    if entry.suspended_at is not None:
        resumes = policy.message_resumes and entry.suspended_by == USER
        return Decision(Action.RESUME if resumes else Action.PAUSED)

    reason = _due(min(entry.updated_at, now), policy, now)
    if reason is None or is_active(guard, entry.session_key):
        return Decision(Action.CONTINUE)

    return Decision(Action.RESET, reason)


def may_user_resume(entry: SessionEntry) -> bool:
    """Return whether a pause is the user's own to end: an operator's is not."""
    return entry.suspended_by in {USER, RESTARTS}


def is_active(guard: Guard, key: SessionKey) -> bool:
    """Ask a guard; one that raises protects."""
    try:
        return bool(guard(key))
    except Exception:  # noqa: BLE001 - boundary around a callback: failing must protect, not end
        return True


def daily_boundary(now: datetime, at_hour: int, zone: ZoneInfo) -> datetime:
    """Return the latest instant, not after `now`, at which the hour began in the zone.

    An hour that the clocks skip begins when they have gone on; one they repeat counts once, the
    first time.
    """
    # Clocks that go back over midnight repeat the end of a day whose successor has begun already.
    day = now.astimezone(zone).date() + timedelta(days=1)
    while True:
        local = datetime.combine(day, time_of_day(at_hour), tzinfo=zone)
        boundary = local.astimezone(UTC)
        if boundary <= now:
            return boundary

        day -= timedelta(days=1)


def next_reset(entry: SessionEntry, policy: ResetPolicy, now: datetime) -> datetime | None:
    """Return from when on a message starts a new conversation, live work aside; None: never.

    It may lie in the past: the next message is the first that can.
    """
    last = min(entry.updated_at, now)
    idle_at = last + policy.idle
    daily_at = next_daily_boundary(last, policy.at_hour, policy.zone)
    match policy.mode:
        case ResetMode.NONE:
            return None
        case ResetMode.IDLE:
            return idle_at
        case ResetMode.DAILY:
            return daily_at
        case ResetMode.BOTH:
            return min(idle_at, daily_at)
        case ResetMode.ALL:
            return max(idle_at, daily_at)


def next_daily_boundary(after: datetime, at_hour: int, zone: ZoneInfo) -> datetime:
    """Return the first instant after another at which the hour begins in the zone."""
    later = after
    # A day has 23 to 25 hours, but for zones that have skipped one.
    while (boundary := daily_boundary(later, at_hour, zone)) <= after:
        later += timedelta(hours=12)
    return boundary


def _due(last: datetime, policy: ResetPolicy, now: datetime) -> str | None:
    if policy.mode is ResetMode.NONE:
        return None

    idle = now - last >= policy.idle
    daily = last < daily_boundary(now, policy.at_hour, policy.zone)
    match policy.mode:
        case ResetMode.IDLE:
            return "idle" if idle else None
        case ResetMode.DAILY:
            return "daily" if daily else None
        case ResetMode.ALL:
            return "idle" if idle and daily else None
        case ResetMode.BOTH:
            return "idle" if idle else "daily" if daily else None
