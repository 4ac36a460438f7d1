"""A person who is linked while the daemon runs: which session goes on, and from when."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.bridge import CHANNEL, bridge
from tests.support.daemon import running_daemon
from tests.support.loopback import short_directory

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.support.daemon import Daemon

ANNA = '[[sessions.identities]]\nname = "anna"\nmembers = ["loopback/lo/ann"]\n'
OWN, LINKED = "agent:main:loopback:lo:dm:ann::", "agent:main:identity::dm:anna::"


@pytest.fixture
def folder() -> Generator[Path]:
    """Give a directory whose path leaves room for a socket."""
    with short_directory() as path:
        yield Path(path)


async def said(daemon: Daemon, key: str) -> list[str]:
    return [text for role, text in await daemon.said(key) if role == "user"]


async def ask(daemon: Daemon, text: str) -> None:
    async with bridge(daemon) as people:
        assert await people.ask(text, user_id="ann") == text


async def test_links_apply_at_the_next_start_and_the_old_session_stays(folder: Path) -> None:
    state = folder / "state"
    async with running_daemon(state, CHANNEL) as daemon:
        await ask(daemon, "one")
        state.with_name("state.toml").write_text(CHANNEL + ANNA)
        daemon.signal(signal.SIGHUP)
        reloaded = await daemon.log.wait_for("config.reloaded")
        await ask(daemon, "two")
    async with running_daemon(state, CHANNEL + ANNA) as daemon:
        await ask(daemon, "three")
        old, new = await said(daemon, OWN), await said(daemon, LINKED)
    async with running_daemon(state, CHANNEL) as daemon:
        await ask(daemon, "four")
        unlinked, left = await said(daemon, OWN), await said(daemon, LINKED)

    assert (reloaded["applied"], reloaded["needs_restart"]) == ([], ["sessions.identities"])
    assert (old, new) == (["one", "two"], ["three"])
    assert (unlinked, left) == (["one", "two", "four"], ["three"])
