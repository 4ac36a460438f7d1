"""How many messages a minute somebody may send: buckets that refill evenly. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.errors import BusyError

if TYPE_CHECKING:
    from gateway.clock import Clock

_MIN_REMEMBERED: Final = 4_000


class Rates:
    """One bucket a name; a name not heard of for a minute has a full one."""

    def __init__(self, clock: Clock) -> None:
        """Start with every bucket full."""
        self._clock = clock
        self._spent: dict[str, tuple[float, float]] = {}
        """Messages taken and not refilled yet, and when that was found."""
        self._sweep_at = _MIN_REMEMBERED

    def spend(self, name: str, per_minute: int) -> None:
        """Take one message from a bucket; 0 a minute is no limit.

        Raises:
            BusyError: the bucket is empty; nothing was taken.
        """
        if not per_minute:
            return

        now = self._clock.monotonic()
        self._forget_refilled(now, per_minute)
        level, at = self._spent.get(name, (0.0, now))
        level = max(0.0, level - (now - at) * per_minute / 60)
        if level + 1 > per_minute:
            raise BusyError(
                f"More than {per_minute} messages a minute. Please slow down.",
                retry_after_s=max(1.0, (level + 1 - per_minute) * 60 / per_minute),
                caller_limit=True,
            )

        self._spent[name] = (level + 1, now)

    def give_back(self, name: str) -> None:
        """Undo what `spend` took."""
        if name in self._spent:
            level, at = self._spent[name]
            self._spent[name] = (max(0.0, level - 1), at)

    def forget(self, name: str) -> None:
        """Drop what is remembered of a name."""
        self._spent.pop(name, None)

    def _forget_refilled(self, now: float, per_minute: int) -> None:
        """Keep the memory small: a bucket not used for a minute is full again."""
        if len(self._spent) < self._sweep_at:
            return

        self._spent = {
            name: (level, at)
            for name, (level, at) in self._spent.items()
            if level > (now - at) * per_minute / 60
        }
        # Not again before as many have come: a sweep for each message would be quadratic.
        self._sweep_at = max(_MIN_REMEMBERED, 2 * len(self._spent))
