"""Who may wait: one lane a session key, bounded, one turn at a time in each. No I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from gateway.errors import BusyError

if TYPE_CHECKING:
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
        self._clock = clock
        self._lanes: dict[SessionKey, _Lane[T]] = {}
        self._spent: dict[SessionKey, tuple[float, float]] = {}
        self.waiting = 0
        """Messages accepted or being stored, whose turn has not begun."""

    def is_busy(self, key: SessionKey) -> bool:
        """Return whether a turn of the key runs, waits or is being stored."""
        return key in self._lanes

    def has_turn(self, key: SessionKey) -> bool:
        """Return whether a turn of the key runs or waits, places that are reserved aside."""
        lane = self._lanes.get(key)
        return lane is not None and (lane.running or bool(lane.waiting))

    def reserve(self, key: SessionKey) -> None:
        """Take a place for a message before it is stored.

        Raises:
            BusyError: a bound is reached; nothing was taken.
        """
        settings, lane = self.settings, self._lanes.get(key)
        if self.waiting >= settings.max_waiting:
            raise BusyError(
                "The gateway has too many messages waiting. Please try again in a moment.",
                retry_after_s=5,
                caller_limit=False,
            )

        behind = 0 if lane is None else len(lane.waiting) + lane.reserved
        if lane is not None and behind >= settings.max_waiting_per_session + (not lane.running):
            raise BusyError(
                f"{behind} messages of this conversation wait already. "
                "Please wait for their answers.",
                retry_after_s=5,
                caller_limit=True,
            )

        self._spend(key)
        self.waiting += 1
        self._lanes.setdefault(key, _Lane()).reserved += 1

    def release(self, key: SessionKey) -> None:
        """Give a reserved place back: the message was not stored, or needs no turn."""
        self.waiting -= 1
        self._lanes[key].reserved -= 1
        if key in self._spent:
            level, at = self._spent[key]
            self._spent[key] = (max(0.0, level - 1), at)
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

    def idle_keys(self) -> list[SessionKey]:
        """Return the keys whose messages wait for a worker after `admit`."""
        return [key for key, lane in self._lanes.items() if lane.waiting]

    def forget(self, key: SessionKey) -> None:
        """Drop what is remembered of a key's rate."""
        self._spent.pop(key, None)

    def _drop_if_empty(self, key: SessionKey) -> None:
        lane = self._lanes[key]
        if not (lane.worked or lane.reserved or lane.waiting):
            del self._lanes[key]

    def _spend(self, key: SessionKey) -> None:
        """Take one message from the key's minute: a bucket that refills evenly."""
        limit = self.settings.messages_per_minute
        if not limit:
            return

        now = self._clock.monotonic()
        self._forget_refilled(now, limit)
        level, at = self._spent.get(key, (0.0, now))
        level = max(0.0, level - (now - at) * limit / 60)
        if level + 1 > limit:
            raise BusyError(
                f"More than {limit} messages a minute. Please slow down.",
                retry_after_s=max(1.0, (level + 1 - limit) * 60 / limit),
                caller_limit=True,
            )

        self._spent[key] = (level + 1, now)

    def _forget_refilled(self, now: float, limit: int) -> None:
        """Keep the memory of rates small: a bucket not used for a minute is full again."""
        if len(self._spent) < 4 * self.settings.max_waiting:
            return

        self._spent = {
            key: (level, at)
            for key, (level, at) in self._spent.items()
            if level > (now - at) * limit / 60
        }
