"""A store among faults and power cuts in any order, held against what its clients know."""

from __future__ import annotations

import asyncio
import errno
import shutil
import tempfile
from contextlib import AsyncExitStack, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

import apsw
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from structlog.testing import capture_logs
from typing_extensions import override

from gateway.clock import FakeClock
from gateway.errors import GatewayError
from tests.crash.client import Client
from tests.crash.conftest import MEMORY
from tests.crash.expectation import Expectation
from tests.crash.exploring import Explorer, recording, replayed
from tests.crash.faults import CHANGES, GROWING, READING, SYNCS, Fault
from tests.crash.recovering import write_out
from tests.crash.states import Crashes
from tests.support.state import open_state

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.crash.recording import RecordingDisk

NAMES: Final = st.sampled_from(["a", "b", "c"])
COUNTS: Final = {"crash states": 0, "faults": 0, "steps": 0}


class Machine(RuleBasedStateMachine):
    """One state directory through many lives; each life records its disk."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="session-gateway-", dir=MEMORY))
        self.path = self.folder / "state"
        self.path.mkdir(mode=0o700)
        self.explorer = Explorer(self.folder / "work")
        self.runner = asyncio.Runner()
        self.expected = Expectation()
        self.turns = count()
        self.life = AsyncExitStack()
        self.client: Client | None = None
        self.disk: RecordingDisk | None = None
        self._run(self._begin())

    @property
    def fault(self) -> Fault:
        assert self.disk is not None
        return self.disk.record.fault

    @precondition(lambda self: self.client is not None)
    @rule(name=NAMES, kind=st.sampled_from(["create", "update", "update", "remove", "reset"]))
    def change(self, name: str, kind: str) -> None:
        assert self.client is not None
        self._run(getattr(self.client, kind)(name))

    @precondition(lambda self: self.client is not None)
    @rule(name=NAMES)
    def turn(self, name: str) -> None:
        assert self.client is not None
        self._run(self.client.turn(name, f"turn-{next(self.turns)}"))

    @precondition(lambda self: self.client is not None)
    @rule()
    def snapshot(self) -> None:
        assert self.client is not None
        self._run(self.client.snapshot())

    @precondition(lambda self: self.client is not None)
    @rule(size=st.sampled_from([0, 1 << 30]))
    def compact(self, size: int) -> None:
        assert self.client is not None
        self._run(self.client.compact(size))

    @precondition(lambda self: self.client is not None)
    @rule(left=st.integers(1, 3))
    def prune(self, left: int) -> None:
        assert self.client is not None
        self._run(self.client.prune(left))

    @rule(
        at=st.integers(1, 12),
        trouble=st.sampled_from(
            [
                (errno.EIO, CHANGES),
                (errno.EIO, SYNCS),
                (errno.EIO, READING),
                (errno.ENOSPC, GROWING),
            ]
        ),
        lasting=st.booleans(),
    )
    def arm(self, at: int, trouble: tuple[int, frozenset[str]], lasting: bool) -> None:  # noqa: FBT001 - hypothesis names it
        fault = self.fault
        fault.error, fault.calls = trouble
        fault.at, fault.seen, fault.lasting = at, 0, lasting

    @rule()
    def disarm(self) -> None:
        self.fault.end()

    @rule()
    def restart(self) -> None:
        """Stop in order, and start again with a disk that works."""
        self._run(self._restart())

    @rule(choice=st.integers(0, 1000))
    def cut_the_power(self, choice: int) -> None:
        """Go on from one of the states that a power cut now may leave."""
        self._run(self._cut(choice))

    @override
    def teardown(self) -> None:
        try:
            self._run(self._end())
        finally:
            self.runner.close()
            shutil.rmtree(self.folder)

    def _run(self, steps: Coroutine[object, object, None]) -> None:
        COUNTS["steps"] += 1
        with capture_logs():
            self.runner.run(steps)

    async def _begin(self) -> None:
        """Start the store on what is in the folder, and record it."""
        self.disk = self.life.enter_context(recording(self.path))
        clock = FakeClock()
        state = await self.life.enter_async_context(open_state(self.path, clock, disk=self.disk))
        self.client = Client(state, clock, self.disk.record.note)

    async def _end(self) -> None:
        """End a life; nothing is promised of its end where the disk fails."""
        assert self.disk is not None
        COUNTS["faults"] += len(self.fault.fired)
        self.client = None
        with suppress(GatewayError, apsw.Error):
            await self.life.aclose()
        self.life = AsyncExitStack()

    async def _restart(self) -> None:
        await self._end()
        await self._go_on(0)

    async def _cut(self, choice: int) -> None:
        assert self.disk is not None
        COUNTS["faults"] += len(self.fault.fired)
        await self._go_on(choice)

    async def _go_on(self, choice: int) -> None:
        """Take one of the states that the record so far may leave, recover it, and begin on it.

        The first of them has all that was written.
        """
        assert self.disk is not None
        record = self.disk.record
        disk = replayed(record, self.expected)
        crashes = Crashes(disk, thorough=False)
        states = [*crashes.extremes(), *crashes.states(None)]
        state = states[choice % len(states)]
        faults = await self.explorer.judge([state], self.expected)
        assert faults == []
        COUNTS["crash states"] += 1
        self.expected.settle(self.explorer.outcomes[state.digest])
        await self._end()
        write_out({name: one.data for name, one in state.files.items()}, self.path)
        await self._begin()


def _run_machine(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_whatever_happens_in_whatever_order_nothing_acknowledged_is_lost(
    torture_count: Callable[[str, int], None],
) -> None:
    COUNTS.update(dict.fromkeys(COUNTS, 0))
    _run_machine(12, 20)

    assert COUNTS["crash states"] >= 10
    assert COUNTS["faults"] >= 5
    for name, number in COUNTS.items():
        torture_count(f"{name} of state machines", number)


@pytest.mark.torture
def test_many_lives_of_a_store(torture_count: Callable[[str, int], None]) -> None:
    COUNTS.update(dict.fromkeys(COUNTS, 0))
    _run_machine(1_500, 40)

    for name, number in COUNTS.items():
        torture_count(f"{name} of state machines", number)
