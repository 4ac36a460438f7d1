"""Every crash of a record: each operation is cut, each state recovered, each recovery judged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

from structlog.testing import capture_logs

from tests.crash.expectation import Expectation, Outcome
from tests.crash.memory_disk import MemoryDisk
from tests.crash.operations import Acknowledged, Attempt, Given, Refused, Write
from tests.crash.recording import Record, RecordingDisk
from tests.crash.recording_vfs import RecordingVFS
from tests.crash.recovering import recovered, write_out
from tests.crash.states import FEW, Crashes, CrashState
from tests.support.state import open_state

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from tests.crash.faults import Fault
    from tests.crash.operations import Operation

_NUMBERS: Final = count()


@contextmanager
def recording(root: Path, fault: Fault | None = None) -> Generator[RecordingDisk]:
    """Record what happens in a folder while it is used through the disk yielded."""
    record = Record(root, fault)
    name = f"recording{next(_NUMBERS)}"
    vfs = RecordingVFS(name, record)
    try:
        yield RecordingDisk(record, name)
    finally:
        vfs.unregister()


@dataclass(slots=True)
class Explorer:
    """Recovers each state once and judges it at each cut that leads to it."""

    work: Path
    """A folder of its own; what is in it is overwritten."""
    thorough: bool = False
    damaged: bytes | None = None
    """What a snapshot may be before a start, though it cannot be read."""
    also: Callable[[CrashState, Outcome], list[str]] = lambda _state, _outcome: []
    """What else must be true of a state and its recovery."""
    left: Callable[[Path], list[str]] = lambda _path: []
    """What else must be true of the folder that a recovery leaves."""
    outcomes: dict[bytes, Outcome] = field(default_factory=dict)
    cuts: int = 0

    async def explore(self, record: Record, expected: Expectation) -> list[str]:
        """Return what is wrong with the first state that is not as expected; empty for none."""
        disk = MemoryDisk(record.initial)
        crashes = Crashes(disk, thorough=self.thorough)
        for place, operation in enumerate(record.log):
            if isinstance(operation, Attempt | Acknowledged | Refused | Given):
                expected.note(operation)
                if isinstance(operation, Attempt):
                    continue  # more is allowed than before, on the same states
                last = None
            else:
                disk.apply(operation)
                last = operation
            if not self.thorough and _amid_writes(disk, record.log, place):
                continue
            if faults := await self.judge(crashes.states(last), expected):
                return [f"after {place}, {_brief(record.log[place])}", *faults]
        return []

    async def explore_end(
        self, record: Record, expected: Expectation, *, all_states: bool
    ) -> list[str]:
        """Return what is wrong where the power goes after all of a record; see `explore`."""
        crashes = Crashes(replayed(record, expected), thorough=False)
        states = crashes.states(None) if all_states else crashes.extremes()
        return await self.judge(states, expected)

    async def judge(self, states: Iterable[CrashState], expected: Expectation) -> list[str]:
        """Return what is wrong with the first wrong state of one cut."""
        self.cuts += 1
        for state in states:
            outcome = self.outcomes.get(state.digest)
            if outcome is None:
                outcome = await self.recover(state)
            if faults := expected.faults(outcome) or self.also(state, outcome):
                return [*faults, *_listed(state)]
        return []

    async def recover(self, state: CrashState) -> Outcome:
        write_out({name: one.data for name, one in state.files.items()}, self.work)
        outcome = await recovered(self.work, self.damaged)
        if not outcome.faults:
            outcome = replace(outcome, faults=tuple(self.left(self.work)))
        self.outcomes[state.digest] = outcome
        return outcome

    async def explore_recovery(self, state: CrashState, inner: Explorer) -> list[str]:
        """Cut the recovery of a state at each of its own operations; it must come to the same."""
        first = await self.recover(state)
        if first.faults:
            return list(first.faults)

        write_out({name: one.data for name, one in state.files.items()}, self.work)
        with recording(self.work) as disk, capture_logs():
            async with open_state(self.work, disk=disk):
                pass
        expected = Expectation()
        expected.settle(first)
        return await inner.explore(disk.record, expected)


def crash_states(record: Record, *, thorough: bool = False) -> list[CrashState]:
    """Return the states that cuts of a record lead to, each once, in order.

    Args:
        record: What happened.
        thorough: Whether each write is cut, also amid long runs of writes to one file.
    """
    disk = MemoryDisk(record.initial)
    crashes = Crashes(disk, thorough=thorough)
    found: dict[bytes, CrashState] = {}
    for place, operation in enumerate(record.log):
        if not isinstance(operation, Attempt | Acknowledged | Refused | Given):
            disk.apply(operation)
            if thorough or not _amid_writes(disk, record.log, place):
                found.update((state.digest, state) for state in crashes.states(operation))
    return list(found.values())


def replayed(record: Record, expected: Expectation) -> MemoryDisk:
    """Return the disk after all of a record, and let the expectation know its marks."""
    disk = MemoryDisk(record.initial)
    for operation in list(record.log):
        if isinstance(operation, Attempt | Acknowledged | Refused | Given):
            expected.note(operation)
        else:
            disk.apply(operation)
    return disk


def _amid_writes(disk: MemoryDisk, log: list[Operation], place: int) -> bool:
    """Return whether a cut is one of many in a long run of writes to one file."""
    operation = log[place]
    following = log[place + 1] if place + 1 < len(log) else None
    return (
        isinstance(operation, Write)
        and isinstance(following, Write)
        and following.inode == operation.inode
        and len(disk.files[operation.inode].loose()) > FEW // 2
    )


def _brief(operation: object) -> str:
    return f"{operation!r:.200}"


def _listed(state: CrashState) -> list[str]:
    return [
        f"{name}: {'directory' if one.data is None else len(one.data)}"
        for name, one in state.files.items()
    ]
