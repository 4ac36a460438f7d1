"""A clock that leaps over what is due meanwhile: else much time takes long to pass."""

from __future__ import annotations

import heapq

from gateway.clock import FakeClock


class LeapingClock(FakeClock):
    """Wakes late who is due meanwhile, as a machine does that slept."""

    def leap(self, duration_s: float) -> None:
        """Move both clocks, and wake everybody who is due by then; waits for nobody."""
        self._move_to(self._monotonic + duration_s)
        while self._due and self._due[0][0] <= self._monotonic:
            heapq.heappop(self._due)[2]()
