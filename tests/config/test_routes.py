"""The first route that matches chooses the agent."""

from __future__ import annotations

import pytest

from gateway.config import GatewayConfig, Routes
from gateway.model import ChatType, SessionSource

CONFIG = GatewayConfig.from_dict(
    {
        "agents": {
            name: {"kind": "echo"}
            for name in ("main", "one", "groups", "telegram", "work", "ann", "anns")
        },
        "routes": [
            {"platform": "matrix", "account": "work", "user_id": "@ann:x", "agent": "ann"},
            {"platform": "matrix", "account": "work", "agent": "work"},
            {"user_id": "@ann:x", "agent": "anns"},
            {"platform": "telegram", "chat_id": "7", "agent": "one"},
            {"chat_type": "group", "agent": "groups"},
            {"platform": "telegram", "agent": "telegram"},
        ],
    }
)


def matrix(account: str, user: str) -> SessionSource:
    return SessionSource("matrix", "!room:x", ChatType.DM, account, user_id=user)


@pytest.mark.parametrize(
    ("source", "agent"),
    [
        pytest.param(SessionSource("telegram", "7", ChatType.GROUP), "one", id="first-wins"),
        pytest.param(SessionSource("http", "7", ChatType.GROUP), "groups", id="by-chat-type"),
        pytest.param(SessionSource("telegram", "8"), "telegram", id="by-platform"),
        pytest.param(SessionSource("http", "7"), "main", id="none-matches"),
        pytest.param(matrix("work", "@ann:x"), "ann", id="by-account-and-user"),
        pytest.param(matrix("work", "@bob:x"), "work", id="by-account"),
        pytest.param(matrix("home", "@ann:x"), "anns", id="by-user-on-another-account"),
        pytest.param(matrix("home", "@ANN:x"), "main", id="users-match-exactly"),
        pytest.param(matrix("home", ""), "main", id="nobody-is-no-user"),
        pytest.param(SessionSource("http", "7", ChatType.THREAD), "main", id="other-chat-type"),
    ],
)
def test_the_first_route_that_matches_chooses(source: SessionSource, agent: str) -> None:
    assert Routes(CONFIG.routes, CONFIG.default_agent).agent_for(source) == agent


def test_without_routes_the_default_agent_answers() -> None:
    assert Routes([], "main").agent_for(SessionSource("http", "1")) == "main"
