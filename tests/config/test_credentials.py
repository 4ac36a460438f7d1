"""Every secret is tried before anything needs it, and none is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.config import GatewayConfig, load, resolve_secrets

if TYPE_CHECKING:
    from pathlib import Path

ACCEPTED = "accepted is a secret of your own"


def config_with(http: dict[str, str] | None, agent: dict[str, str] | None) -> GatewayConfig:
    tree: dict[str, Any] = {"http": {"token": http} if http else {}}
    if agent:
        tree["agents"] = {"main": {"kind": "openai", "model": "m", "api_key": agent}}
    return GatewayConfig.from_dict(tree)


def test_without_secrets_there_is_no_problem() -> None:
    assert resolve_secrets(GatewayConfig()) == ()


def test_secrets_that_are_there_are_no_problem(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2\n")
    (tmp_path / "key").write_text("hunter3\n")
    config = config_with({"file": str(tmp_path / "token")}, {"file": str(tmp_path / "key")})

    assert resolve_secrets(config) == ()


@pytest.mark.parametrize("text", ["", " \n", "undefined", "changeme", "ChangeMe\n"])
def test_a_blank_or_placeholder_secret_is_a_problem(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    path = tmp_path / "token"

    assert resolve_secrets(config_with({"file": str(path)}, None)) == (
        f"http.token: file {path} is blank or holds a placeholder, not a secret, {ACCEPTED}",
    )


def test_every_secret_that_cannot_be_had_is_told_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(
        f"[http]\ntoken = {{ file = '{tmp_path}/none' }}\n"
        "[agents.main]\nkind = 'openai'\nmodel = 'm'\napi_key = { env = 'NO_SUCH_VARIABLE' }\n"
    )
    loaded = load(path, {}, {})
    place = "environment variable NO_SUCH_VARIABLE"

    assert resolve_secrets(loaded.config, loaded.places) == (
        f"{path}:2: http.token: file {tmp_path}/none is not there or cannot be read, {ACCEPTED}",
        f"{path}:6: agents.main.api_key: {place} is not there or cannot be read, {ACCEPTED}",
    )


@pytest.mark.parametrize("name", ["a\0b", "."])
def test_a_file_that_is_none_is_a_problem(name: str) -> None:
    (problem,) = resolve_secrets(config_with({"file": name}, None))

    assert "is not there or cannot be read" in problem


def test_a_systemd_credential_is_looked_for_by_its_name() -> None:
    config = config_with({"credential": "no-such-credential"}, None)
    (problem,) = resolve_secrets(config)

    assert problem.startswith("http.token: file /")
    assert "/no-such-credential is not there or cannot be read" in problem


def test_one_secret_for_two_doors_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2\n")
    (tmp_path / "key").write_text("  hunter2")
    config = config_with({"file": str(tmp_path / "token")}, {"file": str(tmp_path / "key")})

    (problem,) = resolve_secrets(config)
    assert problem == (
        "agents.main.api_key: is the same secret as http.token, accepted is one of its own for each"
    )
