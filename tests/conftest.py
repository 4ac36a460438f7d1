"""Hypothesis keeps no time limit of its own: a slow machine is not a failing law."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable

settings.register_profile("gateway", deadline=None)
settings.load_profile("gateway")

_COUNTS: pytest.StashKey[Counter[str]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    """Begin to count."""
    config.stash[_COUNTS] = Counter()


@pytest.fixture
def torture_count(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Count what a test went through, by its name; the sums stand at the end of the run."""
    counts = request.config.stash[_COUNTS]

    def add(name: str, number: int) -> None:
        counts[name] += number

    return add


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the sums."""
    counts = config.stash[_COUNTS]
    if counts:
        terminalreporter.section("went through")
    for name, number in sorted(counts.items()):
        terminalreporter.write_line(f"{number:>10,} {name}")
