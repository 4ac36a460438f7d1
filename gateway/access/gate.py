"""The front of the room: who sent this message, and what a stranger is told.

It is asked before anything is stored. A stranger learns nothing but what the settings say: whether
a chat, a session or another user exists makes no difference to the answer.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.access import deciding
from gateway.access.approval import Answer, Asked
from gateway.access.deciding import Standing
from gateway.access.pairing import user_of
from gateway.access.settings import OPEN_PLATFORMS, Unknown
from gateway.durable.batch import PASSING
from gateway.log import get_logger
from gateway.model import clean_name

if TYPE_CHECKING:
    from collections.abc import Hashable

    from gateway.access.pairing import Pairing
    from gateway.access.settings import AccessSettings
    from gateway.clock import Clock
    from gateway.model import Inbound, SessionSource

REFUSED: Final = "You are not among those who may talk here."
LOGGED_EVERY_S: Final = 3_600.0
"""How often a stranger gets a line in the log."""
REFUSED_EVERY_S: Final = 600.0
"""How often a stranger is told that they are refused, or cannot be paired now; who is refused and
waits for an answer gets it each time."""
MAX_REMEMBERED: Final = 4_096
"""Strangers remembered for that; from further ones, nothing is told and nothing logged."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a message may come in."""

    standing: Standing
    """A stranger's message goes no further."""
    text: str | None = field(default=None, repr=False)
    """What to tell a stranger at once, None for silence. It may hold a code: never store or log
    it."""


@dataclass(frozen=True, slots=True)
class AccessStatistics:
    """Messages since the start."""

    admitted: int
    """Of admins, and of others who may talk."""
    strangers: Mapping[str, int]
    """Of strangers, by what became of them: `ignored`, `refused`, and of those who are to be paired
    `code`, `again`, `quiet`, `full`, `locked` or `not_stored`; of anybody in a group, `not_named`:
    meant for nobody of ours."""


class Access:
    """Looks at every message before anything is stored of it."""

    def __init__(self, settings: AccessSettings, pairing: Pairing, clock: Clock) -> None:
        """Go by the settings, and by who was paired."""
        self.settings = settings
        """May be changed at any time; the next message goes by it."""
        self.pairing = pairing
        self._clock = clock
        self._logged = _Rarely(LOGGED_EVERY_S)
        self._refused = _Rarely(REFUSED_EVERY_S)
        self._admitted = 0
        self._strangers: Counter[str] = Counter()

    def standing(self, source: SessionSource) -> Standing:
        """Return who somebody is, without any trace of the question."""
        paired = self.pairing.is_paired(source)
        return deciding.standing(source, self.settings, is_paired=paired)

    async def admit(self, inbound: Inbound) -> Admission:
        """Return who the sender of a message is, and what to tell a stranger.

        Durability: only of a stranger who is given a code anything is written. A disk that takes
        nothing leaves them without one, and untold.

        Raises:
            StorageError: the storage failed.
        """
        source, standing = inbound.source, self.standing(inbound.source)
        if standing is not Standing.STRANGER:
            self._admitted += 1
            return Admission(standing)

        outcome, text = await self._receive(source)
        self._strangers[outcome] += 1
        if self._logged.allows(user_of(source), self._clock.monotonic()):
            get_logger().info(
                "access.refused",
                platform=source.platform,
                account=source.account,
                chat_type=source.chat_type.value,
                user_id=clean_name(source.user_id),
                outcome=outcome,
            )
        return Admission(standing, text)

    def pass_over(self) -> None:
        """Count a message that is meant for nobody of ours: whose it is makes no difference."""
        self._strangers["not_named"] += 1

    def statistics(self) -> AccessStatistics:
        """Return what became of messages since the start."""
        return AccessStatistics(self._admitted, dict(self._strangers))

    async def _receive(self, source: SessionSource) -> tuple[str, str | None]:
        """Return what becomes of a stranger, and what they are told."""
        match deciding.reception(source, self.settings):
            case Unknown.IGNORE:
                return "ignored", None
            case Unknown.REFUSE:
                waits = source.platform in OPEN_PLATFORMS
                now = self._clock.monotonic()
                told = waits or self._refused.allows(user_of(source), now)
                return "refused", REFUSED if told else None
            case Unknown.PAIR:
                try:
                    asked = await self.pairing.ask(source)
                except PASSING:
                    return "not_stored", None
                now = self._clock.monotonic()
                if asked.answer is Answer.LOCKED and not self._refused.allows(user_of(source), now):
                    return asked.answer.value, None
                return asked.answer.value, _text(asked)


class _Rarely:
    """Lets each of many through once in a time; bounded: where it is full, nobody new."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._last: OrderedDict[Hashable, float] = OrderedDict()
        """When each came through, in monotonic seconds, the longest ago first."""

    def allows(self, who: Hashable, now: float) -> bool:
        while self._last and now - next(iter(self._last.values())) >= self._interval_s:
            self._last.popitem(last=False)
        if who in self._last or len(self._last) >= MAX_REMEMBERED:
            return False

        self._last[who] = now
        return True


def _text(asked: Asked) -> str | None:
    until = f"{asked.expires_at:%H:%M} UTC" if asked.expires_at else ""
    if asked.answer is Answer.CODE:
        return (
            f"You are not known here yet. Your code is {asked.code}, until {until}. Give it to "
            "whoever runs this gateway, who approves it with: "
            f"gateway pairing approve {asked.code}"
        )
    if asked.answer is Answer.AGAIN:
        return (
            f"You have been given a code that waits to be approved until {until}. If you do not "
            "have it any more, write again after that."
        )
    if asked.answer is Answer.LOCKED:
        return "You are not known here yet, and nobody can be paired now. Write again in an hour."

    return None
