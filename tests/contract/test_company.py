"""What holds of several channels beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.channels.running import LONGEST_PAUSE_S, ChannelState
from gateway.model import Inbound
from gateway.sessions.key import parse_key
from tests.contract.base import Ability, Written
from tests.contract.running import alone, joined, state_of, until, whole
from tests.support.turns import PlayedAgent, echo

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.base import Platform


async def test_two_accounts_of_one_platform_run_at_once_and_are_told_apart(
    platform: Platform, other_account: Platform, tmp_path: Path
) -> None:
    both = {"here": platform, "there": other_account}
    async with whole(platform, tmp_path / "s", PlayedAgent(echo), other_account) as bench:
        for number in range(2):
            for name, one in both.items():
                await one.write(Written(f"m{number}", f"{name} {number}"))
        await until(platform, lambda: all(len(one.people.shown) == 2 for one in both.values()))
        keys = [entry.session_key for entry in bench.turns.state.store.entries()]

    for name, one in both.items():
        assert one.people.at("ann") == [f"re: {name} 0", f"re: {name} 1"]
        assert [shown.answers for shown in one.people.shown] == ["m0", "m1"]
    accounts = {parse_key(key).account for key in keys}
    assert accounts == {one.channel.account for one in both.values()}
    assert len(keys) == 2


@pytest.mark.needs(Ability.OUTAGES)
async def test_a_channel_that_cannot_reach_its_platform_harms_no_other(
    platform: Platform, other_account: Platform, tmp_path: Path
) -> None:
    broken = other_account
    asked = Inbound(broken.source(Written("m0")), "of the broken one", "m0")
    async with (
        platform.server(),
        alone(platform, tmp_path / "s", PlayedAgent(echo), broken) as (bench, channels),
        joined(platform, channels),
    ):
        assert (await bench.door.receive(asked)).accepted
        for number in range(3):
            await platform.write(Written(f"m{number}", f"{number}"))
            await until(platform, lambda: len(platform.people.shown) > number)  # noqa: B023
            await platform.pass_s(30)
        ours, theirs = channels.statistics()
        lonely = list(broken.people.shown)
        async with broken.server():
            await platform.pass_s(LONGEST_PAUSE_S)
            await until(platform, lambda: state_of(broken, channels) is ChannelState.RUNNING)
            async with broken.present():
                await until(platform, lambda: bool(broken.people.shown))

    assert platform.people.at("ann") == ["re: 0", "re: 1", "re: 2"]
    assert (ours.state, ours.restarts, ours.last_error) == (ChannelState.RUNNING, 0, "")
    assert theirs.account == broken.channel.account
    assert lonely == []
    assert broken.people.at("ann") == ["re: of the broken one"]
