"""A daemon and a homeserver that are killed while people write on Matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from gateway.channels.matrix.place import place_path
from gateway.sessions.key import encode_part
from tests.support import synapse
from tests.support.daemon import running_daemon
from tests.support.matrix import PATIENCE_S, Meeting

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from tests.support.daemon import Daemon


def config(tmp_path: Path, met: Meeting, url: str) -> str:
    token = tmp_path / "token"
    token.write_text(met.bot.token)
    token.chmod(0o600)
    return (
        f'[channels.work]\nkind = "matrix"\nhomeserver = "{url}"\npoll_timeout_s = 5\n'
        f'edits = false\ntoken = {{ file = "{token}" }}\n'
        f'[access.platforms.matrix]\nallow_users = ["{met.ann.user.user_id}"]\n'
    )


def bodies(met: Meeting) -> list[str]:
    """Return the answers; notices tell what becomes of a message."""
    said = met.ann.of(met.room, met.bot.user_id)
    return [one["body"] for one in said if one["msgtype"] == "m.text"]


async def answered(met: Meeting, text: str) -> None:
    """Wait until people read an answer."""
    with anyio.fail_after(3 * PATIENCE_S):
        while text not in await anyio.to_thread.run_sync(bodies, met):
            pass


async def asked(daemon: Daemon, met: Meeting) -> list[str]:
    key = f"agent:main:matrix:work:dm:{encode_part(met.room)}::{encode_part(met.ann.user.user_id)}"
    return [text for role, text in await daemon.said(key) if role == "user"]


async def test_a_message_that_comes_again_after_a_kill_is_one_turn_and_one_answer(
    tmp_path: Path,
) -> None:
    server = synapse.shared()
    met, state = Meeting.at(server), tmp_path / "state"
    made = config(tmp_path, met, server.url)
    place = place_path(state, "work")
    async with running_daemon(state, made) as daemon:
        await daemon.log.wait_for("channel.running")
        before = place.read_bytes()
        met.ann.say(met.room, "one")
        await answered(met, "one")
        await daemon.kill()
    # As if it had been killed between the storing of the message and that of the place.
    place.write_bytes(before)
    async with running_daemon(state, made) as daemon:
        met.ann.say(met.room, "two")
        await answered(met, "two")
        texts = await asked(daemon, met)
        code = await daemon.terminate()

    assert texts == ["one", "two"]
    assert bodies(met) == ["one", "two"]
    assert code == 0


@pytest.fixture
def own_server() -> Generator[synapse.Synapse]:
    """Give a homeserver that nobody else needs."""
    synapse.shared()
    made = synapse.Synapse()
    made.start()
    yield made
    made.remove()


async def test_a_homeserver_that_starts_again_amid_traffic_costs_nobody_anything(
    tmp_path: Path, own_server: synapse.Synapse
) -> None:
    met = Meeting.at(own_server)
    first = [f"first {number}" for number in range(5)]
    second = [f"second {number}" for number in range(5)]
    made = config(tmp_path, met, own_server.url)
    async with running_daemon(tmp_path / "state", made) as daemon:
        await daemon.log.wait_for("channel.running")
        for text in first:
            met.ann.say(met.room, text)
        own_server.stop(kill=True)
        await daemon.log.wait_for("channel.lost")
        own_server.start()
        for text in second:
            met.ann.say(met.room, text)
        await answered(met, second[-1])
        texts = await asked(daemon, met)
        code = await daemon.terminate()

    assert texts == [*first, *second]
    assert bodies(met) == [*first, *second]
    assert code == 0
