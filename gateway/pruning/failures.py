"""What went wrong with items: all failures are counted, the first are listed.

Where everything fails, say a function that rules ask, a list of all would grow with the store.
Beside those that are listed so many are kept as the quarantine counts. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.pruning.plan import PruningFailure

MAX_FAILURES: Final = 100
"""How many failures of a plan, or of a run, are listed."""
MAX_FAILING: Final = 10_000
"""Items whose failures are counted at a time."""


class Failures:
    """Failures of one plan or run."""

    def __init__(self) -> None:
        self.first: list[PruningFailure] = []
        """The first of them: those that are listed."""
        self.unlisted: list[PruningFailure] = []
        """Those that come next."""
        self.count = 0
        """How many there are, those that were not kept among them."""

    def add(self, failure: PruningFailure) -> None:
        """Count a failure."""
        self.count += 1
        if len(self.first) < MAX_FAILURES:
            self.first.append(failure)
        elif len(self.unlisted) < MAX_FAILING - MAX_FAILURES:
            self.unlisted.append(failure)

    def add_unlisted(self, number: int) -> None:
        """Count failures of which nothing else is known."""
        self.count += number
