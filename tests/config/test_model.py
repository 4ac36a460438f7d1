"""The configuration as values: what goes in comes out."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import structlog
import tomli_w
from hypothesis import given
from pydantic import ValidationError

from gateway.config import GatewayConfig
from gateway.errors import ConfigurationError, ExitCode
from tests.config.values import trees


@given(trees())
def test_from_dict_and_to_dict_round_trip_exactly(tree: dict[str, Any]) -> None:
    config = GatewayConfig.from_dict(tree)

    assert GatewayConfig.from_dict(config.to_dict()) == config
    assert GatewayConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


@given(trees())
def test_to_dict_keeps_what_from_dict_was_given(tree: dict[str, Any]) -> None:
    kept = GatewayConfig.from_dict(tree).to_dict()

    assert kept["agents"]["main"].items() >= tree["agents"]["main"].items()
    assert kept["log"].items() >= tree.get("log", {}).items()
    assert kept["turns"].items() >= tree.get("turns", {}).items()
    assert kept["routes"] == tree.get("routes", [])
    assert kept["http"].get("token", {}).items() >= tree.get("http", {}).get("token", {}).items()


@given(trees())
def test_to_dict_can_be_written_as_toml(tree: dict[str, Any]) -> None:
    config = GatewayConfig.from_dict(tree)
    written = tomli_w.dumps(config.to_dict())

    assert GatewayConfig.from_dict(tomllib.loads(written)) == config


def test_from_dict_leaves_what_it_is_given_alone() -> None:
    tree = {"session_store_max_age_days": "30", "http": {"port": 1}}
    GatewayConfig.from_dict(tree)

    assert tree == {"session_store_max_age_days": "30", "http": {"port": 1}}


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        GatewayConfig().default_agent = "other"  # type: ignore[misc]


def test_from_dict_names_keys_and_ends_with_the_code_for_configuration() -> None:
    with pytest.raises(ConfigurationError) as caught:
        GatewayConfig.from_dict({"http": {"port": -1}, "state": "x"})

    assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert caught.value.problems == (
        "http.port: -1 is out of range, accepted is a whole number from 0 to 65535",
        "state: unknown key, did you mean state_dir?",
    )


def test_from_dict_logs_a_number_of_days_that_it_mends() -> None:
    with structlog.testing.capture_logs() as logs:
        config = GatewayConfig.from_dict({"session_store_max_age_days": -3})

    assert config.session_store_max_age_days == 0
    assert logs == [
        {
            "event": "config.coerced",
            "log_level": "warning",
            "key": "session_store_max_age_days",
            "accepted": 0.0,
            "problem": "-3 is below 0, 0 is used, "
            "accepted is a number of days from 0, where 0 keeps sessions for ever",
        }
    ]


def test_the_constructor_refuses_agents_that_are_not_there() -> None:
    with pytest.raises(ValidationError, match="there is no table"):
        GatewayConfig(default_agent="nobody")


def test_the_state_directory_is_a_path() -> None:
    assert GatewayConfig().state_dir == Path("state")
    assert GatewayConfig.from_dict({"state_dir": "/x/y"}).state_dir == Path("/x/y")
