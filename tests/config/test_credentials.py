"""Every secret is tried before anything needs it, and none is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.config import GatewayConfig, load
from gateway.config.credentials import resolve_secrets
from gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

ACCEPTED = "accepted is a secret of your own"
TOKEN = "hunter2-and-some-more"


def secret_file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def config_with(http: dict[str, str] | None, agent: dict[str, str] | None) -> GatewayConfig:
    tree: dict[str, Any] = {"http": {"token": http} if http else {}}
    if agent:
        tree["agents"] = {"main": {"kind": "openai", "model": "m", "api_key": agent}}
    return GatewayConfig.from_dict(tree)


def test_without_secrets_there_is_no_problem() -> None:
    assert resolve_secrets(GatewayConfig().to_dict()) == ()


def test_secrets_that_are_there_are_no_problem(tmp_path: Path) -> None:
    secret_file(tmp_path / "token", f"{TOKEN}\n")
    secret_file(tmp_path / "key", "hunter3\n", 0o640)
    config = config_with({"file": str(tmp_path / "token")}, {"file": str(tmp_path / "key")})

    assert resolve_secrets(config.to_dict()) == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "undefined",
        "changeme",
        "ChangeMe\n",
        "your-secret-goes-here-please-change",
        "changeme-changeme-changeme",
        "<YOUR_API_KEY>",
        "x" * 40,
    ],
)
def test_a_blank_or_placeholder_secret_is_a_problem(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    path = tmp_path / "token"

    assert resolve_secrets(config_with({"file": str(path)}, None).to_dict()) == (
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

    assert resolve_secrets(loaded.config.to_dict(), loaded.places) == (
        f"{path}:2: http.token: file {tmp_path}/none is not there or cannot be read, {ACCEPTED}",
        f"{path}:6: agents.main.api_key: {place} is not there or cannot be read, {ACCEPTED}",
    )


@pytest.mark.parametrize("name", ["a\0b", "."])
def test_a_file_that_is_none_is_a_problem(name: str) -> None:
    (problem,) = resolve_secrets(config_with({"file": name}, None).to_dict())

    assert "is not there or cannot be read" in problem


def test_a_systemd_credential_is_looked_for_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    config = config_with({"credential": "my-token"}, None)

    assert resolve_secrets(config.to_dict()) == (
        f"http.token: file {tmp_path}/my-token is not there or cannot be read, {ACCEPTED}",
    )
    secret_file(tmp_path / "my-token", TOKEN)
    assert resolve_secrets(config.to_dict()) == ()


def test_outside_the_service_a_credential_is_told_to_be_there_for_it_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)

    (problem,) = resolve_secrets(config_with({"credential": "my-token"}, None).to_dict())
    assert problem == (
        "http.token: credential my-token is there for the service alone: "
        f"$CREDENTIALS_DIRECTORY is not set, {ACCEPTED}"
    )


def test_one_secret_for_two_doors_is_a_problem(tmp_path: Path) -> None:
    secret_file(tmp_path / "token", f"{TOKEN}\n")
    secret_file(tmp_path / "key", f"  {TOKEN}")
    config = config_with({"file": str(tmp_path / "token")}, {"file": str(tmp_path / "key")})

    (problem,) = resolve_secrets(config.to_dict())
    assert problem == (
        "agents.main.api_key: is the same secret as http.token, accepted is one of its own for each"
    )


def test_one_bot_for_two_tables_is_a_problem(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        secret_file(tmp_path / name, "1:x\n" if name != "c" else "2:x")
    tables = {
        name: {"kind": "telegram", "token": {"file": str(tmp_path / name)}}
        for name in ("a", "b", "c")
    }

    assert resolve_secrets(GatewayConfig.from_dict({"channels": tables}).to_dict()) == (
        "channels.b.token: is the same as channels.a.token, accepted is one table for each token",
    )


def test_one_source_for_two_tables_is_told_without_its_secret_and_not_again_with_it(
    tmp_path: Path,
) -> None:
    secret_file(tmp_path / "a", "1:x")
    table = {"kind": "telegram", "token": {"file": str(tmp_path / "a")}}
    tables = {"channels": {"a": table, "b": table}}

    with pytest.raises(ConfigurationError, match=r"^channels\.b\.token: is that of"):
        GatewayConfig.from_dict(tables)
    assert resolve_secrets(tables) == ()


@pytest.mark.parametrize(
    "text", ["your-secret-goes-here-please-change", "changeme-changeme-changeme"]
)
def test_a_placeholder_is_no_secret_of_a_telegram_webhook_either(tmp_path: Path, text: str) -> None:
    token, secret = secret_file(tmp_path / "t", "1:x"), secret_file(tmp_path / "s", text)
    webhook = {"url": "https://x.org/hooks/a", "secret": {"file": str(secret)}}
    table = {"kind": "telegram", "token": {"file": str(token)}, "webhook": webhook}

    (problem,) = resolve_secrets({"channels": {"a": table}})
    assert problem.startswith(f"channels.a.webhook.secret: file {secret} is blank or holds a place")
    assert text not in problem


def test_what_cannot_be_an_access_token_is_told_and_not_shown(tmp_path: Path) -> None:
    secret_file(tmp_path / "a", "syt_a token\n")
    table = {
        "kind": "matrix",
        "homeserver": "https://matrix.example.org",
        "token": {"file": str(tmp_path / "a")},
    }

    assert resolve_secrets(GatewayConfig.from_dict({"channels": {"work": table}}).to_dict()) == (
        "channels.work.token: no access token; accepted is what the homeserver gives at a login",
    )


def test_a_token_that_is_too_short_is_told_by_its_line_and_not_shown(tmp_path: Path) -> None:
    secret = secret_file(tmp_path / "secret", "hunter2-hunter2\n")
    path = tmp_path / "gateway.toml"
    path.write_text(f"[http]\ntoken = {{ file = '{secret}' }}\n")
    loaded = load(path, {}, {})

    assert resolve_secrets(loaded.config.to_dict(), loaded.places) == (
        f"{path}:2: http.token: is too short, accepted are 16 characters or more",
    )
    secret.write_text("hunter2-hunter2-")
    assert resolve_secrets(loaded.config.to_dict(), loaded.places) == ()


def test_a_short_key_of_a_provider_is_the_providers_affair(tmp_path: Path) -> None:
    key = secret_file(tmp_path / "key", "hunter2")

    assert resolve_secrets(config_with(None, {"file": str(key)}).to_dict()) == ()


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o777])
def test_a_secret_file_that_is_open_to_everyone_is_a_problem(tmp_path: Path, mode: int) -> None:
    token = secret_file(tmp_path / "token", TOKEN, mode)

    (problem,) = resolve_secrets(config_with({"file": str(token)}, None).to_dict())
    assert problem == (
        f"http.token: file {token} is open to everyone (mode {mode:04o}), "
        "accepted are 0600 and 0640"
    )
