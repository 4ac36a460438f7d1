"""What a salvage gave up: where, how much, and the first few of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gateway.durable.wal import WAY_OUT

EXAMPLES: Final = 20
"""How many examples a loss names."""


@dataclass(slots=True)
class Loss:
    """Things of one kind that were given up in one place."""

    place: str
    """A file, or a table of the database."""
    what: str
    """What they were, and what is missing without them."""
    count: int = 0
    """How many; of rows that cannot be read, how many there were at most. One thing as a whole, a
    file or the end of a table, counts as 1."""
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Losses:
    """Everything that was given up, and what was noticed besides."""

    losses: dict[tuple[str, str], Loss] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What was mended or went another way, and lost nothing."""

    def add(self, place: str, what: str, example: str = "", *, count: int = 1) -> None:
        """Count things that are given up."""
        loss = self.losses.setdefault((place, what), Loss(place, what))
        loss.count += count
        if example and len(loss.examples) < EXAMPLES:
            loss.examples.append(without_way_out(example))

    def note(self, text: str) -> None:
        """Say what lost nothing."""
        self.notes.append(without_way_out(text))

    def all(self) -> list[Loss]:
        """Return what was given up, in the order it was met."""
        return list(self.losses.values())


def without_way_out(text: str) -> str:
    """Return an error's text without the advice to do what is being done."""
    return text.replace(f"; {WAY_OUT}", "")
