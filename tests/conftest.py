"""What all tests have in common: hypothesis without a clock, plain tracebacks, counts at the end.

With several workers (`-n`) each gathers what is to be told, and the process above them prints it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from structlog.dev import ConsoleRenderer, plain_traceback

from tests.support.told import TOLD, Told

if TYPE_CHECKING:
    from collections.abc import Callable

# A slow machine is not a failing law.
settings.register_profile("gateway", deadline=None)
settings.load_profile("gateway")
# Logs that nobody configured: with frames and their values drawn, a traceback takes a second.
ConsoleRenderer.get_active().exception_formatter = plain_traceback


def pytest_configure(config: pytest.Config) -> None:
    """Begin to gather."""
    config.stash[TOLD] = Told()


@pytest.fixture
def torture_count(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Count what a test went through, by its name; the sums stand at the end of the run."""
    counts = request.config.stash[TOLD].went_through

    def add(name: str, number: int) -> None:
        counts[name] += number

    return add


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what a worker has gathered."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        told = session.config.stash[TOLD]
        output["told"] = (dict(told.went_through), told.does_not_apply)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # noqa: ANN401 - xdist has no public type for it
    """Take in what a worker has gathered; one that crashed has nothing."""
    told = getattr(node, "workeroutput", {}).get("told")
    if told is not None:
        counts, left_out = told
        node.config.stash[TOLD].add(Told(counts, left_out))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Tell it."""
    told = config.stash[TOLD]
    if told.went_through:
        terminalreporter.section("went through")
    for name, number in sorted(told.went_through.items()):
        terminalreporter.write_line(f"{number:>10,} {name}")
    if told.does_not_apply:
        terminalreporter.section("left out, for they do not apply")
    for why, tests in sorted(told.does_not_apply.items()):
        terminalreporter.write_line(f"{why}:")
        for test in tests:
            terminalreporter.write_line(f"    {test}")
