"""Items that fail again and again: after three tries they are left alone until somebody asks.

Pure, and in memory alone: after a start an item that fails has its tries again. To outlive it this
would have to be a table that is checked, salvaged and erased as all others are, for three tries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.pruning.failures import MAX_FAILING
from gateway.pruning.plan import PruningFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

TRIES: Final = 3
"""Failures after which an item is left alone."""


@dataclass(frozen=True, slots=True)
class Failing:
    """An item that failed."""

    tries: int
    last: PruningFailure

    @property
    def is_quarantined(self) -> bool:
        """Whether it is left alone."""
        return self.tries >= TRIES


class Quarantine:
    """Counts failures by item."""

    def __init__(self) -> None:
        self._failing: dict[str, Failing] = {}

    def fail(self, failure: PruningFailure) -> None:
        """Count a failure.

        Of more than `MAX_FAILING` items those that failed longest ago begin anew.
        """
        known = self._failing.pop(failure.item_id, None)
        self._failing[failure.item_id] = Failing((known.tries if known else 0) + 1, failure)
        if len(self._failing) > MAX_FAILING:
            del self._failing[next(iter(self._failing))]

    def forget(self, item_id: str) -> bool:
        """Count from the beginning; return whether anything was counted."""
        return self._failing.pop(item_id, None) is not None

    def clear(self) -> int:
        """Count all from the beginning; return how many were left alone."""
        number = len(self.ids())
        self._failing.clear()
        return number

    def of(self, item_id: str) -> Failing | None:
        """Return the failures of an item, if there are any."""
        return self._failing.get(item_id)

    def ids(self) -> frozenset[str]:
        """Return the ids of the items that are left alone."""
        return frozenset(name for name, one in self._failing.items() if one.is_quarantined)

    def all(self) -> Mapping[str, Failing]:
        """Return what failed, by item id."""
        return dict(self._failing)
