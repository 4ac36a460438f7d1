"""Laws of what tells a keeper from every other process, also under the shipped units."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from gateway.errors import ExitCode
from gateway.processes.identity import (
    BOOT_ID_VARIABLE,
    KeeperIdentity,
    boot_id,
    open_keeper,
    start_ticks,
)
from gateway.processes.keeper import LINGER_S, STUCK_S
from gateway.processes.launching import GRACE_S

UNITS: Final = Path(__file__).parents[2] / "systemd"
ASK: Final = "from gateway.processes.identity import boot_id; print(boot_id())"


def unit(name: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNITS / name, encoding="utf-8")
    return parser["Service"]


def test_the_boot_is_named_without_dashes_as_systemd_does() -> None:
    assert re.fullmatch("[0-9a-f]{32}", boot_id())


def test_a_process_that_is_not_there_has_no_start_and_is_not_opened(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert start_ticks(gone.pid) is None
    assert open_keeper(KeeperIdentity(gone.pid, 1, boot_id()), tmp_path) is None


def test_the_start_of_a_process_does_not_change_with_its_name() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "open('/proc/self/comm', 'w').write('a) R 1 2'); print(); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        before = start_ticks(child.pid)
        assert child.stdout is not None
        child.stdout.readline()
        assert b"a) R 1 2" in Path(f"/proc/{child.pid}/stat").read_bytes()
        assert start_ticks(child.pid) == before
        child.communicate(b"\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount what the unit does")
def test_where_the_unit_hides_the_boot_its_variable_tells_and_without_it_nothing_does() -> None:
    mounted = 'mount -t proc -o subset=pid proc /proc && exec "$0" "$@"'
    command = ["unshare", "--mount", "sh", "-c", mounted, sys.executable, "-c", ASK]
    kept = {name: value for name, value in os.environ.items() if name != BOOT_ID_VARIABLE}

    def ask(told: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, env=kept | told, check=False, timeout=30
        )

    if "mount" in ask({}).stderr:
        pytest.skip("nothing can be mounted here")
    assert ask({BOOT_ID_VARIABLE: "ab-cd"}).stdout == "abcd\n"
    assert "cannot be read, and BOOT_ID is not set" in ask({}).stderr


def test_the_unit_tells_the_boot_that_it_hides() -> None:
    text = (UNITS / "gateway.service").read_text(encoding="utf-8")

    assert f"\nEnvironment={BOOT_ID_VARIABLE}=%b\n" in text
    assert unit("gateway.service")["ProcSubset"] == "pid"


def test_the_runner_is_the_gateways_user_and_lets_its_processes_end_in_order() -> None:
    runner, gateway = unit("gateway-runner.service"), unit("gateway.service")

    assert runner["User"] == gateway["User"]
    assert runner["StateDirectory"] == gateway["StateDirectory"]
    assert runner["KillMode"] == "control-group"
    assert gateway["KillMode"] == "mixed"
    assert float(runner["TimeoutStopSec"]) > GRACE_S + LINGER_S + STUCK_S
    assert runner["RestartPreventExitStatus"] == str(int(ExitCode.ALREADY_RUNNING))
    assert runner["RuntimeDirectoryMode"] == "0700"
    socket = runner["ExecStart"].rpartition(" ")[2]
    assert socket.startswith(f"/run/{runner['RuntimeDirectory']}/")
    shipped = (UNITS.parent / "config" / "gateway.toml").read_text(encoding="utf-8")
    assert f'#runner = "{socket}"' in shipped
