"""What a running daemon can change, and what needs a restart."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from gateway.config import GatewayConfig, changed_live, with_live
from gateway.config.keys import KeyPath, dotted
from gateway.config.live import LIVE, RESTART
from tests.config.values import leaves, trees

TWO_AGENTS = {"main": {"kind": "echo"}, "second": {"kind": "echo"}}


def prefixes(key: KeyPath) -> set[KeyPath]:
    return {key[:length] for length in range(1, len(key) + 1)}


@pytest.mark.parametrize("key", leaves(), ids=dotted)
def test_every_key_is_in_exactly_one_class(key: KeyPath) -> None:
    assert len(prefixes(key) & LIVE) + len(prefixes(key) & RESTART) == 1


@pytest.mark.parametrize("key", sorted(LIVE | RESTART), ids=dotted)
def test_every_line_of_the_table_is_a_key(key: KeyPath) -> None:
    assert any(key in prefixes(leaf) for leaf in leaves())


@pytest.mark.parametrize(
    ("change", "live", "restart"),
    [
        pytest.param({}, (), (), id="nothing"),
        pytest.param({"log": {"level": "debug"}}, ("log.level",), (), id="level"),
        pytest.param({"log": {"format": "json"}}, (), ("log.format",), id="format"),
        pytest.param(
            {"session_store_max_age_days": 30, "http": {"port": 1}},
            ("session_store_max_age_days",),
            ("http.port",),
            id="one-of-each",
        ),
        pytest.param(
            {"sessions": {"reset": {"by_platform": {"telegram": {"mode": "idle"}}}}},
            ("sessions.reset.by_platform.telegram.mode",),
            (),
            id="table-added",
        ),
        pytest.param(
            {"routes": [{"platform": "x", "agent": "main"}]}, ("routes",), (), id="routes"
        ),
        pytest.param(
            {"agents": TWO_AGENTS, "default_agent": "second"},
            (),
            (
                "default_agent",
                "agents.second.kind",
                "agents.second.context_window_tokens",
                "agents.second.reserve_tokens",
                "agents.second.fallback",
            ),
            id="an-agent-that-does-not-run-yet",
        ),
        pytest.param(
            {"http": {"token": {"env": "KEY"}}}, (), ("http.token.env",), id="key-without-default"
        ),
    ],
)
def test_a_change_is_told_by_its_key_and_class(
    change: dict[str, Any], live: tuple[str, ...], restart: tuple[str, ...]
) -> None:
    assert changed_live(GatewayConfig(), GatewayConfig.from_dict(change)) == (live, restart)


def test_the_choice_among_agents_that_run_applies_at_once() -> None:
    old = GatewayConfig.from_dict({"agents": TWO_AGENTS})
    new = GatewayConfig.from_dict({"agents": TWO_AGENTS, "default_agent": "second"})

    assert changed_live(old, new) == (("default_agent",), ())


def test_the_choice_of_an_agent_that_does_not_run_waits_for_the_restart() -> None:
    old = GatewayConfig()
    new = GatewayConfig.from_dict(
        {"agents": TWO_AGENTS, "routes": [{"platform": "x", "agent": "second"}]}
    )

    assert changed_live(old, new)[0] == ()
    assert with_live(old, new) == old


def test_who_may_talk_applies_at_once_also_beside_a_channel_that_does_not_run_yet() -> None:
    old = GatewayConfig.from_dict(
        {"access": {"platforms": {"loopback": {"allow_users": ["ann", "eve"]}}}}
    )
    new = GatewayConfig.from_dict(
        {
            "channels": {"work": {"kind": "loopback"}},
            "access": {
                "platforms": {
                    "loopback": {"allow_users": ["ann"]},
                    "loopback/work": {"allow_users": ["bob"]},
                }
            },
            "routes": [{"account": "work", "agent": "main"}],
        }
    )
    applied = with_live(old, new)

    assert applied.access == new.access
    assert applied.routes == new.routes
    assert applied.channels == {}
    assert with_live(applied, old) == old
    assert with_live(applied, new) == applied


def test_who_is_linked_waits_for_the_next_start() -> None:
    anna = {"name": "anna", "members": ["loopback/work/1", "loopback/work/2"]}
    channels = {"work": {"kind": "loopback"}}
    old = GatewayConfig.from_dict({"channels": channels})
    new = GatewayConfig.from_dict({"channels": channels, "sessions": {"identities": [anna]}})

    assert changed_live(old, new) == ((), ("sessions.identities",))
    assert with_live(old, new) == old


@given(trees(), trees())
def test_with_live_takes_exactly_what_applies_at_once(
    old_tree: dict[str, Any], new_tree: dict[str, Any]
) -> None:
    old, new = GatewayConfig.from_dict(old_tree), GatewayConfig.from_dict(new_tree)
    live, restart = changed_live(old, new)
    applied = with_live(old, new)

    assert changed_live(old, applied) == (live, ())
    assert changed_live(applied, new) == ((), restart)


@given(trees())
def test_a_configuration_does_not_differ_from_itself(tree: dict[str, Any]) -> None:
    config = GatewayConfig.from_dict(tree)

    assert changed_live(config, config) == ((), ())
    assert with_live(config, config) == config
