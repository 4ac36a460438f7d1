"""A session far too old, and the process that keeps it: the watcher, the registry and the turns."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from gateway.clock import FakeClock
from gateway.processes.settings import ProcessSettings
from gateway.watcher import PRUNE_INTERVAL_S, ExpiryWatcher, RetentionLimits
from tests.support.commands import open_door
from tests.support.state import START, key_of
from tests.support.turns import PlayedAgent, echo

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.sessions.pruning import PruneReport
    from tests.support.commands import DoorBench

KEY = key_of()


async def _pruned(bench: DoorBench, watcher: ExpiryWatcher, number: int) -> PruneReport:
    """Return the report of the prune of that number."""
    with anyio.fail_after(30):
        while watcher.statistics().prunes < number:
            await anyio.lowlevel.checkpoint()
    report = bench.turns.state.store.statistics().last_prune
    assert report is not None
    return report


async def test_a_live_process_keeps_a_session_until_the_hour_after_its_end(tmp_path: Path) -> None:
    settings = ProcessSettings(enabled=True, bg="everybody")
    clock, agent = FakeClock(), PlayedAgent(echo)
    async with open_door(tmp_path / "state", agent, clock=clock, processes=settings) as bench:
        await bench.say("hello")
        await bench.idle(KEY)
        await clock.advance(timedelta(days=200).total_seconds())
        assert (await bench.say("/bg cat")).text.startswith("Started as p-")
        (record,) = await bench.processes.list()
        store, database = bench.turns.state.store, bench.turns.state.database

        async def discard() -> int:
            return 0

        watcher = ExpiryWatcher(store, database, clock, RetentionLimits(90, 0), discard)
        async with anyio.create_task_group() as tasks:
            await tasks.start(watcher.run)
            first = await _pruned(bench, watcher, 1)
            assert (first.pruned, first.kept_by_reason) == (0, {"active_process": 1})
            await clock.advance(PRUNE_INTERVAL_S)
            second = await _pruned(bench, watcher, 2)
            assert (second.pruned, second.kept_by_reason) == (0, {"active_process": 1})

            await bench.processes.write(record.process_id, "the result\n", last=True)
            with anyio.fail_after(30):
                while bench.processes.has_active_for_session(KEY) or len(agent.contexts) < 2:
                    await anyio.lowlevel.checkpoint()
            await bench.idle(KEY)
            asked = agent.contexts[-1][-1].text
            assert asked.startswith(f"[Background process {record.process_id}: cat]")
            assert asked.endswith("Its output:\nthe result")
            assert bench.turns.entry().updated_at == START

            await clock.advance(PRUNE_INTERVAL_S)
            assert (await _pruned(bench, watcher, 3)).pruned == 1
            assert store.get(KEY) is None
            tasks.cancel_scope.cancel()


async def test_a_result_for_a_session_that_is_gone_wakes_nobody(tmp_path: Path) -> None:
    settings = ProcessSettings(enabled=True, bg="everybody", guard_max_age_s=3_600)
    clock, agent = FakeClock(), PlayedAgent(echo)
    async with open_door(tmp_path / "state", agent, clock=clock, processes=settings) as bench:
        await bench.say("hello")
        await bench.say("/bg cat")
        (record,) = await bench.processes.list()
        await clock.advance(timedelta(days=200).total_seconds())
        assert (await bench.turns.state.store.prune_old_entries(90)).pruned == 1

        await bench.processes.stop(record.process_id)

        with anyio.fail_after(30):
            while (await bench.processes.get(record.process_id)).reported_at is None:
                await anyio.lowlevel.checkpoint()
        assert bench.turns.state.store.get(KEY) is None
        assert len(agent.contexts) == 1


async def test_a_paused_session_is_told_and_not_answered(tmp_path: Path) -> None:
    settings = ProcessSettings(enabled=True, bg="everybody")
    agent = PlayedAgent(echo)
    async with open_door(tmp_path / "state", agent, processes=settings) as bench:
        await bench.say("hello")
        await bench.say("/bg cat")
        (record,) = await bench.processes.list()
        await bench.say("/stop")

        await bench.processes.write(record.process_id, "done\n", last=True)

        with anyio.fail_after(30):
            while (await bench.processes.get(record.process_id)).reported_at is None:
                await anyio.lowlevel.checkpoint()
        role, text = (await bench.turns.said())[-1]
        assert (role, text[-4:]) == ("notice", "done")
        assert len(agent.contexts) == 1
        assert bench.turns.entry().suspended_by == "user"
