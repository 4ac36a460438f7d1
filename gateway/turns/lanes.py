"""Who may wait: one lane a session key, bounded, one turn at a time in each. No I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from gateway.errors import BusyError
from gateway.turns.rates import Rates
from gateway.turns.settings import Busy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.clock import Clock
    from gateway.model import SessionKey
    from gateway.turns.settings import TurnSettings

T = TypeVar("T")


@dataclass(slots=True)
class _Lane(Generic[T]):
    waiting: deque[T] = field(default_factory=deque)
    reserved: int = 0
    """Messages that are being stored and will join."""
    worked: bool = False
    """Whether a worker looks after the lane; its next turn may still wait for a slot."""
    running: bool = False


class Lanes(Generic[T]):
    """The queues of all session keys; a key is busy while its lane exists."""

    def __init__(self, settings: TurnSettings, clock: Clock) -> None:
        """Start with no lane."""
        self.settings = settings
        self._lanes: dict[SessionKey, _Lane[T]] = {}
        self._by_session, self._by_user = Rates(clock), Rates(clock)
        self.waiting = 0
        """Messages accepted or being stored, whose turn has not begun."""

    def is_busy(self, key: SessionKey) -> bool:
        """Return whether a turn of the key runs, waits or is being stored."""
        return key in self._lanes

    def has_turn(self, key: SessionKey) -> bool:
        """Return whether a turn of the key runs or waits, places that are reserved aside."""
        lane = self._lanes.get(key)
        return lane is not None and (lane.running or bool(lane.waiting))

    def ahead(self, key: SessionKey) -> int:
        """Return how many turns of a key run or wait, places that are reserved aside."""
        lane = self._lanes.get(key)
        return 0 if lane is None else lane.running + len(lane.waiting)

    def waiting_of(self, key: SessionKey) -> int:
        """Return how many turns of a key wait."""
        lane = self._lanes.get(key)
        return 0 if lane is None else len(lane.waiting)

    def reserved(self, key: SessionKey) -> int:
        """Return how many messages of a key are being stored."""
        lane = self._lanes.get(key)
        return 0 if lane is None else lane.reserved

    def reserve(self, key: SessionKey, user: str, *, asking: int = 0) -> None:
        """Take a place for a message before it is stored.

        Args:
            key: Whose lane it joins.
            user: Who sent it.
            asking: Turns that have begun and wait for their users.

        Raises:
            BusyError: a bound is reached; nothing was taken.
        """
        settings, lane = self.settings, self._lanes.get(key)
        if self.waiting + asking >= settings.max_waiting:
            raise BusyError(
                "The gateway has too many messages waiting. Please try again in a moment.",
                retry_after_s=5,
                caller_limit=False,
            )

        if settings.busy is Busy.REFUSE and lane is not None:
            raise BusyError(
                "An answer is being made in this conversation. Please wait for it.",
                retry_after_s=5,
                caller_limit=True,
            )

        behind = 0 if lane is None else len(lane.waiting) + lane.reserved
        if lane is not None and behind >= settings.max_waiting_per_session + (not lane.running):
            raise BusyError(
                f"{behind} messages of this conversation wait already. "
                "Please wait for their answers.",
                retry_after_s=5,
                caller_limit=True,
            )

        self.spend(key, user)
        self.waiting += 1
        self._lanes.setdefault(key, _Lane()).reserved += 1

    def spend(self, key: SessionKey, user: str) -> None:
        """Take one message from the minute of a session and from that of a user.

        Raises:
            BusyError: there are too many in this minute; nothing was taken.
        """
        settings = self.settings
        self._by_session.spend(key, settings.messages_per_minute)
        try:
            self._by_user.spend(user, settings.messages_per_minute_per_user)
        except BusyError:
            self._by_session.give_back(key)
            raise

    def release(self, key: SessionKey, user: str, *, counts: bool = False) -> None:
        """Give a reserved place back: the message was not stored, or needs no turn.

        Args:
            key: Whose lane it is.
            user: Who sent it.
            counts: Whether it counts against the rates all the same.
        """
        self.waiting -= 1
        self._lanes[key].reserved -= 1
        if not counts:
            self._by_session.give_back(key)
            self._by_user.give_back(user)
        self._drop_if_empty(key)

    def join(self, key: SessionKey, item: T) -> bool:
        """Turn a reserved place into a waiting item; True if the lane needs a worker."""
        lane = self._lanes[key]
        lane.reserved -= 1
        lane.waiting.append(item)
        if lane.worked:
            return False

        lane.worked = True
        return True

    def admit(self, key: SessionKey, item: T) -> bool:
        """Let an item wait without asking the bounds: it was accepted before a restart."""
        self.waiting += 1
        self._lanes.setdefault(key, _Lane()).reserved += 1
        return self.join(key, item)

    def hold(self, key: SessionKey) -> bool:
        """Keep a lane from running turns until `has_next`; False where one runs or waits."""
        if key in self._lanes:
            return False

        self._lanes[key] = _Lane(worked=True, running=True)
        return True

    def has_next(self, key: SessionKey) -> bool:
        """Return whether an item waits, for a lane's worker whose turn ended; False lets it go."""
        lane = self._lanes[key]
        lane.running = False
        if lane.waiting:
            return True

        lane.worked = False
        self._drop_if_empty(key)
        return False

    def next(self, key: SessionKey) -> T:
        """Return the next item of a lane's worker, whose turn begins now."""
        lane = self._lanes[key]
        lane.running = True
        self.waiting -= 1
        return lane.waiting.popleft()

    def items(self, key: SessionKey | None = None) -> list[T]:
        """Return what waits for its turn in a lane, or in all of them."""
        lanes = self._lanes.values() if key is None else filter(None, [self._lanes.get(key)])
        return [item for lane in lanes for item in lane.waiting]

    def keys(self) -> Iterable[SessionKey]:
        """Return the keys that are busy."""
        return self._lanes.keys()

    def idle_keys(self) -> list[SessionKey]:
        """Return the keys whose messages wait for a worker after `admit`."""
        return [key for key, lane in self._lanes.items() if lane.waiting]

    def forget(self, key: SessionKey) -> None:
        """Drop what is remembered of a key's rate."""
        self._by_session.forget(key)

    def _drop_if_empty(self, key: SessionKey) -> None:
        lane = self._lanes[key]
        if not (lane.worked or lane.reserved or lane.waiting):
            del self._lanes[key]
