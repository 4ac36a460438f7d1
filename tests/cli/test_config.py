"""`gateway init` and `gateway check-config`."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest

from gateway.config import GatewayConfig
from tests.cli.processes import gateway

if TYPE_CHECKING:
    from pathlib import Path


def test_init_writes_a_file_that_says_what_the_defaults_say(tmp_path: Path) -> None:
    outcome = gateway("init", cwd=tmp_path)

    text = (tmp_path / "gateway.toml").read_text()
    assert outcome.status == 0
    assert "gateway run --config gateway.toml" in outcome.stdout
    assert GatewayConfig.from_dict(tomllib.loads(text)) == GatewayConfig()
    assert text.startswith("#")


def test_init_never_overwrites(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("# mine\n")

    outcome = gateway("init", file)

    assert outcome.status == 1
    assert outcome.stderr == f"gateway: {file}: is there already, accepted is a name that is free\n"
    assert file.read_text() == "# mine\n"


def test_init_names_the_directory_that_is_not_there(tmp_path: Path) -> None:
    outcome = gateway("init", tmp_path / "no" / "gateway.toml", "--json")

    assert outcome.status == 74
    assert outcome.problem["detail"].endswith("no/gateway.toml: No such file or directory")
    assert outcome.stdout == ""


def test_check_config_says_ok_and_what_is_in_force(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('state_dir = "here"\n[http]\nhost = "::1"\nport = 1234\n')

    outcome = gateway("check-config", cwd=tmp_path)

    assert outcome.status == 0
    assert outcome.stdout.splitlines() == [
        "ok",
        "listens_on  http://[::1]:1234",
        f"state_dir   {tmp_path}/here",
    ]


def test_check_config_tells_every_problem_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("session_store_max_age_days = -1\nstat_dir = 1\n[http]\nport = 70000\n")

    outcome = gateway("check-config", "--config", file)

    assert outcome.status == 78
    lines = outcome.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{file}:1: session_store_max_age_days: -1 is below 0, accepted is")
    assert lines[0].endswith("(a warning)")
    assert lines[1] == f"{file}:2: stat_dir: unknown key, did you mean state_dir?"
    assert lines[2].startswith(f"{file}:4: http.port: 70000 is out of range")
    assert outcome.stderr == ""


def test_check_config_tells_warnings_and_still_says_ok(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('session_store_max_age_days = "30"\n')

    outcome = gateway("check-config", "-c", file, "--json")

    assert outcome.status == 0
    assert outcome.document["ok"] is True
    assert outcome.document["problems"] == []
    (warning,) = outcome.document["warnings"]
    assert warning.startswith(f"{file}:1: session_store_max_age_days: ")
    assert ", 30 is used, " in warning


@pytest.mark.parametrize(
    "problem", ["zebra = 1", "[store]\ndashboard_group = 'no-such-group'"], ids=["key", "group"]
)
def test_warnings_on_a_refused_file_do_not_say_that_anything_is_used(
    tmp_path: Path, problem: str
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(f"session_store_max_age_days = true\n{problem}\n")

    outcome = gateway("check-config", "-c", file, "--json")

    assert outcome.status == 78
    assert len(outcome.document["problems"]) == 1
    (warning,) = outcome.document["warnings"]
    assert "true is a truth value" in warning
    assert "is used" not in warning


def test_warnings_stand_among_problems_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("zebra = 1\nsession_store_max_age_days = true\n[http]\nport = -1\n")

    checked = gateway("check-config", "-c", file)
    started = gateway("run", "-c", file)

    lines = checked.stdout.splitlines()
    assert [line.split(":")[1] for line in lines] == ["1", "2", "4"]
    assert [line.endswith("(a warning)") for line in lines] == [False, True, False]
    assert started.stderr.splitlines() == [f"gateway: {line}" for line in lines]


def test_a_group_that_is_not_there_is_told_by_check_config_and_run_alike(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("[store]\ndashboard_group = 'no-such-group'\n")

    checked = gateway("check-config", "-c", file)
    started = gateway("run", "-c", file, "--state-dir", tmp_path / "state")

    assert (checked.status, started.status) == (78, 78)
    assert checked.stdout.startswith(f"{file}:2: store.dashboard_group: this machine has no group ")
    assert f"{file}:2: store.dashboard_group: this machine has no group " in started.stdout
    assert not (tmp_path / "state").exists()


def test_check_config_tries_the_secrets_and_never_shows_them(tmp_path: Path) -> None:
    secret, file = tmp_path / "secret", tmp_path / "gateway.toml"
    secret.write_text("changeme")
    file.write_text(f'[http]\ntoken = {{ file = "{secret}" }}\n')

    outcome = gateway("check-config", "-c", file, "--json")

    assert outcome.status == 78
    assert outcome.document["ok"] is False
    assert outcome.document["problems"][0].startswith(f"{file}:2: http.token: file {secret} ")
    assert "changeme" not in outcome.stdout + outcome.stderr


def test_the_environment_names_the_configuration_file(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text("[http]\nport = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("[http]\nport = 2\n")

    here = gateway("check-config", "--json", cwd=tmp_path)
    named = gateway(
        "check-config", "--json", cwd=tmp_path, environment={"GATEWAY_CONFIG": str(other)}
    )

    assert here.document["listens_on"] == "http://127.0.0.1:1"
    assert named.document["listens_on"] == "http://127.0.0.1:2"


@pytest.mark.parametrize("command", ["run", "check-config", "status"])
def test_a_configuration_file_that_is_missing_is_told(tmp_path: Path, command: str) -> None:
    outcome = gateway(command, "--config", tmp_path / "no.toml", cwd=tmp_path)

    assert outcome.status == 78
    problem = f"{tmp_path}/no.toml: is not there, accepted is a TOML file\n"
    if command == "check-config":
        assert (outcome.stdout, outcome.stderr) == (problem, "")
    else:
        assert (outcome.stdout, outcome.stderr) == ("", f"gateway: {problem}")


def test_a_default_file_that_links_to_nowhere_is_not_taken_for_no_file(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").symlink_to(tmp_path / "gone.toml")

    outcome = gateway("check-config", cwd=tmp_path)

    assert outcome.status == 78
    assert "gateway.toml: is not there" in outcome.stdout


def test_every_problem_is_told_in_one_run_and_what_follows_from_another_is_not(
    tmp_path: Path,
) -> None:
    file, short = tmp_path / "gateway.toml", tmp_path / "short"
    short.write_text("changeme")
    file.write_text(
        f"""[http]
