"""Every command: its help, its usage errors, its start time."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gateway import __version__
from gateway.cli.app import app
from tests.cli.processes import PATIENCE_S, gateway, imports

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = {
    "anthropic",
    "openai",
    "httpx2",
    "starlette",
    "uvicorn",
    "apsw",
    "rich",
    "pydantic",
    "asyncio",
}


def test_help_loads_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "gateway", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)

    assert "check-config" in told.stdout
    assert not HEAVY & set(imports(told.stderr))


def test_status_loads_no_sdk_and_no_server(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "gateway", "status"]
    told = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=PATIENCE_S, cwd=tmp_path
    )

    loaded = set(imports(told.stderr))
    assert "gateway.config" in loaded
    assert not {"anthropic", "openai", "starlette", "uvicorn", "apsw"} & loaded


def test_version_is_told() -> None:
    assert gateway("--version").stdout == f"gateway {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(("fly",), "No such command 'fly'", id="unknown-command"),
        pytest.param(("sessions", "show"), "Missing argument 'KEY'", id="missing-key"),
        pytest.param(("context", "show"), "Missing argument 'KEY'", id="missing-key-of-context"),
        pytest.param(("status", "--jsn"), "No such option: --jsn", id="unknown-option"),
        pytest.param(
            ("sessions", "list", "--limit", "0"),
            "greater than or equal to 1",
            id="limit-of-nothing",
        ),
        pytest.param(("sessions", "prune", "--max-age-days", "nan"), "from 0", id="no-age"),
        pytest.param(("sessions", "prune", "--max-age-days", "-1"), "from 0", id="negative-age"),
        pytest.param(
            ("transcript", "show", "k", "--limit", "x"), "valid integer", id="limit-no-number"
        ),
        pytest.param(("status", "--state-dir", ""), "accepted is a path", id="empty-directory"),
        pytest.param(("status", "--config", ""), "accepted is a path", id="empty-file"),
    ],
)
def test_wrong_usage_is_told_and_ends_with_2(arguments: tuple[str, ...], said: str) -> None:
    outcome = gateway(*arguments)

    assert outcome.status == 2
    assert said in outcome.stderr
    assert outcome.stdout == ""


def test_every_command_is_described_whole_in_80_columns() -> None:
    groups = [(str(group.name),) for group in app.registered_groups]
    shown = {names: gateway(*names, "--help") for names in [(), *groups]}

    assert len(shown) > 10
    for names, help_text in shown.items():
        listed = help_text.stdout.partition("Commands:")[2]
        assert listed, names
        assert "..." not in listed, names
