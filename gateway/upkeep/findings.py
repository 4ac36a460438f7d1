"""What a check found: one line each, and what they come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from typing_extensions import override

from gateway.errors import ExitCode

EXAMPLES: Final = 3
"""How many places a finding names."""


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """Want a look; nothing is lost, and the gateway starts."""
    UNSAFE = "unsafe"
    """Others can read or change it, or it is of a newer gateway: no gateway starts."""
    WRONG = "wrong"
    """Damaged, or parts that do not fit together."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    level: Level
    check: str
    """What was checked: a file, or a thing in one."""
    text: str
    """What was found, with its place."""


@dataclass(slots=True)
class Report:
    """All findings of a check, in the order they were made."""

    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, int] = field(default_factory=dict)
    """Numbers of things: `entries`, `sequence`, `messages`, ..."""

    def add(self, level: Level, check: str, text: str) -> None:
        """Note a finding."""
        self.findings.append(Finding(level, check, text))

    def ok(self, check: str, text: str) -> None:
        """Note that something is as it should be."""
        self.add(Level.OK, check, text)

    def warning(self, check: str, text: str) -> None:
        """Note what somebody should look at."""
        self.add(Level.WARNING, check, text)

    def wrong(self, check: str, text: str) -> None:
        """Note damage."""
        self.add(Level.WRONG, check, text)

    def exit_code(self) -> ExitCode:
        """Return what the findings come to: damage before unsafe modes."""
        levels = {finding.level for finding in self.findings}
        if Level.WRONG in levels:
            return ExitCode.DAMAGED_DATA

        return ExitCode.CONFIGURATION if Level.UNSAFE in levels else ExitCode.OK


class Tally:
    """Places where one thing is wrong: counted, the first few of them kept."""

    def __init__(self, what: str) -> None:
        """`what` says what is wrong, after a number: `entries cannot be decoded`."""
        self.what = what
        self.count = 0
        self._examples: list[str] = []

    def add(self, place: str) -> None:
        """Count a place."""
        self.count += 1
        if len(self._examples) < EXAMPLES:
            self._examples.append(place)

    @override
    def __str__(self) -> str:
        """Return the number, what it is, and the first places."""
        more = ", ..." if self.count > len(self._examples) else ""
        return f"{self.count} {self.what}: {', '.join(self._examples)}{more}"


def tell(report: Report, check: str, tallies: list[Tally], *, level: Level, fine: str) -> None:
    """Note every tally that counted something, or that all is fine."""
    for tally in tallies:
        if tally.count:
            report.add(level, check, str(tally))
    if not any(tally.count for tally in tallies):
        report.ok(check, fine)
