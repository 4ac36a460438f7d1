"""Routes over a real channel: which agent and which session a message comes to, and from when."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.bridge import Bridge, bridge
from tests.support.daemon import running_daemon
from tests.support.loopback import short_directory

if TYPE_CHECKING:
    from collections.abc import Generator

AGENTS = "".join(
    f'[agents.{name}]\nkind = "scripted"\nreplies = ["{name}"]\n'
    for name in ("main", "account", "chat", "user", "group")
)
CHANNELS = '[channels.lo]\nkind = "loopback"\n[channels.work]\nkind = "loopback"\n'
ROUTES = """
[[routes]]
platform = "loopback"
user_id = "boss"
agent = "user"
[[routes]]
platform = "loopback"
account = "work"
agent = "account"
[[routes]]
chat_id = "ops"
agent = "chat"
[[routes]]
platform = "loopback"
chat_type = "group"
agent = "group"
"""
"""Tried from the first on; what none matches goes to `main`."""


@pytest.fixture
def folder() -> Generator[Path]:
    """Give a directory whose path leaves room for a socket."""
    with short_directory() as path:
        yield Path(path)


async def test_messages_come_to_the_agents_of_their_routes_and_to_others_once_they_change(
    folder: Path,
) -> None:
    state = folder / "state"
    async with (
        running_daemon(state, AGENTS + CHANNELS + ROUTES) as daemon,
        bridge(daemon, running=2) as home,
        bridge(daemon, "work") as work,
    ):
        before = await _answered(home, work)
        changed = ROUTES.replace('account = "work"', 'account = "lo"')
        state.with_name("state.toml").write_text(AGENTS + CHANNELS + changed)
        daemon.signal(signal.SIGHUP)
        reloaded = await daemon.log.wait_for("config.reloaded")
        after = await _answered(home, work)
        keys = {one["session_key"] for one in (await daemon.get("/v1/sessions"))["sessions"]}

    assert before == ["main", "user", "chat", "group", "account", "user", "account", "account"]
    assert after == ["account", "user", "account", "account", "main", "user", "chat", "group"]
    assert (reloaded["applied"], reloaded["needs_restart"]) == (["routes"], [])
    assert keys == {
        # Of each account first its own, then that of the routes which the other had.
        *_keys("lo", "main", "chat", "group"),
        *_keys("lo", "account", "account", "account"),
        *_keys("work", "account", "account", "account"),
        *_keys("work", "main", "chat", "group"),
    }


async def _answered(*accounts: Bridge) -> list[str]:
    """Return which agents answer: in a chat, to the boss, in the chat `ops` and in a group."""
    return [
        await people.ask("hello", chat, user_id=user, chat_type=kind)
        for people in accounts
        for chat, user, kind in [
            ("ann", "ann", "dm"),
            ("boss", "boss", "dm"),
            ("ops", "ann", "group"),
            ("all", "ann", "group"),
        ]
    ]


def _keys(account: str, direct: str, ops: str, group: str) -> set[str]:
    return {
        f"agent:{direct}:loopback:{account}:dm:ann::",
        f"agent:user:loopback:{account}:dm:boss::",
        f"agent:{ops}:loopback:{account}:group:ops::ann",
        f"agent:{group}:loopback:{account}:group:all::ann",
    }
