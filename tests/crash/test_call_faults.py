"""Laws of single calls that fail: every one of them, once and for good."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from gateway.errors import ConflictError, NotFoundError, StorageFullError
from tests.crash.exploring import Explorer
from tests.crash.faults import CHANGES, GROWING, OPENING, READING, SHORT, SYNCS, Fault
from tests.crash.workloads import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.crash.workloads import Run


@dataclass(frozen=True, slots=True)
class Trouble:
    """How calls fail."""

    error: int
    calls: frozenset[str]


NEVER: Final = 1 << 30
"""A call that does not come: all are counted and none fails."""
TROUBLES: Final = {
    "eio": Trouble(errno.EIO, CHANGES),
    "no-space": Trouble(errno.ENOSPC, GROWING),
    "too-many-files": Trouble(errno.EMFILE, OPENING),
    "unreadable": Trouble(errno.EIO, READING),
    "short": Trouble(SHORT, frozenset({"write", "db_write"})),
}


async def _calls(name: str, folder: Path, trouble: Trouble) -> int:
    """Return how many calls there are to fail."""
    fault = Fault(NEVER, calls=trouble.calls)
    done = await run(name, folder / "run", fault)
    assert done.error is None
    return fault.seen


async def _fail_each(
    name: str, folder: Path, trouble: Trouble, places: range, *, lasting: bool, thorough: bool
) -> int:
    """Fail these calls, one a run; return how many states were recovered."""
    states = 0
    for at in places:
        fault = Fault(at, trouble.error, trouble.calls, lasting=lasting)
        done = await run(name, folder / "run", fault)
        place = f"{name}, call {at}: {fault.fired[:1]}"
        assert fault.fired or trouble.error == SHORT, place
        assert _answered_rightly(done, fault) == [], place
        explorer = Explorer(folder / "work", damaged=done.damaged)
        assert (
            await explorer.explore_end(done.record, done.expected(), all_states=thorough) == []
        ), place
        states += len(explorer.outcomes)
    return states


def _answered_rightly(done: Run, fault: Fault) -> list[str]:
    """Return what is wrong with how the store behaved while and after the call failed."""
    place = done.place
    if not place.clients or not fault.fired:
        return []

    wrong = []
    client = place.clients[-1]
    if fault.fired[0] in SYNCS and fault.at <= place.calls_before_stop and not place.failed:
        wrong.append("a sync failed and the store goes on")
    if client.accepted_after_failure:
        wrong.append(f"{client.accepted_after_failure} accepted after the failure")
    if fault.error == errno.ENOSPC and done.error is None:
        # What was refused before makes some of what comes after impossible.
        told = (StorageFullError, ConflictError, NotFoundError)
        wrong += [f"no space: {e!r}" for e in client.errors if not isinstance(e, told)]
        wrong += ["a full disk is final"] * place.failed
    if not place.failed:
        wrong += [f"still refused: {error!r}" for error in place.refused_afterwards]
    return wrong


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for-good"])
async def test_a_call_that_fails_costs_nothing_that_was_acknowledged(
    folder: Path, trouble: str, torture_count: Callable[[str, int], None], *, lasting: bool
) -> None:
    calls = await _calls("life", folder, TROUBLES[trouble])
    places = range(1 + calls // 16, calls + 1, max(1, calls // 8))

    states = await _fail_each(
        "life", folder, TROUBLES[trouble], places, lasting=lasting, thorough=False
    )

    torture_count("failed calls", len(places))
    assert states >= len(places)


async def test_a_failed_sync_is_final_though_closing_fails_as_well(folder: Path) -> None:
    trouble = Trouble(errno.EIO, frozenset({"sync_directory", "close"}))
    calls = await _calls("life", folder, trouble)

    places = range(1, calls + 1)
    assert await _fail_each("life", folder, trouble, places, lasting=True, thorough=False)


@pytest.mark.torture
@pytest.mark.parametrize("name", ["life", "first-start", "turns", "damaged", "import", "adopt"])
@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for-good"])
async def test_every_call_may_fail(
    folder: Path,
    name: str,
    trouble: str,
    torture_count: Callable[[str, int], None],
    *,
    lasting: bool,
) -> None:
    calls = await _calls(name, folder, TROUBLES[trouble])

    states = await _fail_each(
        name, folder, TROUBLES[trouble], range(1, calls + 1), lasting=lasting, thorough=True
    )

    torture_count("failed calls", calls)
    torture_count("crash states", states)
