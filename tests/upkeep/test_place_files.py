"""Laws of the places of channels: a damaged one is told, copied by no backup, kept by a salvage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from gateway.channels.matrix.place import Place, place_path, read_place, write_place
from gateway.clock import FakeClock
from gateway.errors import DamagedDataError, ExitCode
from gateway.upkeep.backup import back_up
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from tests.support.upkeep import found, used_state
from tests.upkeep.salvaging import salvaged

if TYPE_CHECKING:
    from pathlib import Path

WORK: Final = Place("@bot:example.org", "s42")
DAMAGED: Final = {
    "cut": b'{"version":1,"user_id":"@bot:exam',
    "empty": b"",
    "another value": b"[]",
    "of a newer gateway": b'{"version":99,"user_id":"@b:c","since":"s","rooms":{}}',
    "without a place": b'{"version":1,"user_id":"@b:c","since":"","rooms":{}}',
}


async def two_places(path: Path) -> Path:
    await used_state(path)
    for account in ("home", "work"):
        write_place(place_path(path, account), WORK)
    return path


async def test_places_that_can_be_read_pass_and_are_copied(tmp_path: Path) -> None:
    path = await two_places(tmp_path / "state")

    report = check_store(path)
    back_up(path, tmp_path / "copy", FakeClock())
    made = await salvaged(path, tmp_path / "saved")

    assert "places of channels: 2 can be read" in found(report, Level.OK)
    assert made.complete
    for target in ("copy", "saved"):
        assert read_place(place_path(tmp_path / target, "work")) == WORK


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
async def test_a_damaged_place_is_told_and_is_in_no_backup(tmp_path: Path, content: bytes) -> None:
    path = await two_places(tmp_path / "state")
    file = place_path(path, "work")
    file.write_bytes(content)

    report = check_store(path)
    with pytest.raises(DamagedDataError) as refused:
        back_up(path, tmp_path / "copy", FakeClock())

    (wrong,) = found(report, Level.WRONG)
    assert wrong.startswith(f"places of channels: 1 files do not say how far was read: {file} ")
    assert report.exit_code() == ExitCode.DAMAGED_DATA
    assert refused.value.path == file
    assert not (tmp_path / "copy").exists()


async def test_a_salvage_keeps_a_damaged_place_beside_and_says_so(tmp_path: Path) -> None:
    path = await two_places(tmp_path / "state")
    place_path(path, "work").write_bytes(DAMAGED["cut"])

    made = await salvaged(path, tmp_path / "saved")

    (loss,) = made.given_up
    assert (loss.place, loss.count) == ("work.matrix.json", 1)
    assert "the file is kept as work.matrix.json.damaged" in loss.what
    kept = tmp_path / "saved" / "work.matrix.json.damaged"
    assert kept.read_bytes() == DAMAGED["cut"]
    assert read_place(place_path(tmp_path / "saved", "work")) is None
    assert read_place(place_path(tmp_path / "saved", "home")) == WORK
