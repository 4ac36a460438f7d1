"""The platforms that the laws are tried on, and the laws that do not apply to one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract.platforms import PLATFORMS
from tests.support.loopback import short_directory

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.contract.platforms import Platform


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(ability): a law about what not every platform has")


@pytest.fixture
def state_dir() -> Generator[Path]:
    """Give a directory whose path is short enough for a socket."""
    with short_directory() as path:
        yield Path(path)


@pytest.fixture(params=PLATFORMS)
def platform(request: pytest.FixtureRequest, state_dir: Path) -> Platform:
    """Give a platform; a law about what it has not is told as such."""
    kind, make = PLATFORMS[request.param]
    for mark in request.node.iter_markers("needs"):
        if mark.args[0] in kind.lacks:
            why = kind.lacks[mark.args[0]]
            pytest.skip(f"does not apply: {request.param} lacks {mark.args[0]}: {why}")
    return make(state_dir)
