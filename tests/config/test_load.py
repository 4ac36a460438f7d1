"""Where values come from, and which of them wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.agents.settings import OpenAISettings
from gateway.config import GatewayConfig, load
from gateway.errors import ConfigurationError
from gateway.settings import SecretSource


def file_with(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    return path


def test_without_anything_the_defaults_hold() -> None:
    assert load(None, {}, {}).config == GatewayConfig()


def test_the_file_wins_over_defaults_the_environment_over_it_the_command_line_over_all(
    tmp_path: Path,
) -> None:
    path = file_with(tmp_path, "[http]\nport = 1\nmax_connections = 11\nmax_body_bytes = 2000\n")
    environ = {"GATEWAY_HTTP__PORT": "2", "GATEWAY_HTTP__MAX_CONNECTIONS": "12"}
    http = load(path, environ, {"http.port": 3}).config.http

    assert (http.port, http.max_connections, http.max_body_bytes) == (3, 12, 2000)
    assert http.host == GatewayConfig().http.host


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        pytest.param("HTTP__PORT", "0", "http.port", 0, id="integer"),
        pytest.param("TURNS__GRACE_S", "2.5", "turns.grace_s", 2.5, id="number"),
        pytest.param("TURNS__GRACE_S", "2", "turns.grace_s", 2.0, id="number-without-fraction"),
        pytest.param("SESSIONS__SHARE_GROUPS", "true", "sessions.share_groups", True, id="true"),
        pytest.param("STATE_DIR", "/x", "state_dir", Path("/x"), id="path"),
        pytest.param("DEFAULT_AGENT", "main", "default_agent", "main", id="string"),
        pytest.param("STORE__DASHBOARD_GROUP", "7", "store.dashboard_group", "7", id="digits"),
        pytest.param("LOG__LEVEL", "debug", "log.level", "debug", id="choice"),
        pytest.param("SESSIONS__RESET__MODE", "idle", "sessions.reset.mode", "idle", id="enum"),
        pytest.param(
            "HTTP__ALLOWED_HOSTS", '["a.example"]', "http.allowed_hosts", ["a.example"], id="list"
        ),
        pytest.param(
            "AGENTS__MAIN__RESERVE_TOKENS", "5", "agents.main.reserve_tokens", 5, id="agent"
        ),
    ],
)
def test_text_is_read_by_the_type_of_its_key(
    variable: str, text: str, key: str, value: object
) -> None:
    by_environment = load(None, {f"GATEWAY_{variable}": text}, {}).config
    by_command_line = load(None, {}, {key: text}).config

    found: object = by_environment
    for part in key.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert by_command_line == by_environment


def test_a_string_in_the_file_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is a string"):
        load(file_with(tmp_path, '[http]\nport = "1"\n'), {}, {})


def test_agents_in_the_file_replace_the_default_ones(tmp_path: Path) -> None:
    path = file_with(tmp_path, 'default_agent = "a"\n[agents.a]\nkind = "echo"\n')

    assert set(load(path, {}, {}).config.agents) == {"a"}


def test_agents_in_the_environment_join_those_there_are(tmp_path: Path) -> None:
    path = file_with(tmp_path, '[agents.main]\nkind = "echo"\n')
    environ = {"GATEWAY_AGENTS__SECOND__KIND": "echo"}

    assert set(load(None, environ, {}).config.agents) == {"main", "second"}
    assert set(load(path, environ, {}).config.agents) == {"main", "second"}


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    path = file_with(tmp_path, "[http]\nport = 5\n")
    other = tmp_path / "other.toml"
    other.write_text("[http]\nport = 6\n")
    environ = {"GATEWAY_CONFIG": str(path)}

    assert load(None, environ, {}).config.http.port == 5
    assert load(other, environ, {}).config.http.port == 6


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        pytest.param('[http]\ntoken = { env = "GATEWAY_TOKEN" }\n', {}, id="named-in-the-file"),
        pytest.param("", {"GATEWAY_HTTP__TOKEN__ENV": "GATEWAY_TOKEN"}, id="named-in-a-variable"),
    ],
)
def test_a_variable_that_holds_a_secret_is_no_key(
    tmp_path: Path, text: str, environ: dict[str, str]
) -> None:
    path = file_with(tmp_path, text)
    token = load(path, {**environ, "GATEWAY_TOKEN": "hunter2"}, {}).config.http.token

    assert token is not None
    assert token.env == "GATEWAY_TOKEN"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[http]\ntoken = { credential = 'c' }\n", id="inline"),
        pytest.param("[http.token]\ncredential = 'c'\n", id="table"),
        pytest.param("http.token.file = '/other'\n", id="same-member"),
    ],
)
def test_a_place_of_a_secret_in_the_environment_replaces_that_of_the_file(
    tmp_path: Path, text: str
) -> None:
    path = file_with(tmp_path, text)
    loaded = load(path, {"GATEWAY_HTTP__TOKEN__FILE": "/x"}, {})

    assert loaded.config.http.token == SecretSource(file="/x")
    place = loaded.places.of(("http", "token"))
    assert place.label == "environment GATEWAY_HTTP__TOKEN__FILE"


def test_a_place_of_an_agents_key_can_be_replaced_as_well(tmp_path: Path) -> None:
    path = file_with(
        tmp_path, "[agents.main]\nkind = 'openai'\nmodel = 'm'\napi_key = { env = 'K' }\n"
    )
    agent = load(path, {"GATEWAY_AGENTS__MAIN__API_KEY__FILE": "/x"}, {}).config.agents["main"]

    assert isinstance(agent, OpenAISettings)
    assert agent.api_key == SecretSource(file="/x")


def test_two_places_of_a_secret_in_the_environment_are_refused(tmp_path: Path) -> None:
    environ = {"GATEWAY_HTTP__TOKEN__FILE": "/x", "GATEWAY_HTTP__TOKEN__CREDENTIAL": "c"}

    with pytest.raises(ConfigurationError, match="exactly one"):
        load(file_with(tmp_path, ""), environ, {})


def test_variables_of_others_are_left_alone() -> None:
    environ = {"PATH": "/bin", "gateway_http__port": "x", "XGATEWAY_A": "1", "NOTIFY_SOCKET": "/x"}

    assert load(None, environ, {}).config == GatewayConfig()


def test_places_say_where_each_value_came_from(tmp_path: Path) -> None:
    path = file_with(tmp_path, "[http]\nport = 1\nbehind_tls = true\n")
    places = load(path, {"GATEWAY_HTTP__PORT": "2"}, {"log.level": "debug"}).places

    assert places.of(("http", "port")).label == "environment GATEWAY_HTTP__PORT"
    assert places.of(("http", "behind_tls")).label == f"{path}:3"
    assert places.of(("http", "host")).label == f"{path}:1"
    assert places.of(("log", "level")).label == "command line"
    assert places.of(("state_dir",)).label == f"{path}:1"
