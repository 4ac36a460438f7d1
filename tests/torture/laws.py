"""The laws of a store that was hit, and how a broken one is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from typing_extensions import override


class Law(StrEnum):
    """What must never be seen."""

    LOST = "an acknowledged change is lost"
    UNATTEMPTED = "a change that nobody attempted is there"
    ORDER = "the order within a session is swapped"
    TWICE = "a message has two turns"
    REPLY = "a stored reply is not the one that was given"
    ERASED = "what was erased is there"
    TORN = "a turn is committed in part"
    ENTRY = "an entry disagrees with its committed turns"
    CONVERSATION = "the entries disagree with the conversations"
    BACK = "the sequence went back"
    SNAPSHOT = "a snapshot is not whole"
    COVER = "snapshots and session log do not fit together"
    INTEGRITY = "the database is damaged"
    CHANGED = "a recovery changed what it found"
    UNCOMMITTED = "a reply was shown that is not stored"
    UNSHOWN = "a reply counts as sent that nobody was shown"
    REPEATED = "a reply was shown again without need, or without saying so"
    COMMAND = "a command was not carried out exactly once"
    TOUCHED = "a recovery counts as a use of the session"
    OWED = "something is owed, or given up, though all is quiet"


@dataclass(frozen=True, slots=True)
class Violation:
    """A law that was broken, and where."""

    law: Law
    place: str

    @override
    def __str__(self) -> str:
        """Return both on one line."""
        return f"{self.law}: {self.place}"


def laws_of(violations: list[Violation]) -> set[Law]:
    """Return the laws that were broken."""
    return {violation.law for violation in violations}
