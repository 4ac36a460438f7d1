"""What must be true after a crash: a client's history, and what a recovery is held against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.sessions.entry import decode_member
from tests.crash.operations import Acknowledged, Attempt, Given, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.crash.operations import Mark


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a recovery came to."""

    entries: dict[str, bytes]
    """The members of the store, by key."""
    sequence: int = 0
    rows: frozenset[str] = frozenset()
    """Turns in the database: `accepted:<turn>`, `replied:<turn>`."""
    faults: tuple[str, ...] = ()
    """What was wrong with the recovery itself."""


@dataclass(slots=True)
class Expectation:
    """What clients know; grows with each mark."""

    durable: dict[str, bytes] = field(default_factory=dict)
    """What the last acknowledgement of each key left; a key without entry is not in it."""
    open: dict[str, list[Attempt]] = field(default_factory=dict)
    """Attempts of each key that may or may not have happened."""
    given: list[dict[str, bytes]] = field(default_factory=list)
    """Other contents the whole store may have while nothing was acknowledged on them."""
    sequence: int = 0
    rows: set[str] = field(default_factory=set)
    _attempts: dict[int, Attempt] = field(default_factory=dict)

    def note(self, mark: Mark) -> None:
        match mark:
            case Attempt(number, key):
                self._attempts[number] = mark
                self.open.setdefault(key, []).append(mark)
            case Acknowledged(number, value, sequence):
                attempt = self._attempts[number]
                self.open[attempt.key].clear()
                self.rows |= attempt.rows
                self.sequence = max(self.sequence, sequence)
                self.durable.pop(attempt.key, None)
                if value is not None:
                    self.durable[attempt.key] = value
            case Refused(number):
                self.open[self._attempts[number].key].remove(self._attempts[number])
            case Given(contents):
                self.durable, self.given = dict(contents[0]), list(contents[1:])

    def settle(self, outcome: Outcome) -> None:
        """Go on from a recovery: what was open is decided."""
        self.durable, self.rows = dict(outcome.entries), set(outcome.rows)
        self.sequence = outcome.sequence
        self.open.clear()
        self.given.clear()

    def faults(self, outcome: Outcome) -> list[str]:
        """Return what is wrong with a recovery; empty where nothing is."""
        if outcome.faults:
            return list(outcome.faults)

        if any(outcome.entries == content for content in self.given):
            return []

        found = [
            f"{key}: {reason}"
            for key in {*self.durable, *self.open, *outcome.entries}
            if (reason := self._wrong(key, outcome.entries.get(key)))
        ]
        if outcome.sequence < self.sequence:
            found.append(f"sequence {outcome.sequence} after {self.sequence} was acknowledged")
        found += [f"acknowledged and lost: {row}" for row in self.rows - outcome.rows]
        found += [f"never attempted: {row}" for row in outcome.rows - self._all_rows()]
        return found

    def _wrong(self, key: str, found: bytes | None) -> str:
        durable = self.durable.get(key)
        if found == durable or any(_fits(one, found) for one in self.open.get(key, ())):
            return ""
        if found is None:
            return f"acknowledged and lost: {durable!r}"
        return f"found {found!r}, acknowledged {durable!r}, attempted {self.open.get(key)}"

    def _all_rows(self) -> set[str]:
        return {*self.rows, *self._attempted_rows()}

    def _attempted_rows(self) -> Iterator[str]:
        for attempts in self.open.values():
            for attempt in attempts:
                yield from attempt.rows


def _fits(attempt: Attempt, found: bytes | None) -> bool:
    if not attempt.open_ended:
        return attempt.value == found

    return found is not None and (
        decode_member(attempt.key, found).previous_session_id == attempt.after
    )
