"""When the next look comes, and how soon after a run the next one may begin.

Pure but for the clock that it is handed; monotonic times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.pruning.outside import Times
    from gateway.pruning.rules import PruningConfig

SHORTEST_WAIT_S: Final = 0.1
"""Between two looks, whatever is due."""


class Pacing:
    """Remembers when the last run was over."""

    def __init__(self, clock: Times) -> None:
        """Begin without any run."""
        self._clock = clock
        self._last_at: float | None = None

    def ended(self) -> None:
        """Take note that a run is over."""
        self._last_at = self._clock.monotonic()

    def soonest_s(self, config: PruningConfig) -> float:
        """Return how long until the next run that is due may begin."""
        if self._last_at is None:
            return 0.0

        since_s = self._clock.monotonic() - self._last_at
        return max(0.0, config.min_prune_interval_s - since_s)

    def wait_s(
        self, config: PruningConfig, due_at: datetime | None, *, in_vain: bool = False
    ) -> float:
        """Return how long until the next look.

        Args:
            config: What the manager goes by.
            due_at: When something is due; None: nobody can say, or nothing will be.
            in_vain: Whether the last look has led to a run that could take nothing: what is due may
                not be taken for now.
        """
        check_s = config.check_interval_s
        if due_at is None or not config.enabled:
            return check_s

        until_s = (due_at - self._clock.now()).total_seconds()
        if until_s <= 0 and in_vain:
            return check_s

        return min(check_s, max(until_s, self.soonest_s(config), SHORTEST_WAIT_S))
