"""Laws of what a backup and a salvage leave on a disk that fails: a whole directory, or none."""

from __future__ import annotations

import errno
import shutil
from typing import TYPE_CHECKING

import pytest

from gateway.clock import FakeClock
from gateway.errors import ExitCode, GatewayError, SyncFailedError
from gateway.upkeep.backup import back_up
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from gateway.upkeep.salvage import salvage
from tests.crash.exploring import recording
from tests.crash.faults import Fault
from tests.support.upkeep import used_state

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.disk import Disk


async def make(kind: str, path: Path, target: Path, disk: Disk) -> None:
    if kind == "backup":
        back_up(path, target, FakeClock(), disk=disk)
    else:
        await salvage(path, target, FakeClock(), disk=disk)


async def count_calls(kind: str, path: Path, place: Path, calls: Fault) -> int:
    """Return how many calls that may fail one directory takes."""
    with recording(place, calls) as disk:
        await make(kind, path, place / "sound", disk)
    shutil.rmtree(place / "sound")
    return calls.seen


@pytest.mark.parametrize("call", ["open", "sync_directory"])
@pytest.mark.parametrize("kind", ["backup", "salvage"])
async def test_one_whose_name_may_be_lost_stands_and_the_error_says_so(
    tmp_path: Path, kind: str, call: str
) -> None:
    path = await used_state(tmp_path / "state")
    last = await count_calls(kind, path, tmp_path, Fault(calls=frozenset({call})))
    fault = Fault(at=last, calls=frozenset({call}))

    with recording(tmp_path, fault) as disk, pytest.raises(SyncFailedError) as refused:
        await make(kind, path, tmp_path / "copy", disk)

    assert fault.fired == [call]
    assert refused.value.exit_code == ExitCode.STORAGE
    assert str(refused.value).startswith(
        f"{tmp_path}/copy: is there and whole, but may not survive power loss ({tmp_path}: "
    )
    assert not (tmp_path / "copy.incomplete").exists()
    assert {one.level for one in check_store(tmp_path / "copy").findings} == {Level.OK}


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
@pytest.mark.parametrize("kind", ["backup", "salvage"])
async def test_whatever_call_fails_there_is_none_or_the_error_says_that_it_is_there(
    tmp_path: Path, kind: str, error: int
) -> None:
    path = await used_state(tmp_path / "state")
    place = tmp_path / "place"
    place.mkdir()
    calls, stood, refusals = await count_calls(kind, path, place, Fault()), 0, 0
    for at in range(1, calls + 1):
        fault, said = Fault(at=at, error=error), ""
        with recording(place, fault) as disk:
            try:
                await make(kind, path, place / "copy", disk)
            except GatewayError as refused:
                said = str(refused)
        assert fault.fired, at
        there = (place / "copy").exists()
        assert there == (not said or "is there and whole" in said), (at, fault.fired, said)
        assert not (place / "copy.incomplete").exists(), (at, fault.fired)
        if there:
            found = {one.level for one in check_store(place / "copy").findings}
            assert found == {Level.OK}, (at, fault.fired)
            shutil.rmtree(place / "copy")
        stood, refusals = stood + there, refusals + bool(said)
    assert stood
    assert refusals > calls // 2
