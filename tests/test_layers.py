"""The house keeps its layers, and the checker of `tests/layers.py` sees planted faults."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests import layers

PACKAGE: Final = Path(__file__).parent.parent / "gateway"


def test_every_room_has_a_floor() -> None:
    assert list(layers.rooms_without_a_floor(PACKAGE)) == []


def test_imports_point_strictly_down() -> None:
    assert list(layers.imports_not_strictly_down(layers.read_package(PACKAGE))) == []


def test_only_the_clock_asks_for_the_time_or_waits() -> None:
    assert list(layers.time_outside_the_clock(layers.read_package(PACKAGE))) == []


def test_only_durable_syncs_or_opens_sqlite() -> None:
    assert list(layers.storage_outside_durable(layers.read_package(PACKAGE))) == []


def test_programs_of_their_own_import_the_standard_library_alone() -> None:
    assert list(layers.programs_that_import_more(layers.read_package(PACKAGE))) == []


def test_each_vendors_sdk_is_loaded_lazily_and_in_its_place() -> None:
    assert list(layers.sdk_outside_its_place(layers.read_package(PACKAGE))) == []


def test_pure_rooms_reach_no_io() -> None:
    assert list(layers.impure_rooms(layers.read_package(PACKAGE))) == []


def _plant(tmp_path: Path, files: dict[str, str]) -> Path:
    package = tmp_path / "gateway"
    for name, source in {"__init__.py": "", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return package


def _faults(package: Path) -> list[str]:
    uses = layers.read_package(package)
    return [
        *layers.rooms_without_a_floor(package),
        *layers.imports_not_strictly_down(uses),
        *layers.time_outside_the_clock(uses),
        *layers.storage_outside_durable(uses),
        *layers.programs_that_import_more(uses),
        *layers.sdk_outside_its_place(uses),
        *layers.impure_rooms(uses),
    ]


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        pytest.param("errors.py", "from gateway.log import x", "errors (floor 0)", id="up"),
        pytest.param(
            "log.py", "def f():\n import gateway.turns", "log.py:2", id="up-in-a-function"
        ),
        pytest.param(
            "log.py", "from gateway import daemon", "gateway.daemon", id="up-from-package"
        ),
        pytest.param("sessions/a.py", "import gateway.agents.b", "(floor 2)", id="across"),
        pytest.param("api/a.py", "import gateway.config", "gateway.config", id="across-to-config"),
        pytest.param(
            "config.py", "import gateway.api.app", "api.app", id="config-to-more-than-settings"
        ),
        pytest.param("__init__.py", "import gateway.cli", "gateway.cli", id="package-itself"),
        pytest.param("sessions/a.py", "from . import b", "relative import", id="relative"),
        pytest.param("misc.py", "", "add it to FLOORS in tests/layers.py", id="unknown-module"),
        pytest.param("misc/a.py", "", "add it to FLOORS in tests/layers.py", id="unknown-package"),
        pytest.param("log.py", "import time", "log.py:1: time", id="time"),
        pytest.param("log.py", "from time import monotonic", "time.monotonic", id="time-from"),
        pytest.param("log.py", "import datetime as d\nd.datetime.now()", "log.py:2", id="now"),
        pytest.param(
            "log.py", "from datetime import datetime as d\nd.now()", "log.py:2", id="now-from"
        ),
        pytest.param("watcher.py", "import anyio\nawait anyio.sleep(1)", "anyio.sleep", id="sleep"),
        pytest.param("watcher.py", "from anyio import sleep", "anyio.sleep", id="sleep-from"),
        pytest.param("sessions/a.py", "import os\nos.fsync(1)", "os.fsync", id="fsync"),
        pytest.param(
            "processes/keeper.py", "import orjson", "starts without the gateway", id="stand-alone"
        ),
        pytest.param("sessions/a.py", "from os import fdatasync", "os.fdatasync", id="fdatasync"),
        pytest.param("transcripts/a.py", "import apsw", "apsw", id="apsw"),
        pytest.param("transcripts/a.py", "from sqlite3 import connect", "sqlite3", id="sqlite3"),
        pytest.param(
            "agents/a.py", "from gateway.agents import openai", "in a function", id="sdk-not-lazy"
        ),
        pytest.param(
            "turns/a.py",
            "from gateway.agents.openai import A",
            "in a function",
            id="sdk-from-above",
        ),
        pytest.param(
            "agents/echo.py", "def f():\n import openai", "SDK types stop", id="sdk-elsewhere"
        ),
        pytest.param(
            "agents/openai.py", "import anthropic", "SDK types stop", id="sdk-of-another-vendor"
        ),
        pytest.param("tools/server.py", "import mcp", "SDK types stop", id="sdk-of-tools"),
        pytest.param(
            "tools/results.py",
            "from mcp import types",
            "SDK types stop",
            id="sdk-types-at-run-time",
        ),
        pytest.param(
            "tools/server.py",
            "from gateway.tools.client import SdkConnector",
            "in a function",
            id="sdk-of-tools-not-lazy",
        ),
        pytest.param("context/a.py", "import anyio", "must stay pure", id="context-anyio"),
        pytest.param("context/a.py", "from structlog import x", "must stay pure", id="context-log"),
        pytest.param("pruning/rules.py", "import anyio", "must stay pure", id="pruning-anyio"),
    ],
)
def test_a_planted_fault_is_caught(tmp_path: Path, name: str, source: str, fault: str) -> None:
    faults = _faults(_plant(tmp_path, {name: source}))

    assert faults, "the checker saw nothing"
    assert all(fault in line for line in faults)


def test_io_reached_through_another_room_is_caught(tmp_path: Path) -> None:
    package = _plant(
        tmp_path, {"context/a.py": "from gateway.log import x", "log.py": "import structlog"}
    )

    assert _faults(package) == [
        "gateway.context.a must stay pure: gateway/log.py:1 imports structlog"
    ]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        pytest.param("sessions/a.py", "from gateway.sessions.b import c", id="own-room"),
        pytest.param("turns/a.py", "from gateway.sessions.b import c", id="down"),
        pytest.param("daemon.py", "import gateway.clock, gateway.config", id="far-down"),
        pytest.param(
            "config.py", "from gateway.api.settings import A", id="settings-beside-config"
        ),
        pytest.param("cli/a.py", "from gateway import __version__", id="version"),
        pytest.param("clock.py", "import time, anyio\nanyio.sleep(time.time())", id="clock"),
        pytest.param("durable/a.py", "import apsw, os\nos.fsync(0)", id="durable"),
        pytest.param("processes/keeper.py", "import time, os\nos.fsync(0)", id="stand-alone"),
        pytest.param("agents/openai.py", "import openai", id="sdk"),
        pytest.param(
            "agents/a.py", "def f():\n from gateway.agents.openai import A", id="lazy-sdk"
        ),
        pytest.param(
            "agents/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n import gateway.agents.openai",
            id="sdk-types",
        ),
        pytest.param("tools/http.py", "import mcp.types, gateway.tools.wire", id="sdk-of-tools"),
        pytest.param(
            "tools/results.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n from mcp import types",
            id="sdk-types-named",
        ),
        pytest.param("pruning/manager.py", "import anyio", id="pruning-manager"),
        pytest.param(
            "log.py",
            "from datetime import time, datetime\ndatetime.fromtimestamp(0)",
            id="datetime",
        ),
    ],
)
def test_what_the_house_allows_is_no_fault(tmp_path: Path, name: str, source: str) -> None:
    assert _faults(_plant(tmp_path, {name: source})) == []
