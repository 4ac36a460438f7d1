"""What the end of a run tells beside failures: what tests went through, and what does not apply."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import pytest


@dataclass
class Told:
    """What is told of a run, or of a worker's part of it."""

    went_through: Counter[str] = field(default_factory=Counter)
    """How many there were, by what they are."""
    does_not_apply: dict[str, list[str]] = field(default_factory=dict)
    """By why, the tests that were left out as they were collected."""

    def add(self, other: Told) -> None:
        """Take in what a worker tells; all workers collect the same tests."""
        self.went_through.update(other.went_through)
        self.does_not_apply.update(other.does_not_apply)


TOLD: Final[pytest.StashKey[Told]] = pytest.StashKey()
"""Where a run keeps it."""
