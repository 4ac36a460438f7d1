"""Who failed to authenticate too often, and for how long that address is turned away.

A plain table in memory, bounded: under attack from very many addresses the oldest are forgotten.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

MAX_FAILURES: Final = 10
"""How many failures within the window lock an address out."""
WINDOW_S: Final = 60.0
LOCKOUT_S: Final = 300.0
MAX_ADDRESSES: Final = 4_096


@dataclass(slots=True)
class _Record:
    failed_at: deque[float]
    locked_until: float = 0.0


class Lockout:
    """Failures by client address; instants are monotonic seconds."""

    def __init__(
        self,
        max_failures: int = MAX_FAILURES,
        window_s: float = WINDOW_S,
        lockout_s: float = LOCKOUT_S,
    ) -> None:
        """Start with a clean sheet.

        Args:
            max_failures: How many failures within the window lock an address out.
            window_s: In seconds.
            lockout_s: For how long it is locked out then, in seconds.
        """
        self._max_failures = max_failures
        self._window_s = window_s
        self._lockout_s = lockout_s
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def __len__(self) -> int:
        """Return how many addresses are remembered."""
        return len(self._records)

    def remaining_s(self, address: str, now: float) -> float:
        """Return how long the address is still locked out; 0 if it is not."""
        record = self._records.get(address)
        return 0.0 if record is None else max(0.0, record.locked_until - now)

    def note_failure(self, address: str, now: float) -> bool:
        """Count a failure; True if it locks the address out."""
        record = self._records.get(address)
        if record is None:
            record = self._records[address] = _Record(deque(maxlen=self._max_failures))
        self._records.move_to_end(address)
        if len(self._records) > MAX_ADDRESSES:
            self._records.popitem(last=False)

        record.failed_at.append(now)
        if len(record.failed_at) < self._max_failures or now - record.failed_at[0] > self._window_s:
            return False

        record.failed_at.clear()
        record.locked_until = now + self._lockout_s
        return True
