"""Laws of the servers' tables in the configuration."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config import GatewayConfig
from gateway.errors import ConfigurationError
from gateway.tools.settings import McpServerSettings, ToolsSettings

PROGRAM: dict[str, Any] = {"command": ["uvx", "x"]}
ADDRESS: dict[str, Any] = {"url": "https://example.org/mcp"}
SECRET = {"env": "KEY"}


def problems(table: dict[str, Any], name: str = "one") -> list[str]:
    """Return what the whole configuration says of one server's table."""
    with pytest.raises(ConfigurationError) as caught:
        GatewayConfig.from_dict({"tools": {"servers": {name: table}}})
    return [problem.removeprefix(f"tools.servers.{name}") for problem in caught.value.problems]


def test_there_is_no_server_by_default() -> None:
    assert GatewayConfig().tools == ToolsSettings(servers={})


@pytest.mark.parametrize(
    "table",
    [
        PROGRAM,
        {**PROGRAM, "env": {"A": "b"}, "secret_env": {"C": SECRET}, "inherit_env": [], "cwd": "/x"},
        ADDRESS,
        {"url": "http://127.0.0.1:8000/mcp?a=b", "headers": {"Authorization": SECRET}},
        {"url": "http://[::1]:1"},
        {**PROGRAM, "max_images": 0, "max_image_bytes": 0},
    ],
)
def test_a_right_table_is_taken_and_written_as_it_was(table: dict[str, Any]) -> None:
    config = GatewayConfig.from_dict({"tools": {"servers": {"one": table}}})

    assert GatewayConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["tools"]["servers"]["one"].items() >= table.items()


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        pytest.param({}, ": has neither command nor url, accepted is exactly one", id="neither"),
        pytest.param(
            PROGRAM | ADDRESS,
            ".url: stands beside command, accepted is exactly one of the two",
            id="both",
        ),
        pytest.param(
            {**PROGRAM, "headers": {"A": SECRET}},
            ".headers: is for a server with url, this one has command",
            id="headers-of-a-program",
        ),
        pytest.param(
            {**ADDRESS, "env": {"A": "b"}},
            ".env: is for a server with command, this one has url",
            id="env-of-an-address",
        ),
        pytest.param({**ADDRESS, "secret_env": {"A": SECRET}}, ".secret_env: is for", id="secrets"),
        pytest.param({**ADDRESS, "inherit_env": []}, ".inherit_env: is for", id="inherit-env"),
        pytest.param({**ADDRESS, "cwd": "/x"}, ".cwd: is for", id="cwd-of-an-address"),
        pytest.param({"command": []}, ".command: cannot be used", id="empty-command"),
        pytest.param({"command": [" "]}, ".command: begins with a blank", id="blank-program"),
        pytest.param({"command": "uvx x"}, '.command: "uvx x" is a string', id="words"),
        pytest.param({"command": ["a\0"]}, ".command[0]: holds a NUL character", id="nul"),
        pytest.param(
            {**PROGRAM, "env": {"A": "b"}, "secret_env": {"A": SECRET}},
            ".env.A: stands in secret_env as well",
            id="variable-twice",
        ),
        pytest.param({**PROGRAM, "env": {"A-B": "c"}}, ".env.A-B: is not a name", id="variable"),
        pytest.param({**PROGRAM, "env": {"A": 1}}, ".env.A: ", id="variable-no-string"),
        pytest.param({**PROGRAM, "inherit_env": ["A="]}, ".inherit_env[0]: ", id="inherited"),
        pytest.param(
            {**PROGRAM, "secret_env": {"A": "canary"}}, ".secret_env.A: ", id="secret-as-string"
        ),
        pytest.param(
            {**ADDRESS, "headers": {"A": SECRET, "a": SECRET}},
            ".headers: names a header twice",
            id="header-twice",
        ),
        pytest.param(
            {**ADDRESS, "headers": {"Mcp-Session-Id": SECRET}},
            ".headers: mcp-session-id is set by the protocol",
            id="reserved-header",
        ),
        pytest.param({**ADDRESS, "headers": {"A:": SECRET}}, '.headers."A:": is not', id="header"),
        pytest.param({**PROGRAM, "call_timeout_s": 0}, ".call_timeout_s: ", id="no-time"),
        pytest.param({**PROGRAM, "max_parallel": 0}, ".max_parallel: ", id="no-calls"),
        pytest.param({**PROGRAM, "max_message_bytes": 1}, ".max_message_bytes: ", id="no-bytes"),
        pytest.param({**PROGRAM, "timeout": 1}, ".timeout: unknown key", id="unknown"),
    ],
)
def test_a_wrong_table_is_told_by_its_key(table: dict[str, Any], problem: str) -> None:
    told = problems(table)

    assert len(told) == 1
    assert told[0].startswith(problem)
    assert "accepted" in told[0] or "did you mean" in told[0]
    assert "canary" not in told[0]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org",
        "http://",
        "http://user:secret@example.org/",
        "http://example.org/#x",
        "http://example.org:0/",
        "http://example.org:x/",
        "http://exa mple.org/",
        "http://example.org/\x85",
    ],
)
def test_an_address_that_cannot_be_used_is_told(url: str) -> None:
    (told,) = problems({"url": url})

    assert told.startswith(".url: not a usable address; accepted is http:// or https://")


@pytest.mark.parametrize("name", ["", "A", "a.b", "_a", "a" * 33, "ä"])
def test_a_server_has_a_name_that_tools_can_begin_with(name: str) -> None:
    with pytest.raises(ConfigurationError, match="accepted is a name of 1 to 32 characters"):
        GatewayConfig.from_dict({"tools": {"servers": {name: PROGRAM}}})


def test_no_servers_name_is_the_beginning_of_anothers_tools() -> None:
    with pytest.raises(ConfigurationError) as caught:
        GatewayConfig.from_dict({"tools": {"servers": {"a_b": PROGRAM, "a": ADDRESS}}})

    (told,) = caught.value.problems
    assert told.startswith("tools.servers.a_b: begins with the name of another server, a, and _")
    servers = {"a": PROGRAM, "ab": PROGRAM, "b_a": ADDRESS}
    assert ToolsSettings.model_validate({"servers": servers}).servers.keys() == servers.keys()


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:1/mcp", True),
        ("http://localhost/mcp", True),
        ("http://[::1]/mcp", True),
        ("https://example.org/mcp", False),
        ("http://10.0.0.1/mcp", False),
    ],
)
def test_an_address_on_this_machine_is_known_as_such(url: str, *, loopback: bool) -> None:
    assert McpServerSettings(url=url).loopback is loopback


def test_settings_take_no_value_of_another_type() -> None:
    with pytest.raises(ValidationError):
        McpServerSettings.model_validate({**PROGRAM, "max_parallel": "8"})
