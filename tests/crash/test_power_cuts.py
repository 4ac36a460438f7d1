"""Laws of power loss: every operation is cut, every crash state is really recovered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crash.exploring import Explorer, crash_states
from tests.crash.workloads import WORKLOADS, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.crash.expectation import Outcome
    from tests.crash.states import CrashState


async def _explored(name: str, folder: Path, *, thorough: bool) -> Explorer:
    """Explore a workload, all of whose states must be as expected."""
    done = await run(name, folder / "run")
    assert done.error is None
    assert [client.errors for client in done.place.clients] == [[]]
    explorer = Explorer(
        folder / "work",
        thorough=thorough,
        damaged=done.damaged,
        also=_set_aside(done.before.entries) if name == "adopt" else lambda *_: [],
    )
    assert await explorer.explore(done.record, done.expected()) == []
    return explorer


def _set_aside(
    before: dict[str, bytes],
) -> Callable[[CrashState, Outcome], list[str]]:
    """Return a check that what an adoption gives up is in quarantine by then."""

    def check(state: CrashState, outcome: Outcome) -> list[str]:
        if outcome.entries == before:
            return []

        ends = ("session_log.jsonl", "session_log.jsonl.reason", "sessions.json.prev")
        found = {
            end: one.data
            for name, one in state.files.items()
            for end in ends
            if name.startswith("quarantine/") and name.endswith(end)
        }
        lines = (found.get("session_log.jsonl") or b"").count(b"\n")
        if set(found) == set(ends) and all(found.values()) and lines >= 2:
            return []
        return [f"given up and not in quarantine: {found}"]

    return check


async def _cut_twice(name: str, folder: Path, places: slice) -> int:
    """Cut the recovery of some crash states at each of its operations; return how many states."""
    done = await run(name, folder / "run")
    explorer = Explorer(folder / "work", damaged=done.damaged)
    inner = Explorer(folder / "inner", damaged=done.damaged)
    for state in crash_states(done.record)[places]:
        assert await explorer.explore_recovery(state, inner) == []
    return len(inner.outcomes)


@pytest.mark.parametrize("name", ["first-start", "turns", "kill", "damaged", "import", "adopt"])
async def test_whenever_the_power_goes_the_next_start_has_what_was_acknowledged(
    folder: Path, name: str, torture_count: Callable[[str, int], None]
) -> None:
    explorer = await _explored(name, folder, thorough=False)

    torture_count("crash states", len(explorer.outcomes))
    assert len(explorer.outcomes) > 90


@pytest.mark.parametrize("name", ["kill", "damaged"])
async def test_power_loss_during_the_recovery_changes_nothing(
    folder: Path, name: str, torture_count: Callable[[str, int], None]
) -> None:
    states = await _cut_twice(name, folder, slice(20, None, 60))

    torture_count("crash states of recoveries", states)
    assert states > 90


@pytest.mark.torture
@pytest.mark.parametrize("name", WORKLOADS)
async def test_every_crash_state_is_recovered(
    folder: Path, name: str, torture_count: Callable[[str, int], None]
) -> None:
    explorer = await _explored(name, folder, thorough=True)

    torture_count("crash states", len(explorer.outcomes))


@pytest.mark.torture
@pytest.mark.parametrize("name", WORKLOADS)
async def test_every_recovery_may_be_cut_anywhere(
    folder: Path, name: str, torture_count: Callable[[str, int], None]
) -> None:
    states = await _cut_twice(name, folder, slice(None))

    torture_count("crash states of recoveries", states)
