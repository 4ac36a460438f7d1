"""`gateway status`: what each tool server is doing stands in rows of its own."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cli.processes import gateway, running_gateway

if TYPE_CHECKING:
    from tests.cli.processes import Outcome

TINY_SERVER = Path(__file__).parent.parent / "tools" / "tiny_server.py"
CONFIG = f"""
[tools.servers.files]
command = ["{sys.executable}", "{TINY_SERVER}"]

[tools.servers.search]
command = ["{sys.executable}", "{TINY_SERVER}"]
"""
FIELDS = ("state", "since", "tools", "calls", "failures", "timeouts", "restarts", "last_error")


def rows(outcome: Outcome) -> dict[str, str]:
    """Return what is printed of tools, by name, in order."""
    pairs = [re.split(r" {2,}", line, maxsplit=1) for line in outcome.stdout.splitlines()]
    return {pair[0]: pair[1] for pair in pairs if pair[0].startswith("tools")}


def test_each_server_has_its_rows_and_json_its_list(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_gateway(state, config=CONFIG):
        told = rows(gateway("status", "--state-dir", state))
        document = gateway("status", "--state-dir", state, "--json").document

    servers = ("files", "search")
    assert list(told) == [f"tools.{name}.{field}" for name in servers for field in FIELDS]
    assert told["tools.files.calls"] == "0"
    assert not {"[", "{"} & set("".join(told.values()))
    assert [one["server"] for one in document["tools"]] == list(servers)
    assert {one["calls"] for one in document["tools"]} == {0}


def test_without_servers_that_is_said(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_gateway(state):
        told = rows(gateway("status", "--state-dir", state))
    stopped = gateway("status", "--state-dir", state)

    assert told == {"tools": "none"}
    assert (stopped.status, rows(stopped)) == (0, {})
