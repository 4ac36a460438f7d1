"""Laws of an older `sessions.json` put back beside a newer database."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from gateway.errors import DamagedDataError
from gateway.sessions.recovery import PREVIOUS, SNAPSHOT
from tests.support.daemon import run_to_end, running_daemon
from tests.support.state import entry, key_of, open_state, power_cut

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 6


@pytest.mark.parametrize("end", ["killed", "stopped"])
@pytest.mark.parametrize("with_previous", [True, False])
async def test_within_the_logs_reach_it_comes_to_the_newest_state_and_beyond_it_is_refused(
    tmp_path: Path, end: str, *, with_previous: bool
) -> None:
    olds, path = [], tmp_path / "state"
    async with open_state(path) as state:
        for number in range(ROUNDS):
            await state.store.create(entry(f"made{number}"))
            await state.store.update(key_of("made0"), lambda one: one.changed(turns=one.turns + 1))
            if number:
                await state.store.remove(key_of(f"made{number}"))
            await state.store.snapshots.write()
            olds.append((path / SNAPSHOT).read_bytes())
        await state.store.create(entry("last"))
        newest = {key: state.store.get(key) for key in (key_of("made0"), key_of("last"))}
        killed = power_cut(state, tmp_path / "killed")

    outcomes = []
    for number, old in enumerate(olds):
        copy = shutil.copytree(killed if end == "killed" else path, tmp_path / f"copy{number}")
        (copy / SNAPSHOT).write_bytes(old)
        if not with_previous:
            (copy / PREVIOUS).unlink()
        outcomes.append(await _outcome(copy, newest))
        if outcomes[-1] != "newest":
            assert (copy / SNAPSHOT).read_bytes() == old
    # After a kill the log reaches back to `.prev`; the stop wrote one snapshot more.
    reach = 2 if end == "killed" else 1
    assert outcomes[ROUNDS - reach :] == ["newest"] * reach
    for outcome in outcomes[: ROUNDS - reach]:
        assert "sessions.json: older (sequence" in outcome
        assert "gateway store adopt" in outcome


async def _outcome(path: Path, newest: object) -> str:
    """Return `newest` where that is what is there, else why it was refused."""
    try:
        async with open_state(path) as state:
            assert {one.session_key: one for one in state.store.entries()} == newest
    except DamagedDataError as error:
        return str(error)

    return "newest"


@pytest.mark.torture
async def test_the_daemon_refuses_a_restored_file_that_is_too_old_and_says_how_to_take_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state"
    async with running_daemon(path) as daemon:
        await daemon.say("hello", "alice")
        assert await daemon.terminate() == 0
    old = (path / SNAPSHOT).read_bytes()
    for chat in ("bob", "carol"):
        async with running_daemon(path) as daemon:
            await daemon.say("hello", chat)
            assert await daemon.terminate() == 0
    (path / SNAPSHOT).write_bytes(old)

    ended = await run_to_end(path)

    assert ended.code == 65
    assert "gateway store adopt" in ended.log[-1]["error"]
    assert (path / SNAPSHOT).read_bytes() == old
