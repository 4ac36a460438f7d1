"""The files that ship and that `init` writes say what the code says."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from pathlib import Path

from gateway.agents.settings import OpenAISettings
from gateway.config import GatewayConfig, load, render_default_file
from gateway.config.locate import locate_keys
from gateway.settings import Settings
from gateway.tools.settings import McpServerSettings
from tests.config.values import SESSION, leaves

SHIPPED = Path(__file__).parents[2] / "config" / "gateway.toml"
WITHOUT_DEFAULT = {
    *(
        "token",
        "routes",
        "by_platform",
        "by_chat_type",
        "identities",
        "cache",
        "servers",
        "platforms",
        "channels",
        "webhooks",
    ),
    *("cwd", "env", "secret_env", "runner"),
    *("max_size", "rules", SESSION),
}
"""Keys that TOML cannot express at their default: they stand there as examples."""


def examples_uncommented(text: str) -> str:
    return re.sub(r"^#(?=[a-z\[])", "", text, flags=re.MULTILINE)


def test_the_shipped_file_is_the_default_configuration() -> None:
    loaded = load(SHIPPED, {}, {})

    assert loaded.config == GatewayConfig()
    assert loaded.warnings == ()


def test_the_shipped_file_has_every_key_that_has_a_default() -> None:
    written = set(locate_keys(SHIPPED.read_text()))
    missing = {
        leaf
        for leaf in leaves()
        if leaf[0] not in {"agents", "routes"} and not set(leaf) & WITHOUT_DEFAULT
    } - written

    assert missing == set()
    assert {
        ("agents", "main", key) for key in GatewayConfig().to_dict()["agents"]["main"]
    } < written


def test_the_shipped_file_names_every_field_of_every_settings_class() -> None:
    words = set(re.findall(r"\w+", SHIPPED.read_text()))
    classes, waiting = set(), [Settings]
    while waiting:
        children = waiting.pop().__subclasses__()
        waiting += children
        classes |= {child for child in children if child.__module__.startswith("gateway.")}
    fields = {field for settings in classes for field in settings.model_fields}

    assert len(classes) > 10
    assert fields - words == set()


def test_the_examples_of_the_shipped_file_are_right(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(examples_uncommented(SHIPPED.read_text()))
    config = load(path, {}, {}).config

    assert set(config.agents) == {"main", "gpt", "claude", "helper", "rehearsal"}
    assert len(config.routes) == 1
    assert config.http.token is not None
    assert config.sessions.reset.by_platform["telegram"].timezone == "Europe/Berlin"
    assert config.sessions.reset.by_chat_type
    assert set(config.tools.servers) == {"fetch", "search"}
    assert set(config.channels) >= {"loopback", "my_bot", "webhook"}
    assert [one.name for one in config.webhooks] == ["ops"]
    assert config.processes.secret_env["DEPLOY_KEY"].credential == "deploy-key"
    assert config.processes.runner is not None
    assert set(config.access.platforms) == {"telegram", "telegram/my_bot"}


def test_the_example_of_a_token_names_a_credential_of_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(examples_uncommented(SHIPPED.read_text()))
    token = load(path, {}, {}).config.http.token
    unit = (SHIPPED.parents[1] / "systemd" / "gateway.service").read_text()

    assert token is not None
    assert f"LoadCredential={token.credential}" in unit.splitlines()


def test_the_examples_show_defaults_of_keys_that_have_one(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(examples_uncommented(SHIPPED.read_text()))
    for agent in load(path, {}, {}).config.agents.values():
        for name, field in type(agent).model_fields.items():
            if not field.is_required() and name != "api_key":
                assert getattr(agent, name) == field.get_default(call_default_factory=True)


def test_the_examples_of_tool_servers_show_defaults_of_keys_that_have_one(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(examples_uncommented(SHIPPED.read_text()))
    fetch = load(path, {}, {}).config.tools.servers["fetch"]
    plain = McpServerSettings(command=fetch.command)
    of_its_own = {"env", "secret_env", "cwd"}

    assert fetch.model_fields_set == set(McpServerSettings.model_fields) - {"url", "headers"}
    assert fetch.model_dump(exclude=of_its_own) == plain.model_dump(exclude=of_its_own)


def test_every_key_of_the_shipped_file_has_a_comment_of_its_own() -> None:
    lines = SHIPPED.read_text().splitlines()
    bare = [
        line
        for before, line in pairwise(lines)
        if re.match(r"[a-z]", line) and not before.startswith("# ")
    ]

    assert bare == ['kind = "echo"']


def test_a_new_file_loads_to_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(render_default_file())

    assert load(path, {}, {}).config == GatewayConfig()
    assert locate_keys(path.read_text()).keys() >= {("agents", "main", "kind"), ("http", "port")}


def test_every_key_of_a_new_file_has_a_comment_of_its_own() -> None:
    lines = render_default_file().splitlines()
    keys = [
        (before, line) for before, line in pairwise(lines) if re.match(r"#?[a-z_]+ = |#?\[", line)
    ]
    bare = [line for before, line in keys if not before.startswith("# ")]

    assert len(keys) > 40
    # Within an example the comment stands above its first line.
    assert all(line.startswith("#") for line in bare)


def test_a_new_file_says_what_every_field_says() -> None:
    text = " ".join(re.sub(r"^#( |$)", "", render_default_file(), flags=re.MULTILINE).split())
    tables: list[Settings] = [GatewayConfig(), OpenAISettings.model_construct(model="m")]
    seen = 0
    while tables:
        table = tables.pop()
        for name, field in type(table).model_fields.items():
            value = getattr(table, name)
            if isinstance(value, Settings):
                tables.append(value)
            else:
                assert field.description, name
                assert " ".join(field.description.replace("`", "").split()) in text
                seen += 1

    assert seen > 40


def test_the_examples_of_a_new_file_are_right(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(examples_uncommented(render_default_file()))
    config = load(path, {}, {}).config

    assert set(config.agents) == {"main", "gpt"}
    assert config.http.token is not None
    assert config.sessions.reset.by_platform["telegram"].timezone == "Europe/Berlin"
    assert config.sessions.reset.by_chat_type
    assert [route.agent for route in config.routes] == ["main"]
    assert config.tools.servers["fetch"].command == ["uvx", "mcp-server-fetch"]


def test_routes_can_be_added_to_a_new_file() -> None:
    route = '\n[[routes]]\nplatform = "x"\nagent = "main"\n'

    assert tomllib.loads(render_default_file() + route)["routes"]
