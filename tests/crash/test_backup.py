"""Laws of a backup that the power cuts off: what has its name is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.clock import FakeClock
from gateway.upkeep.backup import back_up
from tests.crash.exploring import crash_states, recording
from tests.crash.faults import Fault
from tests.crash.recording import read_folder
from tests.crash.recovering import recovered, write_out
from tests.crash.workloads import prepare_unclean

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.crash.expectation import Outcome


async def _backups(
    folder: Path, lies: frozenset[str] = frozenset()
) -> tuple[Outcome, list[Outcome]]:
    """Return what a store holds, and each backup of it that some crash state shows."""
    place = folder / "place"
    place.mkdir()
    await prepare_unclean(place / "state")
    with recording(place, Fault(lies=lies)) as disk:
        back_up(place / "state", place / "backup", FakeClock(), disk=disk)
    write_out(read_folder(place / "state"), folder / "work")
    source = await recovered(folder / "work")

    found: dict[frozenset[tuple[str, bytes]], Outcome] = {}
    for state in crash_states(disk.record):
        files = {
            name.removeprefix("backup/"): one
            for name, one in state.files.items()
            if name.startswith("backup/")
        }
        names = frozenset((name, one.digest) for name, one in files.items())
        if "backup" in state.files and names not in found:
            write_out({name: one.data for name, one in files.items()}, folder / "work")
            found[names] = await recovered(folder / "work")
    return source, list(found.values())


async def test_a_backup_that_has_its_name_after_a_power_cut_holds_everything(
    folder: Path, torture_count: Callable[[str, int], None]
) -> None:
    source, backups = await _backups(folder)

    assert backups
    assert source.entries
    assert all(one == source for one in backups)
    torture_count("crash states of backups", len(backups))


async def test_a_backup_that_is_not_synced_is_found(folder: Path) -> None:
    source, backups = await _backups(folder, frozenset({"sync", "sync_directory"}))

    assert any(one.entries != source.entries for one in backups)
