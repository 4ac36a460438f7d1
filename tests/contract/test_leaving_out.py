"""What is left out is told, and what a machine lacks fails where nothing may be skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.contract.platforms import PLATFORMS
from tests.support.lacking import lack

ROOT: Final = Path(__file__).parents[2]
LAW: Final = "test_a_retraction_names_the_message_and_says_nothing"


@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_what_a_machine_lacks_is_skipped_aloud_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)

    with pytest.raises(outcome, match="no server"):
        lack("no server")


@pytest.mark.parametrize("more", [[], ["-n", "1"]], ids=["alone", "in-parallel"])
def test_the_end_of_a_run_tells_the_laws_that_were_left_out(more: list[str]) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *more]
    inherited = {name: one for name, one in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [*command, "-k", f"{LAW} and loopback", "tests/contract/test_channels.py"],
        cwd=ROOT,
        env=inherited,
        capture_output=True,
        text=True,
        check=True,
    )

    told = done.stdout.partition("do not apply")[2]
    for name, (kind, _) in PLATFORMS.items():
        for ability, why in kind.lacks.items():
            assert f"{name} lacks {ability} ({why}):" in told
    assert f"    {LAW}\n" in told
    assert "SKIPPED" not in done.stdout
