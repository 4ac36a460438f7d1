"""The platforms that the laws are tried on, and the laws that do not apply to one.

Such a law is left out as tests are collected, so that no run counts as skipped what can never be
run there; the end of the run tells which, and why.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract.platforms import PLATFORMS
from tests.support.lacking import lack
from tests.support.loopback import short_directory
from tests.support.told import TOLD

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from tests.contract.base import Ability, Platform


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(ability): a law about what not every platform has")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try a law on each platform that has what it is about."""
    if "platform" not in metafunc.fixturenames:
        return

    needed = [mark.args[0] for mark in metafunc.definition.iter_markers("needs")]
    names = []
    for name, (kind, _) in PLATFORMS.items():
        lacked = _lacked(kind.lacks, needed)
        if lacked is None:
            names.append(name)
        else:
            law = metafunc.definition.name
            left_out = metafunc.config.stash[TOLD].does_not_apply
            left_out.setdefault(f"{name} lacks {lacked}", []).append(law)
    assert names, f"no platform has what {metafunc.definition.name} is about"
    metafunc.parametrize("platform", names, indirect=True)


def _lacked(lacks: Mapping[Ability, str], needed: list[Ability]) -> str | None:
    """Return the first ability that is not there, and why; None where all are."""
    return next((f"{one} ({lacks[one]})" for one in needed if one in lacks), None)


@pytest.fixture
def state_dir() -> Generator[Path]:
    """Give a directory whose path is short enough for a socket."""
    with short_directory() as path:
        yield Path(path)


@pytest.fixture
def platform(request: pytest.FixtureRequest, state_dir: Path) -> Platform:
    """Give a platform; one whose server this machine lacks is skipped, though never in CI."""
    kind, make = PLATFORMS[request.param]
    missing = kind.missing()
    if missing:
        lack(f"{request.param}: {missing}")
    return make(state_dir, "acme")


@pytest.fixture
def other_account(request: pytest.FixtureRequest, platform: Platform, state_dir: Path) -> Platform:
    """Give the same platform with another account."""
    _, make = PLATFORMS[request.node.callspec.params["platform"]]
    made = make(state_dir, "work")
    assert made.channel.platform == platform.channel.platform
    return made
