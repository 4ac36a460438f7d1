"""What the project declares is what it imports, pins and installs."""

from __future__ import annotations

import configparser
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gateway
from gateway.turns.settings import TurnSettings
from tests import layers

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT: Final = Path(__file__).parent.parent

PIN: Final = re.compile(r"[\w.-]+==[^\s;]+[^\n]*\\\n    --hash=sha256:[0-9a-f]{64}\b")
"""One entry of a requirements file: an exact version and at least one hash."""

LOADED_BY_NAME: Final = {
    "httptools": "uvicorn's parser of HTTP",
    "tzdata": "zoneinfo reads it where the system has no time zones",
}
"""Declared distributions that the code need not import, and who loads them."""


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(requirements: Iterable[str]) -> set[str]:
    return {_normal(re.split(r"[^\w.-]", text, maxsplit=1)[0]) for text in requirements}


def _declared() -> set[str]:
    project = _project()["project"]
    extras = project["optional-dependencies"].values()
    return _names([*project["dependencies"], *(text for extra in extras for text in extra)])


def _imported() -> dict[str, str]:
    """Return the distribution of each third-party import of the package, and a place of it."""
    owners = importlib.metadata.packages_distributions()
    found: dict[str, str] = {}
    for use in layers.read_package(ROOT / "gateway"):
        top = use.target.split(".")[0]
        if use.imported and top and top != "gateway" and top not in sys.stdlib_module_names:
            for owner in owners.get(top, [f"nothing installed has the module {top}"]):
                found.setdefault(_normal(owner), use.place)
    return found


def _pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, flags=re.MULTILINE))


def _unit() -> configparser.ConfigParser:
    # A key that systemd adds up stands several times; none of those is read here.
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read(ROOT / "systemd" / "gateway.service", encoding="utf-8")
    return unit


def test_every_import_is_a_declared_dependency() -> None:
    declared = _declared()

    assert {name: place for name, place in _imported().items() if name not in declared} == {}


def test_every_declared_dependency_is_imported() -> None:
    assert _declared() - set(_imported()) - set(LOADED_BY_NAME) == set()


def test_every_declared_dependency_is_pinned() -> None:
    groups = _project()["dependency-groups"]
    drawing, homeserver = _names(groups.pop("bench")), _names(groups.pop("synapse"))
    tools = _names(text for group in groups.values() for text in group if isinstance(text, str))

    assert _declared() - set(_pins("runtime.txt")) == set()
    assert tools - set(_pins("dev.txt")) == set()
    assert drawing - set(_pins("bench.txt")) == set()
    assert homeserver - set(_pins("synapse.txt")) == set()


def test_development_runs_on_the_versions_that_are_installed() -> None:
    development, drawing = _pins("dev.txt"), _pins("bench.txt")

    assert _pins("runtime.txt").items() <= development.items()
    assert {name: drawing[name] for name in drawing.keys() & development.keys()}.items() <= (
        development.items()
    )


def test_requirements_hold_hashed_pins_and_name_no_place() -> None:
    for path in (ROOT / "requirements").iterdir():
        text = path.read_text(encoding="utf-8")

        assert re.findall(r"://|^\s*-(?!-hash=sha256:)|/\w+/| @ ", text, flags=re.MULTILINE) == []
        for block in re.split(r"\n(?=\S)", text):
            assert re.match(r"[\w.-]+==[^\s;]+[^\n]*\\\n    --hash=sha256:[0-9a-f]{64}\b", block), (
                block
            )


def test_the_pinned_build_backend_is_the_one_the_build_asks_for() -> None:
    project = _project()

    assert set(project["build-system"]["requires"]) <= set(project["dependency-groups"]["build"])


def test_the_installed_version_is_the_one_of_the_code() -> None:
    assert importlib.metadata.version("session-gateway") == gateway.__version__


def test_the_command_is_there() -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="gateway")

    assert callable(command.load())


def test_the_unit_gives_a_stop_more_time_than_turns_have() -> None:
    assert float(_unit()["Service"]["TimeoutStopSec"]) > 2 * TurnSettings().grace_s


def test_the_unit_does_not_restart_what_cannot_get_better() -> None:
    assert _unit()["Service"]["RestartPreventExitStatus"].split() == ["65", "75", "78"]


def test_the_installed_configuration_names_the_state_of_the_unit() -> None:
    """What a command reads there is what the service writes."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (edit,) = re.findall(r"sed '(s\|\^state_dir[^']*)' config/gateway.toml", makefile)
    (state,) = re.findall(r"^STATE +:= (\S+)$", makefile, flags=re.MULTILINE)
    installed = subprocess.run(
        ["/bin/sed", edit.replace("$(STATE)", state), ROOT / "config" / "gateway.toml"],
        capture_output=True,
        text=True,
        check=True,
    )
    service = _unit()["Service"]

    assert tomllib.loads(installed.stdout)["state_dir"] == state
    assert state == f"/var/lib/{service['StateDirectory']}"


def test_the_unit_starts_again_however_often_it_takes() -> None:
    unit = _unit()

    assert unit["Service"]["Restart"] == "on-failure"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