port = 70000
token = {{ file = "{short}" }}
[channels.tga]
kind = "telegramm"
token = {{ env = "A_TOKEN" }}
[channels.tgb]
kind = "telegram"
token = {{ file = "/no/such" }}
[channels.tgc]
token = {{ file = "/no/such" }}
[[webhooks]]
name = "ops"
url = "htp://ops"
secret = {{ file = "/no/such" }}
events = ["turn.completed"]
[[webhooks]]
name = "more"
url = "https://ops.example.org"
secret = {{ file = "/no/such/either" }}
events = ["turn.completed"]
[tools.servers.one]
comand = ["no-such-server"]
[tools.servers.two]
command = ["no-such-server"]
[[routes]]
platform = "telegram"
account = "tga"
agent = "mian"
[[routes]]
platform = "telegram"
account = "tgd"
agent = "main"
[[sessions.identities]]
name = "ann"
members = ["telegram/tga/1", "telegram/tgb/1", "telegram/tgd/1"]
[channels.mx]
kind = "matrix"
homeserver = "https://matrix.example.org"
token = {{ env = "NO_SUCH_TOKEN" }}
jion = []
[access.platforms."matrix/max"]
allow_users = ["@ann:example.org"]
"""
    )

    outcome = gateway("check-config", "-c", file)

    assert outcome.status == 78
    told = [line.split(":")[1:3] for line in outcome.stdout.splitlines()]
    assert told == [
        ["2", " http.port"],
        ["3", " http.token"],
        ["5", " channels.tga.kind"],
        ["9", " channels.tgb.token"],
        ["10", " channels.tgc.kind"],
        ["14", " webhooks[0].url"],
        ["15", " webhooks[0].secret"],
        ["20", " webhooks[1].secret"],
        ["23", " tools.servers.one.comand"],
        ["25", " tools.servers.two.command"],
        ["29", " routes[0].agent"],
        ["32", " routes[1].account"],
        ["36", " sessions.identities[0].members[2]"],
        ["40", " channels.mx.token"],
        ["41", " channels.mx.jion"],
        ["42", ' access.platforms."matrix/max"'],
    ]
    assert "changeme" not in outcome.stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[channels]]\nkind = "telegram"\n', ":1: channels: is a list, accepted is a table"),
        ('[[agents]]\nkind = "echo"\n', ":1: agents: is a list, accepted is a table"),
        ("[store]\ndashboard_group = [1]\n", ":2: store.dashboard_group: is a list, accepted is"),
    ],
)
def test_a_list_in_the_place_of_another_value_is_told_as_all_else_is(
    tmp_path: Path, text: str, told: str
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(f'{text}[http]\ntoken = {{ env = "NO_SUCH_TOKEN" }}\n')

    outcome = gateway("check-config", "-c", file)

    first, second, *rest = outcome.stdout.splitlines()
    assert (outcome.status, outcome.stderr) == (78, "")
    assert first.startswith(f"{file}{told}")
    assert " http.token: " in second
    assert all("there is no table" in one for one in rest)
