"""What a part of the bench hands back: lines of the table, and numbers for the JSON."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table."""

    what: str
    unit: str
    measured: float
    goal: str = ""
    """What is wanted; empty: the line is shown for comparison."""
    met: bool | None = None


@dataclass(slots=True)
class Report:
    """What one part measured."""

    lines: list[Line] = field(default_factory=list)
    data: dict[str, object] = field(default_factory=dict)
    """For the JSON: absolute numbers and their spread."""

    def show(self, what: str, unit: str, measured: float) -> None:
        """Add a number that no goal belongs to."""
        self.lines.append(Line(what, unit, _rounded(measured)))

    def at_most(self, what: str, unit: str, measured: float, limit: float) -> None:
        """Add a number that is to be at most a limit."""
        goal = f"<= {shown(limit)}"
        self.lines.append(Line(what, unit, _rounded(measured), goal, met=measured <= limit))

    def at_least(self, what: str, unit: str, measured: float, limit: float) -> None:
        """Add a number that is to be at least a limit."""
        goal = f">= {shown(limit)}"
        self.lines.append(Line(what, unit, _rounded(measured), goal, met=measured >= limit))


def shown(value: float) -> str:
    """Return a number as it stands in the table."""
    return f"{_rounded(value):,}".removesuffix(".0")


def median(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def quantile(values: list[float], share: float) -> float:
    """Return the value that all but this share of the values reach at most, 0.99 or 0.999 say."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def spread(values: list[float]) -> dict[str, float]:
    """Return how values lie."""
    return {
        "count": len(values),
        "p50": _rounded(quantile(values, 0.5)),
        "p99": _rounded(quantile(values, 0.99)),
        "p99.9": _rounded(quantile(values, 0.999)),
        "max": _rounded(max(values)),
    }


def _rounded(value: float) -> float:
    if value >= 1000:
        return round(value)
    return float(f"{value:.3g}")
