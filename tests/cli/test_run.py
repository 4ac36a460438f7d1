"""`gateway run`."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.cli.processes import gateway, running_gateway, terminal

if TYPE_CHECKING:
    from pathlib import Path


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    config = f'state_dir = "{tmp_path}/other"\n[http]\nport = 1\n'
    with running_gateway(tmp_path / "state", config=config) as url:
        status = gateway("status", "--json", "--state-dir", tmp_path / "state").document

    assert status["url"] == url
    assert status["state_dir"] == str(tmp_path / "state")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param(("--port", "x"), 'command line: http.port: "x" is a string', id="no-number"),
        pytest.param(("--port", "-1"), "command line: http.port: -1 is out of range", id="range"),
        pytest.param(
            ("--host", "0.0.0.0"),  # noqa: S104 - refused
            "command line: http.host: 0.0.0.0 is not a loopback address",
            id="open-to-all",
        ),
    ],
)
def test_a_wrong_option_is_told_as_a_problem_of_the_configuration(
    tmp_path: Path, arguments: tuple[str, ...], line: str
) -> None:
    outcome = gateway("run", *arguments, "--state-dir", tmp_path / "state", cwd=tmp_path)

    assert outcome.status == 78
    assert outcome.stderr.startswith(f"gateway: {line}")
    assert not (tmp_path / "state").exists()


def test_errors_before_the_start_are_problem_objects_on_request(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("x = 1\ny = 2\n")

    outcome = gateway("run", "--json", cwd=tmp_path)

    assert outcome.status == 78
    assert outcome.stdout == ""
    assert len(outcome.problem["problems"]) == 2
    assert outcome.problem["exit_status"] == 78


def test_a_second_gateway_on_the_same_directory_ends_with_75(tmp_path: Path) -> None:
    with running_gateway(tmp_path / "state"):
        second = gateway("run", "--port", "0", "--state-dir", tmp_path / "state", cwd=tmp_path)

    assert second.status == 75
    assert "held by another process" in second.stdout


def test_the_command_to_try_it_can_be_pasted_anywhere(tmp_path: Path) -> None:
    state = "it's a $(state) " + "x" * 200
    # Stands in for curl, and shows what the shell makes of the command.
    (tmp_path / "curl").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "curl").chmod(0o700)

    with terminal("run", "--state-dir", state, "--port", "0", cwd=tmp_path) as screen:
        screen.wait_for("gateway.try")
        screen.wait_for("\ncurl ")
        command = "curl " + screen.wait_for("\n")
        pasted = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd="/",
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
    token = (tmp_path / state / "token").read_text().strip()

    assert pasted.stderr == ""
    quiet, url, *others = pasted.stdout.splitlines()
    assert (quiet, url.rpartition(":")[0]) == ("-s", "http://127.0.0.1")
    assert url.endswith("/v1/messages")
    assert others == [
        *("-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {token}"),
        *("-d", '{"chat_id": "me", "text": "hello"}'),
    ]
