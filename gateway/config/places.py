"""Where each value of a configuration came from, for messages that lead people there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.config.keys import KeyPath, dotted

_IN_FILE, _IN_TEXTS, _NOWHERE = range(3)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One place; places sort in the order in which people read them."""

    rank: int
    line: int
    label: str
    """`file:line`, `environment NAME`, `command line`, or empty."""


@dataclass(frozen=True, slots=True)
class Places:
    """The places of all values given."""

    file: str = ""
    """The file's name as the user gave it; empty: there is none."""
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    """The line of each key of the file, from 1."""
    texts: Mapping[KeyPath, str] = field(default_factory=dict)
    """The label of each value from the environment or the command line."""

    def of(self, path: KeyPath) -> Place:
        """Return the place of a value: its own, else that of what holds it, else the file's top."""
        for length in range(len(path), 0, -1):
            holder = path[:length]
            if holder in self.texts:
                return Place(_IN_TEXTS, 0, self.texts[holder])
            if holder in self.lines:
                line = self.lines[holder]
                return Place(_IN_FILE, line, f"{self.file}:{line}")
            below = self.texts_below(holder)
            if below:
                return Place(_IN_TEXTS, 0, self.texts[below[0]])

        return Place(_IN_FILE, 1, f"{self.file}:1") if self.file else Place(_NOWHERE, 0, "")

    def texts_below(self, path: KeyPath) -> list[KeyPath]:
        """Return the values from outside the file at the path and below it."""
        return [text for text in self.texts if text[: len(path)] == path]

    def problem(self, path: KeyPath, text: str) -> str:
        """Return the line that tells people of a problem: `place: key: what is wrong`."""
        return ": ".join(filter(None, (self.of(path).label, dotted(path), text)))


NO_PLACES: Final = Places()
"""For values that come from a program."""
