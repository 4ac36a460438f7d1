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


def rows(outcome: Outcome, table: str = "tools") -> dict[str, str]:
    """Return what is printed of a table, by name, in order."""
    pairs = [re.split(r" {2,}", line, maxsplit=1) for line in outcome.stdout.splitlines()]
    return {pair[0]: pair[1] for pair in pairs if pair[0].startswith(table)}


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


def test_broken_channels_come_first_and_instants_are_written_as_elsewhere(tmp_path: Path) -> None:
    state = tmp_path / "state"
    well, broken = "channels.loopback/one", "channels.loopback/two"
    config = (
        '[channels.one]\nkind = "loopback"\n'
        f'[channels.two]\nkind = "loopback"\npath = "{tmp_path}/no/such/socket"\n'
    )
    with running_gateway(state, config=config):
        told: dict[str, str] = {}
        for _ in range(20):
            told = rows(gateway("status", "--state-dir", state), "channels")
            if told[f"{broken}.state"] == "backing_off":
                break

    names = [name.rpartition(".")[0] for name in told]
    assert told[f"{broken}.state"] == "backing_off"
    assert list(dict.fromkeys(names)) == [broken, well]
    assert re.fullmatch(r"[-0-9]{10} [:0-9]{8} UTC", told[f"{well}.since"])
