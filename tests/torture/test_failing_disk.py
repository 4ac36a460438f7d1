"""Laws of a daemon whose disk fails in one call, or from one call on.

strace makes the Nth call of a thread fail: once (each thread's Nth), or from then on for good.
"""

from __future__ import annotations

import re
import signal
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import pytest

from gateway.errors import ExitCode
from tests.support.daemon import running_daemon, started_daemon
from tests.support.state import shown
from tests.torture.clients import Caller
from tests.torture.history import Attempt, Outcome, read_history
from tests.torture.ordeal import Ordeal
from tests.torture.sampling import spread
from tests.torture.scenario import CONFIG, act, play
from tests.torture.tracing import DATABASE, SNAPSHOTS, needs_strace, tracer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = needs_strace
SYNCS: Final = "fsync,fdatasync"
FOLDER: Final = ("",)
WRITES: Final = "write,pwrite64"
NEVER: Final = "60000"
"""No thread makes so many calls."""
SAMPLE: Final = 60
"""How many of the places where a write can fail are tried: each is two lives of 3 s in all, there
are more than 200 in the database, and a test is to end within three minutes."""
_CALL: Final = re.compile(r"^(\d+) +\d+\.\d+ \w+\(", re.MULTILINE)
_INJECTED: Final = re.compile(r"^\d+ +(\d+\.\d+) .*\(INJECTED\)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Fault:
    """Which calls fail, and how."""

    names: tuple[str, ...]
    calls: str
    error: str
    when: str
    """As strace has it: `3` is the third call of each thread, `3+` every one from there on."""


@dataclass(frozen=True, slots=True)
class Hit:
    """What a fault did."""

    at: datetime | None
    """When it struck first; None where it did not."""
    code: int


async def run_with(ordeal: Ordeal, fault: Fault, *, erasing: bool = True) -> Hit:
    """Run the scenario under a fault."""
    trace = ordeal.folder / "trace"
    inject = f"error={fault.error}:when={fault.when}"
    command = tracer(ordeal.state_dir, fault.names, fault.calls, inject, str(trace))
    async with started_daemon(ordeal.state_dir, CONFIG, tracer=command) as started:
        await play(ordeal, started, name="c2", erasing=erasing)
        code = await started.ended()
    struck = _INJECTED.search(trace.read_text())
    at = None if struck is None else datetime.fromtimestamp(float(struck[1]), tz=UTC)
    return Hit(at, code)


async def most_calls(ordeal: Ordeal, names: tuple[str, ...], calls: str) -> int:
    """Return how many calls the thread makes that makes most, where none fails."""
    hit = await run_with(ordeal, Fault(names, calls, "EIO", NEVER), erasing=False)
    assert hit == Hit(None, ExitCode.OK)
    threads = Counter(_CALL.findall((ordeal.folder / "trace").read_text()))
    await survive(ordeal)
    return max(threads.values())


def acknowledged_after(ordeal: Ordeal, at: datetime) -> list[Attempt]:
    """Return what was tried after an instant and acknowledged."""
    events = read_history(ordeal.history.folder)
    done = {event.attempt for event in events if isinstance(event, Outcome) and event.done}
    return [
        event
        for event in events
        if isinstance(event, Attempt)
        and event.moment in done
        and datetime.fromisoformat(event.at) > at
    ]


async def use(folder: Path) -> Ordeal:
    """Return the ordeal of a directory that was in use, and whose daemon was killed."""
    folder.mkdir()
    ordeal = Ordeal(folder)
    async with started_daemon(ordeal.state_dir, CONFIG) as started, started.ready() as daemon:
        assert await act(Caller("c1", ordeal.history, daemon))
        await daemon.kill()
    ordeal.check_dead()
    return ordeal


async def survive(ordeal: Ordeal) -> None:
    """Start on a disk that is whole again, and check all that is left."""
    ordeal.check_dead()
    await ordeal.check_recovery()
    async with started_daemon(ordeal.state_dir, CONFIG) as started, started.ready() as daemon:
        await ordeal.check_alive(daemon)
        assert await act(Caller("c3", ordeal.history, daemon))
        assert await daemon.terminate() == 0
    ordeal.check_dead()
    ordeal.history.close()


async def fail_a_sync(ordeal: Ordeal, names: tuple[str, ...], when: str) -> bool:
    """Fail a sync and check what follows; tell whether there was one to fail."""
    # SQLite goes on when a directory cannot be synced (it calls fdatasync there); we do not.
    calls = "fsync" if names == FOLDER else SYNCS
    hit = await run_with(ordeal, Fault(names, calls, "EIO", when))
    if hit.at is None:
        assert hit.code == ExitCode.OK
        return False

    assert hit.code == ExitCode.STORAGE
    assert acknowledged_after(ordeal, hit.at) == []
    await survive(ordeal)
    return True


async def fail_a_write(
    ordeal: Ordeal, fault: Fault, accepted: set[ExitCode], *, erasing: bool = False
) -> bool:
    """Fail a write and check what follows; tell whether there was one to fail."""
    hit = await run_with(ordeal, fault, erasing=erasing)
    assert hit.code in (accepted if hit.at else {ExitCode.OK})
    await survive(ordeal)
    return hit.at is not None


@pytest.mark.parametrize("when", ["16"])
async def test_a_failed_sync_ends_the_daemon_and_nothing_is_acknowledged_after_it(
    tmp_path: Path, when: str, torture_count: Callable[[str, int], None]
) -> None:
    assert await fail_a_sync(Ordeal(tmp_path), DATABASE, when)
    torture_count("failed syncs", 1)


async def test_a_write_for_which_there_is_no_space_loses_nothing_that_was_acknowledged(
    tmp_path: Path, torture_count: Callable[[str, int], None]
) -> None:
    # A place in service: at a start a full disk ends the daemon.
    fault = Fault(DATABASE, WRITES, "ENOSPC", "330")
    assert await fail_a_write(Ordeal(tmp_path), fault, {ExitCode.OK}, erasing=True)
    torture_count("failed writes", 1)


async def test_an_erasure_that_a_full_disk_cuts_short_says_so_and_ends_when_asked_again(
    tmp_path: Path,
) -> None:
    """The first snapshot of an erasure fails: by then the session is gone already."""
    command = tracer(
        tmp_path / "state",
        ("sessions.json.tmp",),
        "write",
        "error=ENOSPC:when=2",
        str(tmp_path / "trace"),
    )
    async with (
        started_daemon(tmp_path / "state", CONFIG, tracer=command) as started,
        started.ready() as daemon,
    ):
        key = (await daemon.say("hello"))["session_key"]
        response = await daemon.client.delete(f"/v1/sessions/{key}?erase=true")
        assert response.status_code == 503
        assert "traces of it may still be on disk" in response.text
        assert (await daemon.client.get(f"/v1/sessions/{key}")).status_code == 404

        again = await daemon.client.delete(f"/v1/sessions/{key}?erase=true")
        assert again.json() == {"removed": False, "erased": True}
        nothing = await daemon.client.delete(f"/v1/sessions/{key}?erase=true")
        assert nothing.status_code == 404
        assert await daemon.terminate() == 0


async def test_a_second_signal_lets_the_last_snapshot_end(tmp_path: Path) -> None:
    """It comes from strace, right after the sync of the last snapshot; the rename waits then."""
    async with running_daemon(tmp_path / "state", CONFIG) as daemon:
        assert await daemon.terminate() == ExitCode.OK
    # After an orderly end the next start writes no snapshot, so the last one is the only one.
    trace, aside = tmp_path / "trace", ("sessions.json.tmp",)
    command = (
        *tracer(tmp_path / "state", aside, "fsync,rename", "delay_enter=700ms", str(trace)),
        *("-e", "inject=fsync:signal=SIGTERM"),
    )
    async with (
        started_daemon(tmp_path / "state", CONFIG, tracer=command) as started,
        started.ready() as daemon,
    ):
        key = (await daemon.say("hello"))["session_key"]
        assert not trace.read_text()
        daemon.signal(signal.SIGTERM)
        assert await daemon.ended() == ExitCode.OK
    assert trace.read_text().count("--- SIGTERM") == 2
    assert key in shown(tmp_path / "state")


@pytest.mark.torture
@pytest.mark.parametrize("names", [DATABASE, SNAPSHOTS, FOLDER], ids=["database", "json", "folder"])
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for-good"])
async def test_any_failed_sync_ends_the_daemon_and_nothing_is_acknowledged_after_it(
    tmp_path: Path,
    names: tuple[str, ...],
    for_good: bool,  # noqa: FBT001 - a column
    torture_count: Callable[[str, int], None],
) -> None:
    base, number = await use(tmp_path / "used"), 1
    when = f"{number}+" if for_good else f"{number}"
    while await fail_a_sync(base.copy(tmp_path / when), names, when):
        number += 1
        when = f"{number}+" if for_good else f"{number}"
    assert number > 3
    torture_count("failed syncs", number - 1)


@pytest.mark.torture
@pytest.mark.parametrize("seed", [1])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("names", [DATABASE, SNAPSHOTS], ids=["database", "json"])
async def test_any_failed_write_loses_nothing_that_was_acknowledged(
    tmp_path: Path,
    names: tuple[str, ...],
    error: str,
    seed: int,
    torture_count: Callable[[str, int], None],
) -> None:
    base = await use(tmp_path / "used")
    places = await most_calls(base.copy(tmp_path / "whole"), names, WRITES)
    assert places > 3
    # At a start and at a stop a full disk ends the daemon, too; a snapshot is tried again.
    accepted, struck = {ExitCode.OK, ExitCode.STORAGE}, 0
    for number in spread(places, SAMPLE, seed):
        fault = Fault(names, WRITES, error, f"{number}")
        struck += await fail_a_write(base.copy(tmp_path / f"{number}"), fault, accepted)
    # One life may be a few calls shorter than the other.
    assert struck >= min(places, SAMPLE) - 2
    torture_count("failed writes", struck)
    torture_count("failed writes: places there are", places)


@pytest.mark.torture
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
async def test_writes_that_fail_for_good_lose_nothing_that_was_acknowledged(
    tmp_path: Path, error: str, torture_count: Callable[[str, int], None]
) -> None:
    base, accepted = await use(tmp_path / "used"), {ExitCode.OK, ExitCode.STORAGE}
    for number in range(1, 120, 8):
        fault = Fault(DATABASE, WRITES, error, f"{number}+")
        assert await fail_a_write(base.copy(tmp_path / f"{number}"), fault, accepted)
        torture_count("failed writes", 1)
