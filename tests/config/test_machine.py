"""What a configuration names must be there on this machine; nothing is started to find out."""

from __future__ import annotations

import grp
import sys
from typing import TYPE_CHECKING

import pytest

from gateway.config import check_here, load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def test_a_group_that_is_not_there_and_a_secret_are_told_by_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(
        "[store]\n\ndashboard_group = 'no-such-group'\n[http]\ntoken = { file = '/no/such' }\n"
    )
    loaded = load(path, {}, {})

    group, token = check_here(loaded.config, loaded.places)
    assert group == (
        f'{path}:3: store.dashboard_group: this machine has no group "no-such-group", '
        "accepted is one that it has"
    )
    assert token.startswith(f"{path}:5: http.token: ")


def test_a_group_that_is_there_and_no_group_are_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    for name in ("", grp.getgrall()[0].gr_name):
        path.write_text(f"store.dashboard_group = '{name}'\n")
        loaded = load(path, {}, {})

        assert check_here(loaded.config, loaded.places) == ()


def problems_of(path: Path, text: str) -> Sequence[str]:
    path.write_text(text)
    loaded = load(path, {}, {})
    return [one.replace(str(path), "g.toml") for one in check_here(loaded.config, loaded.places)]


def test_programs_and_directories_that_are_not_there_are_all_told_by_their_lines(
    tmp_path: Path,
) -> None:
    text = """
default_agent = "one"
[agents.one]
kind = "command"
argv = ["no-such-agent", "--fast"]
cwd = "/no/such"
[agents.two]
kind = "command"
argv = ["/no/such/agent"]
[agents.three]
kind = "command"
argv = ["sh"]
[tools.servers.files]
command = ["no-such-server"]
[tools.servers.web]
command = ["sh"]
cwd = "/no/such"
[tools.servers.far]
url = "http://127.0.0.1:1/mcp"
"""
    agent = "accepted is an absolute path, or a name that is found on PATH"
    server = "accepted is a path, or a name that is found on the PATH that it is given"
    no_directory = "there is no directory '/no/such'; accepted is one that there is"

    def no_program(name: str) -> str:
        return f"there is no program {name!r} that can be executed"

    assert problems_of(tmp_path / "gateway.toml", text) == [
        f"g.toml:5: agents.one.argv: {no_program('no-such-agent')}; {agent}",
        f"g.toml:6: agents.one.cwd: {no_directory}",
        f"g.toml:9: agents.two.argv: {no_program('/no/such/agent')}; {agent}",
        f"g.toml:14: tools.servers.files.command: {no_program('no-such-server')}; {server}",
        f"g.toml:17: tools.servers.web.cwd: {no_directory}",
    ]


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ("command = ['prog']\nenv = { PATH = 'HERE/bin' }", True),
        ("command = ['prog']\nenv = { PATH = '/bin:HERE/bin' }", True),
        ("command = ['prog']\nenv = { PATH = 'bin' }\ncwd = 'HERE'", True),
        ("command = ['prog']\nenv = { PATH = 'bin' }", False),
        ("command = ['prog']\ninherit_env = []", False),
        ("command = ['sh']\ninherit_env = []", True),
        ("command = ['bin/prog']\ncwd = 'HERE'", True),
        ("command = ['./prog']\ncwd = 'HERE/bin'", True),
        ("command = ['bin/prog']", False),
        ("command = ['HERE/bin/prog']", True),
        ("command = ['HERE/bin/text']", False),
        ("command = ['HERE/bin']", False),
        ("command = ['prog']\nsecret_env = { PATH = { file = 'HERE/path' } }", True),
    ],
)
def test_the_program_of_a_server_is_looked_for_where_it_will_be(
    tmp_path: Path,
    settings: str,
    found: bool,  # noqa: FBT001 - a column
) -> None:
    (tmp_path / "bin").mkdir()
    for name, mode in (("prog", 0o700), ("text", 0o600)):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\ntouch ran\n")
        (tmp_path / "bin" / name).chmod(mode)
    (tmp_path / "path").write_text("/somewhere")
    (tmp_path / "path").chmod(0o600)
    table = f"[tools.servers.files]\n{settings}\n".replace("HERE", str(tmp_path))

    assert (problems_of(tmp_path / "gateway.toml", table) == []) == found
    assert not list(tmp_path.rglob("ran"))


def test_a_secret_that_is_missing_beside_a_program_is_told_once(tmp_path: Path) -> None:
    text = f"""
[agents.main]
kind = "command"
argv = ["{sys.executable}"]
secret_env = {{ KEY = {{ env = "NO_SUCH_VARIABLE" }} }}
"""
    (problem,) = problems_of(tmp_path / "gateway.toml", text)
    assert problem.startswith("g.toml:5: agents.main.secret_env.KEY: ")
