"""What went wrong with items: all failures are counted, the first are kept.

Where everything fails, say a function that rules ask, a list of all would grow with the store.
Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.pruning.plan import PruningFailure

MAX_FAILURES: Final = 100
"""How many failures of a plan, or of a run, are kept."""


class Failures:
    """Failures of one plan or run."""

    def __init__(self) -> None:
        self.first: list[PruningFailure] = []
        """The first of them."""
        self.count = 0
        """How many there are, those that were not kept among them."""

    def add(self, failure: PruningFailure) -> None:
        """Count a failure."""
        self.count += 1
        if len(self.first) < MAX_FAILURES:
            self.first.append(failure)

    def add_unlisted(self, number: int) -> None:
        """Count failures of which nothing else is known."""
        self.count += number
